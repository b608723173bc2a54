"""From recorded events to the picture of a run, to each node's report and to how the whole ended."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import reduce
from typing import Any

import pytest

from skulk.core.bootstrap import (
    Ending,
    Failure,
    HostBegan,
    HostDone,
    Kind,
    NodeReport,
    Outcome,
    Picture,
    Status,
    ending_of,
    fold,
    read_event,
    reports,
)
from skulk.core.bootstrap.diffs import DIFF_LINES_MAX, diff_of
from skulk.core.bootstrap.events import Task
from tests.bootstrap.conftest import recorded

NODES = ("one", "two", "three")


def picture_of(raw: Sequence[Any]) -> Picture:
    events = [event for event in map(read_event, raw) if event is not None]
    return reduce(fold, events, Picture())


def statuses(picture: Picture, *, cancelled: bool = False) -> dict[str, Status]:
    return {report.node: report.status for report in reports(picture, NODES, {}, cancelled=cancelled)}


def test_a_run_in_which_one_node_is_changed_one_fails_and_one_is_refused() -> None:
    picture = picture_of(recorded("run"))
    one, two, three = reports(picture, NODES, {}, cancelled=False)
    assert (one.status, [change.task for change in one.changed]) == (
        Status.CHANGED,
        ["skulk_base : Write a file", "skulk_base : Restart"],
    )
    assert two.status is Status.FAILED
    assert two.task == "skulk_base : Loop that fails"
    assert three.failure is not None
    assert three.failure.kind is Kind.REFUSED
    assert all(report.seconds > 0 for report in (one, two, three))
    assert picture.notes == ("reboot one once",)
    assert ending_of((one, two, three), check=False, cancelled=False) is Ending.FAILED


def test_a_failure_that_was_rescued_or_ignored_is_none() -> None:
    picture = picture_of(recorded("run"))
    assert [done.task.name for done in picture.nodes["one"].failures] == ["Break"]
    assert statuses(picture)["one"] is Status.CHANGED


def test_before_ansible_has_counted_a_failure_stands() -> None:
    uncounted = [raw for raw in recorded("run") if raw["event"] != "playbook_on_stats"]
    assert statuses(picture_of(uncounted))["one"] is Status.FAILED


def test_in_check_mode_what_would_change_is_there_with_its_difference() -> None:
    picture = picture_of(recorded("check"))
    found = reports(picture, ("one", "two"), {}, cancelled=False)
    assert found[0].changed[0].diff.splitlines() == [
        "--- before: /tmp/recorded/target/one.txt",
        "+++ after: /tmp/recorded/target/one.txt",
        "@@ -0,0 +1 @@",
        "+new one",
    ]
    assert ending_of(found[:2], check=True, cancelled=False) is Ending.CHANGES
    assert ending_of(found[:2], check=False, cancelled=False) is Ending.DONE


def test_while_it_runs_the_picture_says_where_each_node_is() -> None:
    raw = recorded("run")
    first = next(n for n, r in enumerate(raw) if r["event"] == "runner_on_start" and r["event_data"]["host"] == "two")
    picture = picture_of(raw[: first + 1])
    at = picture.nodes["two"].at
    assert at is not None
    assert at.title == "skulk_preflight : Refuse an old Python"
    assert "three" not in picture.nodes


def test_a_cancelled_run_tells_who_was_cut_off_and_who_had_not_begun() -> None:
    task = Task("Sleep")
    began = fold(Picture(), HostBegan("one", task))
    done = fold(began, HostDone("two", task, Outcome.UNREACHABLE, {"msg": "x"}))
    assert statuses(done, cancelled=True) == {
        "one": Status.CUT_OFF,
        "two": Status.UNREACHABLE,
        "three": Status.NOT_BEGUN,
    }


def test_a_node_on_which_everything_was_skipped_is_told_apart_from_one_that_is_in_order() -> None:
    picture = fold(Picture(), HostDone("one", Task("A"), Outcome.SKIPPED))
    picture = fold(picture, HostDone("two", Task("A"), Outcome.OK))
    assert statuses(picture) == {"one": Status.SKIPPED, "two": Status.OK, "three": Status.NOT_BEGUN}


def test_a_failure_on_a_machine_that_is_no_node_is_reported() -> None:
    picture = fold(Picture(), HostDone("localhost", Task("Build"), Outcome.FAILED, {"msg": "no compiler"}))
    picture = fold(picture, HostDone("one", Task("Build"), Outcome.OK))
    assert [report.node for report in reports(picture, ("one",), {}, cancelled=False)] == ["one", "localhost"]


def test_an_error_in_a_playbook_is_kept_as_ansible_says_it() -> None:
    said = picture_of(recorded("syntax")).said
    assert said[0].startswith("[ERROR]: the role 'nosuch' was not found")


def test_notes_are_collected_once_each_from_results_and_from_debug() -> None:
    debug = Task("Tell", action="ansible.builtin.debug")
    events = [
        HostDone("one", debug, Outcome.OK, {"msg": "note: reboot"}),
        HostDone("two", debug, Outcome.OK, {"msg": ["note: reboot", "nothing to see"]}),
        HostDone("one", Task("Any", action="ansible.builtin.command"), Outcome.OK, {"msg": "note: not meant"}),
        HostDone("one", Task("Any"), Outcome.OK, {"skulk_note": "the key is \x1b[1mnew"}),
    ]
    assert reduce(fold, events, Picture()).notes == ("reboot", "the key is [1mnew")


def test_values_of_other_types_than_ansible_sends_are_taken_as_absent() -> None:
    assert read_event({"event": "runner_on_ok", "event_data": ["x"]}) is None
    assert read_event({"event": "playbook_on_stats", "event_data": {"failures": "x"}}) is not None
    event = read_event({"event": "runner_on_ok", "event_data": {"host": "a", "res": 3, "duration": "x", "task": 1}})
    assert event == HostDone("a", Task("", action=""), Outcome.OK)


# --- how it ended -------------------------------------------------------------------------------------------

_REFUSED = NodeReport("r", Status.FAILED, failure=Failure(Kind.REFUSED, "no"))
_FAILED = NodeReport("f", Status.FAILED, failure=Failure(Kind.TASK_FAILED, "no"))
_AWAY = NodeReport("u", Status.UNREACHABLE, failure=Failure(Kind.TIMED_OUT, "no"))
_FINE = NodeReport("o", Status.OK)


@pytest.mark.parametrize(
    ("nodes", "ending"),
    [
        ([_FINE], Ending.DONE),
        ([_FINE, _AWAY], Ending.UNREACHABLE),
        ([_FINE, _REFUSED, _AWAY], Ending.REFUSED),
        ([_FINE, _FAILED, _REFUSED, _AWAY], Ending.FAILED),
    ],
)
def test_what_needs_most_of_a_person_decides_how_it_ended(nodes: list[NodeReport], ending: Ending) -> None:
    for order in itertools.permutations(nodes):
        assert ending_of(order, check=False, cancelled=False) is ending
        assert ending_of(order, check=True, cancelled=True) is Ending.CANCELLED


# --- differences --------------------------------------------------------------------------------------------


def test_differences_of_files_states_items_and_prepared_ones_are_shown() -> None:
    text = diff_of({"diff": {"before": "a\nb\n", "after": "a\nc\n", "before_header": "/etc/x"}})
    assert text.splitlines()[2:] == ["@@ -1,2 +1,2 @@", " a", "-b", "+c"]
    state = diff_of({"diff": {"before": {"mode": "0600"}, "after": {"mode": "0644"}}})
    assert '-{\n- "mode": "0600"' in state or '- "mode": "0600"' in state
    assert diff_of({"results": [{"diff": [{"prepared": "one\n"}]}, {"diff": {"prepared": "two"}}]}) == "one\ntwo"
    assert diff_of({"changed": True}) == ""
    assert diff_of({"diff": [{"src_binary": 1}]}) == "(a binary file)"


def test_a_difference_without_end_is_cut_and_says_so() -> None:
    lines = diff_of({"diff": {"before": "", "after": "x\n" * 1000}}).splitlines()
    assert len(lines) == DIFF_LINES_MAX + 1
    assert lines[-1].endswith("lines more")
