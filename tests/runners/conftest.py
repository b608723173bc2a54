"""Real runner processes with the scripted engine under the tests' own interpreter; none survives its test."""

import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from skulk.adapters.runners import RunnerProcesses, place_runner_code, processes
from skulk.adapters.runners.places import Places
from skulk.core.domain import (
    BootId,
    CardName,
    ContentHash,
    DeploymentName,
    GenerationRequest,
    Launch,
    LaunchHash,
    Link,
    Message,
    NodeName,
    Owner,
    PlacementUid,
    RequestId,
    RunnerFacts,
    RunnerReport,
    Sampling,
)

UID = PlacementUid("0123456789abcdef")
PATIENCE_SECONDS = 60.0


@dataclass
class Site:
    """One state directory and the daemons that live in it, one after another."""

    run_dir: Path
    code_dir: Path
    wakes: list[None] = field(default_factory=list)
    loads: list[None] = field(default_factory=list)
    """How often a change of load was told."""
    boots: int = 0

    def host(self, **options: Any) -> RunnerProcesses:
        self.boots += 1
        options.setdefault("interpreter", lambda launch: Path(sys.executable))
        return RunnerProcesses(
            self.run_dir,
            self.owner,
            code_dir=self.code_dir,
            wake=lambda: self.wakes.append(None),
            load_changed=lambda: self.loads.append(None),
            **options,
        )

    @property
    def owner(self) -> Owner:
        return Owner(NodeName("here"), BootId(f"boot-{self.boots}"))

    def launch(self, uid: str = UID, **options: Any) -> Launch:
        return Launch(
            uid=PlacementUid(uid),
            deployment=DeploymentName("chat"),
            replica=0,
            model=CardName("scripted"),
            engine="scripted",
            backend="scripted-cpu",
            engine_digest="builtin",
            model_dir="",
            context_tokens=100_000,
            concurrency=1,
            launch_hash=LaunchHash("launch-1"),
            content_hash=ContentHash("content-1"),
            memory_bytes=1,
            options=options,
            orphan_seconds=120.0,
        )

    def request(self, name: str = "r1", *, deadline: float = PATIENCE_SECONDS, text: str = "hi") -> GenerationRequest:
        return GenerationRequest(
            id=RequestId(name),
            model="scripted",
            messages=(Message("user", text),),
            sampling=Sampling(seed=1),
            deadline_seconds=deadline,
            max_tokens=50_000,
        )

    async def facts(self, host: RunnerProcesses, uid: str, wanted: Callable[[RunnerFacts], bool]) -> RunnerFacts:
        """Wait until the runner's facts are as wanted."""
        found = lambda: host.observe().get(PlacementUid(uid))  # noqa: E731
        await self.until(lambda: (facts := found()) is not None and wanted(facts), found)
        facts = found()
        assert facts is not None
        return facts

    async def ready(self, host: RunnerProcesses, uid: str = UID) -> RunnerFacts:
        return await self.facts(host, uid, lambda f: f.link is Link.CONNECTED and f.report is RunnerReport.READY)

    async def linked(self, host: RunnerProcesses, link: Link, uid: str = UID) -> RunnerFacts:
        return await self.facts(host, uid, lambda f: f.link is link)

    async def until(self, met: Callable[[], bool], shown: Callable[[], object] = lambda: "") -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not met():
            assert time.monotonic() < end, f"not within {PATIENCE_SECONDS} s: {shown()}"
            await asyncio.sleep(0.01)

    def run(self, story: Callable[[RunnerProcesses], Awaitable[None]], **options: Any) -> None:
        """Run a story with one daemon that is closed at its end."""

        async def main() -> None:
            host = self.host(**options)
            try:
                await host.take_stock()
                await story(host)
            finally:
                await host.close()

        asyncio.run(main())


@pytest.fixture(scope="session")
def code_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return place_runner_code(tmp_path_factory.mktemp("engines"))


@pytest.fixture
def site(tmp_path: Path, code_dir: Path) -> Iterator[Site]:
    site = Site(tmp_path / "run", code_dir)
    yield site
    end_all(site.run_dir)


def end_all(run_dir: Path) -> None:
    places = Places(run_dir)
    for place in places.all():
        end = time.monotonic() + PATIENCE_SECONDS
        while place.is_held():
            assert time.monotonic() < end, f"{place.path} is still held"
            processes.signal_group(place, [processes.recorded_pid(place)], signal.SIGKILL)
            time.sleep(0.01)
    end = time.monotonic() + PATIENCE_SECONDS
    while processes._CHILDREN and time.monotonic() < end:
        processes.collect_dead()
        time.sleep(0.01)
    places.close()
