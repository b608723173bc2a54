"""What the role writes is whole: YAML that leads from the log to the sink, with the keys that the daemon writes.

Neither Vector nor a collector is needed; where `vector` is on PATH, it judges its configurations too.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml
from variants import ENDPOINT, NODE, ROLE, VARIANTS, Variant, load

from skulk.node.config import LogTable
from skulk.node.logs import configure

VECTOR = [variant for variant in VARIANTS if variant.shipper == "vector"]
COLLECTOR = [variant for variant in VARIANTS if variant.shipper == "otelcol"]


@pytest.mark.parametrize("variant", VECTOR, ids=str)
def test_every_input_of_vector_is_a_component_and_nothing_is_left_unread(rendered: Path, variant: Variant):
    found = load(rendered / f"{variant}.yaml")
    components = {**found["sources"], **found["transforms"], **found["sinks"]}
    assert len(components) == sum(len(found[kind]) for kind in ("sources", "transforms", "sinks"))
    inputs = {name for part in components.values() for name in part.get("inputs", ())}
    assert inputs == {*found["sources"], *found["transforms"]}
    (sink,) = found["sinks"].values()
    assert sink["type"] == {"otlp": "opentelemetry"}.get(variant.sink, variant.sink)


@pytest.mark.parametrize("variant", COLLECTOR, ids=str)
def test_every_part_of_the_collector_is_used_and_every_use_is_a_part(rendered: Path, variant: Variant):
    found = load(rendered / f"{variant}.yaml")
    (pipeline,) = found["service"]["pipelines"].values()
    for kind in ("receivers", "processors", "exporters"):
        assert set(pipeline[kind]) == set(found[kind])
    assert set(found["service"]["extensions"]) == set(found["extensions"])
    (receiver,) = found["receivers"].values()
    assert receiver["storage"] in found["extensions"]
    for exporter in found["exporters"].values():
        used = [exporter.get("auth", {}).get("authenticator"), exporter.get("sending_queue", {}).get("storage")]
        assert set(filter(None, used)) <= set(found["extensions"])


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_log_is_read_where_the_system_keeps_it(rendered: Path, variant: Variant):
    found = load(rendered / f"{variant}.yaml")
    (source,) = (found["sources"] if variant.shipper == "vector" else found["receivers"]).values()
    where = source.get("include_units") or source.get("units") or source["include"]
    assert where == (["skulk-node.service"] if variant.system == "Linux" else ["/usr/local/var/log/skulk/skulk.log"])


@pytest.mark.parametrize("variant", [one for one in VARIANTS if one.token], ids=str)
def test_a_token_is_named_and_never_there(rendered: Path, variant: Variant):
    text = (rendered / f"{variant}.yaml").read_text()
    folder = "/run/credentials/skulk-logs.service"
    if variant.system == "Darwin":
        folder = "/Library/Application Support/Skulk/secrets"
    found = load(rendered / f"{variant}.yaml")
    if variant.shipper == "vector":
        assert found["secret"]["skulk"]["path"] == folder
        assert "SECRET[skulk.logs-token]" in text
    else:
        assert found["extensions"]["bearertokenauth"]["filename"] == f"{folder}/logs-token"
    # Vector does not take variables any more, and a collector's would be in the environment of its children.
    assert "$" not in text


@pytest.mark.parametrize("variant", [one for one in VARIANTS if one.sink in ("loki", "otlp")], ids=str)
def test_names_and_addresses_arrive_as_they_are(rendered: Path, variant: Variant):
    found = load(rendered / f"{variant}.yaml")
    (sink,) = (found.get("sinks") or found["exporters"]).values()
    if variant.shipper == "vector":
        # Vector's language has no \u0026: what Ansible writes for a browser would be refused.
        assert json.dumps(NODE) in found["transforms"]["skulk_events"]["source"]
    if variant.sink == "loki":
        assert (sink["endpoint"], sink["labels"]) == (ENDPOINT, {"service_name": "skulk", "node": NODE})
    elif variant.shipper == "vector":
        assert sink["protocol"]["uri"] == f"{ENDPOINT}/v1/logs"
    else:
        assert sink["endpoint"] == ENDPOINT


@pytest.mark.parametrize("variant", VECTOR, ids=str)
def test_vector_itself_takes_the_configuration_where_there_is_one(rendered: Path, variant: Variant):
    found = load(rendered / f"{variant}.yaml")
    assert all("source" in part for part in found["transforms"].values())
    # Not a skip: no CI has it, and everything else that is tested here holds without it.
    if shutil.which("vector"):
        command = ["vector", "validate", "--no-environment", str(rendered / f"{variant}.yaml")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


# --- keys ---------------------------------------------------------------------------------------------------


def test_the_keys_of_the_role_are_those_of_the_reference(documented: dict[str, list[str]]):
    keys = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())["skulk_logging_keys"]
    assert keys == documented["Keys of every line"] + documented["Keys of some lines"]


@pytest.mark.parametrize("variant", VECTOR, ids=str)
def test_vector_knows_every_key_and_names_no_other(rendered: Path, variant: Variant, documented: dict[str, list[str]]):
    transforms = load(rendered / f"{variant}.yaml")["transforms"]
    known = json.loads(re.search(r"known = (\[.*\])", transforms["skulk_events"]["source"])[1])
    assert known == [key for keys in documented.values() for key in keys]
    for part in transforms.values():
        named = set(re.findall(r"(?<![\w)\]])(?:line)?\.([a-z_]+)", part["source"]))
        assert named - {"message", "timestamp", "fields"} <= set(known)


@pytest.mark.parametrize("variant", COLLECTOR, ids=str)
def test_the_collector_takes_apart_only_what_every_line_has(
    rendered: Path, variant: Variant, documented: dict[str, list[str]]
):
    text = (rendered / f"{variant}.yaml").read_text()
    assert set(re.findall(r"\battributes\.(\w+)", text)) == set(documented["Keys of every line"]) - {"component"}


@pytest.fixture
def written(tmp_path: Path) -> list[dict[str, Any]]:
    configure("node-1", "debug", LogTable(file=tmp_path / "log"))
    log = structlog.get_logger(component="daemon")
    log.info("daemon_started", address="127.0.0.1:1")
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("request_crashed", request_id="r")
    structlog.reset_defaults()
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


def test_the_daemon_writes_the_keys_of_the_reference(written: list[dict[str, Any]], documented: dict[str, list[str]]):
    for entry in written:
        assert set(documented["Keys of every line"]) <= set(entry)
    assert set(written[1]) == {*documented["Keys of every line"], "request_id", "exception"}


def test_the_time_of_a_line_is_what_the_configurations_read(written: list[dict[str, Any]]):
    # gotime's 2006-01-02T15:04:05.999999Z07:00, and %+ of Vector: ISO 8601 with a zone.
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", entry["ts"]) for entry in written)


# --- the journal and the role itself ------------------------------------------------------------------------


def test_the_journal_is_limited_by_size_and_age(rendered: Path):
    text = (rendered / "journald.conf").read_text()
    assert text.splitlines()[1:] == ["[Journal]", "SystemMaxUse=1G", "MaxRetentionSec=14day"]


def test_every_variable_of_the_role_has_a_default_and_a_description():
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    options = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    assert set(defaults) == set(options)
    assert {name: defaults[name] for name, about in options.items() if "default" in about} == {
        name: about["default"] for name, about in options.items() if "default" in about
    }


def test_a_missing_program_is_told_before_anything_is_changed(tmp_path: Path):
    """The role for real, on this machine: its first tasks only look."""
    play = {
        "name": "Ship",
        "hosts": "all",
        "gather_facts": False,
        "tasks": [
            {"name": "System", "ansible.builtin.set_fact": {"system": "Linux", "cacheable": True}},
            {"name": "Role", "ansible.builtin.include_role": {"name": str(ROLE)}},
        ],
        "vars": {"skulk_logging_shipper": "vector", "skulk_logging_program": str(tmp_path / "none" / "vector")},
    }
    (tmp_path / "ship.yml").write_text(json.dumps([play]))
    (tmp_path / "ansible.cfg").write_text(
        f"[defaults]\nhome = {tmp_path}\nlocal_tmp = {tmp_path}/tmp\nremote_tmp = {tmp_path}/tmp\n"
    )
    program = Path(sys.executable).with_name("ansible-playbook")
    command = [program, "-i", "desk,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}", "ship.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    said = " ".join(done.stdout.split())
    assert f"desk: vector is not at {tmp_path}/none/vector. Install it" in said
    assert "changed=0" in said
