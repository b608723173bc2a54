"""Engines are installed while the node runs, as node.toml says at the moment, and what is in the way is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from skulk.core.domain import EngineBuild
from skulk.node.installing import EngineInstaller, Wanted

# It ends a hang; nothing is measured.
DEADLINE_SECONDS = 30.0
OFF = Wanted(("llama_cpp",), install=False)
ON = Wanted(("llama_cpp",), install=True)


class Installing:
    """An installer at work; `until` waits for its problems to be as wanted, woken by nothing but itself."""

    def __init__(self, engines_dir: Path, wanted: Wanted) -> None:
        self._news = asyncio.Event()
        self.installer = EngineInstaller(engines_dir, wanted, self._news.set)

    def told(self) -> str:
        return " ".join(self.installer.problems(()))

    async def until(self, words: str) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while words not in self.told():
                self._news.clear()
                await self._news.wait()


def installing(path: Path, wanted: Wanted, check: Callable[[Installing], Awaitable[None]]) -> None:
    async def main() -> None:
        world = Installing(path / "engines", wanted)
        running = asyncio.create_task(world.installer.run())
        try:
            await check(world)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


def test_an_engine_that_shall_not_be_installed_is_named(tmp_path: Path) -> None:
    async def check(world: Installing) -> None:
        assert world.told() == "llama_cpp: not installed, and installEngines is off in node.toml"
        build = EngineBuild("llama_cpp-cpu", "llama_cpp", "1", "d", "")
        assert world.installer.problems([build]) == ()

    installing(tmp_path, OFF, check)
    assert not (tmp_path / "engines").exists()


def test_switching_it_on_begins_and_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/c++")

    async def check(world: Installing) -> None:
        world.installer.follow(ON)
        await world.until("SK-ENG-006")
        assert "apt install g++" in world.told()
        world.installer.follow(OFF)
        await world.until("installEngines is off")

    installing(tmp_path, OFF, check)


def test_what_failed_is_tried_again_at_once_when_node_toml_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/c++")

    async def check(world: Installing) -> None:
        await world.until("/nonexistent/c++")
        monkeypatch.setenv("CXX", "/elsewhere/c++")
        world.installer.follow(ON)
        await world.until("/elsewhere/c++")

    installing(tmp_path, ON, check)


def test_an_engine_that_nobody_can_install_does_not_keep_the_others_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/c++")

    async def check(world: Installing) -> None:
        await world.until("SK-ENG-006")
        assert "nonsense: SK-ENG-" in world.told()

    installing(tmp_path, Wanted(("nonsense", "llama_cpp"), install=True), check)
