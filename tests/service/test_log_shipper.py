"""The log shipper's service: apart from the node, with little open, and the token never in a file that it makes."""

from __future__ import annotations

import plistlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from skulk.cli.main import app
from skulk.core.service import LogShipper, shipper_plist, shipper_unit

SHIPPER = LogShipper(
    "/bin/true", "/etc/skulk/vector.yaml", "/etc/skulk/my secrets/100%", "me", "/Library/Application Support/<&>", "/l"
)
EXPOSURE_TENTHS_MAX = 20


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing (Debian, Ubuntu: apt install systemd)")
    path = tmp_path / "skulk-logs.service"
    path.write_text(shipper_unit(SHIPPER))
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


def test_it_belongs_to_no_account_of_the_node_and_reads_the_journal():
    text = shipper_unit(SHIPPER)
    assert "DynamicUser=yes" in text
    assert "SupplementaryGroups=systemd-journal" in text
    assert "skulk-node" not in text


def test_a_token_is_handed_over_as_a_credential_and_only_if_there_is_one():
    assert "LoadCredential=logs-token:/etc/skulk/my secrets/100%%" in shipper_unit(SHIPPER).splitlines()
    assert "LoadCredential" not in shipper_unit(LogShipper("/bin/true", "/c"))


def test_launchd_reads_its_job_as_it_is_meant():
    job = plistlib.loads(shipper_plist(SHIPPER).encode())
    assert (job["Label"], job["UserName"]) == ("dev.skulk.logs", "me")
    assert job["ProgramArguments"] == ["/bin/true", "--config", "/etc/skulk/vector.yaml"]
    assert job["WorkingDirectory"] == "/Library/Application Support/<&>"
    assert (job["StandardOutPath"], job["StandardErrorPath"]) == ("/l/logs.out", "/l/logs.err")


@pytest.mark.parametrize("make", [shipper_unit, shipper_plist])
def test_a_path_that_cannot_stand_there_is_refused(make):
    with pytest.raises(ValueError, match="is not an absolute path"):
        make(LogShipper("/bin/true", "/etc/two\nlines"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--format", "systemd", "--user", "me"), "--user has no effect with systemd"),
        (("--format", "launchd", "--token-file", "/t"), "--token-file has no effect with launchd"),
        (("--format", "launchd", "--user", "me"), "launchd needs --user and --data-dir"),
    ],
)
def test_the_verb_refuses_what_has_no_effect(arguments: tuple[str, ...], said: str):
    done = CliRunner().invoke(app, ["node", "shipper", "--program", "/bin/true", "--config", "/c", *arguments])
    assert done.exit_code == 2
    assert re.search(re.escape(said), done.output)


def test_the_verb_prints_both_forms():
    asked = ["node", "shipper", "--program", "/bin/true", "--config", "/c", "--format"]
    assert "ExecStart=/bin/true --config /c" in CliRunner().invoke(app, [*asked, "systemd"]).output
    printed = CliRunner().invoke(app, [*asked, "launchd", "--user", "me", "--data-dir", "/d"]).output
    assert plistlib.loads(printed.encode())["EnvironmentVariables"]["HOME"] == "/d"
