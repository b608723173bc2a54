"""The linter finds what is wrong: each finding is provoked by breaking a sound plan."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from planner_worlds import GIB, LLAMA_CPU, World, card, deployment, fleet, member, node

from skulk.core.domain import Blueprint, Fleet, Member, NodeName, PlacementUid, Rank
from skulk.core.planner import Finding, check

Break = Callable[[Blueprint, Fleet, Member], tuple[Blueprint, Fleet, Member]]
NOBODY = PlacementUid("0" * 16)


def sound() -> tuple[Blueprint, Fleet, Member]:
    """One placement in the middle of a start-first update."""
    the_member = member("a")
    world = World(fleet([node("a")], [deployment()]), [the_member])
    world.settle()
    world.push(deployment(context_tokens=2048))
    return world.plan(), world.fleet, the_member


def test_a_sound_plan_has_no_notes() -> None:
    blueprint, the_fleet, the_member = sound()
    assert blueprint.retiring
    assert check(blueprint, the_fleet, [the_member]) == ()


def placement(**changes: object) -> Break:
    def broken(b: Blueprint, f: Fleet, m: Member) -> tuple[Blueprint, Fleet, Member]:
        changed = replace(b.placements[0], **changes)  # type: ignore[arg-type]
        return replace(b, placements=(changed, *b.placements[1:])), f, m

    return broken


def retiring(**changes: object) -> Break:
    def broken(b: Blueprint, f: Fleet, m: Member) -> tuple[Blueprint, Fleet, Member]:
        return replace(b, retiring=(replace(b.retiring[0], **changes),)), f, m  # type: ignore[arg-type]

    return broken


def the_node(**changes: object) -> Break:
    def broken(b: Blueprint, f: Fleet, m: Member) -> tuple[Blueprint, Fleet, Member]:
        return b, replace(f, nodes={m.node: node("a", **changes)}), m  # type: ignore[arg-type]

    return broken


@pytest.mark.parametrize(
    ("broken", "finding", "text"),
    [
        (
            placement(ranks=(Rank(NodeName("a"), memory_bytes=11 * GIB),)),
            Finding.OVERCOMMITTED,
            "machine memory: 12.6 GiB of 12.0 GiB",
        ),
        (retiring(memory_bytes=11 * GIB), Finding.OVERCOMMITTED, "machine memory: 12.6 GiB of 12.0 GiB"),
        (retiring(until=NOBODY), Finding.DANGLING, "stays until 0000000000000000, which is not placed"),
        (retiring(keep=True), Finding.DANGLING, "has both until and keep"),
        (placement(replaces=NOBODY), Finding.DANGLING, "replaces 0000000000000000, which is not retiring"),
        (placement(after=NOBODY), Finding.DANGLING, "after 0000000000000000, which is not retiring"),
        (placement(ranks=(Rank(NodeName("b")),)), Finding.UNKNOWN_NODE, "is on b, which the fleet does not declare"),
        (the_node(drain=True), Finding.INELIGIBLE_NODE, "a is drained"),
        (placement(backend="mlx-metal"), Finding.BACKEND_NOT_OFFERED, "needs mlx-metal"),
        (placement(context_tokens=9000), Finding.CONTEXT_ABOVE_CARD, "9000 tokens, the card allows 8192"),
        (placement(replica=7), None, ""),
        (
            lambda b, f, m: (replace(b, placements=b.placements * 2), f, m),
            Finding.REPLICA_COUNT,
            "1 replicas are wanted, placed or unplaced: 0, 0",
        ),
        (
            lambda b, f, m: (replace(b, placements=()), f, m),
            Finding.REPLICA_COUNT,
            "1 replicas are wanted, placed or unplaced: none",
        ),
        (
            lambda b, f, m: (replace(b, placements=b.placements * 2), f, m),
            Finding.DUPLICATE_UID,
            "is listed 2 times",
        ),
        (
            lambda b, f, m: (b, replace(f, cards={"fox": card(compatible_backends=("llama_cpp",))}), m),
            Finding.BACKEND_NOT_OFFERED,
            "fox does not run on mlx-cpu",
        ),
        (
            lambda b, f, m: (b, replace(f, cards={}), m),
            Finding.DANGLING,
            "is of model fox, which has no card",
        ),
    ],
)
def test_each_fault_is_found(broken: Break, finding: Finding | None, text: str) -> None:
    blueprint, the_fleet, the_member = broken(*sound())
    notes = [(note.finding, note.message) for note in check(blueprint, the_fleet, [the_member])]
    assert ((finding, text) in notes) if finding is not None else (notes == [])


def test_a_predecessor_must_really_go() -> None:
    blueprint, the_fleet, the_member = sound()
    held = blueprint.retiring[0].uid
    waiting = replace(blueprint.placements[0], after=held)
    notes = check(replace(blueprint, placements=(waiting,)), the_fleet, [the_member])
    assert [(n.finding, n.message) for n in notes] == [(Finding.DANGLING, f"waits for {held}, which does not go")]


def test_room_that_is_reused_counts_once() -> None:
    blueprint, the_fleet, _ = sound()
    small = member("a", 3)
    new, old = blueprint.placements[0], blueprint.retiring[0]
    found = [n.finding for n in check(blueprint, the_fleet, [small])]
    assert found == [Finding.OVERCOMMITTED]
    after = replace(
        blueprint,
        placements=(replace(new, replaces=None, after=old.uid),),
        retiring=(replace(old, until=None),),
    )
    assert check(after, the_fleet, [small]) == ()


def test_nothing_is_asked_of_an_absent_node() -> None:
    blueprint, the_fleet, _ = sound()
    assert check(blueprint, the_fleet, []) == ()
    assert [n.finding for n in check(blueprint, the_fleet, [member("a", builds=(LLAMA_CPU,))])] == [
        Finding.BACKEND_NOT_OFFERED
    ]
