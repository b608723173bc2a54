"""The engines of this node, kept current: which environments are there and what each was found to offer.

Environments come and go while the daemon runs; each is probed once. Nothing is installed here.
"""

from __future__ import annotations

import asyncio
import platform
import sys
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

import skulk
from skulk.adapters.engine_envs.environments import Discovery, EngineEnvironment, discover
from skulk.adapters.engine_envs.probing import Probed, probe
from skulk.core.domain import EngineBuild, Launch
from skulk.core.errors import ENG_MISSING, Terminal

PROBE_AGAIN_SECONDS = 60.0
"""A probe that failed (a deadline on a loaded machine) is tried again after this; one that worked is kept."""
SCRIPTED_DIGEST = "builtin"


class EngineCatalogue:
    """`engines` are offered and nothing else: several nodes may share a directory. `scripted` adds the engine for
    failure paths, which runs under the daemon's own interpreter: tests only."""

    def __init__(
        self,
        engines_dir: Path,
        code_dir: Path,
        engines: Iterable[str],
        *,
        scripted: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engines_dir = engines_dir
        self._code_dir = code_dir
        self._scripted = scripted
        self._clock = clock
        self._probed: dict[EngineEnvironment, tuple[float, Probed]] = {}
        self._lock = asyncio.Lock()
        self.engines: Collection[str] = tuple(engines)
        """May be set at any time."""

    async def builds(self) -> tuple[tuple[EngineBuild, ...], tuple[str, ...]]:
        """(the builds of every usable environment, one line per environment that is there and does not work)."""
        async with self._lock:
            found = self._offered()
            await self._probe_new(found)
        results = [self._probed[environment][1] for environment in found.environments]
        builds = [build for result in results for build in result.builds]
        if self._scripted:
            builds.append(_scripted_build())
        problems = [result.problem for result in results if result.problem]
        return tuple(builds), (*found.problems, *problems)

    def python_for(self, launch: Launch) -> Path:
        """The interpreter of the environment that a launch names. Raises Terminal(ENG_MISSING)."""
        if self._scripted and (launch.engine, launch.engine_digest) == ("scripted", SCRIPTED_DIGEST):
            return Path(sys.executable)
        for environment in self._offered().environments:
            if (environment.engine, environment.digest) == (launch.engine, launch.engine_digest):
                return environment.python
        raise Terminal(
            ENG_MISSING,
            f"placement {launch.uid}: no environment of {launch.engine} with digest {launch.engine_digest!r}"
            f" is in {self._engines_dir}",
        )

    def _offered(self) -> Discovery:
        found = discover(self._engines_dir)
        return replace(found, environments=tuple(e for e in found.environments if e.engine in self.engines))

    async def _probe_new(self, found: Discovery) -> None:
        now = self._clock()
        self._probed = {
            environment: self._probed[environment] for environment in found.environments if environment in self._probed
        }
        for environment in found.environments:
            at, result = self._probed.get(environment, (0.0, None))
            if result is None or (result.problem and now - at >= PROBE_AGAIN_SECONDS):
                self._probed[environment] = (now, await probe(environment, self._code_dir))


def _scripted_build() -> EngineBuild:
    return EngineBuild(
        backend="scripted-cpu",
        engine="scripted",
        version=skulk.__version__,
        digest=SCRIPTED_DIGEST,
        device=platform.machine(),
    )
