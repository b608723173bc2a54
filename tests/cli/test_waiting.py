"""`skulk wait` and the following verbs: over changes, restarts of the node and lost time."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import Result

from skulk.cli import waiting
from tests.cli.conftest import Skulk
from tests.cli.fake_node import COMMIT, OLDER, FakeNode, condition, fox

SOON = ("--timeout", "1500ms")
LONG = ("--timeout", "60s")


def loading(message: str = "40 %") -> dict[str, Any]:
    return fox(condition("Ready", "False", "Loading", message))


def in_background(skulk: Skulk, *arguments: str) -> Callable[[], Result]:
    """Start a verb; the returned function waits for its end."""
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(skulk(*arguments)), daemon=True)
    thread.start()

    def finish() -> Result:
        thread.join(timeout=60)
        assert results, "the verb did not end"
        return results[0]

    return finish


def test_what_holds_already_ends_at_once(node: FakeNode, skulk: Skulk) -> None:
    result = skulk("wait", "deployment/fox-tiny", "--for=Ready", *LONG, "--url", node.url)
    assert result.exit_code == 0
    assert result.stdout == "deployment/fox-tiny Ready: AllReplicasReady: serving\n"


def test_ready_is_what_is_waited_for_by_default(node: FakeNode, skulk: Skulk) -> None:
    assert skulk("wait", "deployment/fox-tiny", *LONG, "--url", node.url).exit_code == 0


def test_it_ends_when_the_node_says_ready(node: FakeNode, skulk: Skulk) -> None:
    node.resources["deployments"] = [loading()]
    finish = in_background(skulk, "wait", "deployment/fox-tiny", *LONG, "--url", node.url)
    assert node.watched.wait(30)
    node.change(resources=node.resources | {"deployments": [fox()]})
    assert finish().exit_code == 0


def test_out_of_time_is_exit_5_with_the_last_reason(node: FakeNode, skulk: Skulk) -> None:
    node.resources["deployments"] = [loading()]
    result = skulk("wait", "deployment/fox-tiny", *SOON, "--url", node.url)
    assert result.exit_code == 5
    assert "SK-CLI-003" in result.stderr
    assert "Loading: 40 %" in result.stderr


def test_a_restart_of_the_node_is_survived(node: FakeNode, skulk: Skulk) -> None:
    node.resources["deployments"] = [loading()]
    node.generation = 50
    finish = in_background(skulk, "wait", "deployment/fox-tiny", *LONG, "--url", node.url)
    assert node.watched.wait(30)
    node.stop()
    # a daemon that starts anew counts its generations anew
    node.generation = 1
    node.resources["deployments"] = [fox()]
    node.start()
    assert finish().exit_code == 0


def test_a_stalled_deployment_is_reported_once_and_waited_for(node: FakeNode, skulk: Skulk) -> None:
    stalled = fox(
        condition("Ready", "False", "BreakerOpen", "3 failures"),
        condition("Stalled", "True", "BreakerOpen", "3 failures"),
    )
    node.resources["deployments"] = [stalled]
    finish = in_background(skulk, "wait", "deployment/fox-tiny", *LONG, "--url", node.url)
    assert node.watched.wait(30)
    node.change()
    node.change(resources=node.resources | {"deployments": [fox()]})
    result = finish()
    assert result.exit_code == 0
    assert result.stderr.count("is stalled, still waiting: BreakerOpen: 3 failures") == 1


def test_applied_waits_for_the_commit_in_force(node: FakeNode, skulk: Skulk) -> None:
    assert skulk("wait", f"--for=applied={COMMIT[:10]}", *LONG, "--url", node.url).exit_code == 0
    late = skulk("wait", f"--for=applied={OLDER}", *SOON, "--url", node.url)
    assert late.exit_code == 5
    assert f"it is at {COMMIT}" in late.stderr


def test_applied_is_read_from_the_nodes_status_while_there_is_no_fleet_resource(node: FakeNode, skulk: Skulk) -> None:
    node.resources["fleet"] = []
    assert skulk("wait", f"--for=applied={COMMIT}", *LONG, "--url", node.url).exit_code == 0


def test_a_deployment_made_from_a_commit_and_ready(node: FakeNode, skulk: Skulk) -> None:
    node.resources["deployments"] = [fox(commit=OLDER)]
    both = ("wait", "deployment/fox-tiny", f"--for=applied={COMMIT}", "--for=Ready", "--url", node.url)
    assert skulk(*both, *SOON).exit_code == 5
    node.resources["deployments"] = [fox()]
    assert skulk(*both, *LONG).exit_code == 0


def test_deleted_holds_only_when_a_commit_says_so(node: FakeNode, skulk: Skulk) -> None:
    node.resources["deployments"] = []
    gone = ("wait", "deployment/fox-tiny", "--for=Deleted", "--url", node.url)
    assert skulk(*gone, *LONG).exit_code == 0
    node.accepted = None
    # a daemon that has not read the repository yet knows of nothing: that is not a deletion
    result = skulk(*gone, *SOON)
    assert result.exit_code == 5
    assert "NoCommit" in result.stderr


def test_what_exists_is_not_deleted(node: FakeNode, skulk: Skulk) -> None:
    result = skulk("wait", "deployment/fox-tiny", "--for=Deleted", *SOON, "--url", node.url)
    assert result.exit_code == 5
    assert "it still exists" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("deployment",),
        ("deployment/",),
        ("wolf/x",),
        ("deployment/x", "--for=Happy"),
        ("deployment/x", "--for=applied="),
        ("deployment/x", "--for=applied=main"),
        ("deployment/x", "--for=applied=abc"),
        ("placement/x", f"--for=applied={COMMIT}"),
        ("deployment/x", "--for=Deleted", "--for=Ready"),
        ("deployment/x", "--timeout", "soon"),
    ],
)
def test_a_wish_that_cannot_be_meant_is_wrong_usage(arguments: tuple[str, ...], skulk: Skulk) -> None:
    result = skulk("wait", *arguments)
    assert result.exit_code == 2
    assert "fix: " in result.stderr


def test_a_refused_key_is_not_waited_out(node: FakeNode, skulk: Skulk) -> None:
    node.key = "sk-right"
    assert skulk("wait", "deployment/fox-tiny", *LONG, "--url", node.url).exit_code == 6


def test_an_empty_view_answers_no_question() -> None:
    target = waiting.Target("deployments", "x")
    for wish in ("ready", "deleted", f"applied={COMMIT}"):
        assert not waiting.answer({}, target, (wish,)).holds


def test_watching_prints_what_changes_and_what_goes(node: FakeNode) -> None:
    import os
    import subprocess
    import sys

    environment = {name: value for name, value in os.environ.items() if not name.startswith("SKULK_")}
    command = [sys.executable, "-m", "skulk.cli.main", "get", "deployments", "--watch", "-o", "json", "--url", node.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        first = [json.loads(process.stdout.readline())["name"] for _ in range(2)]
        node.change(resources=node.resources | {"deployments": [loading()]})
        changed = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.terminate()
        process.stdout.read()
    assert first == ["bear", "fox-tiny"]
    assert changed[0]["conditions"][0]["reason"] == "Loading"
    assert changed[1] == {"kind": "deployments", "name": "bear", "deleted": True}
