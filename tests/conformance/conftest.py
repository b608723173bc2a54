"""One story, two worlds: the real adapter on real time, and the simulator's fake on virtual time."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from skulk.adapters.runners import RunnerProcesses, place_runner_code
from skulk.adapters.runners.places import Places
from skulk.core.domain import (
    BootId,
    CardName,
    CommitId,
    ContentHash,
    DeploymentName,
    Launch,
    LaunchHash,
    NodeName,
    Owner,
    PlacementUid,
)
from skulk.core.ports import Clock, RunnerHost
from skulk.node.clock import SystemClock
from skulk.sim import clock as virtual
from skulk.sim.fakes import FakeHost, FakeRepo

UID = PlacementUid("00000000000000aa")


def launch(uid: str = UID) -> Launch:
    return Launch(
        uid=PlacementUid(uid),
        deployment=DeploymentName("chat"),
        replica=0,
        model=CardName("parrot"),
        engine="scripted",
        backend="scripted-cpu",
        engine_digest="builtin",
        model_dir="",
        context_tokens=1024,
        concurrency=1,
        launch_hash=LaunchHash("hash"),
        content_hash=ContentHash("content"),
        memory_bytes=1,
        orphan_seconds=60.0,
    )


class HostWorld:
    """Makes daemons over the same processes, and can kill a process behind their back."""

    def __init__(self, kind: str, base: Path) -> None:
        self.kind = kind
        self._base = base
        self.clock: Clock = SystemClock() if kind == "real" else virtual.VirtualClock()
        self._fake = FakeHost(self.clock, 2**30) if kind == "fake" else None
        self._code = place_runner_code(base / "engines") if kind == "real" else base
        self._boots = 0

    def run(self, story: Callable[[HostWorld], Coroutine[Any, Any, None]]) -> None:
        (virtual.run if self._fake is not None else asyncio.run)(story(self))

    async def daemon(self) -> RunnerHost:
        """The next daemon's view of this node's processes, its stock taken."""
        self._boots += 1
        if self._fake is not None:
            self._fake.attach()
            return self._fake
        host = RunnerProcesses(
            self._base / "run",
            Owner(NodeName("demo"), BootId(f"boot-{self._boots}")),
            interpreter=lambda _launch: Path(sys.executable),
            code_dir=self._code,
            wake=lambda: None,
            load_changed=lambda: None,
        )
        await host.take_stock()
        return host

    async def forsake(self, host: RunnerHost) -> None:
        """The daemon ends; its runners do not."""
        if isinstance(host, RunnerProcesses):
            await host.close()

    def kill(self, host: RunnerHost, uid: PlacementUid) -> None:
        if self._fake is not None:
            self._fake.crash(uid)
        else:
            pid = host.observe()[uid].pid
            assert pid is not None
            os.kill(pid, 9)

    async def until(self, met: Callable[[], bool]) -> None:
        deadline = self.clock.now() + 60.0
        while not met():
            assert self.clock.now() < deadline, "not in time"
            await self.clock.sleep(0.02)


@pytest.fixture(params=["real", "fake"])
def hosts(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    world = HostWorld(request.param, tmp_path)
    yield world
    if world.kind == "real" and (tmp_path / "run").is_dir():
        from skulk.adapters.runners import processes

        for place in Places(tmp_path / "run").all():
            if place.is_held():
                processes.signal_group(place, [processes.recorded_pid(place)], 9)


class RepoWorld:
    """A source with `commit`, and the port over it."""

    def __init__(self, kind: str, base: Path) -> None:
        self.kind = kind
        self._fake = FakeRepo() if kind == "fake" else None
        self._base = base
        self._others = 0
        if self._fake is None:
            self._git("init", "--quiet", "--bare", "--initial-branch=main", str(base / "remote.git"), cwd=base)
            self._git("clone", "--quiet", str(base / "remote.git"), str(base / "checkout"), cwd=base)
            self._git("checkout", "--quiet", "-B", "main")

    def _git(self, *arguments: str, cwd: Path | None = None) -> str:
        identity = {f"GIT_{w}_{k}": "t@skulk.invalid" for w in ("AUTHOR", "COMMITTER") for k in ("NAME", "EMAIL")}
        quiet = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        done = subprocess.run(
            ["git", *arguments],
            cwd=cwd or self._base / "checkout",
            env={**os.environ, **identity, **quiet},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def port(self) -> Any:
        if self._fake is not None:
            return self._fake
        from skulk.adapters.git import GitRepo

        return GitRepo(str(self._base / "remote.git"), "main", self._base / "mirror.git")

    def other(self, *, empty: bool = False) -> Any:
        """The port of another node, whose `head` shows what the source holds now; of one that was never there."""
        if self._fake is None:
            from skulk.adapters.git import GitRepo

            self._others += 1
            return GitRepo(str(self._base / "remote.git"), "main", self._base / f"mirror-{self._others}.git")
        fake = FakeRepo()
        if not empty:
            fake.trees, fake.parents, fake.branch = dict(self._fake.trees), dict(self._fake.parents), self._fake.branch
        return fake

    def commit(self, files: dict[str, str]) -> CommitId:
        """A commit on the branch that holds exactly these files."""
        if self._fake is not None:
            return self._fake.commit(files)
        self._git("rm", "-r", "-q", "--ignore-unmatch", ".")
        for name, text in files.items():
            path = self._base / "checkout" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self._git("add", "--all")
        self._git("commit", "--quiet", "--allow-empty", "--message", "change")
        self._git("push", "--quiet", "--force", "origin", "main")
        return CommitId(self._git("rev-parse", "HEAD"))

    def back_to(self, commit: CommitId) -> None:
        """The branch points to an older commit again."""
        if self._fake is not None:
            self._fake.branch = commit
        else:
            self._git("reset", "--quiet", "--hard", commit)
            self._git("push", "--quiet", "--force", "origin", "main")

    def run(self, story: Callable[[RepoWorld], Awaitable[None]]) -> None:
        async def main() -> None:
            await story(self)

        (virtual.run if self._fake is not None else asyncio.run)(main())


@pytest.fixture(params=["git", "fake"])
def repos(request: pytest.FixtureRequest, tmp_path: Path) -> RepoWorld:
    return RepoWorld(request.param, tmp_path)


@pytest.fixture
def a_launch() -> Launch:
    return launch()
