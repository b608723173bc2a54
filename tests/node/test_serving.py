"""How a node sends a request: again where a replica was lost, and to a full queue where a tenant may make room.

On virtual time, with replicas that answer as scripted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from skulk.core import errors
from skulk.core.domain import (
    Accepted,
    BootId,
    Card,
    CardName,
    ContentHash,
    DeploymentName,
    FleetView,
    GenerationRequest,
    KvShape,
    LocalSource,
    Message,
    NodeName,
    Owner,
    PlacementUid,
    RequestId,
    Route,
    Sampling,
    ServedModel,
)
from skulk.core.errors import RequestError, RetriableRefusal
from skulk.core.reconcile import limits
from skulk.node.serving import BEAT_SECONDS_MAX, NodeServing
from skulk.sim.clock import VirtualClock, run

CARD = Card(CardName("fox"), "org/fox", LocalSource("fox"), "r", (), 1, 1, 1, KvShape(), 4096, ("mlx",))
HERE = Owner(NodeName("here"), BootId("boot"))
LOST = RetriableRefusal(errors.RUN_LOST, "it ended", status=502, kind="server_error")
FULL = RetriableRefusal(errors.REQ_QUEUE_FULL, "full", status=503, kind="server_error")


class Taken:
    """A generation of nothing."""

    accepted = Accepted((1,), 1, 0, in_reasoning=False, context_left=9)

    def __init__(self, uid: str) -> None:
        self.placement = PlacementUid(uid)


class Replicas:
    """What each replica does with the next requests, one after the other: seconds it takes, then how it ends."""

    def __init__(self, **answers: list[tuple[float, Exception | None]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def generate(self, uid: PlacementUid, request: GenerationRequest, owner: Owner) -> Any:
        self.asked.append(uid)
        seconds, error = self.answers[uid].pop(0) if self.answers.get(uid) else (0.0, None)
        await asyncio.sleep(seconds)
        if error is not None:
            raise error
        return Taken(uid)

    async def submit(self, node: NodeName, uid: PlacementUid, request: GenerationRequest) -> Any:
        return await self.generate(uid, request, HERE)


def line(uid: str, **changes: Any) -> Route:
    base = Route(PlacementUid(uid), DeploymentName("chat"), NodeName("here"), True, 0, 0, 1, 4096, ContentHash("c"))
    return replace(base, **changes)


def loaded(uid: str, **changes: Any) -> Route:
    """On another node, whose word for its load is taken."""
    return line(uid, node=NodeName("there"), **changes)


def full(uid: str) -> Route:
    return loaded(uid, running=1, waiting=3, queue_max=3)


def request(tenant: str = "", deadline_seconds: float = 600.0) -> GenerationRequest:
    return GenerationRequest(
        RequestId("r1"),
        "fox",
        (Message("user", "hi"),),
        Sampling(seed=1),
        tenant=tenant,
        deadline_seconds=deadline_seconds,
    )


def serving_of(replicas: Replicas) -> NodeServing:
    plane: Any = replicas
    return NodeServing(HERE, plane, plane, VirtualClock(), reset=lambda *_: 0, beat_age=lambda: 0.0, data=lambda: plane)


def sent(
    replicas: Replicas,
    *routes: Route,
    asked: GenerationRequest | None = None,
    later: dict[float, Route] | None = None,
) -> tuple[str | RequestError, float]:
    """Who took the request, or what became of it, and after how many seconds. `later`: by second, the only route from
    then on."""

    async def main() -> tuple[str | RequestError, float]:
        serving = serving_of(replicas)

        def publish(*now: Route) -> None:
            model = ServedModel(CARD, (DeploymentName("chat"),), ("fox",), now)
            serving.publish(FleetView(1, HERE.node, "0", models=(model,)))

        publish(*routes)
        loop = asyncio.get_running_loop()
        for second, only in (later or {}).items():
            loop.call_at(second, publish, only)
        try:
            generation = await serving.submit(request() if asked is None else asked)
        except RequestError as error:
            return error, loop.time()
        return generation.placement, loop.time()

    return run(main())


def test_a_request_that_a_replica_lost_goes_to_the_other_one() -> None:
    replicas = Replicas(a=[(2.0, LOST)])
    assert sent(replicas, line("a"), line("b")) == ("b", 2.0)
    assert replicas.asked == ["a", "b"]


def test_the_patience_for_the_next_replica_begins_when_the_last_one_is_lost() -> None:
    """However long the request had waited in that one's queue."""
    replicas = Replicas(a=[(100.0, LOST)])
    taken, after = sent(replicas, line("a"), later={99.0: line("a", ready=False), 110.0: line("b")})
    assert (taken, replicas.asked) == ("b", ["a", "b"])
    assert 110 <= after < 111


