"""Installing an engine environment: once, completely, and from hash-pinned requirements only.

A virtual environment cannot be moved, so it is built where it stays and becomes real by its marker, which is
written last. Whatever ends the build before that leaves a directory that its leash or the next build removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from skulk.adapters.engine_envs.environments import (
    MARKER,
    EngineEnvironment,
    discover,
    log_file,
    marker_text,
    requirements_file,
    wanted_environment,
)
from skulk.adapters.engine_envs.processes import Job, Progress, run_program
from skulk.adapters.engine_envs.recipes import RECIPES, split_requirements
from skulk.adapters.engine_envs.wheels import compiled_wheel
from skulk.core.errors import ENG_INSTALL, ENG_MISSING, Terminal, Transient

INSTALL_SECONDS_MAX = 1800.0
"""Some 300 MB over a slow line and unpacking them on a small machine: half an hour is ten times what was seen."""
COMPILE_SECONDS_MAX = 4 * 3600.0
"""Six minutes on two idle cores, over ten on busy ones; a single-board computer has a tenth of their speed."""
LOCK_POLL_SECONDS = 0.2
"""How often a builder that waits for another one looks again."""


def ensure(
    engine: str,
    engines_dir: Path,
    *,
    progress: Progress = lambda line: None,
    uv: str | None = None,
    deadline_seconds: float | None = None,
    stop: threading.Event | None = None,
) -> EngineEnvironment:
    """The complete environment of `engine`, installed now when it is not there. Blocks; may be called by several
    processes at once, one builds. `progress` gets one line at a time. `uv` is the program to use, by default the
    one on PATH; without it (or with an empty text) pip does the work. Once `stop` is set, it ends within seconds.

    What cannot be downloaded is compiled, which takes minutes. Whatever the programs say is in `log_file`.

    Raises Terminal(ENG_MISSING) for an engine that has no environment, Transient when building failed: ENG_TOOLCHAIN
    for a missing compiler, ENG_INSTALL for everything else (stopped and overdue ones too).
    """
    try:
        wanted = wanted_environment(_resolved(engines_dir), engine)
    except ValueError as error:
        raise Terminal(ENG_MISSING, str(error)) from error
    if deadline_seconds is None:
        deadline_seconds = COMPILE_SECONDS_MAX if engine in RECIPES else INSTALL_SECONDS_MAX
    end = time.monotonic() + deadline_seconds
    job = Job(wanted.path.name, log_file(wanted), end, progress, stop or threading.Event())
    with _building(wanted, job):
        there = [found for found in discover(wanted.path.parent).environments if found == wanted]
        if there:
            return there[0]
        program = shutil.which("uv") if uv is None else uv
        try:
            shutil.rmtree(wanted.path, ignore_errors=True)
            _build(wanted, program or None, job)
        except OSError as error:
            shutil.rmtree(wanted.path, ignore_errors=True)
            raise Transient(ENG_INSTALL, f"{wanted.path.name}: {error}") from error
        except BaseException:
            shutil.rmtree(wanted.path, ignore_errors=True)
            raise
    return wanted


def _resolved(engines_dir: Path) -> Path:
    engines_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return engines_dir.resolve()


def _build(wanted: EngineEnvironment, uv: str | None, job: Job) -> None:
    job.log_file.parent.mkdir(mode=0o700, exist_ok=True)
    job.log_file.write_bytes(b"")
    job.progress(f"installing {wanted.engine} {wanted.version} into {wanted.path}")
    with _requirements(wanted, uv, job) as (requirements, wheel):
        if uv is not None:
            install = [uv, "pip", "install", "--python", str(wanted.python)]
            commands = [[uv, "venv", "--no-project", "--python", _base_python(), str(wanted.path)]]
        else:
            install = [str(wanted.python), "-I", "-m", "pip", "--disable-pip-version-check", "install", "--no-input"]
            commands = [[_base_python(), "-I", "-m", "venv", str(wanted.path)]]
        commands.append([*install, "--require-hashes", "-r", str(requirements)])
        if wheel is not None:
            commands.append([*install, "--no-deps", "--no-index", str(wheel)])
        for command in commands:
            run_program(job, command, wanted.path, cwd=wanted.path.parent)
    if not os.access(wanted.python, os.X_OK):
        raise Transient(ENG_INSTALL, f"{wanted.path.name}: the installer made no {wanted.python}")
    draft = wanted.path / f".{MARKER}"
    with draft.open("w", encoding="utf-8") as file:
        file.write(marker_text(wanted))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(wanted.path / MARKER)
    job.progress(f"installed {wanted.path.name}")


@contextlib.contextmanager
def _requirements(wanted: EngineEnvironment, uv: str | None, job: Job) -> Iterator[tuple[Path, Path | None]]:
    """(the requirements to download, the wheel that was compiled for what cannot be downloaded)."""
    whole = requirements_file(wanted.engine)
    recipe = RECIPES.get(wanted.engine)
    if recipe is None:
        yield whole, None
        return
    engines_dir = wanted.path.parent
    entry, rest = split_requirements(whole.read_text(encoding="utf-8"), recipe.distribution)
    scratch = engines_dir / f".{wanted.path.name}.build"
    wheel = compiled_wheel(job, recipe, entry, engines_dir, scratch, uv=uv, python=_base_python())
    downloads = engines_dir / f".{wanted.path.name}.txt"
    downloads.write_text(rest, encoding="utf-8")
    try:
        yield downloads, wheel
    finally:
        downloads.unlink(missing_ok=True)


def _base_python() -> str:
    """The interpreter below the daemon's own virtual environment: an environment in an environment would break
    when the outer one goes."""
    return getattr(sys, "_base_executable", None) or sys.executable


@contextlib.contextmanager
def _building(wanted: EngineEnvironment, job: Job) -> Iterator[None]:
    """Hold the right to build this environment; the kernel takes it back however the process ends."""
    path = wanted.path.parent / f".{wanted.path.name}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        told = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                job.refuse_when_over()
                if time.monotonic() >= job.end:
                    raise Transient(
                        ENG_INSTALL, f"{wanted.path.name}: another process has been building it for too long"
                    ) from None
                if not told:
                    job.progress(f"another process builds {wanted.path.name}; waiting for it")
                    told = True
                time.sleep(LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)
