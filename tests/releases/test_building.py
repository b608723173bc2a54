"""A release is what nodes need, whole, and the same as long as nothing changed."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from skulk import __version__
from skulk.adapters.engine_envs.environments import requirements_file
from skulk.adapters.release import building, make_release, read_wheel
from skulk.core.errors import REL_BUILD, REL_WHEEL, SkulkError
from skulk.core.release import Release
from tests.releases.conftest import MakeWheel

ROOT = Path(__file__).resolve().parents[2]
UV = shutil.which("uv") or ""


# --- from this checkout -------------------------------------------------------------------------------------


def test_a_second_build_of_the_same_files_is_the_same_release(built: Path) -> None:
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in built.iterdir()}
    release, directory = make_release(built.parent)
    assert directory == built
    assert release.name == built.name
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in built.iterdir()} == before
    assert list(built.parent.iterdir()) == [built], "nothing of the build stays"


def test_the_wheel_holds_all_that_a_node_needs(built: Path) -> None:
    facts = json.loads((built / "release.json").read_text())
    assert facts["version"] == __version__
    assert facts["name"] == built.name == f"{__version__}-{facts['digest'][:12]}"
    with zipfile.ZipFile(built / facts["wheel"]) as archive:
        members = {info.filename: info for info in archive.infolist()}
        tracked = subprocess.run(
            ["git", "ls-files", "playbooks", "schemas"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
        assert tracked
        assert [name for name in tracked if f"skulk/_data/{name}" not in members] == []
        inventory = members["skulk/_data/playbooks/inventory/fleet"]
        assert stat.S_IMODE(inventory.external_attr >> 16) & 0o111 == 0o111, "Ansible runs only what is executable"
        assert archive.read(inventory) == (ROOT / "playbooks/inventory/fleet").read_bytes()
        for engine in ("mlx", "llama_cpp"):
            name = str(requirements_file(engine).relative_to(ROOT))
            assert archive.read(name) == (ROOT / name).read_bytes()
        for name in ("daemon.txt", "uv.txt"):
            text = (ROOT / "skulk/requirements" / name).read_bytes()
            assert (built / name).read_bytes() == archive.read(f"skulk/requirements/{name}") == text
        assert "skulk = skulk.cli.main:main" in archive.read(f"skulk-{__version__}.dist-info/entry_points.txt").decode()
        assert not [name for name in members if "__pycache__" in name or name.startswith(("tests/", "fleet/"))]


def test_an_installed_program_has_no_source_to_build_from(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    code = "from skulk.cli.main import main; main()"
    command = [sys.executable, "-c", code, "node", "release", "--out", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "SK-REL-002" in done.stderr
    assert "--wheel FILE" in done.stderr
    command += ["--wheel", str(wheel)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, built.name in done.stdout) == (0, True), done.stderr


def test_a_build_that_fails_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    uv = tmp_path / "bin" / "uv"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for script, said in {"echo 'no network' >&2; exit 2": "no network", "exit 0": "made 0 wheels"}.items():
        uv.write_text(f"#!/bin/sh\n{script}\n")
        uv.chmod(0o755)
        with pytest.raises(SkulkError, match=said) as caught:
            make_release(tmp_path / "out")
        assert caught.value.code is REL_BUILD
    uv.write_text("#!/nowhere/sh\n")
    with pytest.raises(SkulkError, match="No such file") as caught:
        make_release(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


# --- a wheel that is given ----------------------------------------------------------------------------------


def test_a_given_wheel_is_laid_out_with_its_own_requirements(wheel: MakeWheel, tmp_path: Path) -> None:
    path = wheel("1.2.3")
    release, directory = make_release(tmp_path / "out", path)
    assert directory.name == release.name
    assert release.version == "1.2.3"
    assert (directory / path.name).read_bytes() == path.read_bytes()
    assert (directory / "daemon.txt").read_text().startswith("anyio==1")
    assert (directory / "uv.txt").read_text().startswith("uv==0.1")
    facts = {"name": release.name, "version": "1.2.3", "digest": release.digest, "wheel": path.name}
    assert json.loads((directory / "release.json").read_text()) == facts
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700


def test_another_build_of_one_version_is_another_release(wheel: MakeWheel, tmp_path: Path) -> None:
    first = make_release(tmp_path / "out", wheel(content="one"))
    second = make_release(tmp_path / "out", wheel(content="two"))
    assert first[0].version == second[0].version
    assert first[1] != second[1]


def test_the_newest_releases_stay_and_what_is_no_release_too(wheel: MakeWheel, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "notes").mkdir(parents=True)
    made = []
    for number in range(building.RELEASES_KEPT + 2):
        made.append(make_release(out, wheel(content=str(number)))[1])
        # Older by their clock, not by the moment in which the test made them.
        os.utime(made[-1], (number, number))
        if number == building.RELEASES_KEPT - 1:
            make_release(out, wheel(content="0"))  # used again, so not the oldest any more
    assert {path.name for path in out.iterdir()} == {"notes", made[0].name} | {path.name for path in made[3:]}


def corrupt(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    at = data.index(b"METADATA") + len(b"METADATA")
    data[at : at + 20] = b"\xff" * 20
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda wheel: wheel(name="other"), "'other'"),
        (lambda wheel: wheel(without="daemon.txt"), "skulk/requirements/daemon.txt"),
        (lambda wheel: wheel(without="uv.txt"), "skulk/requirements/uv.txt"),
        (lambda wheel: wheel(without="METADATA"), "no metadata"),
        (lambda wheel: wheel(filename="skulk.whl"), "skulk.whl"),
        (lambda wheel: wheel(filename="other-1.2.3-py3-none-any.whl"), "'other'"),
        (lambda wheel: wheel(filename="skulk-1.2.4-py3-none-any.whl"), "1.2.3"),
        (lambda wheel: wheel("../../elsewhere", filename="skulk-1.2.3-py3-none-any.whl"), "elsewhere"),
        (lambda wheel: corrupt(wheel()), "is no wheel of Skulk"),
        (lambda wheel: Path(__file__), "not a zip file"),
        (lambda wheel: Path(__file__).parent, "cannot be read"),
        (lambda wheel: wheel().with_name("gone.whl"), "No such file"),
    ],
)  # fmt: skip
def test_what_is_no_wheel_of_skulk_is_named_and_nothing_is_laid_out(
    made, said: str, wheel: MakeWheel, tmp_path: Path
) -> None:
    path = made(wheel)
    with pytest.raises(SkulkError) as caught:
        make_release(tmp_path / "out", path)
    assert caught.value.code is REL_WHEEL
    assert str(path) in caught.value.message
    assert said in caught.value.message
    assert list((tmp_path / "out").iterdir()) == []


def test_two_at_a_time_lay_out_one_release(wheel: MakeWheel, tmp_path: Path) -> None:
    path = wheel()
    release, directory = make_release(tmp_path / "out", path)
    # As for the one that looked before the other had finished.
    found = read_wheel(path)
    building._lay_out(found, tmp_path / "second", directory)
    assert make_release(tmp_path / "out", path) == (release, directory)


def test_what_is_left_of_a_removal_that_was_killed_does_not_stand_in_the_way(wheel: MakeWheel, tmp_path: Path) -> None:
    path = wheel()
    release, directory = make_release(tmp_path / "out", path)
    (directory / building.MANIFEST).unlink()
    assert make_release(tmp_path / "out", path) == (release, directory)
    assert (directory / building.MANIFEST).is_file()


@pytest.mark.parametrize("digest", ["", "A" * 64, "0" * 63, "g" * 64])
def test_a_release_is_known_by_a_whole_digest(digest: str) -> None:
    with pytest.raises(ValueError, match="sha256"):
        Release("1.0", digest)


# --- the requirements ---------------------------------------------------------------------------------------

EXPORTS = {"daemon.txt": "--no-default-groups", "uv.txt": "--only-group uv"}


@pytest.mark.skipif(not UV, reason="uv is not on PATH")
@pytest.mark.skipif(not (ROOT / "uv.lock").is_file(), reason="not a checkout")
@pytest.mark.parametrize("name", EXPORTS)
def test_the_requirements_are_what_the_lock_says(name: str) -> None:
    command = f"export --frozen {EXPORTS[name]} --no-emit-project --format requirements-txt --no-header -q"
    exported = subprocess.run([UV, *command.split()], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    shipped = (ROOT / "skulk/requirements" / name).read_text()
    assert [line for line in shipped.splitlines() if not line.startswith("#")] == exported.splitlines()


def test_every_requirement_is_pinned_by_hash() -> None:
    files = sorted((ROOT / "skulk/requirements").glob("*.txt"))
    assert [file.name for file in files] == sorted(EXPORTS)
    for file in files:
        lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        entries = [line for line in lines if line and not line.startswith(" ")]
        assert entries
        assert all("==" in entry and entry.endswith("\\") for entry in entries)
        for entry in entries:
            assert "--hash=sha256:" in lines[lines.index(entry) + 1]
