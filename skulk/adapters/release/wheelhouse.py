"""Filling a wheelhouse on a machine that reaches a package index, for nodes that do not.

A flat directory: every wheel that a release needs on the given targets, the release itself, `releases.json` for nodes
that update themselves, and `index.html`, so that any web server can hand it out. What is there with the right hash is
not fetched again, so that it can be interrupted and grows over releases. Removes nothing.
"""

from __future__ import annotations

import hashlib
import html
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from skulk.adapters.engine_envs.recipes import RECIPES
from skulk.adapters.release.wheel import Wheel, engine_requirements
from skulk.core.errors import REL_DOWNLOAD, REL_WHEELHOUSE, InvalidInput, SkulkError, Terminal, Transient
from skulk.core.update import INDEX, Listed, index_text, read_index
from skulk.core.wheelhouse import Pinned, Target, fits, needed, pip_options, read_requirements

FETCH_SECONDS_MAX = 3600.0
"""For one target: a few hundred megabytes over a slow line."""
PAGE = "index.html"
_TAIL_LINES = 8


@dataclass(slots=True)
class Filled:
    """What came of it: wheels that are needed, how many of them were fetched now, what nobody publishes a wheel of."""

    needed: set[str] = field(default_factory=set)
    fetched: set[str] = field(default_factory=set)
    compile: set[str] = field(default_factory=set)
    """`name==version`, to be compiled on each node, from source and with a network."""


def fill(
    directory: Path,
    wheel: Wheel,
    targets: Sequence[Target],
    *,
    engines: Iterable[str] = (),
    progress: Callable[[str], None] = lambda _line: None,
) -> Filled:
    """Put into `directory` what `wheel` and `engines` need on every target.

    Raises InvalidInput REL_WHEEL for an engine that the wheel does not know, REL_WHEELHOUSE for a directory that
    cannot be written or holds another index; Transient REL_DOWNLOAD when a package could not be had, Terminal
    REL_DOWNLOAD without a working pip. What was fetched stays.
    """
    engines = tuple(engines)
    texts = (*wheel.requirements.values(), *(engine_requirements(wheel.path, engine) for engine in engines))
    pins = _pins(wheel, texts)
    source_only = frozenset(RECIPES[engine].distribution for engine in engines if engine in RECIPES)
    found = Filled()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        releases = _releases(directory)
        digests = _Digests(directory)
        with _Pip(directory) as pip:
            for target in targets:
                _fill_target(digests, pins, target, source_only, pip, found, progress)
        _put(wheel.path, directory / wheel.path.name)
        releases[wheel.release.version] = Listed(wheel.release, wheel.path.name)
        _write(directory / INDEX, index_text(releases.values()))
        _write(directory / PAGE, _page(digests))
    except OSError as error:
        raise InvalidInput(REL_WHEELHOUSE, f"{error.filename or directory} cannot be used: {error.strerror}") from error
    return found


def _pins(wheel: Wheel, texts: Iterable[str]) -> tuple[Pinned, ...]:
    try:
        return tuple(pin for text in texts for pin in read_requirements(text))
    except ValueError as error:
        raise InvalidInput(REL_WHEELHOUSE, f"{wheel.path.name}: its requirements: {error}") from error


def _fill_target(
    digests: _Digests,
    pins: Sequence[Pinned],
    target: Target,
    source_only: frozenset[str],
    pip: _Pip,
    found: Filled,
    progress: Callable[[str], None],
) -> None:
    lacking = []
    for pin in needed(pins, target):
        if pin.name in source_only:
            found.compile.add(pin.label)
        elif (name := digests.wheel_of(pin, target)) is not None:
            found.needed.add(name)
        else:
            lacking.append(pin)
    if not lacking:
        progress(f"{target.name}: everything is there")
        return
    progress(f"{target.name}: fetching {len(lacking)} packages")
    for batch in _rounds(lacking):
        digests.forget(pip.download(batch, target))
    for pin in lacking:
        name = digests.wheel_of(pin, target)
        if name is None:
            raise Transient(REL_DOWNLOAD, f"{target.name}: pip left no wheel of {pin.label} that has a known hash")
        found.needed.add(name)
        found.fetched.add(name)


