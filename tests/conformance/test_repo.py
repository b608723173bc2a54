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
