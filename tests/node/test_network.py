"""When a node joins the planes, whom it dials, and when it opens them anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from skulk.core.domain import BootId, CommitId, Fleet, Life, Node, NodeName, PlanesView
from skulk.core.errors import PLN_OPEN, Transient
from skulk.core.wire.planes_roster import public_key_text
from skulk.node.network import (
    LOOK_SECONDS,
    OPEN_RETRY_SECONDS,
    OUTLIVED_SECONDS,
    REDIAL_STAGGER_SECONDS,
    REDIAL_WAIT_SECONDS,
    Network,
    alone,
)
from skulk.sim.clock import VirtualClock, run

KEY = public_key_text(b"k" * 32)


def fleet(*names: str, **more: object) -> Fleet:
    nodes = {
        NodeName(n): Node(name=NodeName(n), ordinal=i, address=f"10.0.0.{i}", public_key=KEY)
        for i, n in enumerate(names, 1)
    }
    return Fleet("demo", "demo", CommitId("c1"), nodes, **more)  # type: ignore[arg-type]


@dataclass
class FakePlanes:
    """What a network does with its planes."""

    keys: list[Mapping[NodeName, bytes]] = field(default_factory=list)
    dialled: list[tuple[str, ...]] = field(default_factory=list)
    open_streams: int = 0
    closed: bool = False
    failing: bool = False
    view: PlanesView = field(default_factory=lambda: PlanesView(Life(NodeName("c"), BootId("c1"), 7)))

    def observe(self) -> PlanesView:
        return self.view

    def trust(self, keys: Mapping[NodeName, bytes]) -> None:
        self.keys.append(keys)

    def streams(self) -> int:
        return self.open_streams

    async def redial(self, endpoints: tuple[str, ...]) -> bool:
        if self.failing:
            raise Transient(PLN_OPEN, "the port is taken")
        self.dialled.append(endpoints)
        return True

    async def close(self, deadline_seconds: float) -> bool:
        self.closed = True
        return True


class World:
    """One node, the fleet it has accepted, and planes that fail when told to."""

    def __init__(self, me: str = "c", *, tls: bool = True, seeds: tuple[str, ...] = ()) -> None:
        self.clock = VirtualClock()
        self.fleet: Fleet | None = None
        self.planes = FakePlanes()
        self.failing = False
        self.opened: list[tuple[tuple[str, ...], Mapping[NodeName, bytes]]] = []
        self.told: list[str] = []
        self.network = Network(
            NodeName(me),
            self._open,  # type: ignore[arg-type]
            self.clock,
            lambda: self.fleet,
            tls=tls,
            seeds=seeds,
            joined=lambda _: self.told.append("joined"),
            left=lambda: self.told.append("left"),
        )

    async def _open(self, dial: tuple[str, ...], keys: Mapping[NodeName, bytes]) -> FakePlanes:
        if self.failing:
            raise Transient(PLN_OPEN, "the port is taken")
        self.opened.append((dial, keys))
        return self.planes


def story(body: Callable[[World], Coroutine[Any, Any, None]], **world: Any) -> None:
    run(body(World(**world)))


def test_the_planes_open_with_the_first_accepted_commit_and_dial_the_lower_ordinals():
    async def body(world: World) -> None:
        await world.network.look()
        assert world.opened == []
        world.fleet = fleet("a", "b", "c", "d")
        await world.network.look()
        ((dial, keys),) = world.opened
        assert dial == ("tls/10.0.0.1:52416", "tls/10.0.0.2:52416")
        assert keys.keys() == {"a", "b", "c", "d"}
        assert world.told == ["joined"]

    story(body)


def test_seeds_are_dialled_before_there_is_a_commit_and_not_after():
    async def body(world: World) -> None:
        await world.network.look()
        assert [dial for dial, _ in world.opened] == [("tls/seed:1",)]
        world.fleet = fleet("a", "c")
        await world.network.look()
        assert world.planes.dialled == [("tls/10.0.0.1:52416",)]

    story(body, seeds=("tls/seed:1",))


def test_a_commit_changes_whose_signatures_count_at_once():
    async def body(world: World) -> None:
        world.fleet = fleet("a", "b", "c")
        await world.network.look()
        world.fleet = fleet("a", "c")
        await world.network.look()
        assert [keys.keys() for keys in world.planes.keys] == [{"a", "c"}]
        assert world.planes.dialled == [], "an endpoint less is no reason to open anew"

    story(body)


def test_a_node_that_is_added_above_changes_no_dial_list_but_its_own():
    async def body(world: World) -> None:
        world.fleet = fleet("a", "b", "c")
        await world.network.look()
        world.fleet = fleet("a", "b", "c", "d")
        await world.network.look()
        assert world.planes.dialled == []

    story(body)


def moved(original: Fleet, name: str) -> Fleet:
    """That node has another address."""
    node = replace(original.nodes[NodeName(name)], address="10.9.9.9")
    return replace(original, nodes={**original.nodes, node.name: node})


def test_opening_anew_waits_for_streams_but_not_for_ever():
    async def body(world: World) -> None:
        world.fleet = fleet("a", "c")
        await world.network.look()
        world.planes.open_streams = 1
        world.fleet = moved(world.fleet, "a")
        await world.network.look()
        await world.clock.sleep(REDIAL_WAIT_SECONDS - 1)
        await world.network.look()
        assert world.planes.dialled == []
        await world.clock.sleep(1.0)
        await world.network.look()
        assert world.planes.dialled == [("tls/10.9.9.9:52416",)]

    story(body)


@pytest.mark.parametrize(("me", "turn"), [("b", 0), ("c", 1), ("d", 2)])
def test_the_nodes_that_a_commit_concerns_open_anew_one_after_the_other(me: str, turn: int):
    async def body(world: World) -> None:
        world.fleet = fleet("a", "b", "c", "d")
        await world.network.look()
        world.fleet = moved(world.fleet, "a")
        await world.network.look()
        for _ in range(turn):
            assert world.planes.dialled == []
            await world.clock.sleep(REDIAL_STAGGER_SECONDS)
            await world.network.look()
        assert len(world.planes.dialled) == 1

    story(body, me=me)


def test_planes_that_cannot_be_opened_are_tried_again_and_the_problem_is_told():
    async def body(world: World) -> None:
        world.failing, world.fleet = True, fleet("a", "c")
        running = asyncio.create_task(world.network.run())
        await world.clock.sleep(1.0)
        assert "SK-PLN-002" in world.network.problem or "the port is taken" in world.network.problem
        world.failing = False
        await world.clock.sleep(OPEN_RETRY_SECONDS + LOOK_SECONDS)
        assert world.network.problem == ""
        assert len(world.opened) == 1
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    story(body)


def test_a_node_without_planes_is_alone_in_a_fleet_of_several_and_says_so():
    assert alone(None) == ()
    assert alone(fleet("c")) == ()
    (line,) = alone(fleet("a", "b", "c"))
    assert "[planes]" in line
    assert "2 more" in line


def test_a_new_dial_list_that_cannot_be_opened_is_tried_again_until_it_can():
    async def body(world: World) -> None:
        world.fleet = fleet("a", "c")
        running = asyncio.create_task(world.network.run())
        await world.clock.sleep(LOOK_SECONDS)
        world.planes.failing, world.fleet = True, moved(world.fleet, "a")
        await world.clock.sleep(3 * OPEN_RETRY_SECONDS)
        assert "the port is taken" in world.network.problem
        world.planes.failing = False
        await world.clock.sleep(2 * OPEN_RETRY_SECONDS)
        assert world.planes.dialled == [("tls/10.9.9.9:52416",)]
        assert world.network.problem == ""
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    story(body)


def test_a_daemon_that_was_heard_in_this_ones_place_is_succeeded_when_it_has_gone():
    async def body(world: World) -> None:
        world.fleet = fleet("a", "c")
        await world.network.look()
        view = world.planes.view
        world.planes.view = replace(view, rivals=(BootId("c2"),), superseded=9)
        await world.clock.sleep(2 * OUTLIVED_SECONDS)
        await world.network.look()
        world.planes.view = replace(view, superseded=9)
        await world.network.look()
        assert world.told == ["joined"], "it may be a connection that was made anew"
        await world.clock.sleep(OUTLIVED_SECONDS)
        await world.network.look()
        assert world.planes.closed
        assert world.network.superseded == 9
        world.planes.view = replace(view, me=replace(view.me, number=10), superseded=9)
        for _ in range(3):
            await world.network.look()
            await world.clock.sleep(2 * OUTLIVED_SECONDS)
        assert world.told == ["joined", "left", "joined"]
        assert world.network.problem == ""

    story(body)


def test_a_fleet_that_requires_tls_is_not_joined_without_and_is_left_when_it_begins_to():
    async def body(world: World) -> None:
        world.fleet = fleet("a", "c", tls_required=True)
        await world.network.look()
        assert world.opened == []
        assert "requires TLS" in world.network.problem
        world.fleet = fleet("a", "c")
        await world.network.look()
        assert world.network.problem == ""
        world.fleet = fleet("a", "c", tls_required=True)
        await world.network.look()
        assert world.planes.closed
        assert world.network.planes is None
        assert world.told == ["joined", "left"]

    story(body, tls=False)
