"""The unit that is printed is one that systemd takes, and that leaves little open."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skulk.core.service import Service, systemd_unit

SERVICE = Service(
    name="mac 50%",
    program="/bin/true",
    config="/etc/skulk/node.toml",
    writes=("/var/lib/skulk", "/var/cache/skulk engines"),
    reads=("/srv/models",),
    user="daemon",
    groups=("video",),
)
# systemd-analyze's own scale: 0 is closed, 10 is open. Without any hardening a service has 9.6.
EXPOSURE_TENTHS_MAX = 20


def values(text: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


@pytest.fixture
def needs_systemd() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing (Debian, Ubuntu: apt install systemd)")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    path = tmp_path / "skulk-node.service"
    path.write_text(systemd_unit(SERVICE))
    return path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_systemd_takes_the_unit_without_a_word(unit: Path, needs_systemd: None):
    done = analyze("verify", "--man=no", str(unit))
    said = [line for line in (done.stdout + done.stderr).splitlines() if unit.name in line]
    assert (done.returncode, said) == (0, [])


def test_a_slip_in_the_unit_would_be_told(unit: Path, needs_systemd: None):
    unit.write_text(unit.read_text().replace("ProtectClock", "ProtectClok"))
    done = analyze("verify", "--man=no", str(unit))
    assert "ProtectClok" in done.stdout + done.stderr


def test_little_is_left_open(unit: Path, needs_systemd: None):
    done = analyze("security", "--offline=true", f"--threshold={EXPOSURE_TENTHS_MAX}", str(unit))
    assert done.returncode == 0, done.stdout[-2000:]


def test_runners_outlive_the_daemon_and_a_hang_ends_it():
    text = systemd_unit(SERVICE)
    assert values(text, "KillMode") == ["process"]
    assert values(text, "Type") == ["notify"]
    assert values(text, "Restart") == ["on-failure"]
    assert int(*values(text, "WatchdogSec")) > 0


def test_names_and_paths_are_written_so_that_systemd_reads_them_as_they_are():
    text = systemd_unit(SERVICE)
    assert values(text, "Description") == ["Skulk node mac 50%%"]
    assert values(text, "ReadWritePaths") == ['/var/lib/skulk "/var/cache/skulk engines"']
    assert values(text, "SupplementaryGroups") == ["video"]


@pytest.mark.parametrize(("config", "home"), [("/etc/skulk/node.toml", "yes"), ("/home/me/node.toml", "read-only")])
def test_homes_are_closed_unless_something_of_the_node_is_in_one(config: str, home: str):
    made = Service("n", "/opt/skulk/bin/skulk", config, ("/var/lib/skulk",))
    assert values(systemd_unit(made), "ProtectHome") == [home]


@given(st.text(max_size=30))
def test_no_path_adds_a_line_to_the_unit(tail: str):
    lines = len(systemd_unit(SERVICE).splitlines())
    try:
        text = systemd_unit(Service("n", "/bin/true", f"/etc/{tail}", SERVICE.writes, (), "daemon", ("video",)))
    except ValueError:
        return
    assert len(re.split(r"\n", text.rstrip("\n"))) == lines


def test_the_places_of_a_node_that_the_bootstrap_made_are_open_and_homes_are_closed():
    made = Service(
        name="tower",
        program="/opt/skulk/current/bin/skulk",
        config="/etc/skulk/node.toml",
        writes=("/var/lib/skulk", "/var/lib/skulk/engines"),
        reads=("/var/lib/skulk/models", "/etc/skulk/secrets/webhook"),
    )
    text = systemd_unit(made)
    assert values(text, "ExecStart") == ["/opt/skulk/current/bin/skulk node run --config /etc/skulk/node.toml"]
    assert values(text, "ReadWritePaths") == ["/var/lib/skulk /var/lib/skulk/engines"]
    assert values(text, "ProtectHome") == ["yes"]


def test_the_daemon_reads_skulk_env_itself_so_that_one_parser_decides():
    assert values(systemd_unit(SERVICE), "EnvironmentFile") == []


@pytest.mark.parametrize("path", ["relative/node.toml", "/etc/two\nlines", "/etc/nul\0"])
def test_a_path_that_cannot_stand_there_is_refused(path: str):
    with pytest.raises(ValueError, match="is not an absolute path"):
        systemd_unit(Service("n", "/bin/true", path, ("/var/lib/skulk",)))
