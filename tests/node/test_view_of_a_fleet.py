"""Every node shows the whole fleet: what the others say of themselves, and what is known when they say nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skulk.core.domain import (
    Condition,
    ConditionType,
    Link,
    NodeName,
    PlacementUid,
    Presence,
    Reading,
    Reason,
    Route,
    Status,
    Waiting,
)
from skulk.core.reconcile.machine import Phase
from skulk.core.routing import Unroutable, route, unroutable
from tests.node.fleetworld import (
    CHAT,
    COMMIT,
    GIB,
    NOW,
    WALL,
    A,
    B,
    C,
    World,
    deployment,
    fetched,
    fetching,
    model,
    named,
    runner,
    status,
    world,
)


def two_on(nodes: str) -> World:
    made = world(nodes)
    assert sorted(n for p in made.blueprint.placements for n in p.nodes) == nodes.split()
    return made


def only_route(found: tuple[Route, ...]) -> Route:
    (one,) = found
    return one


def test_a_node_that_serves_nothing_shows_and_routes_to_all_replicas() -> None:
    made = two_on("b c")
    on_b, on_c = made.start(B), made.start(C)
    view = made.view(A, made.all_shares())
    assert {p.name: p.status["node"] for p in view.resources["placements"]} == {on_b: "b", on_c: "c"}
    assert {r.name: r.status["node"] for r in view.resources["runners"]} == {on_b: "b", on_c: "c"}
    assert {(r.uid, r.node, r.ready) for r in model(view).routes} == {(on_b, "b", True), (on_c, "c", True)}
    assert {(r.uid, r.node) for r in model(view, "fox").routes} == {(on_b, "b"), (on_c, "c")}
    chat = named(view, "deployments", "chat")
    assert (chat.status["readyReplicas"], status(chat)) == (2, "True")
    assert model(view).not_ready == ""
    fleet = view.resources["fleet"][0]
    assert status(fleet) == "True"
    assert (fleet.status["nodes"], fleet.status["liveNodes"]) == (3, 3)


def test_all_nodes_show_the_same_of_what_runs() -> None:
    made = two_on("b c")
    made.start(B)
    made.start(C, Phase.LOADING, load_share=0.4)
    shares = made.all_shares()
    views = [made.view(name, {n: s for n, s in shares.items() if n != name}) for name in (A, B, C)]
    for kind in ("placements", "runners"):
        assert views[0].resources[kind] == views[1].resources[kind] == views[2].resources[kind]
    assert model(views[0]).routes == model(views[1]).routes == model(views[2]).routes
    names = [[n.name for n in view.resources["nodes"]] for view in views]
    assert names == [["a", "b", "c"]] * 3


def test_a_placement_shows_what_its_node_says() -> None:
    made = two_on("b c")
    uid = made.start(B)
    shown = named(made.view(A, made.all_shares()), "placements", uid)
    assert shown == named(made.view(B, {}), "placements", uid)
    assert (shown.status["since"], shown.status["phase"]) == (WALL + NOW - 30, "Ready")
    assert shown.spec["launchHash"] == made.placement(B).launch_hash


def test_what_is_planned_and_not_begun_stands_at_its_node() -> None:
    made = two_on("b c")
    uid = made.placement(B).uid
    shown = named(made.view(A, made.all_shares()), "placements", uid)
    assert (shown.status["node"], shown.status["phase"], shown.status["since"]) == ("b", "Planned", None)
    assert (shown.conditions, shown.spec["nodes"]) == ((), ["b"])


@pytest.mark.parametrize("presence", [Presence.SUSPECT, Presence.LOST, Presence.LEFT])
def test_what_a_node_ran_is_unknown_and_not_used_while_it_is_away(presence: Presence) -> None:
    made = two_on("b c")
    on_b, on_c = made.start(B), made.start(C)
    shares = made.all_shares()
    made.presence[B] = presence
    view = made.view(A, shares)
    shown = named(view, "placements", on_b)
    assert {status(shown, type_) for type_ in ConditionType} == {"Unknown"}
    assert shown.conditions[0].reason is Reason.NODE_ABSENT
    assert f"node b is {presence.value} since " in shown.conditions[0].message
    assert shown.status["message"] == shown.conditions[0].message
    assert {r.uid: r.ready for r in model(view).routes} == {on_b: False, on_c: True}
    chosen = route(model(view), view)
    assert chosen is not None
    assert chosen.uid == on_c
    chat = named(view, "deployments", "chat")
    assert (chat.status["readyReplicas"], status(chat)) == (1, "False")
    assert "node b is" in str(chat.status["message"])
    assert view.resources["fleet"][0].status["liveNodes"] == 2


def test_an_absent_node_is_absent_since_one_moment_until_it_is_back() -> None:
    made = two_on("b c")
    uid = made.start(B)
    shares = made.all_shares()
    made.presence[B] = Presence.LOST
    first = made.view(A, shares)
    made.now += 30
    later = made.view(A, shares)
    assert later.resources["placements"] == first.resources["placements"]
    assert named(later, "nodes", "b").conditions[0].since == WALL + NOW
    made.presence[B] = Presence.LIVE
    assert status(named(made.view(A, shares), "placements", uid)) == "True"
    made.presence[B] = Presence.LOST
    assert named(made.view(A, shares), "nodes", "b").conditions[0].since == WALL + NOW + 30


def test_a_node_that_is_about_to_end_gets_no_new_requests() -> None:
    made = two_on("b c")
    made.start(B)
    shares = made.all_shares() | {B: made.share(B, lambda p: replace(p, closing=True))}
    view = made.view(A, shares)
    assert not only_route(model(view).routes).ready
    assert "node b is about to end" in model(view).not_ready
    assert status(named(view, "deployments", "chat")) == "False"


def test_a_model_whose_only_replica_is_on_a_lost_node_says_so() -> None:
    made = world("b", deployment())
    made.start(B)
    shares = made.all_shares()
    made.presence[B] = Presence.LOST
    view = made.view(A, shares)
    assert route(model(view), view) is None
    assert unroutable(model(view)) is Unroutable.NOT_READY
    assert "node b is lost" in model(view).not_ready


def test_nodes_show_their_shares_and_their_presence() -> None:
    made = two_on("b c")
    made.start(B)
    shares = made.all_shares()
    del shares[C]
    del made.presence[C]
    view = made.view(A, shares)
    a, b, c = view.resources["nodes"]
    assert [n.status["presence"] for n in (a, b, c)] == ["live", "live", "unseen"]
    assert [n.status["ready"] for n in (a, b, c)] == [True, True, False]
    assert b.status["builds"] == a.status["builds"]
    assert b.status["builds"]
    assert (b.status["memoryBytes"], b.status["placedBytes"]) == (16 * GIB, made.placement(B).ranks[0].memory_bytes)
    assert b.conditions[0].reason is Reason.COMMIT_ACCEPTED
    assert "builds" not in c.status
    assert "not seen since this daemon started" in c.conditions[0].message
    assert "only its manifest is known" in str(c.status["problems"])
    assert named(view, "placements", made.placement(C).uid).conditions[0].reason is Reason.NODE_ABSENT


def test_a_node_that_accepted_nothing_is_there_and_not_ready() -> None:
    made = two_on("b c")
    share = made.share(B, lambda p: replace(p, accepted=None))
    b = named(made.view(A, {B: share}), "nodes", "b")
    assert (b.status["presence"], b.status["ready"]) == ("live", False)


def test_readings_are_shown_as_they_were_made_for_showing() -> None:
    made = two_on("b c")
    gauges = {B: {"memory": {"freeBytes": 5, "ageSeconds": 2}}}
    view = made.view(A, made.all_shares(), gauges=gauges)
    assert named(view, "nodes", "b").status["readings"] == gauges[B]
    assert named(view, "nodes", "a").status["readings"] == {}


def test_a_node_is_shown_with_its_health() -> None:
    made = two_on("b c")
    full = {"disk": Reading({"disks": [{"purpose": "state", "path": "/s", "totalBytes": 1e12, "freeBytes": 1e6}]}, 1.0)}
    view = made.view(A, made.all_shares(), readings={B: full})
    health = named(view, "nodes", "b").status["health"]
    assert isinstance(health, dict)
    assert (health["state"], [f["reason"] for f in health["findings"]]) == ("failing", ["DiskNearlyFull"])


def test_a_node_that_runs_another_version_than_the_fleet_names_says_so_to_everybody() -> None:
    made = two_on("b c")
    for version, said in ((None, False), ("1.0", False), ("2.0", True)):
        made.fleet = replace(made.fleet, version=version, places={"Fleet/demo": "fleet/fleet.yaml:7"})
        view = made.view(A, {B: made.share(B)})
        for name in ("a", "b"):
            problems = str(named(view, "nodes", name).status["problems"])
            assert ("runs Skulk 1.0, but fleet/fleet.yaml:7 wants 2.0" in problems) is said


def test_the_load_comes_from_young_readings_else_from_the_share() -> None:
    made = two_on("b c")
    uid = made.start(B, running=1, waiting=0)
    shares = made.all_shares()

    def load(values: object, age: float) -> tuple[int, int]:
        readings = {B: {"runners": Reading({uid: values}, age)}}
        found = only_route(model(made.view(A, shares, readings=readings)).routes)
        return found.running, found.waiting

    assert load([4, 2], 4.9) == (4, 2)
    assert load([4, 2], 5.1) == (1, 0)
    for rubbish in ("x", [1], [1, -1], [True, 0], [1.5, 0], None, {}):
        assert load(rubbish, 0.0) == (1, 0)


def test_progress_elsewhere_is_told_to_clients() -> None:
    made = two_on("b c")
    made.weights[B] = fetching(GIB // 4)
    view = made.view(A, made.all_shares())
    assert model(view).progress == f"fetching {GIB // 4}/{GIB} bytes on b"
    made.weights[A] = fetching(GIB // 2)
    assert model(made.view(A, made.all_shares())).progress == f"fetching {GIB // 2}/{GIB} bytes"
    made.weights.clear()
    made.start(B, Phase.LOADING, load_share=0.25)
    shares = made.all_shares()
    assert model(made.view(A, shares)).progress == "Loading 25%"
    made.presence[B] = Presence.LOST
    assert model(made.view(A, shares)).progress == "", "nobody knows how far a lost node is"


def test_cards_say_which_nodes_have_them() -> None:
    made = two_on("b c")
    made.weights[B] = fetched()
    fox = named(made.view(A, made.all_shares()), "cards", "fox")
    assert (fox.status["present"], fox.status["nodes"]) == (False, ["b"])
    made.weights[A] = fetched()
    fox = named(made.view(A, made.all_shares()), "cards", "fox")
    assert (fox.status["present"], fox.status["nodes"]) == (True, ["a", "b"])


def test_the_coordination_is_heard() -> None:
    made = two_on("b c")
    made.start(B)
    made.start(C)
    note = Waiting("coordination", "node b", Reason.MEMBER_SILENT, "b does not answer")
    blocked = Condition(ConditionType.STALLED, Status.TRUE, Reason.COMMIT_BLOCKED, "b: fleet.yaml:1:1: no", COMMIT)
    changes = {"coordinator": C, "notes": (note,), "cautions": (blocked,)}
    view = made.view(A, made.all_shares(), **changes)
    fleet = view.resources["fleet"][0]
    assert (fleet.status["coordinator"], fleet.waiting) == ("c", (note,))
    assert note in view.waiting
    assert status(fleet, ConditionType.STALLED) == "True"
    assert fleet.conditions[2].reason is Reason.COMMIT_BLOCKED
    assert view.conditions[2].message == blocked.message
    assert blocked.message in view.why["demo"]
    assert blocked.message in view.why["a"]
    made.now += 5
    again = made.view(A, made.all_shares(), **changes)
    assert again.conditions == view.conditions, "since when it is blocked does not move"


def test_an_earlier_version_that_still_serves_elsewhere_is_counted_and_routed_to() -> None:
    made = two_on("b c")
    uid = made.start(B)
    share = made.share(B)
    changed = replace(made.placement(B), uid=PlacementUid("0" * 16))
    made.blueprint = replace(made.blueprint, placements=(changed,))
    view = made.view(A, {B: share})
    chat = named(view, "deployments", "chat")
    assert (chat.status["readyReplicas"], chat.status["previousReplicas"]) == (0, 1)
    assert [r.uid for r in model(view).routes if r.ready] == [uid]


def test_reasons_are_known_of_every_node_and_placement() -> None:
    made = two_on("b c")
    uid = made.start(B)
    shares = made.all_shares()
    made.presence[C] = Presence.LOST
    why = made.view(A, shares).why
    assert why["chat"][0] == "planned chat"
    assert why[uid] == (f"placement {uid} on b: Ready: it answers requests",)
    assert why["b"] == (f"commit {COMMIT} is accepted",)
    assert "node c is lost" in why["c"][0]


def test_only_the_node_it_is_planned_on_speaks_for_a_placement() -> None:
    made = two_on("b c")
    uid = made.start(B)
    honest = made.share(B)
    claim = replace(
        honest,
        node=C,
        placements=tuple(replace(p, status={**p.status, "node": "c"}) for p in honest.placements),
        runners=tuple(replace(r, status={**r.status, "node": "c"}) for r in honest.runners),
        routes=tuple(replace(r, node=C) for r in honest.routes),
    )
    impostor_first = NodeName("aa")
    view = made.view(A, {B: honest, C: claim, impostor_first: replace(claim, node=impostor_first)})
    assert only_route(model(view).routes).node == "b"
    assert named(view, "placements", uid).status["node"] == "b"
    assert named(view, "runners", uid).status["node"] == "b"
    at_b = made.view(B, {C: claim})
    assert only_route(model(at_b).routes).node == "b"


def test_a_dead_link_is_no_route_for_anybody() -> None:
    made = two_on("b c")
    made.start(B, link=Link.SILENT)
    assert not only_route(model(made.view(A, made.all_shares())).routes).ready


def test_a_single_node_needs_nobody() -> None:
    made = world("a", deployment())
    uid = made.start(A)
    made.presence.clear()
    view = made.view(A, {})
    assert only_route(model(view).routes).ready
    assert named(view, "placements", uid).status["node"] == "a"
    assert view.resources["fleet"][0].status["liveNodes"] == 1
    assert status(named(view, "deployments", "chat")) == "True"


def test_equal_pictures_give_equal_views() -> None:
    made = two_on("b c")
    made.start(B)
    shares = made.all_shares()
    made.presence[C] = Presence.LOST
    first = made.view(A, shares)
    made.now += 1
    again = made.view(A, shares)
    assert replace(again, why=first.why) == first


def test_runner_facts_in_a_share_are_the_nodes_own() -> None:
    made = two_on("b c")
    uid = made.start(B, steps=9)
    assert runner(made.placement(B)).launch.deployment == CHAT
    shown = named(made.view(A, made.all_shares()), "runners", uid)
    assert (shown.status["steps"], shown.status["startedAt"]) == (9, WALL + NOW - 60)


def test_the_document_that_a_node_follows_is_named_by_its_number() -> None:
    view = two_on("b c").view(A, {})
    (fleet,) = view.resources["fleet"]
    assert fleet.status["document"] == "0.0"
