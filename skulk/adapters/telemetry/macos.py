"""What macOS says about a machine: ioreg, system_profiler, sysctl, notifyutil, powermetrics. Pure.

Sources: the manual pages ioreg(8), system_profiler(8), sysctl(8), notifyutil(1), powermetrics(1); the levels of
pressure are those of <sys/event.h> (memory) and <libkern/OSThermalNotification.h>.
"""

from __future__ import annotations

import json
import plistlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.parsers.expat import ExpatError

from skulk.adapters.telemetry.accelerators import device

IOREG = ("ioreg", "-r", "-d", "1", "-w", "0", "-c", "IOAccelerator", "-a")
SYSTEM_PROFILER = ("system_profiler", "SPHardwareDataType", "-json")
MEMORY_PRESSURE = ("sysctl", "-n", "kern.memorystatus_vm_pressure_level")
CPU_BRAND = ("sysctl", "-n", "machdep.cpu.brand_string")
OS_VERSION = ("sw_vers", "-productVersion")
THERMAL_PRESSURE = ("notifyutil", "-g", "com.apple.system.thermalpressurelevel")
# For root only. Half a second of measuring: the tool sleeps meanwhile.
POWERMETRICS = ("powermetrics", "-n", "1", "-i", "500", "--samplers", "cpu_power,gpu_power", "-f", "plist")

_MEMORY_LEVELS = {"1": "normal", "2": "warning", "4": "critical"}
_THERMAL_LEVELS = {"0": "nominal", "1": "moderate", "2": "heavy", "3": "trapping", "4": "sleeping"}


@dataclass(frozen=True, slots=True)
class Power:
    """Watts of the whole chip and of its GPU."""

    package: float | None = None
    gpu: float | None = None


def accelerators(plist: bytes, memory_bytes: int | None, gpu_watts: float | None = None) -> list[dict[str, object]]:
    """The devices of `IOREG`. They use the machine's memory, so its total is theirs."""
    found = []
    for entry in _property_list(plist, list) or ():
        statistics = entry.get("PerformanceStatistics") if isinstance(entry, dict) else None
        if not isinstance(statistics, dict):
            continue
        busy, used = _number(statistics.get("Device Utilization %")), _number(statistics.get("In use system memory"))
        found.append(
            device(
                _text(entry.get("model")) or _text(entry.get("IOClass")) or "GPU",
                "apple",
                utilisation=None if busy is None else min(1.0, busy / 100),
                memoryTotalBytes=memory_bytes,
                memoryUsedBytes=None if used is None else int(used),
                powerWatts=gpu_watts,
                unified=True,
            )
        )
    return found


def machine_name(profile: bytes) -> str | None:
    """`Mac mini M4 Pro` from `SYSTEM_PROFILER`. Serial numbers stand beside it and stay there."""
    try:
        (hardware,) = json.loads(profile)["SPHardwareDataType"]
        name, chip = hardware.get("machine_name"), hardware.get("chip_type") or hardware.get("cpu_type")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    words = [str(word) for word in (name, chip and str(chip).removeprefix("Apple ")) if word]
    return " ".join(words) or None


def memory_pressure(level: bytes) -> str | None:
    """`normal`, `warning` or `critical` from `MEMORY_PRESSURE`."""
    return _MEMORY_LEVELS.get(line(level) or "")


def thermal_pressure(notified: bytes) -> str | None:
    """`nominal`, `moderate`, `heavy`, `trapping` or `sleeping` from `THERMAL_PRESSURE`: name and level in one line."""
    return _THERMAL_LEVELS.get((line(notified) or "").rpartition(" ")[2])


def power(plist: bytes) -> Power:
    """Watts from `POWERMETRICS`, which counts in milliwatts and ends each sample with a NUL."""
    value = _property_list(plist.strip(b"\0\n"), dict)
    processor = value.get("processor") if value else None
    if not isinstance(processor, Mapping):
        return Power()
    package, gpu = (_number(processor.get(name)) for name in ("combined_power", "gpu_power"))
    return Power(None if package is None else package / 1000, None if gpu is None else gpu / 1000)


def line(output: bytes) -> str | None:
    """The first line of a program's output."""
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return lines[0].strip() if lines else None


def _property_list(data: bytes, kind: type) -> Any:
    try:
        value = plistlib.loads(data)
    # plistlib raises whatever its parsers meet; a tool's odd output is an unknown value and no mistake of ours.
    except (plistlib.InvalidFileException, ExpatError, ValueError, TypeError, KeyError, IndexError, OverflowError):
        return None
    return value if isinstance(value, kind) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    """Text of the registry, which also comes as bytes that end in NUL."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace").strip("\0")
    return value if isinstance(value, str) and value else None
