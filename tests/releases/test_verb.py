"""`skulk node release`, and the version that a Fleet names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from skulk.core.domain import CommitId, Fleet
from skulk.core.release import other_version
from tests.cli.conftest import Skulk
from tests.releases.conftest import MakeWheel


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "home" / "fleet").mkdir(parents=True)
    return tmp_path / "home"


def wants(checkout: Path, version: str | None) -> None:
    text = "apiVersion: skulk.dev/v1alpha1\nkind: Fleet\nmetadata:\n  name: home\nspec:\n  namespace: home\n"
    (checkout / "fleet" / "fleet.yaml").write_text(text + (f"  version: {version}\n" if version else ""))


def test_it_says_what_was_made_and_where(wheel: MakeWheel, tmp_path: Path, skulk: Skulk) -> None:
    given = ["node", "release", "--wheel", str(wheel()), "--out", str(tmp_path / "out")]
    done = skulk(*given)
    assert done.exit_code == 0, done.output
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert told["release"] == f"1.2.3-{told['sha256'][:12]}"
    assert (Path(told["directory"]) / "release.json").is_file()
    as_json = json.loads(skulk(*given, "--output", "json").stdout)
    assert as_json["directory"] == told["directory"]
    assert (as_json["name"], as_json["digest"]) == (told["release"], told["sha256"])


def test_releases_are_kept_in_the_cache(
    wheel: MakeWheel, tmp_path: Path, skulk: Skulk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert skulk("node", "release", "--wheel", str(wheel())).exit_code == 0
    assert len(list((tmp_path / "cache/skulk/releases").iterdir())) == 1


def test_the_version_must_be_the_one_that_the_fleet_names(
    wheel: MakeWheel, checkout: Path, tmp_path: Path, skulk: Skulk
) -> None:
    given = ["node", "release", "--wheel", str(wheel()), "--out", str(tmp_path / "out"), "--path", str(checkout)]
    for fitting in (None, "1.2.3"):
        wants(checkout, fitting)
        assert skulk(*given).exit_code == 0
    wants(checkout, "1.2.4")
    done = skulk(*given, "--output", "json")
    assert (done.exit_code, done.stdout) == (6, "")
    assert "SK-REL-003" in done.stderr
    assert "Skulk 1.2.3" in done.stderr
    assert "fleet/fleet.yaml:1" in done.stderr
    assert "wants 1.2.4" in done.stderr


def test_an_invalid_wheel_is_refused_as_input(tmp_path: Path, skulk: Skulk) -> None:
    (tmp_path / "x.whl").write_text("no")
    done = skulk("node", "release", "--wheel", str(tmp_path / "x.whl"), "--out", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert "SK-REL-001" in done.stderr
    assert "fix:" in done.stderr


def test_a_version_is_other_only_where_the_fleet_names_one() -> None:
    fleet = Fleet("home", "home", CommitId("c"), places={"Fleet/home": "fleet/fleet.yaml:1"})
    assert other_version(None, "1.0") == ()
    assert other_version(fleet, "1.0") == ()
    assert other_version(replace(fleet, version="1.0"), "1.0") == ()
    (line,) = other_version(replace(fleet, version="1.1"), "1.0")
    assert line.startswith("runs Skulk 1.0, but fleet/fleet.yaml:1 wants 1.1")
