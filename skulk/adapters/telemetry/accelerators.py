"""Accelerators as their drivers describe them: nvidia-smi's CSV and amdgpu's files. Pure.

Sources: `nvidia-smi --help-query-gpu`; Documentation/gpu/amdgpu/thermal.rst and driver-misc.rst. Apple's GPU is in
`macos`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping

MIB = 1024 * 1024
NVIDIA_FIELDS = ("name", "utilization.gpu", "memory.total", "memory.used", "temperature.gpu", "power.draw")
NVIDIA_ARGUMENTS = (f"--query-gpu={','.join(NVIDIA_FIELDS)}", "--format=csv,noheader,nounits")
AMD_VENDOR = "0x1002"


def device(name: str, vendor: str, **measured: float | int | bool | None) -> dict[str, object]:
    """One device with every value that devices have; None where nothing was measured."""
    blank: dict[str, object] = dict.fromkeys(
        ("utilisation", "memoryTotalBytes", "memoryUsedBytes", "temperatureCelsius", "powerWatts", "unified")
    )
    assert measured.keys() <= blank.keys()
    return {"name": name, "vendor": vendor, **blank, **measured}


def nvidia(output: str) -> list[dict[str, object]]:
    """The devices of `nvidia-smi` with NVIDIA_ARGUMENTS. What a device does not tell reads `[N/A]` or alike."""
    found = []
    for row in csv.reader(output.splitlines(), skipinitialspace=True):
        if len(row) != len(NVIDIA_FIELDS):
            continue
        name, *texts = (cell.strip() for cell in row)
        used, total, taken, heat, power = (_number(text) for text in texts)
        found.append(
            device(
                name,
                "nvidia",
                utilisation=None if used is None else used / 100,
                memoryTotalBytes=None if total is None else int(total) * MIB,
                memoryUsedBytes=None if taken is None else int(taken) * MIB,
                temperatureCelsius=heat,
                powerWatts=power,
                # A device that shares the machine's memory has no total of its own to tell.
                unified=None if total is None else False,
            )
        )
    return found


def amd(files: Mapping[str, str | None], sensors: Mapping[str, str | None]) -> dict[str, object] | None:
    """One device from the files of /sys/class/drm/cardN/device and of its hwmon directory; None: not an AMD GPU.

    The Northbridge voltage (`in1`) exists on processors with a built-in GPU only. Such a GPU uses the machine's memory
    through two windows, a carved-out one (VRAM) and a mapped one (GTT); together they are what it can use.
    """
    if files.get("vendor") != AMD_VENDOR:
        return None
    total = _integer(files.get("mem_info_vram_total"))
    if total is None:
        return None
    used, busy = _integer(files.get("mem_info_vram_used")), _number(files.get("gpu_busy_percent"))
    unified = (sensors.get("in1_label") or sensors.get("in1_input")) is not None if sensors else None
    if unified:
        total = _sum(total, _integer(files.get("mem_info_gtt_total")))
        used = _sum(used, _integer(files.get("mem_info_gtt_used")))
    heat, power = _integer(sensors.get("temp1_input")), _integer(sensors.get("power1_average"))
    if power is None:
        power = _integer(sensors.get("power1_input"))
    return device(
        files.get("product_name") or f"AMD GPU {(files.get('device') or '').removeprefix('0x')}".strip(),
        "amd",
        utilisation=None if busy is None else busy / 100,
        memoryTotalBytes=total,
        memoryUsedBytes=used,
        temperatureCelsius=None if heat is None else heat / 1000,
        powerWatts=None if power is None else power / 1e6,
        unified=unified,
    )


AMD_FILES = (
    *("vendor", "device", "product_name", "gpu_busy_percent", "mem_info_vram_total", "mem_info_vram_used"),
    *("mem_info_gtt_total", "mem_info_gtt_used"),
)
AMD_SENSORS = ("temp1_input", "power1_average", "power1_input", "in1_input", "in1_label")


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if value == value and abs(value) != float("inf") else None


def _integer(text: str | None) -> int | None:
    value = _number(text)
    return None if value is None else int(value)
