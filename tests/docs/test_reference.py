"""The reference pages say what the program says: nothing is missing, nothing is left over, nothing is stale."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import REFERENCE, ROOT, blocks, headings, sections
from pydantic import BaseModel

from skulk.adapters.telemetry import MachineSampler
from skulk.cli.reference import blocks as generated_blocks
from skulk.cli.reference import constants, errors_page, node_toml_keys, pages, refreshed
from skulk.core import health, ports
from skulk.core.domain import ConditionType, Reason
from skulk.core.errors import CODES
from skulk.core.readings import INTERVAL_SECONDS, Kind
from skulk.core.reconcile import limits, polling
from skulk.core.reconcile.machine import Phase
from skulk.core.reconcile.rules import RULES
from skulk.engines.flight import Phase as FlightPhase
from skulk.node.config import NodeConfig, load_config

REGENERATE = "run `make schemas` and commit the result"
LEAST_PROSE_CHARACTERS = 20


@pytest.mark.parametrize("path", pages(REFERENCE), ids=lambda path: path.name)
def test_a_page_is_what_its_generator_says(path: Path) -> None:
    assert path.read_text("utf-8") == pages(REFERENCE)[path], REGENERATE


@pytest.mark.parametrize("name", generated_blocks())
def test_a_page_has_all_its_generated_blocks(name: str) -> None:
    text = (REFERENCE / name).read_text("utf-8")
    assert re.findall(r"<!-- generated: ([\w.-]+) -->", text) == list(generated_blocks()[name])


def test_a_stale_block_is_replaced_and_prose_stays() -> None:
    page = "before\n<!-- generated: a -->\nold\n<!-- end -->\nafter\n"
    assert refreshed(page, {"a": "new"}) == "before\n<!-- generated: a -->\n\nnew\n\n<!-- end -->\nafter\n"
    with pytest.raises(KeyError):
        refreshed(page, {"b": "new"})


# --- codes, reasons, phases ---------------------------------------------------------------------------------


def test_every_error_code_has_a_heading_and_a_paragraph() -> None:
    found = sections(REFERENCE / "errors.md")
    assert list(found) == list(CODES)
    short = [code for code, text in found.items() if len(text.partition("\n\n")[2]) < LEAST_PROSE_CHARACTERS]
    assert short == []


def test_the_paragraph_of_a_code_survives_generation_and_a_new_code_gets_a_heading() -> None:
    page = (REFERENCE / "errors.md").read_text("utf-8")
    without = re.sub(r"### SK-CFG-002\n.*?(?=### )", "", page, flags=re.DOTALL)
    again = errors_page(without)
    assert "### SK-CFG-002\n\n*node.toml is missing.*" in again
    kept = sections(REFERENCE / "errors.md")["SK-CFG-001"]
    assert kept in again


def test_every_reason_has_a_heading_and_a_paragraph() -> None:
    found = sections(REFERENCE / "conditions.md")
    assert list(found) == [reason.value for reason in Reason]
    assert [reason for reason, text in found.items() if len(text) < LEAST_PROSE_CHARACTERS] == []


def test_every_reason_and_state_of_health_has_a_paragraph() -> None:
    found = sections(REFERENCE / "health.md")
    assert list(found) == [reason.value for reason in health.HealthReason]
    assert [reason for reason, text in found.items() if len(text) < LEAST_PROSE_CHARACTERS] == []
    text = (REFERENCE / "health.md").read_text("utf-8")
    assert [state for state in health.HealthState if f"| `{state.value}` |" not in text] == []


def test_every_kind_of_reading_is_listed_with_its_pace_and_its_values() -> None:
    text = (REFERENCE / "telemetry.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) s \| (.+) \|$", text, re.MULTILINE)
    assert {kind: float(seconds) for kind, seconds, _ in rows} == {k.value: v for k, v in INTERVAL_SECONDS.items()}

    async def missing() -> set[str]:
        sampler = MachineSampler({"state": ROOT})
        listed = {kind: set(re.findall(r"`(\w+)`", values)) for kind, _, values in rows}
        return {name for kind in Kind for name in set(await sampler.sample(kind)) - listed[kind.value]}

    assert asyncio.run(missing()) == set()


def test_every_condition_is_explained() -> None:
    text = (REFERENCE / "conditions.md").read_text("utf-8")
    assert [kind for kind in ConditionType if f"| `{kind.value}` |" not in text] == []


def test_every_phase_of_a_placement_has_a_heading() -> None:
    found = sections(REFERENCE / "runner-states.md")
    assert list(found) == [phase.value for phase in Phase]
    assert all(found.values())


def test_every_phase_of_the_flight_recorder_is_listed() -> None:
    text = (REFERENCE / "runner-states.md").read_text("utf-8")
    assert set(re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE)) == {phase.value for phase in FlightPhase}


# --- limits and settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [limits, polling, health], ids=lambda module: module.__name__)
def test_every_limit_is_listed_with_its_value_and_a_reason(module: Any) -> None:
    rows = re.findall(r"^\| `([A-Z0-9_]+)` \| ([0-9.e+-]+) \| (.+) \|$", (REFERENCE / "limits.md").read_text(), re.M)
    listed = {(name, float(value)) for name, value, reason in rows if len(reason) >= LEAST_PROSE_CHARACTERS}
    units = {"MIB"}
    wanted = {
        (name, float(value))
        for name, value in vars(module).items()
        if name.isupper() and not name.startswith("_") and name not in units
    }
    assert wanted - listed == set()


def test_a_reason_belongs_to_the_constants_right_below_it() -> None:
    reasons = {name: reason for name, _, reason in constants(limits)}
    assert reasons["MIB"] == ""
    assert reasons["BACKOFF_JITTER"] == reasons["BACKOFF_SECONDS_MIN"] != reasons["BREAKER_FAILURES"]


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings(field.annotation, f"{key}.")
        else:
            yield key


def test_every_key_of_node_toml_has_a_heading() -> None:
    found = sections(REFERENCE / "node-toml.md")
    assert list(found) == list(settings(NodeConfig))
    assert [key for key, text in found.items() if "Environment: `SKULK_" not in text] == []


VALUES = {
    "name": "other",
    "namespace": "other",
    "stateDir": "/somewhere",
    "enginesDir": "/somewhere",
    "modelRoots": '["/somewhere"]',
    "memoryCap": "4GiB",
    "orphanSeconds": "12.5",
    "installEngines": "false",
    "engines": '["other"]',
    "scriptedEngine": "true",
    "logLevel": "debug",
    "log.file": "/somewhere/skulk.log",
    "log.maxBytes": "1MiB",
    "log.keep": "3",
    "listen.host": "127.0.0.9",
    "listen.port": "1234",
    "planes.listen": '["tcp/127.0.0.1:9"]',
    "planes.mode": "router",
    "planes.ca": "/somewhere",
    "planes.certificate": "/somewhere",
    "planes.key": "/somewhere",
    "planes.verifyNames": "false",
    "planes.allowPlain": "true",
    "planes.leaseMs": "1234",
    "planes.seeds": '["tcp/127.0.0.1:9"]',
    "source.directory": "/somewhere",
    "source.branch": "other",
    "source.path": "other",
    "source.verify": "head",
    "source.allowedSigners": "/somewhere",
    "source.gpgHome": "/somewhere",
    "source.allowForcePush": "true",
    "source.timeoutSeconds": "12.5",
    "source.pollSeconds": "12.5",
    "webhook.secretFile": "/somewhere",
    "webhook.secretEnv": "SOMETHING",
    "update.onBoot": "true",
    "update.wheelhouse": "/somewhere",
    "update.programDir": "/somewhere",
}
# What a key cannot be given without.
BESIDES = {
    **dict.fromkeys(("planes.ca", "planes.certificate", "planes.key"), 'ca = "a"\ncertificate = "b"\nkey = "c"\n'),
    "planes.seeds": 'listen = ["tcp/127.0.0.1:8"]\n',
    "update.onBoot": 'wheelhouse = "/wheels"\n',
}


@pytest.mark.parametrize(("key", "variable"), [(key, env) for key, env, _ in node_toml_keys() if key != "source.url"])
def test_a_key_can_be_given_by_the_variable_that_the_page_names(
    key: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("SKULK_")]:
        monkeypatch.delenv(name)
    source = "" if key == "source.directory" else '[source]\nurl = "/remote"\n'
    besides = f"[{key.split('.')[0]}]\n{BESIDES[key]}" if key in BESIDES else ""
    (tmp_path / "node.toml").write_text(("" if key == "name" else 'name = "node"\n') + source + besides)

    def value() -> object:
        found: Any = load_config(tmp_path / "node.toml").model_dump(by_alias=True)
        for part in key.split("."):
            found = found[part]
        return found

    before = None if key in ("name", "source.directory") else value()
    monkeypatch.setenv(variable, VALUES[key])
    assert value() != before


def test_the_example_of_node_toml_is_valid(tmp_path: Path) -> None:
    (example,) = [block for block in blocks(REFERENCE / "node-toml.md") if block.language == "toml"]
    (tmp_path / "node.toml").write_text(example.text)
    assert load_config(tmp_path / "node.toml").name == tomllib.loads(example.text)["name"]


# --- logs ---------------------------------------------------------------------------------------------------


def logged() -> Iterator[tuple[str, str, set[str]]]:
    """(event, level, keys) of every log call of the daemon's own code."""
    for folder in ("node", "gateway", "adapters"):
        for path in sorted((ROOT / "skulk" / folder).rglob("*.py")):
            for call in ast.walk(ast.parse(path.read_text("utf-8"))):
                if not (isinstance(call, ast.Call) and call.args and isinstance(call.args[0], ast.Constant)):
                    continue
                target, event = call.func, call.args[0].value
                logger = re.search(r"\b_?log\b", ast.unparse(target))
                if logger and isinstance(event, str):
                    level = target.attr if isinstance(target, ast.Attribute) else "info"
                    yield event, level, {word.arg for word in call.keywords if word.arg}


