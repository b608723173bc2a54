"""Why a node is passed over: one case per filter, and the line a person reads."""

from dataclasses import replace

import pytest
from planner_worlds import GIB, LLAMA_CPU, METAL, MLX, VULKAN, card, deployment, fleet, member, node

from skulk.core.domain import (
    Blueprint,
    Card,
    Deployment,
    EngineBuild,
    Member,
    Node,
    NodeName,
    Participation,
    Reason,
    Refusal,
    Spread,
)
from skulk.core.planner import plan, why


def place(
    nodes: list[Node],
    members: list[Member],
    wanted: Deployment | None = None,
    model: Card | None = None,
    refusals: tuple[Refusal, ...] = (),
) -> Blueprint:
    return plan(fleet(nodes, [wanted or deployment()], [model or card()]), (), members, (), refusals)


def verdict(found: Blueprint) -> tuple[Reason, str]:
    assert not found.placements
    (line,) = found.unplaced
    return line.reason, line.message


@pytest.mark.parametrize(
    ("the_node", "the_member", "wanted", "model", "reason", "message"),
    [
        (node("a"), None, {}, {}, Reason.NODE_ABSENT, "a is not in the fleet's live set"),
        (
            node("a", participation=Participation.MANAGEMENT),
            member("a"),
            {},
            {},
            Reason.NOT_PARTICIPATING,
            "a has participation management",
        ),
        (node("a", cordon=True), member("a"), {}, {}, Reason.CORDONED, "a is cordoned"),
        (node("a", drain=True), member("a"), {}, {}, Reason.DRAINED, "a is drained"),
        (
            node("a"),
            member("a"),
            {"excluded_nodes": (NodeName("a"),)},
            {},
            Reason.EXCLUDED,
            "a is in placement.excludedNodes",
        ),
        (
            node("a", labels={"gpu": "small"}),
            member("a"),
            {"selector": {"gpu": "big"}},
            {},
            Reason.SELECTOR_MISMATCH,
            "a has gpu=small, the selector asks for big",
        ),
        (
            node("a"),
            member("a"),
            {"selector": {"gpu": "big"}},
            {},
            Reason.SELECTOR_MISMATCH,
            "a has no label gpu, the selector asks for big",
        ),
        (node("a"), member("a", builds=()), {}, {}, Reason.NO_BACKEND, "a has no usable engine"),
        (
            node("a"),
            member("a"),
            {},
            {"compatible_backends": ("llama_cpp",)},
            Reason.NO_BACKEND,
            "a offers mlx-cpu, the card needs llama_cpp",
        ),
        (
            node("a"),
            member("a"),
            {"engine": "llama_cpp"},
            {"compatible_backends": ("mlx", "llama_cpp")},
            Reason.NO_BACKEND,
            "a offers mlx-cpu, the deployment asks for llama_cpp",
        ),
        (
            node("a", backends=("llama_cpp",)),
            member("a"),
            {},
            {},
            Reason.NO_BACKEND,
            "a offers mlx-cpu, its manifest allows only llama_cpp",
        ),
        (
            node("a"),
            member("a"),
            {},
            {"min_vram_bytes": 24 * GIB},
            Reason.INSUFFICIENT_MEMORY,
            "a has 16.0 GiB for mlx-cpu, the card's minVramGib asks for 24.0 GiB",
        ),
        (
            node("a"),
            member("a", gib=2),
            {},
            {},
            Reason.INSUFFICIENT_MEMORY,
            "a has 1.5 GiB free of 1.5 GiB, needed are 1.6 GiB = weights 1.4 GiB + KV 16 MiB (1 × 4096 tokens)"
            " + overhead 256 MiB",
        ),
        (
            node("a"),
            member("a", gib=2.1),
            {"concurrency": 64},
            {},
            Reason.INSUFFICIENT_MEMORY,
            "a has 1.5 GiB free of 1.5 GiB, needed are 2.9 GiB = weights 1.4 GiB + KV 1.3 GiB (64 × 4096 tokens)"
            " + overhead 256 MiB",
        ),
        (
            node("a"),
            member("a", gib=2.5),
            {"concurrency": 64},
            {},
            Reason.CONTEXT_TOO_LARGE,
            "a has 1.8 GiB free of 1.8 GiB, needed are 2.9 GiB = weights 1.4 GiB + KV 1.3 GiB (64 × 4096 tokens)"
            " + overhead 256 MiB; 1024 tokens would fit",
        ),
        (
            node("a"),
            member("a"),
            {"context_tokens": 16384},
            {},
            Reason.CONTEXT_TOO_LARGE,
            "a could give 8192 tokens by the card, 16384 are asked for",
        ),
    ],
)
def test_a_node_that_cannot_take_the_replica_says_why(
    the_node: Node,
    the_member: Member | None,
    wanted: dict[str, object],
    model: dict[str, object],
    reason: Reason,
    message: str,
) -> None:
    members = [] if the_member is None else [the_member]
    found = place([the_node], members, deployment(**wanted), card(**model))
    assert verdict(found) == (reason, message)


