"""A node goes over to its Fleet's version from a real wheelhouse, and stays where it is when anything is wrong."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from skulk.adapters.release.supply import releases_of, take_wheel
from skulk.core.errors import InvalidInput, SkulkError
from skulk.core.update import wheelhouse
from skulk.node.config import load_config
from tests.update.conftest import NEXT, PYTHON, House, Machine, skulk, this_platform


@pytest.fixture
def copy(house: House, tmp_path: Path) -> Path:
    """A wheelhouse of the test's own, with the releases only: enough for what fails before packages are needed."""
    directory = tmp_path / "wheels"
    ignore = shutil.ignore_patterns("[!sr]*.whl", "s[!k]*.whl", "r*.whl")
    shutil.copytree(house.directory, directory, ignore=ignore)
    return directory


# --- the whole way ------------------------------------------------------------------------------------------


def test_a_node_goes_over_to_the_fleets_version_and_back_by_a_revert(house: House, machine: Machine):
    machine.supplied_by(house.directory)
    machine.accepted(NEXT)
    looked = machine.update("--check")
    assert (looked.exit_code, machine.current) == (1, machine.first.name), looked.output
    assert f"would go from {machine.first.name} to {house.next.name}" in looked.stdout
    half = machine.program / "releases" / "half"
    half.mkdir()

    done = machine.update()
    assert done.exit_code == 0, done.output
    place = machine.program / "releases" / house.next.name
    assert (machine.current, (machine.program / "previous").readlink().name) == (house.next.name, machine.first.name)
    assert not half.exists()
    for file in ("daemon.txt", "uv.txt", "release.json"):
        assert (machine.program / "dist" / house.next.name / file).is_file()
    assert json.loads((place / "release.json").read_text())["version"] == NEXT
    assert place.stat().st_mode & 0o005 == 0o005, "the daemon's account reads it"
    # What the role would ask before it installs uv.
    asked = subprocess.run(
        [machine.program / "uv" / "bin" / "uv", "--version"], capture_output=True, text=True, check=True
    )
    assert f"uv=={asked.stdout.split()[1]} " in (machine.program / "uv.txt").read_text()

    before = machine.picture()
    again = machine.update()
    assert (again.exit_code, machine.picture()) == (0, before)
    assert "nothing to do" in again.stdout

    # No wheelhouse is needed for the way back.
    machine.supplied_by("/nonexistent")
    machine.accepted("0.1.0")
    assert machine.update().exit_code == 0
    assert (machine.current, (machine.program / "previous").readlink().name) == (machine.first.name, house.next.name)


def test_a_package_that_is_missing_leaves_everything_as_it_was(house: House, copy: Path, machine: Machine):
    for uv in house.directory.glob("uv-*"):
        shutil.copy(uv, copy)
    machine.supplied_by(copy)
    machine.accepted(NEXT)
    before = machine.picture()
    failed = machine.update()
    assert failed.exit_code != 0
    assert "SK-REL-009" in str(failed.exception) or "SK-REL-009" in failed.output
    assert [line for line in machine.picture() if not line.startswith("uv")] == before


# --- what is wrong with a wheelhouse ------------------------------------------------------------------------


def test_a_wheel_that_was_exchanged_is_refused(copy: Path, house: House, machine: Machine):
    (wheel,) = copy.glob(f"skulk-{NEXT}-*.whl")
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    machine.supplied_by(copy)
    machine.accepted(NEXT)
    failed = machine.update()
    assert failed.exit_code == 6
    assert house.next.digest in failed.output
    assert machine.current == machine.first.name


def test_a_directory_that_others_can_write_is_refused(copy: Path, machine: Machine):
    copy.chmod(0o777)
    machine.supplied_by(copy)
    machine.accepted(NEXT)
    failed = machine.update()
    assert (failed.exit_code, machine.current) == (6, machine.first.name)
    assert f"chmod go-w {copy}" in failed.output


def test_a_version_that_is_not_there_is_named_with_those_that_are(copy: Path, machine: Machine):
    machine.supplied_by(copy)
    machine.accepted("7.7.7")
    failed = machine.update()
    assert failed.exit_code == 2
    assert "no release 7.7.7" in failed.output
    assert f"it has 0.1.0, {NEXT}" in failed.output


