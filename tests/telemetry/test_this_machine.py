"""Real readings of the machine that the tests run on, and the promises that every sampler keeps."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import structlog
from machines import linux, mac, program
from structlog.testing import capture_logs

from skulk.adapters.telemetry import MachineSampler, disks_of
from skulk.adapters.telemetry import lanes as lanes_module
from skulk.adapters.telemetry import outside as outside_module
from skulk.adapters.telemetry.lanes import Lane
from skulk.adapters.telemetry.outside import Outside
from skulk.core.ports import Sampler
from skulk.core.readings import Kind, Values
from skulk.sim.fakes import FakeSampler


def this(tmp_path: Path) -> MachineSampler:
    return MachineSampler({"state": tmp_path / "state" / "deep", "models": tmp_path})


def read(sampler: Sampler, kind: Kind) -> dict[str, Any]:
    return dict(asyncio.run(_sample(sampler, kind)))


async def _sample(sampler: Sampler, kind: Kind) -> Values:
    return await sampler.sample(kind)


SAMPLERS: dict[str, Callable[[Path], Sampler]] = {
    "real": this,
    "fake": lambda _: FakeSampler(),
    "bare": linux,
    "mac": mac,
}


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_kind_is_answered_with_json_and_the_same_names_each_time(name: str, kind: Kind, tmp_path: Path) -> None:
    sampler = SAMPLERS[name](tmp_path)
    first, second = read(sampler, kind), read(sampler, kind)
    assert first
    assert first.keys() == second.keys()
    assert json.loads(json.dumps(second, allow_nan=False)) == second


def test_memory_is_what_the_system_says(tmp_path: Path) -> None:
    memory = read(this(tmp_path), Kind.MEMORY)
    assert memory["totalBytes"] == psutil.virtual_memory().total
    assert memory["usedBytes"] == memory["totalBytes"] - memory["availableBytes"]
    assert 0 < memory["availableBytes"] < memory["totalBytes"]
    assert memory["swapUsedBytes"] <= memory["swapTotalBytes"]


@pytest.mark.skipif(platform.system() != "Linux", reason="reads Linux' files")
def test_pressure_follows_the_kernel_where_it_tells_it(tmp_path: Path) -> None:
    memory = read(this(tmp_path), Kind.MEMORY)
    told = Path("/proc/pressure/memory").exists()
    assert (memory["pressure"] in ("normal", "warning", "critical")) == told
    assert (memory["stallShare"] is not None) == told


def test_processor_use_is_unknown_at_first_and_a_share_from_then_on(tmp_path: Path) -> None:
    async def twice() -> tuple[Values, Values]:
        sampler = this(tmp_path)
        first = await sampler.sample(Kind.SYSTEM)
        # Work until the counters, which tick every 10 ms, have moved.
        before = psutil.cpu_times()
        while psutil.cpu_times() == before:
            pass
        return first, await sampler.sample(Kind.SYSTEM)

    first, second = asyncio.run(twice())
    assert first["cpuUtilisation"] is None
    assert isinstance(second["cpuUtilisation"], float)
    assert 0 <= second["cpuUtilisation"] <= 1
    assert second["uptimeSeconds"] > 0  # type: ignore[operator]
    assert second["processes"] > 0  # type: ignore[operator]


def test_disks_are_measured_where_they_will_be_and_nothing_is_written(tmp_path: Path) -> None:
    disks = read(this(tmp_path), Kind.DISK)["disks"]
    assert [(d["purpose"], d["path"]) for d in disks] == [
        ("state", str(tmp_path / "state" / "deep")),
        ("models", str(tmp_path)),
    ]
    assert {d["totalBytes"] for d in disks} == {shutil.disk_usage(tmp_path).total}
    assert all(0 < d["freeBytes"] <= d["totalBytes"] for d in disks)
    assert list(tmp_path.iterdir()) == []


def test_each_model_root_is_a_disk_of_its_own() -> None:
    state, one, two = Path("/state"), Path("/one"), Path("/two")
    assert disks_of(state, ()) == {"state": state}
    assert disks_of(state, (one,)) == {"state": state, "models": one}
    assert disks_of(state, (one, two)) == {"state": state, "models 1": one, "models 2": two}


def test_the_daemon_sees_itself(tmp_path: Path) -> None:
    daemon = read(this(tmp_path), Kind.DAEMON)
    assert daemon["residentBytes"] > 1024**2
    assert daemon["cpuSeconds"] > 0
    assert daemon["openFiles"] >= 3


def test_the_machine_has_a_name_and_a_version(tmp_path: Path) -> None:
    identity = read(this(tmp_path), Kind.IDENTITY)
    assert identity["os"] == {"Linux": "linux", "Darwin": "macos"}[platform.system()]
    assert identity["cores"] == os.cpu_count()
    assert identity["hostname"]
    assert identity["pythonVersion"] == platform.python_version()


# --- what hangs ---------------------------------------------------------------------------------------------


def test_a_tool_that_hangs_costs_its_own_values_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside_module, "COMMAND_SECONDS_MAX", 0.2)
    program(tmp_path / "bin", "nvidia-smi", "exec sleep 600")
    outside = Outside(tmp_path, str(tmp_path / "bin"))
    assert outside.run("nvidia-smi") is None
    sampler = MachineSampler({"state": tmp_path}, outside=outside, system="linux", is_root=False)
    assert read(sampler, Kind.ACCELERATOR) == {"devices": []}
    assert read(sampler, Kind.MEMORY)["totalBytes"] > 0


def test_a_tool_that_fails_or_is_not_there_tells_nothing(tmp_path: Path) -> None:
    program(tmp_path / "bin", "broken", "echo 12; exit 3")
    (tmp_path / "bin" / "no program").write_text("")
    outside = Outside(tmp_path, str(tmp_path / "bin"))
    assert [outside.run(name) for name in ("broken", "missing", "no program")] == [None, None, None]
    assert (outside.read("nothing"), outside.names("nothing")) == (None, ())


def test_a_tool_is_not_given_our_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKULK_API_KEY", "sk-secret")
    program(tmp_path / "bin", "tell", "env; cat")
    told = Outside(tmp_path, str(tmp_path / "bin")).run("tell")
    assert told is not None
    assert b"sk-secret" not in told


def test_a_question_that_never_returns_blocks_its_lane_and_no_thread_piles_up() -> None:
    gate = threading.Event()
    asked: list[str] = []

    def stuck() -> str:
        asked.append("stuck")
        gate.wait(60)
        return "late"

    async def story() -> list[str | None]:
        lane = Lane("disk", 0.05)
        answers = [await lane.ask(stuck), await lane.ask(stuck), await lane.ask(lambda: "other")]
        gate.set()
        answer = None
        while answer is None:
            answer = await lane.ask(lambda: "free again")
        return [*answers, answer]

    assert asyncio.run(story()) == [None, None, None, "free again"]
    assert asked == ["stuck"]


def test_a_lane_says_once_that_it_misses_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "_log", structlog.get_logger())
    gate = threading.Event()

    async def story() -> None:
        lane = Lane("disk models", 0.02)
        assert await lane.ask(lambda: gate.wait(60)) is None
        assert await lane.ask(lambda: gate.wait(60)) is None
        gate.set()

    with capture_logs() as logs:
        asyncio.run(story())
    assert [(line["event"], line["question"]) for line in logs] == [("telemetry_missed", "disk models")]


def test_what_a_question_raises_reaches_who_asked() -> None:
    def broken() -> None:
        raise OSError("broken")

    async def story() -> None:
        lane = Lane("sensor", 5.0)
        for _ in range(2):
            with pytest.raises(OSError, match="broken"):
                await lane.ask(broken)

    asyncio.run(story())
