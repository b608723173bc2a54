"""The releases in a node's program directory: which are there, installing one beside the others, switching to it.

What `playbooks/roles/skulk_release` (with `skulk_python`, which brings uv) does from outside, done by the node itself:
the same steps in the same order and the same layout, so that the role afterwards finds nothing to change. Whoever
changes one changes the other.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from skulk.adapters.release.building import MANIFEST, make_release
from skulk.core.errors import REL_INSTALL, Refused, SkulkError, Terminal
from skulk.core.release import Release
from skulk.core.update import Installed, Wheelhouse

STEP_SECONDS_MAX = 600.0
"""One step of an installation: unpacking and compiling some fifty packages on a slow disk takes a minute."""
HOMEBREW_UV = Path("/opt/homebrew/bin/uv")
_TAIL_LINES = 6
# Settings of whoever runs this must not bring in packages from elsewhere.
_OF_INSTALLERS = ("UV_", "PIP_", "PYTHON", "VIRTUAL_ENV")


class ProgramDir:
    """`directory` as the roles lay it out: `releases/NAME`, `dist/NAME`, `uv`, and the links `current`, `previous`."""

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str] = os.environ,
        progress: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._directory = directory
        self._progress = progress
        kept = {name: value for name, value in environment.items() if not name.startswith(_OF_INSTALLERS)}
        self._environment = kept | {
            "UV_NO_PROGRESS": "1",
            # As a service there is no home for a cache; every package is taken once.
            "UV_NO_CACHE": "1",
            "UV_LINK_MODE": "copy",
            "PIP_NO_CACHE_DIR": "1",
            "UV_PYTHON_INSTALL_DIR": str(directory / "python"),
        }

    def look(self) -> Installed:
        """Raises Refused REL_INSTALL where no release of this layout runs."""
        releases = {release.name: release for release in self._whole()}
        current = releases.get(self._target("current"))
        if current is None:
            raise Refused(
                REL_INSTALL,
                f"{self._directory}/current is no release",
                fix="`skulk bootstrap` makes the first one; or correct update.programDir in node.toml",
            )
        others = tuple(release for name, release in sorted(releases.items()) if name != current.name)
        return Installed(current, self._target("previous"), others)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else changes it meanwhile by this class. Raises Refused REL_INSTALL when somebody does, or when it
        cannot be written."""
        try:
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise Refused(REL_INSTALL, f"{self._directory}: {error.strerror}") from error
        try:
            if not os.access(self._directory, os.W_OK):
                raise Refused(REL_INSTALL, f"{self._directory} cannot be written", fix="run it as root")
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused(
                    REL_INSTALL, f"{self._directory}: another update is under way", fix="wait for it"
                ) from None
            yield
        finally:
            os.close(descriptor)

    def install(self, wheel: Path, supply: Wheelhouse, accepts: Sequence[str] = ()) -> Release:
        """Install a wheel beside what runs, from the packages of `supply` and nothing else. It counts as installed once
        its own program runs and takes the arguments `accepts` (a look at node.toml).

        Raises Terminal REL_INSTALL; nothing of the attempt stays then.
        """
        self._remove_unfinished()
        release, dist = make_release(self._directory / "dist", wheel)
        place = self._directory / "releases" / release.name
        try:
            uv = self._uv(dist / "uv.txt", supply)
            python = f"--python={place}"
            pip: list[str | Path] = [uv, "pip", "install", "--quiet", python, "--compile-bytecode"]
            self._run(
                "making its environment", [uv, "venv", "--quiet", "--no-project", "--clear", self._python(), place]
            )
            self._progress("installing what it needs")
            self._run("installing what it needs", [*pip, "--require-hashes", "-r", dist / "daemon.txt"], supply)
            self._run("installing its wheel", [*pip, "--no-deps", "--no-index", dist / self._facts(dist)["wheel"]])
            for arguments in (("version",), *((accepts,) if accepts else ())):
                self._run(f"trying it (skulk {arguments[0]})", [place / "bin" / "skulk", *arguments])
            # A power cut must not leave a release that says it is whole and is not.
            os.sync()
            draft = place / f".{MANIFEST}"
            shutil.copyfile(dist / MANIFEST, draft)
            draft.replace(place / MANIFEST)
        except OSError as error:
            self._forget(release)
            raise Terminal(REL_INSTALL, f"{release.name}: {error.filename}: {error.strerror}") from error
        except BaseException:
            self._forget(release)
            raise
        return release

    def switch(self, release: Release) -> None:
        """Let it be the current one, and the current one the previous one; others go. Each link is exchanged at once,
        so that there is always a whole release behind `current`. Raises Terminal REL_INSTALL."""
        before = self._target("current")
        releases = self._directory / "releases"
        try:
            if before != release.name:
                _link(self._directory / "previous", releases / before)
            _link(self._directory / "current", releases / release.name)
        except OSError as error:
            raise Terminal(REL_INSTALL, f"{error.filename}: {error.strerror}") from error
        for other in self._whole():
            if other.name not in (release.name, before):
                self._forget(other)

    def _whole(self) -> Iterator[Release]:
        for path in sorted((self._directory / "releases").glob(f"*/{MANIFEST}")):
            try:
                facts = json.loads(path.read_text("utf-8"))
                release = Release(str(facts["version"]), str(facts["digest"]))
            except (OSError, ValueError, KeyError, TypeError):
                continue
            if release.name == path.parent.name:
                yield release

    def _target(self, link: str) -> str:
        try:
            return (self._directory / link).readlink().name
        except OSError:
            return ""

    def _facts(self, dist: Path) -> dict[str, str]:
        return dict(json.loads((dist / MANIFEST).read_text("utf-8")))

    def _python(self) -> str:
        """The interpreter below the current release: another environment's would go away with it."""
        return f"--python={(self._directory / 'current' / 'bin' / 'python').resolve()}"

    def _uv(self, requirements: Path, supply: Wheelhouse) -> Path:
        """uv, of the version that the release pins; Homebrew's as it is, where that is what the node has."""
        own = self._directory / "uv"
        uv = own / "bin" / "uv"
        if not uv.exists() and HOMEBREW_UV.exists():
            return HOMEBREW_UV
        text = requirements.read_text("utf-8")
        pinned = re.search(r"^uv==(\S+)", text, re.MULTILINE)
        if pinned is None:
            raise Terminal(REL_INSTALL, f"{requirements} pins no uv")
        if uv.exists() and self._run("asking uv", [uv, "--version"]).split()[1:2] == [pinned[1]]:
            return uv
        self._progress(f"installing uv {pinned[1]}")
        kept = self._directory / "uv.txt"
        shutil.copyfile(requirements, kept)
        if not (own / "bin" / "python").exists():
            base = self._python().partition("=")[2]
            self._run("making an environment for uv", [base, "-I", "-m", "venv", "--clear", own])
        pip: list[str | Path] = [
            own / "bin" / "python",
            "-m",
            "pip",
            "--quiet",
            "--disable-pip-version-check",
            "install",
        ]
        self._run("installing uv", [*pip, "--require-hashes", "-r", kept], supply)
        return uv

    def _remove_unfinished(self) -> None:
        for path in (self._directory / "releases").iterdir():
            if not (path / MANIFEST).exists():
                shutil.rmtree(path, ignore_errors=True)

    def _forget(self, release: Release) -> None:
        for folder in ("releases", "dist"):
            shutil.rmtree(self._directory / folder / release.name, ignore_errors=True)

    def _run(self, what: str, command: Sequence[str | Path], supply: Wheelhouse | None = None) -> str:
        if supply is not None:
            # Not by the environment: uv has no variable for the first of them.
            command = [*command, "--no-index", "--find-links", supply.links]
        try:
            done = subprocess.run(
                [str(part) for part in command],
                env=self._environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=STEP_SECONDS_MAX,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Terminal(REL_INSTALL, f"{what}: it took more than {STEP_SECONDS_MAX:g} s") from None
        if done.returncode:
            raise _failure(what, done)
        return done.stdout


def _failure(what: str, done: subprocess.CompletedProcess[str]) -> SkulkError:
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return Terminal(REL_INSTALL, f"{what} ended with {done.returncode}:\n" + "\n".join(lines[-_TAIL_LINES:]))


def _link(link: Path, target: Path) -> None:
    draft = link.with_name(f".{link.name}.new")
    draft.unlink(missing_ok=True)
    draft.symlink_to(target)
    draft.replace(link)
    descriptor = os.open(link.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
