"""The property list that is printed says to launchd what the unit says to systemd, whatever the names are."""

from __future__ import annotations

import os
import plistlib
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skulk.core.service import STOP_SECONDS_MAX, Service, launchd_plist

SUPPORT = "/Library/Application Support/Skulk"
SERVICE = Service(
    name="mac <1> & co",
    program="/opt/skulk/current/bin/skulk",
    config=f"{SUPPORT}/node.toml",
    writes=(f"{SUPPORT}/state", f"{SUPPORT}/state/engines"),
    reads=("/Volumes/Models & <more>",),
    user="john.doe",
    home="/Users/john.doe",
    log_dir="/usr/local/var/log/skulk",
)


def job(service: Service = SERVICE) -> dict[str, Any]:
    return plistlib.loads(launchd_plist(service).encode())


def test_paths_with_blanks_are_single_arguments():
    arguments = job()["ProgramArguments"]
    assert arguments == [SERVICE.program, "node", "run", "--config", "/Library/Application Support/Skulk/node.toml"]
    assert job()["WorkingDirectory"] == f"{SUPPORT}/state"


def test_runners_outlive_the_daemon_and_a_failed_one_comes_back():
    found = job()
    assert (found["AbandonProcessGroup"], found["RunAtLoad"], found["KeepAlive"]) == (
        True,
        True,
        {"SuccessfulExit": False},
    )
    assert found["ExitTimeOut"] == STOP_SECONDS_MAX
    assert found["ThrottleInterval"] > 0
    assert (found["Label"], found["UserName"], found["ProcessType"]) == ("dev.skulk.node", "john.doe", "Interactive")


def test_files_of_the_daemon_are_private_and_there_may_be_many():
    assert job()["Umask"] == 63
    assert job()["SoftResourceLimits"]["NumberOfFiles"] == job()["HardResourceLimits"]["NumberOfFiles"] >= 65_536


def test_variables_are_texts_as_launchd_demands_and_name_a_home():
    variables = job()["EnvironmentVariables"]
    assert all(isinstance(value, str) for value in variables.values())
    assert variables["HOME"] == "/Users/john.doe"
    assert variables["SKULK_LOGGING_EXTERNAL"] == "1"
    assert variables["PATH"].split(":")[0] == "/opt/homebrew/bin"


def test_without_an_account_here_the_state_directory_is_home():
    assert job(Service("n", "/s", "/c", ("/state",)))["EnvironmentVariables"]["HOME"] == "/state"


@given(st.text(max_size=30))
def test_whatever_a_path_holds_launchd_reads_it_as_it_is(tail: str):
    path = f"/Volumes/<&>\"'{tail}"
    try:
        text = launchd_plist(Service("n", path, path, (path,)))
    except ValueError:
        return  # control characters and lone surrogates: XML has no way to write them
    assert plistlib.loads(text.encode())["ProgramArguments"][0] == path.replace("\r", "\n")


@pytest.mark.parametrize("path", ["relative/node.toml", "/etc/two\nlines", "/etc/nul\0", "/etc/bell\a"])
def test_a_path_that_cannot_stand_there_is_refused(path: str):
    with pytest.raises(ValueError, match=r"is not an absolute path|control characters"):
        launchd_plist(Service("n", "/bin/true", path, ("/state",)))


# --- the verb -----------------------------------------------------------------------------------------------


@pytest.fixture
def support(tmp_path: Path) -> Path:
    place = tmp_path / "Application Support & <Co>"
    place.mkdir()
    (place / "node.toml").write_text('name = "mac-1"\nstateDir = "state"\n[source]\nurl = "/remote.git"\n')
    return place


def printed(*arguments: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("SKULK_")}
    command = [sys.executable, "-m", "skulk.cli.main", "node", "service", *arguments]
    return subprocess.run(command, env=own, capture_output=True, text=True, timeout=60, check=False)


def test_the_verb_prints_a_property_list_for_the_account(support: Path):
    me = pwd.getpwuid(os.getuid())
    done = printed(
        "--config", str(support / "node.toml"), "--format", "launchd", "--user", me.pw_name, "--program", "/s"
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = plistlib.loads(done.stdout.encode())
    assert found["ProgramArguments"] == ["/s", "node", "run", "--config", str(support / "node.toml")]
    assert found["EnvironmentVariables"]["HOME"] == me.pw_dir
    assert found["StandardErrorPath"].startswith("/usr/local/var/log/skulk/")


def test_the_verb_prints_this_machines_form_unless_told_otherwise(support: Path):
    done = printed("--config", str(support / "node.toml"))
    assert done.stdout.startswith("[Unit]" if sys.platform == "linux" else "<?xml")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(("--format", "launchd", "--group", "render"), "--group has no effect", id="group-for-launchd"),
        pytest.param(("--format", "systemd", "--log-dir", "/x"), "--log-dir has no effect", id="logs-for-systemd"),
        pytest.param(("--format", "systemd", "--user", "john.doe"), "no name of an account", id="name-for-systemd"),
        pytest.param(("--format", "launchd", "--user", "a b"), "no name of an account", id="name-for-launchd"),
    ],
)
def test_what_has_no_effect_is_refused(support: Path, arguments: tuple[str, ...], said: str):
    done = printed("--config", str(support / "node.toml"), *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
