"""Engine environments on disk: what they are called, what is written about them, which ones are there.

    <engines_dir>/<engine>-<version>-<flags>/    a virtual environment of the engine and its dependencies
        engine.json                              written last: without it the environment is not complete

An environment is immutable: another lock, Python, platform or way of compiling makes another directory. Nothing is
installed or probed here.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import skulk
from skulk.adapters.engine_envs.recipes import RECIPES, distribution

MARKER = "engine.json"
_FIELDS = ("engine", "version", "flags", "digest", "requirements")
_ENGINE = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclass(frozen=True, slots=True)
class EngineEnvironment:
    """One complete environment. `digest` names the build in launch hashes; `requirements` is the lock's sha256."""

    path: Path
    engine: str
    version: str
    flags: str
    digest: str
    requirements: str

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"


@dataclass(frozen=True, slots=True)
class Discovery:
    """The environments that are there, sorted by name, and one line for each that is not usable."""

    environments: tuple[EngineEnvironment, ...] = ()
    problems: tuple[str, ...] = ()


def requirements_file(engine: str) -> Path:
    """The hash-pinned requirements of an engine, exported from the lock and shipped with the package.

    Raises ValueError for an engine that has none.
    """
    path = Path(skulk.__file__).parent / "engines" / "requirements" / f"{engine}.txt"
    if not _ENGINE.fullmatch(engine) or not path.is_file():
        raise ValueError(f"engine {engine!r} has no environment to install")
    return path


def log_file(environment: EngineEnvironment) -> Path:
    """Where everything goes that the programs say which install an environment."""
    return environment.path.parent / "logs" / f"{environment.path.name}.log"


def wanted_environment(engines_dir: Path, engine: str) -> EngineEnvironment:
    """What the environment of `engine` for this lock, this Python and this machine is called, built or not."""
    requirements = hashlib.sha256(requirements_file(engine).read_bytes()).hexdigest()
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    machine = f"{sys.platform}-{platform.machine().lower()}"
    recipe = RECIPES.get(engine)
    compiled = recipe.cmake_arguments if recipe is not None else ()
    facts = "\0".join((engine, requirements, python, machine, *compiled))
    digest = hashlib.sha256(facts.encode()).hexdigest()[:16]
    version = pinned_version(requirements_file(engine).read_text(encoding="utf-8"), engine)
    # The lock can change without the engine's own version: its digest is part of the name too.
    flags = f"{python}-{digest[:8]}"
    path = engines_dir / f"{engine}-{version}-{flags}"
    return EngineEnvironment(path, engine, version, flags, digest, requirements)


def pinned_version(requirements: str, engine: str) -> str:
    """The version of the engine's own package (`mlx==0.32.4` → `0.32.4`). Raises ValueError."""
    name = re.escape(distribution(engine))
    found = re.search(rf"^{name}(?:\[[^\]]*\])?==([A-Za-z0-9.!+_-]+)", requirements, re.MULTILINE)
    if found is None:
        raise ValueError(f"the requirements of {engine} do not pin {distribution(engine)}")
    return found.group(1)


def discover(engines_dir: Path) -> Discovery:
    """Every complete environment below `engines_dir`. What is still being built is left out without a word."""
    environments: list[EngineEnvironment] = []
    problems: list[str] = []
    try:
        entries = sorted(engines_dir.iterdir())
    except FileNotFoundError:
        return Discovery()
    for path in entries:
        if path.name.startswith(".") or path.is_symlink() or not (path / MARKER).is_file():
            continue
        try:
            environment = _read(path)
        except ValueError as error:
            problems.append(f"{path.name}: {MARKER} is damaged: {error}")
            continue
        if os.access(environment.python, os.X_OK):
            environments.append(environment)
        else:
            problems.append(f"{path.name}: its Python is gone ({environment.python}); remove it and install it again")
    return Discovery(tuple(environments), tuple(problems))


def marker_text(environment: EngineEnvironment) -> str:
    """The content of engine.json."""
    return json.dumps({name: getattr(environment, name) for name in _FIELDS}, indent=1) + "\n"


def _read(path: Path) -> EngineEnvironment:
    try:
        obj = json.loads((path / MARKER).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(str(error)) from error
    if not isinstance(obj, dict) or not all(isinstance(obj.get(name), str) and obj[name] for name in _FIELDS):
        raise ValueError(f"it needs the texts {', '.join(_FIELDS)}")
    if not _ENGINE.fullmatch(obj["engine"]):
        raise ValueError(f"{obj['engine']!r} is not the name of an engine")
    return EngineEnvironment(path, *(obj[name] for name in _FIELDS))
