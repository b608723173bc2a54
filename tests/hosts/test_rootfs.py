"""Base root file systems in the cache: made once, whole or not at all, and known by what they were made of."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import rootfs


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where bases were built; the building itself is a file."""
    places: list[Path] = []

    def build(suite: str, packages: Sequence[str], root: Path, mirror: str, lock: int) -> None:
        places.append(root)
        (root / "os-release").write_text(f"{suite} {mirror}", "utf-8")

    monkeypatch.setattr(rootfs, "_build", build)
    monkeypatch.setattr(rootfs, "_mirror", lambda: "http://mirror.example/debian/")
    return places


def test_a_base_is_built_once_and_then_found(tmp_path: Path, built: list[Path]) -> None:
    first = rootfs.base("trixie", tmp_path / "cache")
    assert (first / "os-release").read_text("utf-8").startswith("trixie ")
    assert rootfs.base("trixie", tmp_path / "cache") == first
    assert rootfs.base("bookworm", tmp_path / "cache") != first
    assert len(built) == 2


def test_sessions_that_want_the_same_base_build_it_once(
    tmp_path: Path, built: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(4)

    def want(_: int) -> Path:
        together.wait(timeout=10)
        return rootfs.base("trixie", tmp_path)

    with ThreadPoolExecutor(4) as sessions:
        assert len(set(sessions.map(want, range(4)))) == 1
    assert len(built) == 1


def test_another_recipe_is_another_base(tmp_path: Path, built: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    before = rootfs.base("trixie", tmp_path)
    monkeypatch.setattr(rootfs, "_PACKAGES", (*rootfs._PACKAGES, "git"))
    assert rootfs.base("trixie", tmp_path) != before
    monkeypatch.setattr(rootfs, "_mirror", lambda: "http://other.example/debian/")
    assert len({before, rootfs.base("trixie", tmp_path)}) == 2
    with_more = rootfs.base("trixie", tmp_path, ["g++", "git"])
    assert with_more != rootfs.base("trixie", tmp_path)
    assert with_more == rootfs.base("trixie", tmp_path, ["git", "g++"])
    assert before.is_dir(), "another checkout may use it"


def test_a_build_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(suite: str, packages: Sequence[str], root: Path, mirror: str, lock: int) -> None:
        (root / "half").touch()
        raise RuntimeError("the mirror is away")

    monkeypatch.setattr(rootfs, "_build", build)
    with pytest.raises(RuntimeError, match="away"):
        rootfs.base("trixie", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["rootfs-trixie.lock"]


def test_what_a_killed_build_left_is_removed(tmp_path: Path, built: list[Path]) -> None:
    half = tmp_path / "rootfs-trixie-0123456789ab.partial-x"
    (half / "usr").mkdir(parents=True)
    other = tmp_path / "rootfs-bookworm-0123456789ab.partial-x"
    other.mkdir()
    rootfs.base("trixie", tmp_path)
    assert not half.exists()
    assert other.exists(), "it may be being built: its lock is another one"
