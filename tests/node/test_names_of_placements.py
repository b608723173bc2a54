"""What `logs` and `reset` make of a name: a placement, a deployment with or without placements, nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from skulk.core.domain import BootId, DeploymentName, FleetView, NodeName, Owner, PlacementUid, Resource
from skulk.core.errors import RequestError
from skulk.node.serving import NodeServing
from skulk.sim.clock import VirtualClock, run


class Logs:
    def known(self) -> tuple[PlacementUid, ...]:
        return (PlacementUid("gone-1"),)

    async def lines(self, uid: PlacementUid, lines: int, follow: bool) -> AsyncIterator[str]:
        yield "hello"


def serving(reset: list[frozenset[PlacementUid]]) -> NodeServing:
    def record(uids: frozenset[PlacementUid], _deployments: frozenset[DeploymentName]) -> int:
        reset.append(uids)
        return len(uids)

    owner = Owner(NodeName("demo"), BootId("b"))
    made = NodeServing(owner, None, Logs(), VirtualClock(), reset=record, beat_age=lambda: 0.0)  # type: ignore[arg-type]
    resources = {
        "deployments": (Resource("Deployment", "chat", {}, {}), Resource("Deployment", "idle", {}, {})),
        "placements": (
            Resource("Placement", "uid-1", {}, {"deployment": "chat", "node": "demo"}),
            Resource("Placement", "uid-2", {}, {"deployment": "far", "node": "attic"}),
        ),
    }
    made.publish(FleetView(1, NodeName("demo"), "0", resources=resources))
    return made


async def read(made: NodeServing, name: str) -> list[str]:
    return [line async for line in made.logs(name, 10, False)]


@pytest.mark.parametrize(("name", "uid"), [("chat", "uid-1"), ("uid-1", "uid-1"), ("gone-1", "gone-1")])
def test_a_deployment_means_its_placements_and_a_placement_itself(name: str, uid: str):
    async def story() -> None:
        reset: list[frozenset[PlacementUid]] = []
        made = serving(reset)
        assert await read(made, name) == [f"{uid} hello"]
        assert await made.reset(name) == 1
        assert reset == [frozenset({uid})]

    run(story())


def test_a_deployment_without_a_placement_is_known_but_has_no_logs():
    async def story() -> None:
        made = serving([])
        assert await made.reset("idle") == 0
        with pytest.raises(RequestError, match="'idle' has no placement ") as caught:
            await read(made, "idle")
        assert caught.value.status == 404

    run(story())


def test_a_name_that_nothing_has_is_not_found():
    async def story() -> None:
        with pytest.raises(RequestError, match="no deployment or placement is called 'nope'"):
            await serving([]).reset("nope")

    run(story())


def test_the_logs_of_a_placement_elsewhere_are_asked_for_there():
    async def story() -> None:
        with pytest.raises(RequestError, match="'far' runs on attic, which keeps its logs") as caught:
            await read(serving([]), "far")
        assert caught.value.status == 404

    run(story())
