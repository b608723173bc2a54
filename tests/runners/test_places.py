"""The directories of runners and the runner's code on disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import skulk
from skulk.adapters.runners import child_environment, place_runner_code
from skulk.adapters.runners.last_words import last_words
from skulk.adapters.runners.places import KEPT_LOGS_MAX, Places


@pytest.mark.parametrize("uid", ["", ".", "..", "a/b", "../x", "a" * 65, ".hidden", "a\n"])
def test_only_plain_uids_become_paths(tmp_path: Path, uid: str) -> None:
    with pytest.raises(ValueError, match="not a placement uid"):
        Places(tmp_path / "run").place(uid)


def test_a_lock_is_free_until_taken_and_free_again_when_its_last_descriptor_closes(tmp_path: Path) -> None:
    place = Places(tmp_path / "run").place("u1")
    place.path.mkdir()
    assert not place.is_held()
    descriptor = place.take_lock()
    copy = os.dup(descriptor)
    os.close(descriptor)
    assert place.is_held()
    with pytest.raises(BlockingIOError):
        place.take_lock()
    os.close(copy)
    assert not place.is_held()


def test_a_symlink_among_the_runners_is_not_followed(tmp_path: Path) -> None:
    places = Places(tmp_path / "run")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    (places.root / "u1").symlink_to(outside)
    assert places.all() == ()
    places.prune_logs()
    assert (outside / "precious").exists()


def test_the_oldest_logs_of_gone_runners_go(tmp_path: Path) -> None:
    places = Places(tmp_path / "run")
    for number in range(KEPT_LOGS_MAX + 3):
        path = places.root / f"u{number}"
        path.mkdir()
        (path / "log").write_text("x")
        os.utime(path / "log", (number, number))
    live = places.root / "live"
    live.mkdir()
    (live / "log").touch()
    (live / "launch.json").touch()
    os.utime(live / "log", (0, 0))
    places.prune_logs()
    names = {path.name for path in places.root.iterdir()}
    assert names == {"live"} | {f"u{number}" for number in range(3, KEPT_LOGS_MAX + 3)}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"exitCode": "7", "code": 3, "message": []}', "x" * 70_000])
def test_damaged_last_words_do_no_harm(tmp_path: Path, text: str) -> None:
    place = Places(tmp_path / "run").place("u1")
    place.path.mkdir()
    place.last_words.write_text(text)
    words = last_words(place, 3)
    assert words.exit_code == 3


def test_the_short_link_is_not_taken_from_a_stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    root = tmp_path / ("d" * 90) / "run"
    places = Places(root)
    first = Path(places.place("u1").address).parents[2]
    first.chmod(0o777)  # as somebody else would have left it, to be able to write there
    (first / "r").unlink()
    (first / "r").symlink_to(tmp_path)
    again = Places(root)
    assert Path(again.place("u1").address).parents[2] != first
    assert Path(again.place("u1").address).parents[1].resolve() == root
    again.close()
    places.close()


def test_variables_with_an_allowed_prefix_are_still_refused_when_they_name_a_secret() -> None:
    own = {"PATH": "/bin", "MLX_TOKEN": "x", "OMP_NUM_THREADS": "2", "AWS_SECRET_ACCESS_KEY": "x", "FOO": "1"}
    kept = child_environment(own, {"EXTRA": "1"})
    assert not {"MLX_TOKEN", "AWS_SECRET_ACCESS_KEY", "FOO"} & set(kept)
    assert (kept["PATH"], kept["OMP_NUM_THREADS"], kept["EXTRA"]) == ("/bin", "2", "1")


def test_runner_code_is_placed_once_and_runs_without_the_installation(tmp_path: Path) -> None:
    first = place_runner_code(tmp_path / "engines")
    before = (first / "skulk" / "__init__.py").stat().st_ino
    assert place_runner_code(tmp_path / "engines") == first
    assert (first / "skulk" / "__init__.py").stat().st_ino == before, "it is reused, not written again"
    assert {path.name for path in (tmp_path / "engines").iterdir()} == {first.name}
    assert not (first / "skulk" / "adapters").exists()
    assert not (first / "skulk" / "core" / "manifests").exists()
    code = (
        f"import sys; sys.path[:0] = [{str(first)!r}]\n"
        "import skulk.core.wire.runner, skulk.core.wire.launch, skulk.core.errors\n"
        "print(skulk.__file__)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-B", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(first / "skulk" / "__init__.py")


def test_damaged_runner_code_is_replaced(tmp_path: Path) -> None:
    target = place_runner_code(tmp_path)
    victim = target / "skulk" / "core" / "errors.py"
    victim.chmod(0o644)
    victim.write_text("raise SystemExit('damaged')")
    assert place_runner_code(tmp_path) == target
    assert victim.read_bytes() == (Path(skulk.__file__).parent / "core" / "errors.py").read_bytes()
    (target / "skulk" / "sitecustomize.py").touch()
    assert place_runner_code(tmp_path) == target
    assert not (target / "skulk" / "sitecustomize.py").exists()
    assert {path.name for path in tmp_path.iterdir()} == {target.name}
