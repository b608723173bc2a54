"""The service that updates a node: before it, not needed by it, and with little open although it is root's."""

from __future__ import annotations

import plistlib
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from skulk.cli.main import app
from skulk.core.service import UPDATE_UNIT, UpdateService, update_plist, update_unit

SERVICE = UpdateService("/bin/true", "/etc/skulk/my node.toml", "/opt/skulk", ("/var/lib/skulk",))
EXPOSURE_TENTHS_MAX = 20


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing (Debian, Ubuntu: apt install systemd)")
    path = tmp_path / UPDATE_UNIT
    path.write_text(update_unit(SERVICE))
    return path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_systemd_takes_the_unit_without_a_word(unit: Path):
    done = analyze("verify", "--man=no", str(unit))
    said = [line for line in (done.stdout + done.stderr).splitlines() if unit.name in line]
    assert (done.returncode, said) == (0, [])


def test_little_is_left_open(unit: Path):
    done = analyze("security", "--offline=true", f"--threshold={EXPOSURE_TENTHS_MAX}", str(unit))
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_node_waits_for_it_and_does_not_need_it():
    lines = update_unit(SERVICE).splitlines()
    assert {"Type=oneshot", "Before=skulk-node.service", "WantedBy=multi-user.target"} <= set(lines)
    assert [line for line in lines if line.startswith(("RequiredBy", "Requires", "BindsTo"))] == []
    assert 'ExecStart=/bin/true node update --boot --config "/etc/skulk/my node.toml"' in lines


def test_it_writes_the_program_and_nothing_else():
    lines = update_unit(SERVICE).splitlines()
    assert [line for line in lines if line.startswith("ReadWritePaths")] == ["ReadWritePaths=/opt/skulk"]
    assert "ProtectHome=yes" in lines
    homely = UpdateService("/bin/true", "/c", "/opt/skulk", ("/home/me/state",))
    assert "ProtectHome=read-only" in update_unit(homely).splitlines()


def test_launchd_runs_it_once_for_a_boot():
    job = plistlib.loads(update_plist(SERVICE).encode())
    assert (job["Label"], job["RunAtLoad"], job["LaunchOnlyOnce"]) == ("dev.skulk.update", True, True)
    assert job["ProgramArguments"][1:4] == ["node", "update", "--boot"]
    assert "KeepAlive" not in job
    assert "UserName" not in job


@pytest.mark.parametrize("make", [update_unit, update_plist])
def test_a_path_that_cannot_stand_there_is_refused(make):
    with pytest.raises(ValueError, match="is not an absolute path"):
        make(UpdateService("/bin/true", "/etc/two\nlines", "/opt/skulk"))


def test_the_verb_prints_it_by_node_toml_and_refuses_what_has_no_effect(tmp_path: Path):
    config = tmp_path / "node.toml"
    config.write_text('name = "n"\n[source]\nurl = "/r"\n[update]\nprogramDir = "/srv/skulk"\n')
    asked = ["node", "service", "--part", "update", "--config", str(config), "--format", "systemd"]
    assert "ReadWritePaths=/srv/skulk" in CliRunner().invoke(app, asked).output
    refused = CliRunner().invoke(app, [*asked, "--user", "me"])
    assert (refused.exit_code, "--user has no effect on the update" in refused.output) == (2, True)
