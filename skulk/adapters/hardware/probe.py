"""What this machine is and how much of it is free (port `Probe`). Reads only; writes nothing.

Memory limits of containers are not looked at: `memory_cap_bytes` is the way to say that less than the machine's
memory may be used.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import psutil

from skulk.adapters.engine_envs import EngineCatalogue
from skulk.adapters.hardware.naming import architecture, nearest_existing, system_name
from skulk.core.ports import Machine


class MachineProbe:
    """`memory_cap_bytes` limits what this node may use, for several daemons on one machine; `reserved_by_runners()`
    is what its runners hold of that. Disk is measured where `state_dir` is, or will be."""

    def __init__(
        self,
        catalogue: EngineCatalogue,
        state_dir: Path,
        *,
        memory_cap_bytes: int | None = None,
        reserved_by_runners: Callable[[], int] = lambda: 0,
    ) -> None:
        self._catalogue = catalogue
        self._state_dir = state_dir
        self._memory_cap_bytes = memory_cap_bytes
        self._reserved_by_runners = reserved_by_runners

    async def machine(self) -> Machine:
        builds, problems = await self._catalogue.builds()
        total = int(psutil.virtual_memory().total)
        return Machine(
            memory_bytes=total if self._memory_cap_bytes is None else min(total, self._memory_cap_bytes),
            os=system_name(),
            arch=architecture(),
            builds=builds,
            disk_bytes=shutil.disk_usage(nearest_existing(self._state_dir)).total,
            engine_problems=problems,
        )

    def free_memory_bytes(self) -> int:
        """What the system calls available, and under a cap no more than what the cap leaves."""
        available = int(psutil.virtual_memory().available)
        if self._memory_cap_bytes is None:
            return available
        return max(0, min(available, self._memory_cap_bytes - self._reserved_by_runners()))

    def free_disk_bytes(self) -> int:
        return shutil.disk_usage(nearest_existing(self._state_dir)).free
