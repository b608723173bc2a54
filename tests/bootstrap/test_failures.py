"""Why a node failed: one sentence with a fix, from what ssh, sudo and Ansible really said (recorded)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from skulk.core.bootstrap import HostDone, Kind, Outcome, Target, explain, read_event
from skulk.core.bootstrap.events import Task
from skulk.core.bootstrap.failures import SENTENCE_CHARACTERS_MAX
from tests.bootstrap.conftest import recorded

TARGET = Target("10.0.0.7", key_file="deploy_key")
RECORDED: dict[str, Any] = recorded("failures")


def of(name: str) -> HostDone:
    event = read_event(RECORDED[name])
    assert isinstance(event, HostDone)
    return event


def unreached(message: str) -> HostDone:
    return HostDone(
        "n", Task("Ping"), Outcome.UNREACHABLE, {"msg": f"Failed to connect to the host via ssh: {message}"}
    )


def failed(**result: object) -> HostDone:
    return HostDone("n", Task("Do", action="ansible.builtin.command"), Outcome.FAILED, result)


CASES = [
    ("nothing listens", Kind.CONNECTION_REFUSED, ["10.0.0.7", "port 22999"], "ansible_port"),
    ("no answer", Kind.TIMED_OUT, ["10.0.0.7", "port 22"], "firewalls"),
    ("unknown name", Kind.NAME_NOT_FOUND, ["nowhere.invalid"], "spec.address"),
    ("key not allowed", Kind.LOGIN_REFUSED, ["root", "127.0.0.1", "deploy_key"], "authorized_keys of root"),
    ("unknown user", Kind.LOGIN_REFUSED, ["mallory", "127.0.0.1", "deploy_key"], "ansible_user"),
    ("host key not known", Kind.HOST_KEY_UNKNOWN, ["10.0.0.7"], "--accept-new-host-keys"),
    ("host key changed", Kind.HOST_KEY_CHANGED, ["SHA256:AhNX", "/tmp/recorded/kh"], "ssh-keygen -R"),
    ("sudo without a password", Kind.SUDO_PASSWORD, ["sudo"], "--ask-become-pass"),
    ("sudo with a wrong password", Kind.SUDO_WRONG_PASSWORD, ["sudo"], "--ask-become-pass"),
    ("not in the sudoers", Kind.NO_SUDO, ["ada"], "wheel"),
    ("interpreter missing", Kind.NO_PYTHON, ["/usr/bin/python9"], "apt install python3"),
    ("interpreter is a shim", Kind.NO_PYTHON, ["shims/python3.13"], "ansible_python_interpreter"),
]


@pytest.mark.parametrize(("name", "kind", "named", "fix"), CASES, ids=[case[0] for case in CASES])
def test_what_was_said_becomes_a_reason_with_a_fix(name: str, kind: Kind, named: list[str], fix: str) -> None:
    failure = explain(of(name), TARGET)
    assert failure.kind is kind
    assert [word for word in named if word not in failure.sentence] == []
    assert fix in failure.fix
    assert "\n" not in failure.sentence


def test_a_recorded_host_key_is_named_by_its_place() -> None:
    target = replace(TARGET, host_key_place="fleet/nodes/n.yaml:9")
    for name in ("host key changed", "host key not known"):
        failure = explain(of(name), target)
        assert failure.kind is Kind.HOST_KEY_CHANGED
        assert "spec.sshHostKey at fleet/nodes/n.yaml:9" in failure.sentence


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("ssh: connect to host 10.0.0.7 port 22: No route to host", Kind.NO_ROUTE),
        ("ssh: connect to host 10.0.0.7 port 22: Operation timed out", Kind.TIMED_OUT),
        ("kex_exchange_identification: Connection closed by remote host", Kind.CONNECTION_CLOSED),
        ('Load key "deploy_key": Permission denied\r\nada@n: Permission denied (publickey).', Kind.KEY_FILE),
        ("Received disconnect from 10.0.0.7 port 22:2: Too many authentication failures", Kind.LOGIN_REFUSED),
        ("something that nobody has seen yet", Kind.UNREACHABLE),
    ],
)
def test_other_ways_not_to_reach_a_host(message: str, kind: Kind) -> None:
    failure = explain(unreached(message), TARGET)
    assert failure.kind is kind
    assert failure.fix


def test_what_is_not_recognised_is_shown_as_it_was_said() -> None:
    assert explain(of("command failed"), TARGET).sentence == "non-zero return code (exit status 7)\nboom"
    assert "'nosuch' is undefined" in explain(of("undefined variable"), TARGET).sentence
    assert explain(unreached("odd thing"), TARGET).sentence.endswith("odd thing")


def test_of_a_loop_the_items_that_failed_are_named() -> None:
    sentence = explain(of("items of a loop failed"), TARGET).sentence
    assert sentence == "item 3: non-zero return code (exit status 3)\nbad 3"


def test_a_refusal_of_the_preflight_is_told_in_its_own_words() -> None:
    failure = explain(of("preflight refused"), TARGET)
    assert (failure.kind, failure.fix) == (Kind.REFUSED, "")
    assert failure.sentence.startswith("Python 3.9.2 at /usr/bin/python3 is too old")


def test_sudo_that_fails_within_the_preflight_is_still_about_sudo() -> None:
    event = of("sudo without a password")
    in_preflight = replace(event, task=replace(event.task, role="skulk_preflight"))
    assert explain(in_preflight, TARGET).kind is Kind.SUDO_PASSWORD


def test_a_text_that_a_playbook_wrote_is_not_read_as_something_else() -> None:
    task = Task("Stop", action="ansible.builtin.fail")
    event = HostDone("n", task, Outcome.FAILED, {"msg": "No space left on device is what you would see: stop"})
    assert explain(event, TARGET).kind is Kind.TASK_FAILED


def test_hidden_results_stay_hidden_and_say_why() -> None:
    assert "no_log" in explain(of("works with secrets"), TARGET).sentence


def test_a_full_disk_is_recognised() -> None:
    failure = explain(failed(msg="[Errno 28] No space left on device: '/opt/skulk'", rc=1), TARGET)
    assert failure.kind is Kind.DISK_FULL


def test_a_machine_without_a_package_mirror_is_recognised() -> None:
    # As it was said of a Debian 13 without a route.
    failure = explain(failed(msg="Failed to update apt cache after 5 retries: "), TARGET)
    assert failure.kind is Kind.NO_PACKAGES
    assert failure.sentence.endswith("cannot fetch its lists: Failed to update apt cache after 5 retries")
    assert "air-gapped.md" in failure.fix


def test_nothing_a_host_says_reaches_the_terminal_as_a_command() -> None:
    assert "\x1b" not in explain(failed(msg="\x1b[2Jbang", stderr="\x1b]0;title\x07"), TARGET).sentence


def test_of_a_long_text_the_end_is_kept() -> None:
    sentence = explain(failed(msg="x" * 10_000 + "the end"), TARGET).sentence
    assert len(sentence) <= SENTENCE_CHARACTERS_MAX + 1
    assert sentence.endswith("the end")


def test_a_result_without_words_is_said_to_have_none() -> None:
    assert explain(failed(), TARGET).sentence == "it failed and said nothing"


def test_the_guide_lists_every_kind_of_failure() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "bootstrap.md").read_text("utf-8")
    assert [kind for kind in Kind if f"`{kind}`" not in guide] == []
