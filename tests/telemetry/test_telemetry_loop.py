"""The telemetry loop on the virtual clock: paces, ages, what wakes the node, what it survives."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from skulk.core.readings import INTERVAL_SECONDS, Kind
from skulk.node import telemetry as telemetry_module
from skulk.node.telemetry import WAKE_SECONDS, Telemetry
from skulk.sim.clock import VirtualClock, run
from skulk.sim.fakes import FakeSampler

GIB = 2**30


class World:
    """A telemetry loop with what it reported and when it woke the node. Call `at` inside the virtual loop."""

    def __init__(self, sampler: FakeSampler, intervals: Mapping[Kind, float]) -> None:
        self.sampler = sampler
        self.clock = VirtualClock()
        self.reports: list[tuple[float, str, Mapping[str, object]]] = []
        self.woken: list[float] = []
        self.telemetry = Telemetry(
            sampler,
            self.clock,
            report=lambda kind, values: self.reports.append((self.clock.now(), kind, values)),
            wake=lambda: self.woken.append(self.clock.now()),
            intervals=intervals,
        )

    def times(self, kind: Kind) -> list[float]:
        return [at for at, name, _ in self.reports if name == kind]

    def memory(self, available: float) -> None:
        known = self.sampler.values[Kind.MEMORY]
        self.sampler.values[Kind.MEMORY] = {**known, "availableBytes": int(available)}


def living(
    story: Callable[[World], Awaitable[None]],
    sampler: FakeSampler | None = None,
    intervals: Mapping[Kind, float] = INTERVAL_SECONDS,
) -> World:
    """Run `story` beside the loop, which is then cancelled."""

    async def main() -> World:
        world = World(sampler or FakeSampler(), intervals)
        loop = asyncio.create_task(world.telemetry.run())
        await story(world)
        loop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loop
        return world

    return run(main())


def lasting(seconds: float) -> Callable[[World], Awaitable[None]]:
    return lambda world: world.clock.sleep(seconds)


def test_every_kind_is_reported_at_once_and_then_at_its_own_pace() -> None:
    world = living(lasting(700.0))
    for kind in Kind:
        times = world.times(kind)
        assert times == [pytest.approx(n * INTERVAL_SECONDS[kind]) for n in range(len(times))]
        assert len(times) == int(700.0 // INTERVAL_SECONDS[kind]) + 1


def test_readings_age_until_the_next_sample() -> None:
    seen: list[dict[str, float]] = []

    async def story(world: World) -> None:
        assert world.telemetry.readings() == {}
        await world.clock.sleep(29.0)
        seen.append({kind: reading.age_seconds for kind, reading in world.telemetry.readings().items()})

    living(story)
    assert seen[0]["disk"] == pytest.approx(29.0)
    assert seen[0]["memory"] == pytest.approx(1.0)
    assert set(seen[0]) == {kind.value for kind in Kind}


def test_a_kind_that_hangs_grows_old_and_holds_up_no_other() -> None:
    ages: dict[str, float] = {}

    async def story(world: World) -> None:
        await world.clock.sleep(3.0)
        world.sampler.hanging.add(Kind.ACCELERATOR)
        await world.clock.sleep(97.0)
        ages.update({kind: reading.age_seconds for kind, reading in world.telemetry.readings().items()})

    world = living(story)
    assert ages["accelerator"] == pytest.approx(98.0)
    assert ages["memory"] <= INTERVAL_SECONDS[Kind.MEMORY]
    assert world.sampler.asked[Kind.ACCELERATOR] == 3


def test_a_kind_that_fails_is_logged_once_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry_module, "_log", structlog.get_logger())

    async def story(world: World) -> None:
        world.sampler.failing.add(Kind.MEMORY)
        await world.clock.sleep(9.0)
        assert "memory" not in world.telemetry.readings()
        world.sampler.failing.clear()
        await world.clock.sleep(2.0)
        assert "memory" in world.telemetry.readings()

    with capture_logs() as logs:
        living(story)
    assert [(line["event"], line["kind"]) for line in logs] == [("telemetry_failed", "memory")]


def test_equal_samples_do_not_wake_the_node() -> None:
    assert len(living(lasting(600.0)).woken) <= 2


def test_time_that_passes_is_no_news() -> None:
    class Running(FakeSampler):
        async def sample(self, kind: Kind) -> Mapping[str, object]:
            values: dict[str, Any] = dict(await super().sample(kind))
            grown = {
                name: values[name] + self.asked[kind] for name in ("uptimeSeconds", "cpuSeconds") if name in values
            }
            return {**values, **grown}

    assert len(living(lasting(600.0), Running()).woken) <= 2


def test_what_a_person_sees_wakes_the_node_and_jitter_does_not() -> None:
    async def story(world: World) -> None:
        await world.clock.sleep(60.0)
        quiet = len(world.woken)
        for step in range(30):
            world.memory(12 * GIB + (step % 2) * GIB / 4)
            await world.clock.sleep(2.0)
        assert len(world.woken) == quiet
        world.memory(6 * GIB)
        await world.clock.sleep(3.0)
        assert len(world.woken) == quiet + 1

    living(story)


def test_slow_growth_is_seen_in_the_end() -> None:
    async def story(world: World) -> None:
        await world.clock.sleep(60.0)
        quiet = len(world.woken)
        for step in range(40):
            world.memory(12 * GIB - step * GIB / 10)
            await world.clock.sleep(2.0)
        assert 3 <= len(world.woken) - quiet <= 6

    living(story)


def test_the_node_is_not_woken_more_often_than_a_person_reads() -> None:
    async def story(world: World) -> None:
        for step in range(100):
            world.memory(12 * GIB if step % 2 else 2 * GIB)
            world.sampler.values[Kind.SYSTEM] = {"cpuUtilisation": step % 2}
            await world.clock.sleep(0.7)

    woken = living(story, intervals=dict.fromkeys(Kind, 0.3)).woken
    assert 25 <= len(woken) <= 36
    assert min(b - a for a, b in itertools.pairwise(woken)) >= WAKE_SECONDS - 1e-6


def test_a_node_without_planes_reports_to_nobody() -> None:
    async def main() -> dict[str, Any]:
        telemetry = Telemetry(FakeSampler(), VirtualClock())
        loop = asyncio.create_task(telemetry.run())
        await asyncio.sleep(5.0)
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        return dict(telemetry.readings())

    assert set(run(main())) == {kind.value for kind in Kind}


def test_the_worst_delay_of_the_loop_is_told_once() -> None:
    lags: list[object] = []

    class Late(VirtualClock):
        """Sleeps of the probe take longer for a while."""

        late = 0.0

        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(seconds + (self.late if seconds == telemetry_module.LAG_PROBE_SECONDS else 0.0))

    async def main() -> None:
        clock = Late()
        sampler = FakeSampler()

        def report(kind: str, values: Mapping[str, object]) -> None:
            if kind == Kind.DAEMON:
                lags.append(values["loopLagSeconds"])

        loop = asyncio.create_task(Telemetry(sampler, clock, report=report).run())
        await asyncio.sleep(1.0)
        clock.late = 1.5
        await asyncio.sleep(4.0)
        clock.late = 0.0
        await asyncio.sleep(20.0)
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)

    run(main())
    assert lags == [0.0, 1.5, 0.0]
