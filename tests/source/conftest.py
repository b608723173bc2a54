"""Real git repositories to read from, made without the configuration of whoever runs the tests."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from skulk.adapters.git import GitRepo
from skulk.core.errors import ErrorCode, SkulkError

T = TypeVar("T")

# Generous: these tests run beside others on slow machines. Only the tests of the deadline itself go below.
GIT_SECONDS = 60.0

FLEET = "apiVersion: skulk.dev/v1alpha1\nkind: Fleet\n"


class Remote:
    """A bare repository and a work tree that pushes to it."""

    def __init__(self, base: Path) -> None:
        base.mkdir(parents=True, exist_ok=True)
        self.bare = base / "remote.git"
        self.work = base / "work"
        self._run(base, "init", "-q", "--bare", "--initial-branch=main", str(self.bare))
        self._run(base, "init", "-q", "--initial-branch=main", str(self.work))
        self.git("remote", "add", "origin", str(self.bare))

    @property
    def url(self) -> str:
        return self.bare.as_uri()

    def git(self, *arguments: str, stdin: bytes | None = None) -> str:
        return self._run(self.work, *arguments, stdin=stdin)

    def write(self, files: dict[str, str | bytes | None]) -> None:
        for name, content in files.items():
            path = self.work / name
            if content is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def commit(self, files: dict[str, str | bytes | None] | None = None, *options: str, message: str = "change") -> str:
        """Commit the files (None removes one); return the commit. `options` go before `commit` (`-c key=value`)."""
        self.write(files or {})
        self.git("add", "-A")
        self.git(*options, "commit", "-q", "--allow-empty", "-m", message)
        return self.head()

    def commit_index(self, message: str = "change") -> str:
        """Commit what plumbing put into the index."""
        self.git("commit", "-q", "-m", message)
        return self.head()

    def blob(self, content: bytes) -> str:
        return self.git("hash-object", "-w", "--stdin", stdin=content)

    def head(self) -> str:
        return self.git("rev-parse", "HEAD")

    def push(self, *options: str, branch: str = "main") -> None:
        self.git("push", "-q", *options, "origin", f"HEAD:refs/heads/{branch}")

    @staticmethod
    def _run(where: Path, *arguments: str, stdin: bytes | None = None) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=where, input=stdin, capture_output=True, check=False, timeout=GIT_SECONDS
        )
        assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr.decode(errors='replace')}"
        return done.stdout.decode("utf-8", "surrogateescape").strip()


@pytest.fixture(autouse=True)
def isolated_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """git as a newcomer has it: no configuration, no agent, a home of its own."""
    for name in [n for n in os.environ if n.startswith(("GIT_", "SSH_", "GNUPG", "GPG_"))]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    for name, value in {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "Ada",
        "GIT_AUTHOR_EMAIL": "ada@example.org",
        "GIT_COMMITTER_NAME": "Ada",
        "GIT_COMMITTER_EMAIL": "ada@example.org",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    """An empty remote."""
    return Remote(tmp_path / "origin")


@pytest.fixture
def seeded(remote: Remote) -> Remote:
    """A remote whose branch main has one Fleet manifest."""
    remote.commit({"fleet/fleet.yaml": FLEET, "README.md": "hello"}, message="first")
    remote.push()
    return remote


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return tmp_path / "state" / "mirror.git"


@pytest.fixture
def repo(seeded: Remote, mirror: Path) -> GitRepo:
    """A source that reads the seeded remote."""
    return GitRepo(seeded.url, "main", mirror, timeout_seconds=GIT_SECONDS)


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, T]], T]:
    """Run a coroutine to its end."""
    return asyncio.run


@pytest.fixture
def refused() -> Callable[[Coroutine[Any, Any, object], ErrorCode], SkulkError]:
    """Run a coroutine that must fail with the code; return the error."""

    def check(coroutine: Coroutine[Any, Any, object], code: ErrorCode) -> SkulkError:
        with pytest.raises(SkulkError) as caught:
            asyncio.run(coroutine)
        assert caught.value.code is code, str(caught.value)
        return caught.value

    return check


@pytest.fixture
def make_remote(tmp_path: Path) -> Callable[[str], Remote]:
    """Further remotes by name."""
    return lambda name: Remote(tmp_path / name)
