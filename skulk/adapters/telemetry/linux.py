"""What Linux says about a machine, text by text: pressure, processor, temperature, energy, names. Pure.

Sources: Documentation/accounting/psi.rst, hwmon/sysfs-interface.rst, power/powercap and os-release(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# Of the last ten seconds, some task waited for memory for a tenth of the time: felt, and nothing is lost yet.
STALL_SHARE_WARNING = 0.10
# All tasks at once waited for a tenth of the time: the machine hardly gets on. Out-of-memory daemons act at 0.6.
STALL_SHARE_CRITICAL = 0.10
# Sensors of processors, the most telling first.
CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal", "scpi_sensors", "acpitz")
CPU_ZONES = ("x86_pkg_temp", "cpu-thermal", "cpu_thermal", "soc-thermal", "soc_thermal", "acpitz")
# Sensors that are not connected answer with values such as -128 or 65535 °C.
CELSIUS_MIN, CELSIUS_MAX = 0.0, 150.0

# What makers leave in when they do not fill in their own name.
_PLACEHOLDERS = frozenset(
    {"", "default string", "to be filled by o.e.m.", "system product name", "system manufacturer", "none", "o.e.m."}
)
_AVERAGE = re.compile(r"^(some|full) avg10=(\d+(?:\.\d+)?)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Stalls:
    """Shares of the last ten seconds in which tasks waited for memory."""

    some: float
    full: float

    @property
    def pressure(self) -> str:
        """`normal`, `warning` or `critical`."""
        if self.full >= STALL_SHARE_CRITICAL:
            return "critical"
        return "warning" if self.some >= STALL_SHARE_WARNING else "normal"


def stalls(pressure: str) -> Stalls | None:
    """/proc/pressure/memory."""
    found = {name: float(value) / 100 for name, value in _AVERAGE.findall(pressure)}
    return Stalls(found["some"], found["full"]) if {"some", "full"} <= found.keys() else None


def cpu_name(cpuinfo: str) -> str | None:
    """/proc/cpuinfo: the processor's name, which ARM machines do not tell there."""
    match = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return " ".join(match[1].split()) if match else None


def os_version(release: str) -> str | None:
    """/etc/os-release."""
    match = re.search(r'^PRETTY_NAME=["\']?(.*?)["\']?$', release, re.MULTILINE)
    return match[1] or None if match else None


def machine_name(vendor: str | None, product: str | None, devicetree: str | None) -> str | None:
    """From the firmware's tables (DMI) or, on ARM boards, the device tree."""
    if not _is_named(product):
        return devicetree.split("\0")[0] if devicetree else None
    assert product is not None
    if not _is_named(vendor) or product.startswith(str(vendor)):
        return product
    return f"{vendor} {product}"


def _is_named(text: str | None) -> bool:
    return text is not None and text.strip().lower() not in _PLACEHOLDERS


def celsius(millidegrees: str | None) -> float | None:
    """Millidegrees as the kernel writes them → °C."""
    try:
        value = int(millidegrees or "") / 1000
    except ValueError:
        return None
    return value if CELSIUS_MIN < value < CELSIUS_MAX else None


def hottest(sensors: Mapping[str, Iterable[float]], order: Iterable[str]) -> float | None:
    """The highest value of the first sensor in `order` that has any."""
    for name in order:
        values = tuple(sensors.get(name, ()))
        if values:
            return max(values)
    return None


def watts(before_microjoules: int, after_microjoules: int, range_microjoules: int, seconds: float) -> float | None:
    """Mean power between two readings of an energy counter that begins anew at its range."""
    if seconds <= 0:
        return None
    used = after_microjoules - before_microjoules
    if used < 0:
        used += range_microjoules
    return used / 1e6 / seconds if used >= 0 else None


def busy_share(before: Mapping[str, float], after: Mapping[str, float]) -> float | None:
    """0 to 1: the part of processor time between two readings that was not idle. Waiting for disks is idle; a
    guest's time is part of `user` already."""
    spent = {name: after[name] - before[name] for name in after.keys() & before.keys() - {"guest", "guest_nice"}}
    total = sum(spent.values())
    if total <= 0:
        return None
    idle = spent.get("idle", 0.0) + spent.get("iowait", 0.0)
    return min(1.0, max(0.0, 1 - idle / total))
