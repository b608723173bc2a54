"""Engine environments: installed apart from the daemon, found by directory, probed by a child process."""

from skulk.adapters.engine_envs.catalogue import EngineCatalogue
from skulk.adapters.engine_envs.environments import Discovery, EngineEnvironment, discover, log_file, wanted_environment
from skulk.adapters.engine_envs.install import ensure
from skulk.adapters.engine_envs.probing import Probed, probe
from skulk.adapters.engine_envs.wheels import COMPILING

__all__ = [
    "COMPILING",
    "Discovery",
    "EngineCatalogue",
    "EngineEnvironment",
    "Probed",
    "discover",
    "ensure",
    "log_file",
    "probe",
    "wanted_environment",
]