def _rounds(pins: Sequence[Pinned]) -> Iterable[list[Pinned]]:
    """pip takes a package once at a time; two versions are wanted where patch releases of Python differ."""
    rest = list(pins)
    while rest:
        batch = list({pin.name: pin for pin in rest}.values())
        yield batch
        rest = [pin for pin in rest if pin not in batch]


class _Digests:
    """The wheels of a directory by what is in them; each is read once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[str, str] = {}

    def names(self) -> list[str]:
        return sorted(path.name for path in self._directory.glob("*.whl"))

    def of(self, name: str) -> str:
        if name not in self._known:
            with (self._directory / name).open("rb") as stream:
                self._known[name] = hashlib.file_digest(stream, "sha256").hexdigest()
        return self._known[name]

    def forget(self, names: Iterable[str]) -> None:
        """These files are others now."""
        for name in names:
            self._known.pop(name, None)

    def wheel_of(self, pin: Pinned, target: Target) -> str | None:
        fitting = (name for name in self.names() if fits(pin, target, name))
        return next((name for name in fitting if self.of(name) in pin.digests), None)


class _Pip:
    """The program of an environment that is thrown away, made when it is first needed. Where packages come from: pip's
    own settings."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> _Pip:
        return self

    def __exit__(self, *_: object) -> None:
        if self._scratch is not None:
            self._scratch.cleanup()

    def download(self, pins: Sequence[Pinned], target: Target) -> list[str]:
        """Bring the wheels into the directory; their names."""
        scratch, python = self._made()
        requirements, staging = scratch / "requirements.txt", scratch / "wheels"
        requirements.write_text("".join(f"{pin.line}\n" for pin in pins), encoding="utf-8")
        staging.mkdir(exist_ok=True)
        pip = [python, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet"]
        pip += ["--no-deps", "--only-binary=:all:", "--require-hashes", f"--requirement={requirements}"]
        _run([*pip, f"--dest={staging}", *pip_options(target)], target.name)
        wheels = sorted(staging.glob("*.whl"))
        for wheel in wheels:
            # pip has compared the hash; a file of that name with other content is a leftover.
            wheel.replace(self._directory / wheel.name)
        return [wheel.name for wheel in wheels]

    def _made(self) -> tuple[Path, str]:
        if self._scratch is None:
            # On the same file system, so that files are moved whole or not at all.
            self._scratch = tempfile.TemporaryDirectory(dir=self._directory, prefix=".filling-")
            base = getattr(sys, "_base_executable", None) or sys.executable
            _run([base, "-I", "-m", "venv", f"{self._scratch.name}/venv"], "making an environment with pip")
        return Path(self._scratch.name), f"{self._scratch.name}/venv/bin/python"


def _run(command: Sequence[str], what: str) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=FETCH_SECONDS_MAX, check=False
        )
    except OSError as error:
        raise Terminal(REL_DOWNLOAD, f"{what}: {command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise Transient(REL_DOWNLOAD, f"{what}: it took more than {FETCH_SECONDS_MAX:g} s") from None
    if done.returncode:
        raise _failure(what, done.stderr or done.stdout)


def _failure(what: str, said: str) -> SkulkError:
    lines = [line for line in said.strip().splitlines() if not line.startswith("WARNING:")]
    return Transient(REL_DOWNLOAD, f"{what}:\n" + "\n".join(lines[-_TAIL_LINES:]))


def _releases(directory: Path) -> dict[str, Listed]:
    """Those that the wheelhouse still holds."""
    path = directory / INDEX
    try:
        listed = read_index(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InvalidInput(
            REL_WHEELHOUSE, f"{path}: {error}", fix="remove it, and fill the wheelhouse again"
        ) from error
    return {version: entry for version, entry in listed.items() if (directory / entry.wheel).is_file()}


def _put(source: Path, target: Path) -> None:
    draft = target.with_name(f".{target.name}.new")
    shutil.copyfile(source, draft)
    draft.replace(target)


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(text, encoding="utf-8")
    os.chmod(draft, 0o644)  # noqa: PTH101 -- readable by a web server, whatever the umask
    draft.replace(path)


def _page(digests: _Digests) -> str:
    """What pip and uv read when they are given the URL of the directory."""
    links = (
        f'<a href="{quote(name)}#sha256={digests.of(name)}">{html.escape(name)}</a><br>' for name in digests.names()
    )
    return "\n".join(("<!doctype html><meta charset=utf-8><title>Wheels</title>", *links)) + "\n"
