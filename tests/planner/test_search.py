"""The search for the best offer answers as if every node had been asked, to the byte."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st
from planner_worlds import (
    GIB,
    LLAMA_CPU,
    METAL,
    MLX,
    VULKAN,
    as_running,
    card,
    deployment,
    fleet,
    member,
    node,
)

from skulk.core.domain import (
    Blueprint,
    Deployment,
    Fleet,
    KvShape,
    Member,
    NodeName,
    Reason,
    Refusal,
    RunningPlacement,
    Spread,
    UpdateStrategy,
)
from skulk.core.memory import MIB
from skulk.core.planner import plan, to_json
from skulk.core.planner.eligibility import SHOWN_NODES_MAX, STAGES, Rejection
from skulk.core.planner.offers import Offer, nothing
from skulk.core.planner.search import Market

OLD_MLX = replace(METAL, version="0.31.0", digest="d-old")
APU = replace(VULKAN, backend="llama_cpp-rocm", unified=True, device_memory_bytes=5 * GIB)
BUILDS = ((MLX,), (METAL, MLX), (METAL, OLD_MLX), (VULKAN, LLAMA_CPU), (METAL, VULKAN), (APU, LLAMA_CPU), ())
CARDS = (
    card("fox", compatible_backends=("mlx", "llama_cpp")),
    card("wolf", storage_bytes=3 * GIB, compatible_backends=("llama_cpp-cpu", "mlx"), backend_preference=("mlx",)),
    card("bear", compatible_backends=("llama_cpp", "mlx"), min_vram_bytes=6 * GIB),
    # A window flattens the cost, and a whole context is several GiB: nodes differ in how much they can give.
    card("owl", kv=KvShape(full_layers=4, windowed_layers=9, window_tokens=700, kv_heads=64, head_dim=512)),
    card(
        "elk",
        kv=KvShape(full_layers=8, kv_heads=64, head_dim=512),
        context_length=0,
        compatible_backends=("mlx", "llama_cpp"),
    ),
    card("ant", storage_bytes=MIB, context_length=100),
)
SELECTORS: tuple[dict[str, str], ...] = (
    {},
    {},
    {},
    {"tier": "gold"},
    {"skulk.dev/node": "n1"},
    {"skulk.dev/os": "linux"},
)
MODELS = [c.name for c in CARDS]
SIZES_GIB = [1, 2, 2.5, 3.1, 4.5, 4.6, 5, 5.3, 6, 7.7, 9, 9.1, 16]


def best_of_all(market: Market, replica: int, releasing=nothing):  # type: ignore[no-untyped-def]
    """Ask every node, in order; the first of the best wins."""
    chosen: Offer | None = None
    rejections: list[tuple[NodeName, Rejection]] = []
    for site in market._survey.sites:
        found = market.offer(site, replica, releasing(site))
        if isinstance(found, Rejection):
            rejections.append((site.name, found))
        elif chosen is None or market.key(found, replica) < market.key(chosen, replica):
            chosen = found
    return chosen or _summary(rejections, " or ".join(market.wanted.card.compatible_backends))


def _summary(rejections: list[tuple[NodeName, Rejection]], needed: str) -> tuple[Reason, str]:
    if not rejections:
        return Reason.NO_ELIGIBLE_NODE, "the fleet declares no nodes"
    reason = max((no.reason for _, no in rejections), key=STAGES.index)
    leading = [f"{name} {no.message}" for name, no in rejections if no.reason is reason]
    if reason is Reason.NO_BACKEND and len(leading) == len(rejections) > SHOWN_NODES_MAX:
        return reason, f"none of {len(leading)} nodes offers {needed}"
    parts = leading[:SHOWN_NODES_MAX]
    if len(leading) > SHOWN_NODES_MAX:
        parts.append(f"and {len(leading) - SHOWN_NODES_MAX} more {reason.value}")
    others = Counter(no.reason for _, no in rejections if no.reason is not reason)
    if others:
        parts.append("other nodes: " + ", ".join(f"{others[other]} {other}" for other in sorted(others)))
    return reason, "; ".join(parts)


@st.composite
def wanted(draw: st.DrawFn, names: str) -> list[Deployment]:
    return [
        deployment(
            name,
            draw(st.sampled_from(MODELS)),
            replicas=draw(st.integers(1, 4)),
            context_tokens=draw(st.sampled_from([None, None, 64, 1024, 4096, 9000])),
            concurrency=draw(st.sampled_from([1, 3])),
            spread=draw(st.sampled_from(list(Spread))),
            strategy=draw(st.sampled_from(list(UpdateStrategy))),
            priority=draw(st.integers(0, 1)),
            selector=draw(st.sampled_from(SELECTORS)),
            excluded_nodes=draw(st.sampled_from([(), (), (NodeName("n0"),)])),
        )
        for name in draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
    ]


@st.composite
def fleets(draw: st.DrawFn) -> tuple[Fleet, list[Member]]:
    names = [f"n{number}" for number in range(draw(st.integers(1, 9)))]
    files = [file.sha256 for c in CARDS for file in c.files]
    nodes = [
        node(
            name,
            draw(st.sampled_from([number, 100 - number])),
            labels=draw(st.sampled_from([{}, {"tier": "gold"}, {"rack": name}])),
            cordon=draw(st.sampled_from([False, False, False, True])),
            reserve_memory_bytes=draw(st.sampled_from([0, 0, GIB])),
            backends=draw(st.sampled_from([None, None, None, ("mlx",)])),
        )
        for number, name in enumerate(names)
    ]
    members = [
        member(
            name,
            draw(st.sampled_from(SIZES_GIB)),
            draw(st.sampled_from(BUILDS)),
            files=draw(st.frozensets(st.sampled_from(files), max_size=2)),
        )
        for name in names
        if draw(st.integers(0, 9))
    ]
    return fleet(nodes, draw(wanted("abcdef")), CARDS), members


def both(
    the_fleet: Fleet, members: list[Member], running: list[RunningPlacement], refusals: list[Refusal]
) -> Blueprint:
    """Plan by the search and by asking everybody; they must agree."""
    found = plan(the_fleet, (), members, running, refusals)
    with patch.object(Market, "best", best_of_all):
        expected = plan(the_fleet, (), members, running, refusals)
    assert to_json(found) == to_json(expected)
    return found


@settings(deadline=None, max_examples=400)
@given(fleets(), st.data())
def test_the_search_finds_what_asking_every_node_finds(drawn: tuple[Fleet, list[Member]], data: st.DataObject) -> None:
    the_fleet, members = drawn
    first = both(the_fleet, members, [], [])
    refused = (
        data.draw(st.sets(st.sampled_from([p.uid for p in first.placements]), max_size=2)) if first.placements else ()
    )
    refusals = [
        Refusal(p.nodes[0], p.deployment, p.launch_hash, Reason.WEDGED, "no")
        for p in first.placements
        if p.uid in refused
    ]
    second = both(the_fleet, members, [], refusals)
    running = [as_running(p, complete=data.draw(st.booleans())) for p in second.placements]
    pushed = fleet(the_fleet.nodes.values(), data.draw(wanted("abcdef")), CARDS, "c2")
    both(pushed, members, running, refusals)


def test_a_node_filled_to_the_brim_can_still_be_the_worse_one() -> None:
    """Open contexts: a node with room for the whole context and little beside it, against one that gives less."""
    wolf = replace(CARDS[0], context_length=8192)
    sizes = {"tight": 2.35, "tighter": 2.3, "wide": 16.0}
    for skipped in (None, *sizes):
        members = [member(name, gib) for name, gib in sizes.items() if name != skipped]
        nodes = [node(m.node, number) for number, m in enumerate(members)]
        both(fleet(nodes, [deployment(context_tokens=None, replicas=3)], [wolf]), members, [], [])


def test_equal_builds_of_two_environments_are_told_apart() -> None:
    twice = (METAL, replace(METAL, digest="d-other"))
    members = [member(name, 4, twice) for name in ("a", "b")]
    both(fleet([node("a", 1), node("b", 2)], [deployment(replicas=4)]), members, [], [])


def test_a_node_that_needs_its_second_engine_can_be_the_better_one() -> None:
    """Both engines rank alike. The first node has room on its device, the second only in its machine's memory."""
    members = [member(name, 64, (VULKAN, METAL)) for name in ("a", "b")]
    nodes = [node("a", 1), node("b", 2)]
    busy = deployment("busy", "bull", selector={"skulk.dev/node": "b"})
    cards = (*CARDS, card("bull", storage_bytes=12 * GIB, compatible_backends=("llama_cpp",)))
    running = [as_running(p) for p in plan(fleet(nodes, [busy], cards), (), members, [], []).placements]
    found = both(fleet(nodes, [busy, deployment()], cards), members, running, [])
    assert [(p.nodes, p.backend) for p in found.placements if p.deployment == "chat"] == [(("b",), METAL.backend)]


def test_no_node_is_asked_twice_when_thousands_are_alike() -> None:
    """What is searched grows with the kinds of nodes: the offers worked out stay far below nodes × replicas."""
    members = [member(f"n{number:03}", (16, 32)[number % 2]) for number in range(200)]
    nodes = [node(m.node, number) for number, m in enumerate(members)]
    wanted_here = [deployment(f"d{number:03}") for number in range(100)]
    asked = 0
    offer = Market.offer

    def counted(self: Market, *arguments: object, **options: object) -> Offer | Rejection:
        nonlocal asked
        asked += 1
        return offer(self, *arguments, **options)  # type: ignore[arg-type]

    with patch.object(Market, "offer", counted):
        found = plan(fleet(nodes, wanted_here), (), members, [], [])
    assert len(found.placements) == len(wanted_here)
    assert asked <= 2 * len(wanted_here)
