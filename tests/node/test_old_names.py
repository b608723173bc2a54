"""What an earlier system left behind is honoured where it has a meaning, and named in every case."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from skulk.cli import main as program
from skulk.core.legacy import OldVariable, new_names
from skulk.node import legacy
from skulk.node.config import PROCESS_VARIABLES, VERB_VARIABLES, effective_environment, load_config, variable_names

ROOT = Path(__file__).resolve().parents[2]
BASE = 'name = "node-1"\nstateDir = "state"\n[listen]\nport = 1111\n[source]\nurl = "/remote.git"\n'
DEADLINE_SECONDS = 60.0


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(BASE)
    return path


# --- variables ----------------------------------------------------------------------------------------------


def test_an_old_name_means_its_new_one_and_is_named():
    old = {"EXO_PORT": "1", "HOME": "/h"}
    new, found = new_names(old, {"SKULK_PORT"})
    assert new == {**old, "SKULK_PORT": "1"}
    assert found == (OldVariable("EXO_PORT", "SKULK_PORT", honoured=True),)
    assert str(found[0]) == "EXO_PORT is an old name, use SKULK_PORT"
    assert old == {"EXO_PORT": "1", "HOME": "/h"}


def test_a_new_name_wins_and_the_old_one_is_named_all_the_same():
    new, found = new_names({"EXO_PORT": "1", "SKULK_PORT": "2"}, {"SKULK_PORT"})
    assert new["SKULK_PORT"] == "2"
    assert "has no effect" in str(found[0])


def test_what_has_no_counterpart_is_said_to_have_no_effect():
    new, found = new_names({"EXO_LIBP2P_PORT": "1"}, {"SKULK_PORT"})
    assert new == {"EXO_LIBP2P_PORT": "1"}
    assert found == (OldVariable("EXO_LIBP2P_PORT", None, honoured=False),)
    assert "EXO_LIBP2P_PORT has no effect" in str(found[0])


def test_keys_of_node_toml_have_old_names_too_also_in_skulk_env(toml: Path):
    toml.with_name("skulk.env").write_text("EXO_NAMESPACE=lab\n")
    found = load_config(toml, {"EXO_LISTEN__PORT": "2222"})
    assert (found.listen.port, found.namespace) == (2222, "lab")
    environment, old = effective_environment(toml, {"EXO_LOGGING_EXTERNAL": "1"})
    assert environment["SKULK_LOGGING_EXTERNAL"] == "1"
    assert [one.name for one in old] == ["EXO_LOGGING_EXTERNAL", "EXO_NAMESPACE"]


def test_no_variable_that_the_program_reads_is_forgotten():
    """Every SKULK_ name in the program's own code is a key, one of the two lists, or private between its processes."""
    private = {"SKULK_SOCKET_FD", "SKULK_LOCK_FD", "SKULK_GIT_USERNAME", "SKULK_GIT_PASSWORD"}
    named = {
        name
        for path in (ROOT / "skulk").rglob("*.py")
        for name in re.findall(r"\bSKULK_[A-Z_]*[A-Z]\b", path.read_text("utf-8"))
    }
    assert named - private - set(variable_names()) == PROCESS_VARIABLES | VERB_VARIABLES
    assert program._OPTIONS == VERB_VARIABLES


def test_a_verb_takes_an_old_name_and_says_so(toml: Path):
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SKULK_", "EXO_"))}
    done = subprocess.run(
        [sys.executable, "-m", "skulk.cli.main", "node", "service", "--format", "systemd"],
        env=own | {"EXO_CONFIG": str(toml), "EXO_SOMETHING": "1"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == 0
    assert f"--config {toml}" in done.stdout
    assert done.stderr == "warning: EXO_CONFIG is an old name, use SKULK_CONFIG\n"


# --- models and files ---------------------------------------------------------------------------------------


def test_old_models_are_the_last_root_and_named(toml: Path, tmp_path: Path):
    models = tmp_path / "home" / ".exo" / "models"
    models.mkdir(parents=True)
    config = load_config(toml, {"SKULK_MODEL_ROOTS": '["/srv/models"]'})
    with capture_logs() as lines:
        found = legacy.with_old_models(config, tmp_path / "home")
    assert found.model_roots == (Path("/srv/models"), models)
    assert [(entry["event"], entry["path"]) for entry in lines] == [("legacy_models", str(models))]


def test_old_models_that_are_named_already_are_not_there_twice(toml: Path, tmp_path: Path):
    models = tmp_path / "home" / ".local/share/exo/models"
    models.mkdir(parents=True)
    config = load_config(toml, {"SKULK_MODEL_ROOTS": json.dumps([str(models)])})
    with capture_logs() as lines:
        assert legacy.with_old_models(config, tmp_path / "home") is config
    assert lines == []


def test_a_machine_that_never_had_them_hears_nothing(toml: Path, tmp_path: Path):
    config = load_config(toml, {})
    with capture_logs() as lines:
        legacy.warn((), toml)
        assert legacy.with_old_models(config, tmp_path / "nobody") is config
    assert lines == []


def test_an_old_configuration_file_is_named_once(toml: Path, monkeypatch: pytest.MonkeyPatch):
    toml.with_name("exo.yaml").touch()
    monkeypatch.chdir(toml.parent)
    with capture_logs() as lines:
        legacy.warn((), toml)
    assert [(entry["event"], entry["path"]) for entry in lines] == [("legacy_file", str(toml.with_name("exo.yaml")))]


# --- the daemon ---------------------------------------------------------------------------------------------


def entries(file: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.e2e
def test_a_daemon_starts_with_old_names_and_its_own_log_file(tmp_path: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "empty").mkdir()
    (tmp_path / "home" / ".exo" / "models").mkdir(parents=True)
    (tmp_path / "node.toml").write_text(
        f'name = "node-1"\nstateDir = "state"\nengines = []\n[listen]\nport = {port}\n'
        '[source]\ndirectory = "empty"\n[webhook]\nsecretEnv = "HOOK"\n'
    )
    log = tmp_path / "logs" / "skulk.log"
    (tmp_path / "skulk.env").write_text(f"EXO_LOG__FILE={log}\nHOOK={'x' * 32}\nEXO_ZENOH_LISTEN=tcp/0.0.0.0:1\n")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SKULK_", "EXO_"))}
    daemon = subprocess.Popen(
        [sys.executable, "-m", "skulk.cli.main", "node", "run", "--config", str(tmp_path / "node.toml")],
        env=own | {"HOME": str(tmp_path / "home")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not any(entry["event"] == "daemon_started" for entry in entries(log)):
            assert daemon.poll() is None, daemon.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        daemon.send_signal(signal.SIGTERM)
        printed, _ = daemon.communicate(timeout=DEADLINE_SECONDS)
    assert (daemon.returncode, printed) == (0, "")
    found = entries(log)
    assert [entry["event"] for entry in found][:3] == ["legacy_variable", "legacy_variable", "legacy_models"]
    assert [(entry["name"], entry["instead"]) for entry in found[:2]] == [
        ("EXO_LOG__FILE", "SKULK_LOG__FILE"),
        ("EXO_ZENOH_LISTEN", None),
    ]
    assert list((tmp_path / "home" / ".exo" / "models").iterdir()) == []
