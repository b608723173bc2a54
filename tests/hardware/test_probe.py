"""Facts of this machine against what the operating system itself says."""

import asyncio
import os
import platform
from pathlib import Path

import psutil
import pytest

from skulk.adapters.engine_envs import EngineCatalogue
from skulk.adapters.hardware import MachineProbe

GIB = 1024**3


def probe_of(tmp_path: Path, **options: object) -> MachineProbe:
    catalogue = EngineCatalogue(tmp_path / "engines", tmp_path, [], scripted=True)
    return MachineProbe(catalogue, tmp_path / "state" / "deep", **options)  # type: ignore[arg-type]


def test_the_machine_is_told_as_it_is(tmp_path: Path) -> None:
    machine = asyncio.run(probe_of(tmp_path).machine())
    assert machine.memory_bytes == psutil.virtual_memory().total
    assert machine.os == {"Linux": "linux", "Darwin": "macos"}[platform.system()]
    assert machine.arch in ("x86_64", "aarch64", "arm64")
    assert [build.backend for build in machine.builds] == ["scripted-cpu"]
    assert machine.engine_problems == ()
    facts = os.statvfs(tmp_path)
    assert machine.disk_bytes == facts.f_blocks * facts.f_frsize


def test_engines_that_do_not_work_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "engines" / "mlx-1-x"
    broken.mkdir(parents=True)
    (broken / "engine.json").write_text("{")
    machine = asyncio.run(probe_of(tmp_path).machine())
    assert len(machine.engine_problems) == 1
    assert "mlx-1-x" in machine.engine_problems[0]


def test_a_cap_lowers_the_total_and_never_raises_it(tmp_path: Path) -> None:
    assert asyncio.run(probe_of(tmp_path, memory_cap_bytes=GIB).machine()).memory_bytes == GIB
    real = psutil.virtual_memory().total
    assert asyncio.run(probe_of(tmp_path, memory_cap_bytes=2 * real).machine()).memory_bytes == real


@pytest.mark.parametrize(("reserved", "free"), [(0, 1000), (400, 600), (1000, 0), (5000, 0)])
def test_under_a_cap_what_the_runners_hold_is_gone(tmp_path: Path, reserved: int, free: int) -> None:
    probe = probe_of(tmp_path, memory_cap_bytes=1000, reserved_by_runners=lambda: reserved)
    assert probe.free_memory_bytes() == free


def test_free_memory_is_never_more_than_the_machine_has_available(tmp_path: Path) -> None:
    total = psutil.virtual_memory().total
    assert 0 < probe_of(tmp_path).free_memory_bytes() < total
    assert probe_of(tmp_path, memory_cap_bytes=10 * total).free_memory_bytes() < total


def test_disk_is_measured_before_the_state_directory_exists_and_nothing_is_written(tmp_path: Path) -> None:
    probe = probe_of(tmp_path)
    assert probe.free_disk_bytes() > 0
    asyncio.run(probe.machine())
    assert list(tmp_path.iterdir()) == []
