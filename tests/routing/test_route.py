"""Which replica takes a request."""

from dataclasses import replace

from skulk.core.domain import (
    Card,
    CardName,
    ContentHash,
    DeploymentName,
    FleetView,
    KvShape,
    LocalSource,
    NodeName,
    PlacementUid,
    Route,
    ServedModel,
)
from skulk.core.routing import Unroutable, resolve, route, unroutable

CARD = Card(CardName("fox"), "org/fox", LocalSource("fox"), "r", (), 1, 1, 1, KvShape(), 4096, ("mlx",))
VIEW = FleetView(generation=1, node=NodeName("here"), version="0")


def line(uid: str, node: str = "there", **changes: object) -> Route:
    base = Route(PlacementUid(uid), DeploymentName("chat"), NodeName(node), True, 0, 0, 2, 4096, ContentHash("c"))
    return replace(base, **changes)  # type: ignore[arg-type]


def model(*routes: Route, names: tuple[str, ...] = ("fox", "org/fox", "chat")) -> ServedModel:
    return ServedModel(CARD, (DeploymentName("chat"),), names, routes)


def uid(found: Route | None) -> str | None:
    return None if found is None else found.uid


def test_only_ready_replicas_are_chosen() -> None:
    assert uid(route(model(line("a", ready=False), line("b", running=9)), VIEW)) == "b"
    nobody = model(line("a", ready=False))
    assert route(nobody, VIEW) is None
    assert unroutable(nobody) is Unroutable.NOT_READY
    assert unroutable(model()) is Unroutable.NOT_READY


def test_the_least_load_per_slot_wins() -> None:
    assert uid(route(model(line("a", running=1, concurrency=1), line("b", running=2, concurrency=4)), VIEW)) == "b"
    assert uid(route(model(line("a", running=1, waiting=1), line("b", running=1)), VIEW)) == "b"


def test_ties_go_to_the_local_node_then_to_the_lowest_uid() -> None:
    assert uid(route(model(line("a"), line("b", "here")), VIEW)) == "b"
    assert uid(route(model(line("b"), line("a")), VIEW)) == "a"


def test_a_full_queue_is_passed_over() -> None:
    full = line("a", running=2, waiting=3, queue_max=3)
    assert uid(route(model(full, line("b", running=2, waiting=60)), VIEW)) == "b"
    assert route(model(full), VIEW) is None
    assert unroutable(model(full)) is Unroutable.QUEUE_FULL
    assert uid(route(model(line("a", running=1, queue_max=0)), VIEW)) == "a"


def test_a_replica_that_refused_is_not_tried_again() -> None:
    both = model(line("a"), line("b"))
    assert uid(route(both, VIEW, tried={PlacementUid("a")})) == "b"
    assert route(both, VIEW, tried={PlacementUid("a"), PlacementUid("b")}) is None
    assert unroutable(both, tried={PlacementUid("a"), PlacementUid("b")}) is Unroutable.NOT_READY


def test_names_resolve_and_a_canonical_name_beats_an_alias() -> None:
    fox, other = model(), model(names=("chat2", "fox", "big"))
    assert resolve("org/fox", [other, fox]) is fox
    assert resolve("fox", [other, fox]) is fox
    assert resolve("big", [fox, other]) is other
    assert resolve("Fox", [fox, other]) is None
