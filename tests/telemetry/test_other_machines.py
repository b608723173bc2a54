"""Readings of machines that this one is not, from recorded outputs through the whole sampler."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psutil
import pytest
from machines import RECORDED, linux, mac

from skulk.adapters.telemetry import MachineSampler, accelerators, macos
from skulk.adapters.telemetry import linux as linux_texts
from skulk.adapters.telemetry.outside import Outside
from skulk.core.readings import Kind

GIB = 1024**3
MIB = 1024**2


def read(sampler: MachineSampler, kind: Kind) -> dict[str, Any]:
    return dict(asyncio.run(sampler.sample(kind)))


# --- NVIDIA -------------------------------------------------------------------------------------------------


def test_a_card_of_nvidia_is_read_as_its_tool_says(tmp_path: Path) -> None:
    assert read(linux(tmp_path, nvidia="nvidia-smi-h200.csv"), Kind.ACCELERATOR)["devices"] == [
        {
            "name": "NVIDIA H200",
            "vendor": "nvidia",
            "utilisation": 0.0,
            "memoryTotalBytes": 143771 * MIB,
            "memoryUsedBytes": 0,
            "temperatureCelsius": 33.0,
            "powerWatts": 115.76,
            "unified": False,
        }
    ]


def test_what_a_card_does_not_tell_is_unknown_and_not_zero(tmp_path: Path) -> None:
    first, shared, old = read(linux(tmp_path, nvidia="nvidia-smi-mixed.csv"), Kind.ACCELERATOR)["devices"]
    assert (first["utilisation"], first["memoryUsedBytes"]) == (0.97, 22310 * MIB)
    assert (shared["memoryTotalBytes"], shared["memoryUsedBytes"], shared["unified"]) == (None, None, None)
    assert (old["utilisation"], old["powerWatts"], old["temperatureCelsius"]) == (None, None, 35.0)


@pytest.mark.parametrize("text", ["", "\n", "No devices were found\n", "a, b\n", "\x00\xff, 1, 2, 3, 4, nan"])
def test_odd_output_of_the_tool_is_no_device_or_no_value(text: str) -> None:
    assert [d for d in accelerators.nvidia(text) if d["utilisation"] is not None and d["powerWatts"] is not None] == []


# --- AMD ----------------------------------------------------------------------------------------------------


def test_a_discrete_amd_card_has_its_own_memory(tmp_path: Path) -> None:
    assert read(linux(tmp_path, "amd-discrete"), Kind.ACCELERATOR)["devices"] == [
        {
            "name": "AMD GPU 744c",
            "vendor": "amd",
            "utilisation": 0.83,
            "memoryTotalBytes": 25753026560,
            "memoryUsedBytes": 19327352832,
            "temperatureCelsius": 67.0,
            "powerWatts": 287.0,
            "unified": False,
        }
    ]


def test_a_built_in_amd_gpu_uses_the_machines_memory(tmp_path: Path) -> None:
    (device,) = read(linux(tmp_path, "amd-unified"), Kind.ACCELERATOR)["devices"]
    assert device["unified"] is True
    assert device["memoryTotalBytes"] == 536870912 + 120259084288
    assert device["memoryUsedBytes"] == 398458880 + 21474836480
    assert device["powerWatts"] == 17.038


def test_without_sensors_it_is_unknown_whether_memory_is_shared() -> None:
    files = {"vendor": "0x1002", "device": "0x744c", "mem_info_vram_total": "1024"}
    found = accelerators.amd(files, {})
    assert found is not None
    assert (found["unified"], found["utilisation"], found["powerWatts"]) == (None, None, None)
    assert accelerators.amd(files | {"vendor": "0x8086"}, {}) is None


# --- Linux --------------------------------------------------------------------------------------------------


def test_a_linux_machine_is_named_by_its_firmware(tmp_path: Path) -> None:
    identity = read(linux(tmp_path, "amd-unified"), Kind.IDENTITY)
    assert identity["machine"] == "Framework Desktop (AMD Ryzen AI Max 300 Series)"
    assert identity["cpu"] == "AMD RYZEN AI MAX+ 395 w/ Radeon 8060S"
    assert identity["osVersion"] == "Fedora Linux 43 (Server Edition)"


def test_a_firmware_that_nobody_filled_in_gives_no_name(tmp_path: Path) -> None:
    assert read(linux(tmp_path, "amd-discrete"), Kind.IDENTITY)["machine"] is None
    assert linux_texts.machine_name(None, None, "Raspberry Pi 5 Model B Rev 1.0\0") == "Raspberry Pi 5 Model B Rev 1.0"
    assert linux_texts.machine_name("Dell Inc.", "Dell Inc. R760", None) == "Dell Inc. R760"


def test_the_processors_own_sensor_counts_and_not_the_cards(tmp_path: Path) -> None:
    assert read(linux(tmp_path, "amd-discrete"), Kind.SYSTEM)["temperatureCelsius"] == 61.5


def test_without_a_sensor_chip_the_thermal_zone_counts(tmp_path: Path) -> None:
    assert read(linux(tmp_path, "amd-unified"), Kind.SYSTEM)["temperatureCelsius"] == 41.0


def test_pressure_is_read_from_stalls(tmp_path: Path) -> None:
    memory = read(linux(tmp_path, "amd-unified"), Kind.MEMORY)
    assert (memory["pressure"], memory["stallShare"]) == ("warning", 0.2491)


@pytest.mark.parametrize(
    ("some", "full", "word"), [("0.00", "0.00", "normal"), ("10.00", "1.00", "warning"), ("60.00", "10.00", "critical")]
)
def test_pressure_has_three_words(some: str, full: str, word: str) -> None:
    found = linux_texts.stalls(f"some avg10={some} avg60=0 avg300=0 total=1\nfull avg10={full} avg60=0 total=1\n")
    assert found is not None
    assert found.pressure == word


@pytest.mark.parametrize("text", [None, "", "x", "-128000", "65535000", "0"])
def test_a_sensor_that_is_not_connected_has_no_temperature(text: str | None) -> None:
    assert linux_texts.celsius(text) is None


def test_power_is_the_difference_of_a_counter_that_wraps() -> None:
    assert linux_texts.watts(1_000_000, 31_000_000, 262_143_328_850, 2.0) == 15.0
    assert linux_texts.watts(262_143_328_850 - 10_000_000, 20_000_000, 262_143_328_850, 2.0) == 15.0
    assert linux_texts.watts(0, 5, 10, 0.0) is None


def test_package_power_needs_two_looks_at_the_counter(tmp_path: Path) -> None:
    zone = tmp_path / "sys" / "class" / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    for name, value in {"name": "package-0", "energy_uj": "1000000", "max_energy_range_uj": "262143328850"}.items():
        (zone / name).write_text(f"{value}\n")
    sampler = MachineSampler({}, outside=Outside(tmp_path, ""), system="linux")
    assert read(sampler, Kind.SYSTEM)["powerWatts"] is None
    (zone / "energy_uj").write_text("2000000\n")
    assert read(sampler, Kind.SYSTEM)["powerWatts"] > 0


def test_processor_use_counts_what_was_not_idle() -> None:
    before = {"user": 10.0, "system": 5.0, "idle": 100.0, "iowait": 1.0, "guest": 9.0}
    after = {"user": 12.0, "system": 6.0, "idle": 106.0, "iowait": 2.0, "guest": 11.0}
    assert linux_texts.busy_share(before, after) == pytest.approx(0.3)
    assert linux_texts.busy_share(before, before) is None
    assert linux_texts.busy_share({}, after) is None


# --- macOS --------------------------------------------------------------------------------------------------


def test_a_mac_says_who_it_is_and_keeps_its_serial_number(tmp_path: Path) -> None:
    identity = read(mac(tmp_path), Kind.IDENTITY)
    assert (identity["machine"], identity["cpu"], identity["osVersion"]) == (
        "Mac mini M4 Pro",
        "Apple M4 Pro",
        "15.3.1",
    )
    assert "SECRETSERIAL" not in str(identity)


def test_a_macs_gpu_uses_the_machines_memory(tmp_path: Path) -> None:
    assert read(mac(tmp_path), Kind.ACCELERATOR)["devices"] == [
        {
            "name": "Apple M4 Pro",
            "vendor": "apple",
            "utilisation": 0.37,
            "memoryTotalBytes": psutil.virtual_memory().total,
            "memoryUsedBytes": 18 * GIB,
            "temperatureCelsius": None,
            "powerWatts": None,
            "unified": True,
        }
    ]


def test_pressure_of_a_mac_is_its_own_word(tmp_path: Path) -> None:
    memory, system = (read(mac(tmp_path / kind), kind) for kind in (Kind.MEMORY, Kind.SYSTEM))
    assert (memory["pressure"], memory["stallShare"]) == ("warning", None)
    assert (system["thermalPressure"], system["temperatureCelsius"]) == ("heavy", None)


def test_power_of_a_mac_is_for_root_alone(tmp_path: Path) -> None:
    async def both(sampler: MachineSampler) -> tuple[object, Any]:
        system, gpu = await sampler.sample(Kind.SYSTEM), await sampler.sample(Kind.ACCELERATOR)
        return system["powerWatts"], gpu["devices"]

    watts, (device,) = asyncio.run(both(mac(tmp_path / "root", is_root=True)))
    assert (watts, device["powerWatts"]) == (pytest.approx(20.0342), pytest.approx(17.9205))
    watts, (device,) = asyncio.run(both(mac(tmp_path / "other")))
    assert (watts, device["powerWatts"]) == (None, None)


@pytest.mark.parametrize("data", [b"", b"<plist", b"<plist/>", b"bplist00", b"\xff\xfe", b"[1]", b"{}"])
def test_odd_output_of_a_mac_is_unknown(data: bytes) -> None:
    assert macos.accelerators(data, 1) == []
    assert macos.power(data) == macos.Power()
    assert macos.machine_name(data) is None
    assert macos.memory_pressure(data) is None
    assert macos.thermal_pressure(data) is None


def test_bytes_of_the_registry_are_text_up_to_the_nul() -> None:
    plist = (RECORDED / "macos" / "ioreg").read_bytes()
    told = plist.replace(b"<string>Apple M4 Pro</string>", b"<data>QXBwbGUgTTEA</data>")
    assert told != plist
    assert macos.accelerators(told, None)[0]["name"] == "Apple M1"
