"""Port `Repo`: what acceptance relies on, from git and from the simulator alike."""

from __future__ import annotations

from typing import Any

import pytest

from skulk.core import errors
from skulk.core.domain import VerifyMode
from skulk.core.ports import Signature

FILES = {"fleet/fleet.yaml": "kind: Fleet\n", "cards/fox/card.yaml": "kind: ModelCard\n"}


def test_an_empty_source_has_no_commit(repos: Any):
    async def story(world: Any) -> None:
        with pytest.raises(errors.SkulkError) as empty:
            await world.port().head()
        assert empty.value.code is errors.SRC_EMPTY

    repos.run(story)


def test_the_head_is_the_newest_commit_and_its_tree_holds_the_manifests(repos: Any):
    async def story(world: Any) -> None:
        port = world.port()
        first = world.commit(FILES)
        assert await port.head() == first
        assert {f.path: f.data.decode() for f in await port.tree(first)} == FILES
        second = world.commit({"fleet/fleet.yaml": "kind: Other\n"})
        assert await port.head() == second
        assert [f.path for f in await port.tree(second)] == ["fleet/fleet.yaml"]
        assert [f.path for f in await port.tree(first)] == sorted(FILES)

    repos.run(story)


def test_ancestry_is_told_relative_to_the_accepted_commit(repos: Any):
    async def story(world: Any) -> None:
        port = world.port()
        first = world.commit(FILES)
        await port.head()
        second = world.commit({"fleet/fleet.yaml": "kind: Other\n"})
        await port.head()

        async def told(commit: str, accepted: str | None) -> tuple[bool, bool]:
            facts = await port.facts(commit, accepted, VerifyMode.OFF)
            assert facts.commit == commit
            assert facts.unsigned == ()
            return facts.descends, facts.is_ancestor

        assert await told(first, None) == (True, False)
        assert await told(second, first) == (True, False)
        world.back_to(first)
        assert await port.head() == first
        assert await told(first, second) == (False, True)
        rewritten = world.commit({"fleet/fleet.yaml": "kind: Third\n"})
        assert await port.head() == rewritten
        assert await told(rewritten, second) == (False, False)

    repos.run(story)


def test_unsigned_commits_are_named_by_mode(repos: Any):
    async def story(world: Any) -> None:
        port = world.port()
        commits = [world.commit({"fleet/fleet.yaml": f"kind: {n}\n"}) for n in range(3)]
        if world.kind == "fake":
            port.unsigned.update(commits)
        await port.head()
        head = await port.facts(commits[2], commits[0], VerifyMode.HEAD)
        assert head.unsigned == ((commits[2], Signature.NONE),)
        every = await port.facts(commits[2], commits[0], VerifyMode.EVERY)
        assert every.unsigned == ((commits[2], Signature.NONE), (commits[1], Signature.NONE))

    repos.run(story)


async def two_nodes(world: Any, commits: int = 2) -> tuple[Any, Any, list[str]]:
    """One that has all commits, one that has the first only, and the commits."""
    made = [world.commit(FILES)]
    behind = world.other()
    await behind.head()
    made += [world.commit({**FILES, "fleet/fleet.yaml": f"kind: N{n}\n"}) for n in range(1, commits)]
    ahead = world.port()
    await ahead.head()
    return ahead, behind, made


async def not_there(port: Any, commit: str) -> None:
    with pytest.raises(errors.SkulkError):
        await port.tree(commit)


def test_a_commit_can_be_had_from_another_node_instead_of_the_remote(repos: Any):
    async def story(world: Any) -> None:
        ahead, behind, (first, second, third) = await two_nodes(world, 3)
        await not_there(behind, third)
        await behind.unbundle(third, await ahead.bundle(third, frozenset({first})))
        assert {f.path: f.data for f in await behind.tree(third)} == {f.path: f.data for f in await ahead.tree(third)}
        facts = await behind.facts(third, first, VerifyMode.OFF)
        assert facts == await ahead.facts(third, first, VerifyMode.OFF)
        assert (facts.descends, facts.is_ancestor) == (True, False)
        # What lies between came along, so that it can be judged too.
        assert (await behind.facts(second, first, VerifyMode.OFF)).descends
        await behind.unbundle(third, b"not even looked at")

    repos.run(story)


def test_a_node_that_never_reached_the_remote_gets_the_whole_history(repos: Any):
    async def story(world: Any) -> None:
        ahead, _, (first, second) = await two_nodes(world)
        fresh = world.other(empty=True)
        await fresh.unbundle(second, await ahead.bundle(second, frozenset()))
        assert [f.path for f in await fresh.tree(second)] == sorted(FILES)
        assert (await fresh.facts(second, first, VerifyMode.OFF)).descends

    repos.run(story)


def test_what_the_asker_has_and_the_giver_does_not_know_is_ignored(repos: Any):
    async def story(world: Any) -> None:
        ahead, behind, (first, second) = await two_nodes(world)
        have = frozenset({first, "f" * 40, "dir-" + "0" * 40})
        await behind.unbundle(second, await ahead.bundle(second, have))
        assert await behind.tree(second)

    repos.run(story)


def test_a_commit_that_is_not_local_cannot_be_given(repos: Any):
    async def story(world: Any) -> None:
        _, behind, (first, second) = await two_nodes(world)
        with pytest.raises(errors.SkulkError) as caught:
            await behind.bundle(second, frozenset({first}))
        assert caught.value.code is errors.SRC_UNREACHABLE

    repos.run(story)


@pytest.mark.parametrize("fault", ["garbage", "empty", "truncated", "changed", "another commit", "without its base"])
def test_a_bundle_that_is_not_what_was_asked_for_changes_nothing(repos: Any, fault: str):
    async def story(world: Any) -> None:
        ahead, behind, (first, second, third) = await two_nodes(world, 3)
        good = await ahead.bundle(third, frozenset({first}))
        data = {
            "garbage": b"\x00garbage" * 100,
            "empty": b"",
            "truncated": good[:-40],
            "changed": good[:-30] + bytes([good[-30] ^ 1]) + good[-29:],
            "another commit": await ahead.bundle(second, frozenset({first})),
            "without its base": await ahead.bundle(third, frozenset({second})),
        }[fault]
        with pytest.raises(errors.Refused) as caught:
            await behind.unbundle(third, data)
        assert caught.value.code is errors.SRC_BUNDLE
        for commit in (second, third):
            await not_there(behind, commit)
        await behind.unbundle(third, good)
        assert await behind.tree(third)

    repos.run(story)


def test_proper_ancestors_are_told_from_the_rest(repos: Any):
    async def story(world: Any) -> None:
        port = world.port()
        first, second, third = (world.commit({"fleet/fleet.yaml": f"kind: N{n}\n"}) for n in range(3))
        await port.head()
        world.back_to(first)
        side = world.commit({"fleet/fleet.yaml": "kind: Side\n"})
        await port.head()
        everything = frozenset({first, second, third, side, "f" * 40, "dir-" + "0" * 40})
        assert await port.older(everything, third) == {first, second}
        assert await port.older(everything, side) == {first}
        assert await port.older(everything, first) == frozenset()
        assert await port.older(everything, "f" * 40) == frozenset()
        assert await port.older(frozenset(), third) == frozenset()
        assert await world.other(empty=True).older(everything, third) == frozenset()

    repos.run(story)
