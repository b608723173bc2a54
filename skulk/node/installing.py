"""The engines of node.toml, made available: environments that are missing are installed, one after the other.

It runs beside everything else and nothing waits for it. What it is at, and why an engine is not there, are lines that
the node shows as its problems. How an environment is made is `skulk.adapters.engine_envs`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog

from skulk.adapters.engine_envs import COMPILING, discover, ensure
from skulk.core.domain import EngineBuild
from skulk.core.errors import SkulkError, Transient

_log = structlog.get_logger(component="engines")

# An installation that failed (no network, no compiler) may be possible now.
INSTALL_RETRY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What node.toml says: the engines to offer, and whether to install those that are missing."""

    engines: tuple[str, ...]
    install: bool


class EngineInstaller:
    """`changed` is called, on the event loop's thread, when the environments or the problems are not as before."""

    def __init__(self, engines_dir: Path, wanted: Wanted, changed: Callable[[], None]) -> None:
        self._engines_dir = engines_dir
        self._changed = changed
        self._under_way: dict[str, str] = {}
        self._again = asyncio.Event()
        self._rewritten = asyncio.Event()
        self.wanted = wanted

    def follow(self, wanted: Wanted) -> None:
        """node.toml was read again: go by it from now on. What failed before is tried at once."""
        self._again.set()
        if wanted != self.wanted:
            self.wanted = wanted
            self._rewritten.set()
            self._changed()

    def problems(self, builds: Iterable[EngineBuild]) -> tuple[str, ...]:
        """One line for every wanted engine that is on its way, could not be installed, or shall not be."""
        there = {build.engine for build in builds}
        return (*self._under_way.values(), *self._switched_off(there))

    def _switched_off(self, there: set[str]) -> Iterable[str]:
        if not self.wanted.install:
            # One that is there and does not work has a line of its own.
            there = there | {environment.engine for environment in discover(self._engines_dir).environments}
            for engine in self.wanted.engines:
                if engine not in there:
                    yield f"{engine}: not installed, and installEngines is off in node.toml"

    async def run(self) -> None:
        """Install until cancelled. What is being installed then ends within seconds."""
        while True:
            self._rewritten.clear()
            work = asyncio.create_task(self._install_all(self.wanted))
            rewritten = asyncio.create_task(self._rewritten.wait())
            try:
                await asyncio.wait({work, rewritten}, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    work.result()
                    await rewritten
            finally:
                for task in (work, rewritten):
                    task.cancel()
                await asyncio.gather(work, rewritten, return_exceptions=True)
                self._under_way.clear()

    async def _install_all(self, wanted: Wanted) -> None:
        for engine in wanted.engines if wanted.install else ():
            while not await self._installed(engine):
                self._changed()
                self._again.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(INSTALL_RETRY_SECONDS):
                        await self._again.wait()
            self._changed()

    async def _installed(self, engine: str) -> bool:
        """Try once. False when it may work another time."""
        self._under_way[engine] = f"{engine}: its environment is being installed"
        try:
            await self._install(engine)
        except Transient as error:
            self._under_way[engine] = f"{engine}: {error}; tried again"
            _log.warning("engine_install_failed", engine=engine, error=error.message)
            return False
        except SkulkError as error:
            self._under_way[engine] = f"{engine}: {error}"
            return True
        del self._under_way[engine]
        return True

    async def _install(self, engine: str) -> None:
        stop = threading.Event()
        loop = asyncio.get_running_loop()

        def progress(line: str) -> None:
            # Called by the thread that installs; a program may say thousands of lines, its log has them all.
            if line.startswith(COMPILING):
                loop.call_soon_threadsafe(self._compiling, engine, line)
            _log.debug("engine", line=line)

        try:
            await asyncio.to_thread(ensure, engine, self._engines_dir, progress=progress, stop=stop)
        finally:
            # A thread cannot be cancelled, and the daemon does not end before its threads have.
            stop.set()

    def _compiling(self, engine: str, line: str) -> None:
        if engine in self._under_way:
            self._under_way[engine] = f"{engine}: {line}"
            self._changed()
