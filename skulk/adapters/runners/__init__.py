"""Runner processes: spawned detached, adopted after a restart, spoken to over a Unix socket."""

from skulk.adapters.runners.code import place_runner_code
from skulk.adapters.runners.environment import child_environment
from skulk.adapters.runners.host import RunnerProcesses
from skulk.adapters.runners.streams import RunnerGeneration

__all__ = ["RunnerGeneration", "RunnerProcesses", "child_environment", "place_runner_code"]