def test_every_log_event_has_a_row_with_its_level_and_keys() -> None:
    text = (REFERENCE / "logs.md").read_text("utf-8")
    rows = {
        event: (level, further)
        for event, level, further in re.findall(r"^\| `(\w+)` \| (\w+) \| .*? \| (.*) \|$", text, re.MULTILINE)
    }
    calls = list(logged())
    assert {event for event, _, _ in calls} == set(rows)
    everywhere = {"component"}
    for event, level, keys in calls:
        assert rows[event][0] == level
        assert {key for key in keys - everywhere if f"`{key}`" not in rows[event][1]} == set(), event


# --- the architecture, as far as it lists things ------------------------------------------------------------


def test_the_rules_of_the_node_are_listed_in_their_order() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    assert re.findall(r"^\d+\. `([a-z_]+)`:", text, re.MULTILINE) == [rule.__name__ for rule in RULES]


def test_every_port_is_described() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    protocols = [name for name, value in vars(ports).items() if getattr(value, "_is_protocol", False)]
    outside = set(protocols) - {"Generation", "Protocol"}
    assert {name for name in outside if f"`{name}`" not in text} == set()


def test_the_glossary_has_every_condition_word_and_reserved_verb() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    assert all(f"**{verb}**" in text for verb in ("observe", "plan", "decide", "apply", "serve"))
    rows = re.findall(r"^\| ([a-z][\w ,-]*) \|", text, re.MULTILINE)
    assert len(rows) == len(set(rows))


def test_no_page_repeats_a_heading() -> None:
    for page in sorted((ROOT / "docs").rglob("*.md")):
        found = headings(page)
        assert len(found) == len(set(found)), page