def test_patience_ends_with_the_loss_and_says_when_to_try_again() -> None:
    lost, after = sent(Replicas(a=[(100.0, LOST)]), line("a"), later={99.0: line("a", ready=False)})
    assert isinstance(lost, RequestError)
    assert (lost.code, lost.status) == (errors.RUN_LOST, 502)
    assert lost.retry_after_seconds
    assert after == pytest.approx(100 + limits.REROUTE_SECONDS_MAX, abs=1)


def test_patience_is_no_longer_than_the_requests_own() -> None:
    asked = request(deadline_seconds=104.0)
    _, after = sent(Replicas(a=[(100.0, LOST)]), line("a"), later={99.0: line("a", ready=False)}, asked=asked)
    assert after == pytest.approx(104, abs=1)


def refused(outcome: tuple[str | RequestError, float]) -> tuple[object, float]:
    error, after = outcome
    assert isinstance(error, RequestError)
    assert error.retry_after_seconds
    return error.code, after


def test_where_everything_is_full_a_request_without_a_key_is_refused_at_once() -> None:
    replicas = Replicas()
    assert refused(sent(replicas, full("a"))) == (errors.REQ_QUEUE_FULL, 0)
    assert replicas.asked == []


def test_a_tenant_may_find_a_place_in_a_full_queue() -> None:
    assert sent(Replicas(), full("a"), asked=request("ada")) == ("a", 0)


def test_a_tenant_that_every_full_queue_refuses_is_told_so_at_once() -> None:
    replicas = Replicas(a=[(0.0, FULL)], b=[(0.0, FULL)])
    assert refused(sent(replicas, full("a"), full("b"), asked=request("ada"))) == (errors.REQ_QUEUE_FULL, 0)
    assert replicas.asked == ["a", "b"]


def test_what_the_last_look_saw_of_a_queue_here_does_not_count() -> None:
    """Everything that waits here came through this node, which knows better."""
    emptied = line("a", running=1, waiting=3, queue_max=3)
    assert sent(Replicas(), emptied) == ("a", 0)
    assert refused(sent(Replicas(), full("a"))) == (errors.REQ_QUEUE_FULL, 0)


def test_what_was_sent_here_counts_before_anybody_looked() -> None:
    async def main() -> list[str]:
        replicas = Replicas(a=[(60.0, None)] * 2, b=[(60.0, None)] * 2)
        serving = serving_of(replicas)
        routes = line("a", queue_max=1), line("b", queue_max=1)
        model = ServedModel(CARD, (DeploymentName("chat"),), ("fox",), routes)
        serving.publish(FleetView(1, HERE.node, "0", models=(model,)))
        asked = [asyncio.ensure_future(serving.submit(request())) for _ in range(4)]
        await asyncio.sleep(1.0)
        with pytest.raises(RequestError) as caught:
            await serving.submit(request())
        assert caught.value.code is errors.REQ_QUEUE_FULL
        for task in asked:
            task.cancel()
        return sorted(replicas.asked)

    assert run(main()) == ["a", "a", "b", "b"]


@pytest.mark.parametrize("make", [full, line])
def test_a_replica_with_room_comes_first(make: Callable[[str], Route]) -> None:
    replicas = Replicas()
    assert sent(replicas, make("a"), loaded("b", running=1, waiting=2), asked=request("ada"))[0] == (
        "b" if make is full else "a"
    )


def test_a_view_that_was_looked_at_hides_nothing_that_comes_after() -> None:
    async def main() -> None:
        ages = [1.0]
        plane: Any = Replicas()
        serving = NodeServing(HERE, plane, plane, VirtualClock(), reset=lambda *_: 0, beat_age=lambda: ages[-1])
        assert (serving.view().generation, serving.view().checks[-1].ok, serving.view().closing) == (0, True, False)
        serving.publish(FleetView(7, HERE.node, "0"))
        assert serving.view().generation == 7
        ages.append(BEAT_SECONDS_MAX)
        hanging = serving.view().checks[-1]
        assert (hanging.ok, hanging.message) == (False, f"the node loop turned {BEAT_SECONDS_MAX:.0f} s ago")
        ages.append(0.0)
        assert serving.view().checks[-1].ok
        serving.close()
        assert serving.view().closing

    run(main())