def test_a_refusal_keeps_that_launch_off_that_node_only() -> None:
    nodes, members = [node("a", 1), node("b", 2)], [member("a"), member("b")]
    (first,) = place(nodes, members).placements
    assert first.nodes == ("a",)
    veto = Refusal(
        first.nodes[0], first.deployment, first.launch_hash, Reason.WAITING_FOR_MEMORY, "needs 2 GiB, 1 GiB is free"
    )
    (second,) = place(nodes, members, refusals=(veto,)).placements
    assert second.nodes == ("b",)
    assert verdict(place(nodes[:1], members[:1], refusals=(veto,))) == (
        Reason.NODE_REFUSED,
        "a refused it (WaitingForMemory: needs 2 GiB, 1 GiB is free)",
    )
    other = replace(veto, launch_hash="another")
    assert place(nodes, members, refusals=(other,)).placements[0].nodes == ("a",)


def test_spread_node_never_puts_two_replicas_on_one_node() -> None:
    found = place([node("a")], [member("a")], deployment(replicas=2, spread=Spread.NODE))
    assert [p.replica for p in found.placements] == [0]
    (line,) = found.unplaced
    assert (line.reason, line.replica) == (Reason.SPREAD, 1)
    assert line.message == "a holds replica 0 already (spread: node)"


def test_spread_prefer_shares_a_node_only_when_nothing_else_fits() -> None:
    nodes, members = [node("a", 1), node("b", 2)], [member("a", 64), member("b", 4)]
    found = place(nodes, members, deployment(replicas=3, spread=Spread.PREFER))
    assert sorted(p.nodes[0] for p in found.placements) == ["a", "a", "b"]


def test_the_node_that_came_closest_leads_and_the_rest_is_counted() -> None:
    nodes = [node("a", 1, cordon=True), node("b", 2), node("c", 3), node("d", 4, cordon=True)]
    found = place(nodes, [member("a"), member("c", gib=1), member("d")])
    reason, message = verdict(found)
    assert reason is Reason.INSUFFICIENT_MEMORY
    assert message.startswith("c has 768 MiB free of 768 MiB, needed are 1.6 GiB")
    assert message.endswith("; other nodes: 2 Cordoned, 1 NodeAbsent")


def test_many_nodes_without_the_backend_are_one_short_line() -> None:
    nodes = [node(f"n{i}", i) for i in range(5)]
    found = place(nodes, [member(f"n{i}") for i in range(5)], model=card(compatible_backends=("llama_cpp",)))
    assert verdict(found) == (Reason.NO_BACKEND, "none of 5 nodes offers llama_cpp")


def test_a_fleet_without_nodes_says_so() -> None:
    assert verdict(place([], [])) == (Reason.NO_ELIGIBLE_NODE, "the fleet declares no nodes")


@pytest.mark.parametrize(
    "selector",
    [
        {"skulk.dev/node": "b"},
        {"skulk.dev/os": "macos"},
        {"skulk.dev/arch": "arm64"},
        {"tier": "gold", "skulk.dev/os": "macos"},
    ],
)
def test_selectors_see_declared_and_built_in_labels(selector: dict[str, str]) -> None:
    nodes = [node("a", 1), node("b", 2, labels={"tier": "gold"}, os="macos")]
    members = [member("a"), member("b", arch="arm64")]
    found = place(nodes, members, deployment(selector=selector))
    assert found.placements[0].nodes == ("b",)


def test_a_selector_tells_nodes_apart_that_are_equal_but_for_their_names() -> None:
    nodes, members = [node("a", 1), node("b", 2), node("c", 3)], [member("a"), member("b"), member("c")]
    found = place(nodes, members, deployment(selector={"skulk.dev/node": "b"}))
    assert found.placements[0].nodes == ("b",)
    found = place(nodes, members, deployment(excluded_nodes=(NodeName("a"),)))
    assert found.placements[0].nodes == ("b",)


