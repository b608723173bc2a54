"""A node brings itself to the version that its Fleet wants: looks what that is, installs it, switches to it.

Runs as root beside the daemon or before it, never inside: the daemon's account can change neither the program nor
node.toml. Decisions are `skulk.core.update`'s.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from skulk.adapters.release.installed import ProgramDir
from skulk.adapters.release.supply import refuse_shared, releases_of, take_wheel
from skulk.core.errors import CFG_INVALID, REL_WHEELHOUSE, InvalidInput
from skulk.core.release import Release
from skulk.core.update import Listed, Stay, Switch, Wheelhouse, missing, wheelhouse, without_wheelhouse
from skulk.node.config import ENVIRONMENT_FILE, NodeConfig, effective_environment
from skulk.node.wanted import ask

# What root installs is read by the daemon's account.
_UMASK = 0o022


@dataclass(frozen=True, slots=True)
class Updated:
    """`release` is None when nothing was to be done, which `reason` then explains."""

    release: Release | None
    reason: str
    before: Release


def update(
    config_path: Path, config: NodeConfig, *, check: bool, progress: Callable[[str], None] = lambda _line: None
) -> Updated:
    """Bring `config.update.program_dir` to the version of the last accepted commit; `check` only looks.

    Raises InvalidInput CFG_INVALID without a wheelhouse, Terminal REL_WANTED, and what `releases_of`, `take_wheel` and
    `ProgramDir` raise. The release that ran stays then.
    """
    supply = _supply(config_path, config)
    if os.geteuid() == 0:
        for file in (config_path, config_path.with_name(ENVIRONMENT_FILE)):
            if file.exists():
                refuse_shared(file, file.name)
    environment, _ = effective_environment(config_path, os.environ)
    # Of a proxy or a certificate authority, which the wheelhouse may be behind.
    os.environ.update(environment)
    program = ProgramDir(config.update.program_dir, environment, progress)
    there = program.look()
    wanted = ask(config_path, config)
    if wanted.commit is None:
        return Updated(None, "no commit was accepted yet", there.current)
    step: Stay | Switch | Listed | None = without_wheelhouse(wanted.version, there)
    if isinstance(step, Stay):
        return Updated(None, step.reason, there.current)
    if step is None:
        assert wanted.version is not None, "without a wanted version nothing is to be done"
        listed = releases_of(supply)
        if wanted.version not in listed:
            raise InvalidInput(REL_WHEELHOUSE, f"{supply.location}: {missing(wanted.version, listed)}")
        step = listed[wanted.version]
    reason = f"commit {wanted.commit[:12]} wants {wanted.version}"
    if not check:
        umask = os.umask(_UMASK)
        try:
            with program.alone():
                if isinstance(step, Listed):
                    _install(config_path, program, supply, step, progress)
                program.switch(step.release)
        finally:
            os.umask(umask)
    return Updated(step.release, reason, there.current)


def _supply(config_path: Path, config: NodeConfig) -> Wheelhouse:
    if config.update.wheelhouse is None:
        fix = "name a directory or an https:// URL there; docs/guides/air-gapped.md"
        raise InvalidInput(CFG_INVALID, f"{config_path}: update.wheelhouse is not set", fix=fix)
    return wheelhouse(config.update.wheelhouse)


def _install(
    config_path: Path, program: ProgramDir, supply: Wheelhouse, listed: Listed, progress: Callable[[str], None]
) -> None:
    with tempfile.TemporaryDirectory(prefix="skulk-update-") as scratch:
        progress(f"taking {listed.wheel} from {supply.location}")
        wheel = take_wheel(supply, listed, Path(scratch))
        accepts = ("node", "service", "--config", str(config_path.absolute()))
        program.install(wheel, supply, accepts)
