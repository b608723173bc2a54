"""Readings of this machine (port `Sampler`). Reads only; every question has a lane and a deadline.

What the operating system tells alike everywhere comes from psutil, the same source as `MachineProbe`'s; the rest comes
from files and tools by way of the parsers beside this module. A value that could not be had is None.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

from skulk.adapters.hardware.naming import architecture, nearest_existing, system_name
from skulk.adapters.telemetry import accelerators, linux, macos
from skulk.adapters.telemetry.lanes import Lane
from skulk.adapters.telemetry.outside import COMMAND_SECONDS_MAX, Outside
from skulk.core.readings import Kind, Values

T = TypeVar("T")

# A tool has its own deadline; this one is for what cannot be killed, such as a call into a driver or a dead disk.
ANSWER_SECONDS_MAX = COMMAND_SECONDS_MAX + 1.0
# Three tools one after the other, the slowest of which takes seconds when it is asked for the first time.
MODEL_SECONDS_MAX = 3 * COMMAND_SECONDS_MAX + 1.0
# Measuring power on macOS takes half a second; it is worth that only now and then.
POWER_SECONDS = 10.0

_KEYS: Mapping[Kind, tuple[str, ...]] = {
    Kind.MEMORY: (
        *("totalBytes", "availableBytes", "usedBytes", "swapTotalBytes", "swapUsedBytes"),
        *("pressure", "stallShare"),
    ),
    Kind.SYSTEM: (
        *("cpuUtilisation", "load1", "load5", "uptimeSeconds", "processes"),
        *("temperatureCelsius", "thermalPressure", "powerWatts"),
    ),
    Kind.DAEMON: ("residentBytes", "cpuSeconds", "openFiles"),
    Kind.IDENTITY: ("hostname", "os", "osVersion", "arch", "cpu", "cores", "machine", "pythonVersion"),
}


def disks_of(state_dir: Path, model_roots: Sequence[Path]) -> dict[str, Path]:
    """Purpose → directory, for MachineSampler: the state directory and each model root."""
    numbered = {f"models {number}": root for number, root in enumerate(model_roots, 1)}
    return {"state": state_dir, **(numbered if len(model_roots) != 1 else {"models": model_roots[0]})}


@dataclass(frozen=True, slots=True)
class _Energy:
    """A power counter of one moment. `at`: monotonic seconds."""

    microjoules: int
    at: float


class MachineSampler:
    """`disks`: what is kept where, for the reading of disks; a directory need not exist yet. The others are for
    tests: where files and programs are looked for, and as which system."""

    def __init__(
        self,
        disks: Mapping[str, Path],
        *,
        outside: Outside | None = None,
        system: str | None = None,
        is_root: bool | None = None,
    ) -> None:
        """`disks`: purpose (`state`, `models`, …) and directory; purposes of several directories are numbered by
        the caller."""
        self._disks = dict(disks)
        self._outside = outside if outside is not None else Outside()
        self._system = system_name() if system is None else system
        self._is_root = os.geteuid() == 0 if is_root is None else is_root
        self._lanes: dict[str, Lane] = {}
        self._cpu: Mapping[str, float] = {}
        self._energy: dict[str, _Energy] = {}
        self._power = macos.Power()
        self._power_until = 0.0

    async def sample(self, kind: Kind) -> Values:
        """One reading, with every value of its kind. Takes as long as the slowest tool, and seconds at most."""
        blank = dict.fromkeys(_KEYS.get(kind, ()))
        parts: Sequence[Values | None]
        match kind:
            case Kind.MEMORY:
                parts = await asyncio.gather(self._ask("memory", _memory), self._ask("pressure", self._pressure))
            case Kind.SYSTEM:
                parts = await asyncio.gather(
                    self._ask("system", self._load),
                    self._ask("thermal", self._thermal),
                    self._ask("power", self._package_power),
                )
            case Kind.DAEMON:
                parts = [await self._ask("daemon", _daemon)]
            case Kind.IDENTITY:
                parts = await asyncio.gather(
                    self._ask("identity", self._names), self._ask("model", self._models, MODEL_SECONDS_MAX)
                )
            case Kind.DISK:
                names = list(self._disks)
                found = await asyncio.gather(*(self._ask(f"disk {n}", self._disk(self._disks[n])) for n in names))
                return {"disks": [self._disk_values(n, value) for n, value in zip(names, found, strict=True)]}
            case Kind.ACCELERATOR:
                lists = await asyncio.gather(self._ask("gpu tool", self._asked_gpus), self._ask("gpu files", self._amd))
                return {"devices": [device for devices in lists for device in devices or ()]}
        for part in parts:
            blank.update(part or {})
        return blank

    async def _ask(self, name: str, question: Callable[[], T], seconds: float = ANSWER_SECONDS_MAX) -> T | None:
        lane = self._lanes.setdefault(name, Lane(name, seconds))
        return await lane.ask(question)

    # --- memory ---------------------------------------------------------------------------------------------

    def _pressure(self) -> dict[str, object]:
        if self._system == "macos":
            level = self._outside.run(*macos.MEMORY_PRESSURE)
            return {"pressure": macos.memory_pressure(level) if level is not None else None}
        found = linux.stalls(self._outside.read("proc", "pressure", "memory") or "")
        return {"pressure": found.pressure, "stallShare": found.some} if found is not None else {}

    # --- processors -----------------------------------------------------------------------------------------

    def _load(self) -> dict[str, object]:
        times = psutil.cpu_times()._asdict()
        before, self._cpu = self._cpu, times
        load1, load5, _ = os.getloadavg()
        return {
            "cpuUtilisation": linux.busy_share(before, times),
            "load1": load1,
            "load5": load5,
            "uptimeSeconds": max(0.0, time.time() - psutil.boot_time()),
            "processes": len(psutil.pids()),
        }

    def _thermal(self) -> dict[str, object]:
        if self._system == "macos":
            level = self._outside.run(*macos.THERMAL_PRESSURE)
            return {"thermalPressure": macos.thermal_pressure(level) if level is not None else None}
        return {"temperatureCelsius": self._hwmon_celsius() or self._zone_celsius()}

    def _hwmon_celsius(self) -> float | None:
        sensors: dict[str, list[float]] = {}
        base = ("sys", "class", "hwmon")
        for chip in self._outside.names(*base):
            name = self._outside.read(*base, chip, "name") or ""
            if name not in linux.CPU_SENSORS:
                continue
            for file in self._outside.names(*base, chip):
                if file.startswith("temp") and file.endswith("_input"):
                    value = linux.celsius(self._outside.read(*base, chip, file))
                    sensors.setdefault(name, []).extend([] if value is None else [value])
        return linux.hottest(sensors, linux.CPU_SENSORS)

    def _zone_celsius(self) -> float | None:
        zones: dict[str, list[float]] = {}
        base = ("sys", "class", "thermal")
        for zone in self._outside.names(*base):
            value = linux.celsius(self._outside.read(*base, zone, "temp"))
            if value is not None:
                zones.setdefault(self._outside.read(*base, zone, "type") or "", []).append(value)
        return linux.hottest(zones, linux.CPU_ZONES)

    def _package_power(self) -> dict[str, object]:
        if self._system == "macos":
            return {"powerWatts": self._mac_power().package}
        return {"powerWatts": self._rapl_watts()}

    def _rapl_watts(self) -> float | None:
        """All processor packages together. Only root may read the counters."""
        base = ("sys", "class", "powercap")
        found: list[float | None] = []
        for zone in self._outside.names(*base):
            # `intel-rapl:0` is a package, `intel-rapl:0:0` a part of it.
            if not zone.startswith("intel-rapl:") or zone.count(":") != 1:
                continue
            if not (self._outside.read(*base, zone, "name") or "").startswith("package"):
                continue
            try:
                energy, most = (int(self._outside.read(*base, zone, f) or "") for f in _RAPL_FILES)
            except ValueError:
                return None
            now = _Energy(energy, time.monotonic())
            before = self._energy.get(zone)
            self._energy[zone] = now
            seconds = now.at - before.at if before else 0.0
            found.append(linux.watts(before.microjoules if before else 0, energy, most, seconds))
        known = [value for value in found if value is not None]
        return sum(known) if known and len(known) == len(found) else None

    def _mac_power(self) -> macos.Power:
        if self._is_root and time.monotonic() >= self._power_until:
            output = self._outside.run(*macos.POWERMETRICS)
            self._power = macos.power(output) if output is not None else macos.Power()
            self._power_until = time.monotonic() + POWER_SECONDS
        return self._power

    # --- accelerators ---------------------------------------------------------------------------------------

    def _asked_gpus(self) -> list[dict[str, object]]:
        if self._system == "macos":
            output = self._outside.run(*macos.IOREG)
            total = int(psutil.virtual_memory().total)
            return macos.accelerators(output, total, self._power.gpu) if output is not None else []
        output = self._outside.run("nvidia-smi", *accelerators.NVIDIA_ARGUMENTS)
        return accelerators.nvidia(output.decode("utf-8", "replace")) if output is not None else []

    def _amd(self) -> list[dict[str, object]]:
        base = ("sys", "class", "drm")
        found = []
        for card in self._outside.names(*base):
            if not card.startswith("card") or not card.removeprefix("card").isdigit():
                continue
            place = (*base, card, "device")
            files = {name: self._outside.read(*place, name) for name in accelerators.AMD_FILES}
            sensors: dict[str, str | None] = {}
            for chip in self._outside.names(*place, "hwmon")[:1]:
                sensors = {n: self._outside.read(*place, "hwmon", chip, n) for n in accelerators.AMD_SENSORS}
            device = accelerators.amd(files, sensors)
            found += [] if device is None else [device]
        return found

    # --- disks ----------------------------------------------------------------------------------------------

    def _disk(self, path: Path) -> Callable[[], tuple[int, int] | None]:
        def measured() -> tuple[int, int] | None:
            try:
                usage = shutil.disk_usage(nearest_existing(path))
            except OSError:
                return None
            return usage.total, usage.free

        return measured

    def _disk_values(self, purpose: str, measured: tuple[int, int] | None) -> dict[str, object]:
        total, free = measured if measured is not None else (None, None)
        return {"purpose": purpose, "path": str(self._disks[purpose]), "totalBytes": total, "freeBytes": free}

    # --- names ----------------------------------------------------------------------------------------------

    def _names(self) -> dict[str, object]:
        return {
            "hostname": socket.gethostname(),
            "os": self._system,
            "arch": architecture(),
            "cores": os.cpu_count(),
            "pythonVersion": platform.python_version(),
        }

    def _models(self) -> dict[str, object]:
        if self._system == "macos":
            cpu, version, profile = (
                self._outside.run(*command) for command in (macos.CPU_BRAND, macos.OS_VERSION, macos.SYSTEM_PROFILER)
            )
            return {
                "cpu": macos.line(cpu or b""),
                "osVersion": macos.line(version or b""),
                "machine": macos.machine_name(profile or b""),
            }
        dmi = ("sys", "class", "dmi", "id")
        vendor, product = (self._outside.read(*dmi, name) for name in ("sys_vendor", "product_name"))
        return {
            "cpu": linux.cpu_name(self._outside.read("proc", "cpuinfo") or ""),
            "osVersion": linux.os_version(self._outside.read("etc", "os-release") or ""),
            "machine": linux.machine_name(vendor, product, self._outside.read("proc", "device-tree", "model")),
        }


_RAPL_FILES = ("energy_uj", "max_energy_range_uj")


def _memory() -> dict[str, object]:
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    return {
        "totalBytes": int(memory.total),
        "availableBytes": int(memory.available),
        "usedBytes": int(memory.total - memory.available),
        "swapTotalBytes": int(swap.total),
        "swapUsedBytes": int(swap.used),
    }


def _daemon() -> dict[str, object]:
    process = psutil.Process()
    times = process.cpu_times()
    return {
        "residentBytes": int(process.memory_info().rss),
        "cpuSeconds": times.user + times.system,
        "openFiles": process.num_fds(),
    }
