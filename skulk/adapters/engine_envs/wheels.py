"""Wheels that are compiled here, once: `<engines_dir>/wheels/<key>/`, by the digest of what they are made from.

The next environment (another Python, another lock of the other packages) takes the wheel from there. A wheel counts
only with its sha256 beside it, which is written last. Compiling is niced and on a leash; see `processes`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from skulk.adapters.engine_envs.processes import Job, run_program
from skulk.adapters.engine_envs.recipes import Recipe, wheel_key
from skulk.core.errors import ENG_INSTALL, ENG_TOOLCHAIN, Transient

WHEELS = "wheels"
DIGEST = "SHA256"
COMPILING = "compiling "
"""How the line of progress begins after which it takes minutes."""
NICENESS = 10
"""Compiling takes minutes on all cores; whatever serves a model goes first."""
COMPILER_SECONDS_MAX = 60.0
"""For a file of one line: a machine that needs longer does not answer at all."""
_COMPILERS = (("CC", ("cc", "gcc", "clang"), "c", "#include <stdlib.h>\n"),
              ("CXX", ("c++", "g++", "clang++"), "c++", "#include <thread>\n"))  # fmt: skip
"""Variable that names it, programs that are tried, language, a source that needs the language's own library."""
_FLAGS = re.compile(r"CMAKE_ARGS|C(XX|PP)?FLAGS|LDFLAGS|FORCE_CMAKE|SKBUILD_.*|TMPDIR")
"""Variables that would change what is compiled behind the name that the result gets (or where, for TMPDIR)."""


def compiled_wheel(
    job: Job, recipe: Recipe, entry: str, engines_dir: Path, scratch: Path, *, uv: str | None, python: str
) -> Path:
    """The wheel of the recipe's package, compiled now when it is not there. `entry`: its pinned requirement;
    `scratch`: a directory for this alone, gone afterwards; `python`: the interpreter to build with.

    Raises Transient: ENG_TOOLCHAIN without a working compiler, ENG_INSTALL when compiling failed.
    """
    place = engines_dir / WHEELS / wheel_key(recipe, entry)
    found = kept_wheel(place)
    if found is not None:
        job.progress(f"using {found.name}, compiled earlier")
        return found
    _refuse_without_compiler(recipe)
    job.progress(f"{COMPILING}{recipe.distribution}: this takes minutes, log {job.log_file}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    try:
        _compile(job, recipe, entry, scratch, uv, python)
        made = _made(recipe, scratch)
        if made is None:
            raise Transient(
                ENG_INSTALL, f"{job.name}: compiling {recipe.distribution} left no wheel, log {job.log_file}"
            )
        return _keep(made, place)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def kept_wheel(place: Path) -> Path | None:
    """The wheel in a directory, if it is whole."""
    try:
        wanted = (place / DIGEST).read_text(encoding="ascii").strip()
        (wheel,) = place.glob("*.whl")
        with wheel.open("rb") as file:
            return wheel if hashlib.file_digest(file, "sha256").hexdigest() == wanted else None
    except (OSError, ValueError):
        return None


def _compile(job: Job, recipe: Recipe, entry: str, scratch: Path, uv: str | None, python: str) -> None:
    requirements = scratch / "requirements.txt"
    requirements.write_text(entry, encoding="utf-8")
    package, pinned = recipe.distribution, ["--require-hashes", "-r", str(requirements)]
    if uv is not None:
        # uv keeps what it builds in its cache and nowhere else, so it gets one of its own.
        cache, target = str(scratch / "cache"), str(scratch / "target")
        options = ["--no-deps", "--no-binary", package, "--cache-dir", cache, "--target", target]
        commands = [[uv, "pip", "install", "-v", "--python", python, *options, *pinned]]
    else:
        venv, wheels = scratch / "venv", str(scratch / "wheels")
        pip = [str(venv / "bin" / "python"), "-I", "-m", "pip", "--disable-pip-version-check"]
        commands = [
            [python, "-I", "-m", "venv", str(venv)],
            [*pip, "wheel", "-v", "--no-deps", "--no-binary", package, "--wheel-dir", wheels, *pinned],
        ]
    temporary = scratch / "tmp"
    temporary.mkdir()
    kept = {name: value for name, value in os.environ.items() if not _FLAGS.fullmatch(name)}
    flags = {"CMAKE_ARGS": " ".join(recipe.cmake_arguments), "TMPDIR": str(temporary)}
    for command in commands:
        run_program(job, command, scratch, cwd=scratch, niceness=NICENESS, environment=kept | flags)


def _made(recipe: Recipe, scratch: Path) -> Path | None:
    name = recipe.distribution.replace("-", "_")
    return next((path for path in sorted(scratch.rglob(f"{name}-*.whl")) if path.is_file()), None)


def _keep(made: Path, place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700, parents=True)
    wheel = Path(shutil.copyfile(made, place / made.name))
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    (place / DIGEST).write_text(digest + "\n", encoding="ascii")
    return wheel


def _refuse_without_compiler(recipe: Recipe) -> None:
    """Raise Transient(ENG_TOOLCHAIN) unless a C and a C++ compiler work; a build would find out minutes later."""
    for variable, programs, language, source in _COMPILERS:
        named = shlex.split(os.environ.get(variable, ""))
        command = named or [next(filter(shutil.which, programs), programs[0])]
        try:
            done = subprocess.run(
                [*command, "-x", language, "-fsyntax-only", "-"],
                input=source,
                text=True,
                errors="replace",
                capture_output=True,
                timeout=COMPILER_SECONDS_MAX,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = getattr(error, "strerror", None) or str(error)
        else:
            if done.returncode == 0:
                continue
            reason = next(iter(done.stderr.splitlines()), f"exit code {done.returncode}")
        raise Transient(
            ENG_TOOLCHAIN,
            f"{recipe.distribution} is published as source, and the {language.upper()} compiler {command[0]}"
            f" does not work here: {reason}",
        )