@pytest.fixture
def served(copy: Path) -> Iterator[str]:
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(copy))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_release_is_taken_over_http_like_from_a_directory(served: str, house: House, tmp_path: Path):
    place = wheelhouse(served)
    listed = releases_of(place)[NEXT]
    assert listed.release == house.next
    assert take_wheel(place, listed, tmp_path).is_file()
    with pytest.raises(SkulkError, match="the server answers 404"):
        releases_of(wheelhouse(f"{served}/elsewhere"))


# --- what the node is told ----------------------------------------------------------------------------------


def test_at_a_boot_nothing_happens_unless_it_is_asked_for(machine: Machine):
    machine.supplied_by("/nonexistent", on_boot=False)
    machine.accepted(NEXT)
    assert "update.onBoot is not set" in machine.update("--boot").stdout


@pytest.mark.parametrize(("version", "said"), [(None, "names no version"), ("0.1.0", "as the Fleet wants")])
def test_what_needs_nothing_says_why(machine: Machine, version: str | None, said: str):
    machine.supplied_by("/nonexistent")
    machine.accepted(version)
    done = machine.update()
    assert (done.exit_code, machine.current) == (0, machine.first.name)
    assert said in done.stdout


def test_a_node_without_an_accepted_commit_stays(machine: Machine):
    machine.supplied_by("/nonexistent")
    (machine.root / "state").mkdir()
    assert "no commit was accepted yet" in machine.update().stdout


def test_a_state_that_cannot_be_read_is_told_and_changes_nothing(machine: Machine):
    machine.supplied_by("/nonexistent")
    machine.accepted(NEXT)
    for kept in (machine.root / "state" / "source").iterdir():
        kept.unlink()
    failed = machine.update()
    assert failed.exit_code == 1
    assert "SK-REL-008" in failed.output
    assert "SK-SRC-001" in failed.output


@pytest.mark.parametrize(
    "answer", ['{"commit": "c", "version": "--option"}', '{"commit": "c", "version": 1}', "[]", ""]
)
def test_an_answer_of_the_daemons_account_is_not_believed_further_than_its_form(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, answer: str
):
    machine.supplied_by("/nonexistent")
    machine.accepted(NEXT)
    program = machine.root / "python"
    program.write_text(f"#!/bin/sh\necho '{answer}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    failed = machine.update()
    assert (failed.exit_code, machine.current) == (1, machine.first.name)
    assert "SK-REL-008" in failed.output


def test_node_toml_names_the_key_that_is_missing_or_wrong(machine: Machine):
    machine.supplied_by("http://wheels.example.com/")
    with pytest.raises(InvalidInput, match=r"update\.wheelhouse: .*http:// is for this machine only"):
        load_config(machine.config, {})
    text = machine.config.read_text()
    machine.config.write_text("\n".join(line for line in text.splitlines() if not line.startswith("wheelhouse")))
    with pytest.raises(InvalidInput, match=r"update.onBoot needs update.wheelhouse"):
        load_config(machine.config, {})


# --- filling one --------------------------------------------------------------------------------------------


def test_what_is_there_is_not_fetched_again_and_what_is_damaged_is(house: House, tmp_path: Path):
    directory = tmp_path / "wheels"
    shutil.copytree(house.directory, directory)
    (wheel,) = directory.glob("skulk-0.1.0-*.whl")
    (damaged,) = directory.glob("idna-*.whl")
    damaged.write_bytes(b"half")
    asked = ("node", "wheelhouse", directory, "--wheel", wheel, "--python", PYTHON, "--platform", this_platform())
    first, second = (json.loads(skulk(*asked, "-o", "json").stdout) for _ in range(2))
    assert (first["fetched"], second["fetched"]) == ([damaged.name], [])
    assert sorted(json.loads((directory / "releases.json").read_text())["releases"]) == ["0.1.0", NEXT]
    page = (directory / "index.html").read_text()
    assert all(f'href="{name}#sha256=' in page for name in first["wheels"])


def test_an_engine_that_is_unknown_is_refused_with_those_that_are(house: House, tmp_path: Path):
    (wheel,) = house.directory.glob("skulk-0.1.0-*.whl")
    failed = skulk("node", "wheelhouse", tmp_path / "w", "--wheel", wheel, "--engines", "vllm")
    assert failed.exit_code == 2
    assert "known are: llama_cpp, mlx" in failed.output
