"""Engine environments: installed apart from the daemon, found by directory, probed by a child process."""

from skulk.adapters.engine_envs.catalogue import EngineCatalogue
from skulk.adapters.engine_envs.environments import Discovery, EngineEnvironment, discover
from skulk.adapters.engine_envs.install import ensure
from skulk.adapters.engine_envs.probing import Probed, probe

__all__ = ["Discovery", "EngineCatalogue", "EngineEnvironment", "Probed", "discover", "ensure", "probe"]