@pytest.mark.parametrize(
    ("builds", "preference", "expected"),
    [
        ((MLX, METAL), (), "mlx-metal"),
        ((MLX, METAL), ("mlx-cpu",), "mlx-cpu"),
        ((METAL, VULKAN), ("llama_cpp", "mlx"), "llama_cpp-vulkan"),
        ((METAL, LLAMA_CPU), ("llama_cpp", "mlx"), "llama_cpp-cpu"),
        ((VULKAN, LLAMA_CPU), (), "llama_cpp-vulkan"),
    ],
)
def test_the_cards_preference_chooses_the_backend(
    builds: tuple[EngineBuild, ...], preference: tuple[str, ...], expected: str
) -> None:
    model = card(compatible_backends=("mlx", "llama_cpp"), backend_preference=preference)
    found = place([node("a")], [member("a", 64, builds)], model=model)
    assert found.placements[0].backend == expected


def test_a_full_device_falls_back_to_the_next_backend_of_the_node() -> None:
    model = card(compatible_backends=("llama_cpp",), storage_bytes=20 * GIB)
    found = place([node("a")], [member("a", 64, (VULKAN, LLAMA_CPU))], model=model)
    assert found.placements[0].backend == "llama_cpp-cpu"


def test_the_newest_of_two_builds_is_used_and_named() -> None:
    old, new = replace(MLX, version="0.9.1", digest="old"), replace(MLX, version="0.10.0", digest="new")
    (placed,) = place([node("a")], [member("a", builds=(old, new))]).placements
    assert (placed.engine_version, placed.engine_digest) == ("0.10.0", "new")


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ({}, "a"),
        ({"gib": 32}, "b"),
        ({"gib": 8, "files": frozenset({card().files[0].sha256})}, "b"),
        ({"gib": 32, "files": frozenset({"f" * 64})}, "b"),
    ],
)
def test_ranking_prefers_files_then_room_then_the_lowest_ordinal(second: dict[str, object], expected: str) -> None:
    found = place([node("a", 1), node("b", 2)], [member("a"), member("b", **second)])  # type: ignore[arg-type]
    assert found.placements[0].nodes == (expected,)


def test_backend_preference_beats_files_and_room() -> None:
    here = frozenset({card().files[0].sha256})
    members = [member("a", 64, files=here), member("b", 16, (METAL,))]
    found = place([node("a", 1), node("b", 2)], members)
    assert found.placements[0].nodes == ("b",)


def test_priority_then_name_decides_who_gets_the_room() -> None:
    wanted = [deployment("b"), deployment("a"), deployment("z", priority=5)]
    found = plan(fleet([node("a")], wanted), (), [member("a", gib=4.8)], (), ())
    assert [p.deployment for p in found.placements] == ["a", "z"]
    assert [u.deployment for u in found.unplaced] == ["b"]


@pytest.mark.parametrize(
    ("gib", "context_length", "expected"),
    [(16, 8192, 8192), (2.09, 8192, 4544), (16, 0, 4096), (16, 1000, 1000)],
)
def test_without_a_declared_context_it_is_what_card_and_memory_allow(
    gib: float, context_length: int, expected: int
) -> None:
    found = place(
        [node("a")],
        [member("a", gib)],
        deployment(context_tokens=None),
        card(context_length=context_length),
    )
    assert found.placements[0].context_tokens == expected


def test_a_context_too_small_to_be_useful_is_no_place() -> None:
    found = place([node("a")], [member("a", 2.08)], deployment(context_tokens=None, concurrency=8))
    assert verdict(found)[0] is Reason.INSUFFICIENT_MEMORY


def test_why_goes_node_by_node() -> None:
    nodes = [node("a", 1), node("b", 2, cordon=True), node("c", 3)]
    wanted = fleet(nodes, [deployment()])
    members = [member("a"), member("b"), member("c", 1)]
    lines = why(wanted, members, (), (), deployment().name)
    (placed,) = plan(wanted, (), members, (), ()).placements
    assert lines == (
        f"replica 0: {placed.uid} on a, mlx-cpu, 4096 tokens × 1, 1.6 GiB, new",
        "node a: could take one more on mlx-cpu: 1.6 GiB = weights 1.4 GiB + KV 16 MiB (1 × 4096 tokens)"
        " + overhead 256 MiB",
        "node b: Cordoned: is cordoned",
        "node c: InsufficientMemory: has 768 MiB free of 768 MiB, needed are 1.6 GiB = weights 1.4 GiB"
        " + KV 16 MiB (1 × 4096 tokens) + overhead 256 MiB",
    )


def test_why_of_something_unknown_or_suspended() -> None:
    wanted = fleet([node("a")], [deployment(suspend=True)], commit="0123456789abcdef")
    assert why(wanted, [], (), (), deployment("nope").name) == (
        "deployment nope is not in commit 0123456789ab; there are: chat",
    )
    assert why(wanted, [], (), (), deployment().name) == ("suspended: spec.suspend is true",)
