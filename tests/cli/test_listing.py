"""get, describe, why, logs, events, reconcile against a node: what they print and how they end.

Golden pages live in `golden/`; SKULK_UPDATE_GOLDEN=1 rewrites them. Ports and times of day are replaced.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import Result

from tests.cli.conftest import Skulk
from tests.cli.fake_node import COMMIT, UID, FakeNode, condition, fox

GOLDEN = Path(__file__).parent / "golden"
PAGES = {
    "get-fleet": ("get", "fleet"),
    "get-fleet-wide": ("get", "fleet", "-o", "wide"),
    "get-nodes-wide": ("get", "nodes", "-o", "wide"),
    "get-deployments": ("get", "deploy"),
    "get-deployments-wide": ("get", "deployments", "-o", "wide"),
    "get-cards": ("get", "cards", "-o", "wide"),
    "get-placements": ("get", "placements"),
    "get-placements-wide": ("get", "placements", "-o", "wide"),
    "get-runners-wide": ("get", "runners", "-o", "wide"),
    "get-by-name": ("get", "deployment/fox-tiny"),
    "get-names": ("get", "deployments", "-o", "name"),
    "get-unknown-name": ("get", "deployment", "fix-tiny"),
    "get-unknown-kind": ("get", "deploments"),
    "describe-deployment": ("describe", "deployment", "fox-tiny"),
    "describe-waiting": ("describe", "deployment/bear"),
    "describe-placement": ("describe", "placement", UID),
    "describe-fleet": ("describe", "fleet"),
    "describe-nothing": ("describe", "deployment"),
    "why": ("why", "deployment/bear"),
    "why-unknown": ("why", "wolf"),
    "logs": ("logs", "fox-tiny"),
    "events": ("events",),
    "events-of-subject": ("events", "--subject", "fox-tiny"),
    "top": ("top",),
    "top-node": ("top", "--once", "--node", "demo"),
    "top-unknown-node": ("top", "--node", "dema"),
    "reconcile": ("reconcile", "fox-tiny", "--reset"),
    "reconcile-everything": ("reconcile",),
    "reconcile-reset-of-nothing": ("reconcile", "--reset"),
    "reconcile-without-wish": ("reconcile", "fox-tiny"),
}


def page(arguments: tuple[str, ...], result: Result, url: str) -> str:
    """What a person sees, with what differs between two runs replaced by something of the same width."""
    text = f"$ skulk {' '.join(arguments)}\n{result.stdout}"
    if result.stderr:
        text += f"--- stderr\n{result.stderr}"
    text += f"--- exit {result.exit_code}\n"
    text = text.replace(url, "http://NODE")
    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", "2030-01-02T03:04:05+00:00", text)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_reads_as_recorded(name: str, node: FakeNode, skulk: Skulk) -> None:
    arguments = PAGES[name]
    seen = page(arguments, skulk(*arguments, "--url", node.url), node.url)
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("SKULK_UPDATE_GOLDEN") == "1":
        file.write_text(seen, encoding="utf-8")
    assert seen == file.read_text(encoding="utf-8")


def test_every_recorded_page_belongs_to_a_command() -> None:
    assert {file.stem for file in GOLDEN.glob("*.txt")} == set(PAGES)


def test_json_and_yaml_carry_the_whole_resource(node: FakeNode, skulk: Skulk) -> None:
    as_json = json.loads(skulk("get", "deployment", "fox-tiny", "-o", "json", "--url", node.url).stdout)
    as_yaml = yaml.safe_load(skulk("get", "deployment", "fox-tiny", "-o", "yaml", "--url", node.url).stdout)
    assert as_json == as_yaml == node.resources["deployments"][1]


def test_several_resources_are_a_list_in_json(node: FakeNode, skulk: Skulk) -> None:
    listed = json.loads(skulk("get", "deployments", "-o", "json", "--url", node.url).stdout)
    assert listed == {"kind": "deployments", "items": node.resources["deployments"]}


def test_missing_fields_print_as_a_dash(node: FakeNode, skulk: Skulk) -> None:
    node.resources = {kind: [{"kind": kind, "name": "bare"}] for kind in node.resources}
    for kind in node.resources:
        heading, row = skulk("get", kind, "-o", "wide", "--url", node.url).stdout.splitlines()
        assert row.startswith("bare")
        assert len(row.split()) >= len(heading.split()), row


def test_no_resources_is_said_in_words(node: FakeNode, skulk: Skulk) -> None:
    node.resources["runners"] = []
    assert skulk("get", "runners", "--url", node.url).stdout == "no runners\n"


def test_wide_shows_commits_whole_and_the_table_marks_what_it_shortens(node: FakeNode, skulk: Skulk) -> None:
    assert COMMIT in skulk("get", "fleet", "-o", "wide", "--url", node.url).stdout
    narrow = skulk("get", "fleet", "--url", node.url).stdout
    assert COMMIT not in narrow
    assert f"{COMMIT[:12]}…" in narrow


@pytest.mark.parametrize(
    ("status", "conditions", "words"),
    [
        ({"attempted": COMMIT, "accepted": COMMIT, "inForce": COMMIT}, [("Ready", "True")], ("Synced", "Healthy")),
        (
            {"attempted": "b" * 40, "accepted": COMMIT, "inForce": COMMIT},
            [("Ready", "False")],
            ("OutOfSync", "Degraded"),
        ),
        ({"accepted": COMMIT}, [("Ready", "False"), ("Reconciling", "True")], ("Progressing", "Progressing")),
        ({"accepted": COMMIT, "inForce": COMMIT}, [("Ready", "True"), ("Stalled", "True")], ("Synced", "Degraded")),
        ({}, [], ("Unknown", "Unknown")),
    ],
)
def test_the_fleet_says_how_it_stands_with_git(
    node: FakeNode, skulk: Skulk, status: dict[str, str], conditions: list[tuple[str, str]], words: tuple[str, str]
) -> None:
    found = [condition(type_, state, "Reason", "") for type_, state in conditions]
    node.resources["fleet"] = [{"name": "demo", "status": status, "conditions": found}]
    row = skulk("get", "fleet", "--url", node.url).stdout.splitlines()[1]
    assert tuple(row.split()[1:3]) == words


def test_a_log_cannot_drive_the_terminal(node: FakeNode, skulk: Skulk) -> None:
    assert "\x1b" not in skulk("logs", "fox-tiny", "--url", node.url).stdout


def test_a_reset_reaches_the_node_under_the_plain_name(node: FakeNode, skulk: Skulk) -> None:
    skulk("reconcile", "deployment/fox-tiny", "--reset", "--url", node.url)
    skulk("reconcile", "--url", node.url)
    assert node.polls == 1
    assert node.resets == ["fox-tiny"]


def test_a_name_with_slashes_stays_a_name(node: FakeNode, skulk: Skulk) -> None:
    result = skulk("get", "nodes", "../events", "--url", node.url)
    assert result.exit_code == 2
    assert "items" not in result.stdout


def test_output_without_a_terminal_has_no_colour(node: FakeNode, skulk: Skulk) -> None:
    assert "\x1b" not in skulk("get", "deployments", "--url", node.url).stdout


def test_changed_condition_shows_its_reason(node: FakeNode, skulk: Skulk) -> None:
    node.resources["deployments"] = [fox(condition("Ready", "False", "Loading", "40 %"))]
    assert "False (Loading)" in skulk("get", "deployments", "--url", node.url).stdout
