"""`skulk run`: what it sends, what it prints, and how it ends when the answer does not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.cli.conftest import Skulk
from tests.cli.fake_node import FakeNode

PYTHON = (sys.executable, "-m", "skulk.cli.main")


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SKULK_")}


def test_the_answer_is_printed_without_reasoning_in_a_pipe(node: FakeNode, skulk: Skulk) -> None:
    result = skulk("run", "fox-tiny", "Capital of France?", "--url", node.url)
    assert result.exit_code == 0
    # the model's control characters are not passed on
    assert result.stdout == "Paris[31m\n"


def test_what_is_asked_for_is_sent_and_nothing_else(node: FakeNode, skulk: Skulk) -> None:
    skulk("run", "fox-tiny", "hi", "--url", node.url)
    options = ("--system", "be brief", "--max-tokens", "5", "--temperature", "0", "--seed", "7", "--no-thinking")
    skulk("run", "fox-tiny", "hi", *options, "--url", node.url)
    bare, full = node.bodies
    user = {"role": "user", "content": "hi"}
    stream = {"model": "fox-tiny", "stream": True, "stream_options": {"include_usage": True}}
    assert bare == stream | {"messages": [user]}
    assert full == stream | {
        "messages": [{"role": "system", "content": "be brief"}, user],
        "max_tokens": 5,
        "temperature": 0.0,
        "seed": 7,
        "enable_thinking": False,
    }


def test_the_prompt_may_come_from_stdin(node: FakeNode, skulk: Skulk) -> None:
    assert skulk("run", "fox-tiny", "--url", node.url, stdin="from a pipe\n").exit_code == 0
    assert node.bodies[0]["messages"][0]["content"] == "from a pipe"


def test_an_empty_stdin_is_wrong_usage(node: FakeNode, skulk: Skulk) -> None:
    assert skulk("run", "fox-tiny", "--url", node.url, stdin=" \n").exit_code == 2
    assert node.bodies == []


def test_json_prints_the_answer_of_the_api(node: FakeNode, skulk: Skulk) -> None:
    result = skulk("run", "fox-tiny", "hi", "--json", "--url", node.url)
    assert json.loads(result.stdout)["choices"][0]["message"]["content"] == "Paris"
    assert node.bodies[0]["stream"] is False


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [
        ("unknown", 2, "the model unknown is not served; models: fox-tiny"),
        ("loading", 4, "no replica of loading is ready"),
        ("failing", 1, "the runner was lost"),
        ("cut", 4, "the answer broke off"),
    ],
)
def test_a_failure_is_a_message_and_an_exit_code(
    model: str, code: int, words: str, node: FakeNode, skulk: Skulk
) -> None:
    result = skulk("run", model, "hi", "--url", node.url)
    assert result.exit_code == code
    assert words in result.stderr
    if model in ("failing", "cut"):
        # what had come already is shown, and the error begins on a line of its own
        assert result.stdout == "Par\n"


def test_an_unknown_model_has_a_code_of_its_own(node: FakeNode, skulk: Skulk) -> None:
    assert "SK-REQ-003" in skulk("run", "unknown", "hi", "--url", node.url).stderr


def test_an_answer_cut_at_the_limit_says_so(node: FakeNode, skulk: Skulk) -> None:
    result = skulk("run", "long", "hi", "--url", node.url)
    assert result.exit_code == 0
    assert "--max-tokens" in result.stderr


def test_ctrl_c_cancels_the_request_and_exits_130(node: FakeNode) -> None:
    command = [*PYTHON, "run", "endless", "sing", "--url", node.url]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert node.answering.wait(60)
        assert process.stdout is not None
        process.stdout.read(3)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert node.cancelled.wait(30)


def test_on_a_terminal_the_reasoning_is_dimmed_and_turns_are_kept(node: FakeNode) -> None:
    """A real terminal: two questions, the second carries the first answer; Ctrl-D ends."""
    leader, follower = os.openpty()
    command = [*PYTHON, "run", "fox-tiny", "--url", node.url]
    settings = environment() | {"TERM": "xterm"}
    settings.pop("NO_COLOR", None)
    with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=settings) as process:
        os.close(follower)
        seen = _until(leader, b">>> ")
        for question in (b"one\n", b"two\n"):
            os.write(leader, question)
            seen += _until(leader, b">>> ")
        os.write(leader, b"\x04")
        assert process.wait(timeout=60) == 0
    os.close(leader)
    assert b"\x1b[2mFrance? \x1b[0m" in seen
    assert [m["content"] for m in node.bodies[1]["messages"]] == ["one", "Paris\x1b[31m", "two"]


def _until(descriptor: int, mark: bytes) -> bytes:
    """Everything up to and with the next `mark`; the suite's timeout ends a wait in vain."""
    seen = b""
    while not seen.endswith(mark):
        seen += os.read(descriptor, 1)
    return seen
