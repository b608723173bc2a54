"""Runners of both engines that die or freeze, daemons that end, and clients that vanish: in the middle of everything.

All of it on one node. A fault ends what it hits with a true status or an error event and nothing else, and afterwards
the node serves as before: no slot is held, nothing waits for nobody.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from harness import DEADLINE_SECONDS, Node, deployment, until

# Compiling llama.cpp for the first time takes many minutes.
pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.timeout(3600)]

CONCURRENCY = 4
QUEUE_MAX = 64
"""How many may wait at a runner that is started with nothing said of it."""
CARDS = {"gguf": "fox-tiny-gguf", "apple": "fox-tiny"}
"""Deployment → card, one for each engine."""
CONTEXT_TOKENS = {"gguf": 4096, "apple": 1024}
PROMPT_PIECES = {"gguf": 760, "apple": 80}
"""So many are read for seconds: without a GPU mlx takes a hundred times as long for each."""
QUESTION, ANSWER = "What is 9 * 7?", "9 * 7 = 63"
GREEDY = {"temperature": 0.0, "extra_body": {"enable_thinking": False}}
ENDLESS = {"logit_bias": {"0": -100, "2": -100}}
"""What ends an answer is forbidden: it goes on until the context is full."""
CONTENT = b'"content":"'
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, engines_dir: Path, llama_engines_dir: Path) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("faults"), engines_dir, engines=["mlx", "llama_cpp"]) as node:
        node.start()
        names = {name: placed(name) for name in CARDS}
        commit = node.push_base(**names, bird=deployment("bird", "parrot", engine={"name": "scripted"}))
        for name in names:
            node.wait_ready(name, commit)
        yield node


@pytest.fixture(params=[*CARDS])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def placed(model: str, name: str = "") -> str:
    return deployment(name or model, CARDS[model], contextTokens=CONTEXT_TOKENS[model], concurrency=CONCURRENCY)


class Caller:
    """A client by hand: it reads when it likes, and may vanish at any moment."""

    def __init__(self, node: Node, model: str, text: str, *, stream: bool = True, **fields: Any) -> None:
        self.id = f"caller-{next(NUMBERS)}"
        messages = [{"role": "user", "content": text}]
        body = {"model": model, "messages": messages, "stream": stream, "temperature": 0.0, "enable_thinking": False}
        data = json.dumps({**body, **fields}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\nX-Request-Id: {self.id}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        )
        self._socket = socket.create_connection(("127.0.0.1", node.port), DEADLINE_SECONDS)
        self._socket.sendall(head.encode() + data)
        self.seen = b""

    def wait_for(self, words: bytes) -> None:
        """Read on until they come."""
        start = len(self.seen)
        while words not in self.seen[start:]:
            assert self._read(), f"the connection ended without {words!r}: {self.seen!r}"

    def ended(self) -> tuple[int, str, bool]:
        """Read to the end: the status, the code of the error if there is one, and whether any content came."""
        while self._read():
            pass
        self._socket.close()
        code = re.search(rb'"error":\{.*?"code":"([a-z_]+)"', self.seen)
        return int(self.seen.split()[1]), code[1].decode() if code else "", CONTENT in self.seen

    def vanish(self) -> None:
        self._socket.close()

    def _read(self) -> bool:
        data = self._socket.recv(65536)
        self.seen += data
        return bool(data)


def long_prompt(model: str) -> str:
    """No two begin alike, so that none is taken from another one's."""
    return f"{next(NUMBERS)} " + "The quick brown fox. " * PROMPT_PIECES[model]


def busy(node: Node, model: str) -> tuple[int, int]:
    """How many run and how many wait."""
    runner = node.runner(model)
    return runner["running"], runner["waiting"]


def wait_busy(node: Node, model: str, running: int, waiting: int) -> None:
    until(lambda: busy(node, model) == (running, waiting), f"{running} run and {waiting} wait", context=node.tail)


def answers(node: Node, model: str) -> None:
    assert node.ask(model, QUESTION, **GREEDY).strip() == ANSWER


def hold_all_slots(node: Node, model: str) -> list[Caller]:
    holders = [Caller(node, model, "Count from 1 to 100.", **ENDLESS) for _ in range(CONCURRENCY)]
    for holder in holders:
        holder.wait_for(CONTENT)
        holder.wait_for(CONTENT)
    return holders


def check_all_slots_are_free(node: Node, model: str) -> None:
    """What was abandoned would go on for hundreds of tokens in its slot, or in the next that is free."""
    wait_busy(node, model, 0, 0)
    answers(node, model)  # the step that was under way is over
    holders = hold_all_slots(node, model)
    for holder in holders:
        holder.vanish()
    lines = [node.finished(holder.id) for holder in holders]
    assert {line["error"] for line in lines} == {"client_gone"}
    # In tokens, not in seconds: a busy machine does everything more slowly.
    waited = max(line["queue_seconds"] for line in lines) * min(line["generation_tps"] for line in lines)
    assert waited < 100, "a slot was taken"
    wait_busy(node, model, 0, 0)
    answers(node, model)


# --- runners --------------------------------------------------------------------------------------------------


class Crowd:
    """Something in every stage: two are answered, the prompts of two are read, one waits for a slot."""

    def __init__(self, node: Node, model: str) -> None:
        self.answered = [
            Caller(node, model, "Count from 1 to 100.", stream=stream, **ENDLESS) for stream in (True, False)
        ]
        self.answered[0].wait_for(CONTENT)
        wait_busy(node, model, 2, 0)
        self.read = [Caller(node, model, long_prompt(model), stream=stream) for stream in (True, False)]
        wait_busy(node, model, 4, 0)
        self.waits = Caller(node, model, QUESTION, stream=False)
        wait_busy(node, model, 4, 1)

    def check_told(self) -> None:
        """All that had a slot ended with a reason: a status where nothing was sent, else an event."""
        assert [caller.ended() for caller in self.answered] == [
            (200, "runner_lost", True),
            (502, "runner_lost", False),
        ]
        assert [caller.ended() for caller in self.read] == [(200, "runner_lost", False), (502, "runner_lost", False)]
        assert b"data: [DONE]" in self.answered[0].seen
        assert b"data: [DONE]" in self.read[0].seen


def test_a_runner_that_is_killed_ends_what_it_had_with_a_reason_and_is_replaced(node: Node, model: str):
    (other,) = CARDS.keys() - {model}
    pid, others = node.runner(model)["pid"], node.runner(other)["pid"]
    crowd = Crowd(node, model)
    os.kill(pid, signal.SIGKILL)
    answers(node, other)
    crowd.check_told()
    node.wait_replaced(model, pid)
    # What had not begun is begun by the next one.
    assert crowd.waits.ended() == (200, "", True)
    assert ANSWER.encode() in crowd.waits.seen
    assert node.runner(other)["pid"] == others
    check_all_slots_are_free(node, model)


def hit_while_loading(node: Node, number: signal.Signals, *names: str) -> dict[str, int]:
    """Send a signal to the first runner of each deployment on its way to ready; returns their pids."""
    hit: dict[str, int] = {}

    def all_hit() -> bool:
        for runner in node.items("runners"):
            name, phase = runner["status"]["deployment"], runner["status"]["phase"]
            if name in names and name not in hit:
                assert phase != "Ready", f"nobody saw {name} load"
                if phase in ("Loading", "Warming"):
                    hit[name] = runner["status"]["pid"]
                    os.kill(hit[name], number)
        return len(hit) == len(names)

    until(all_hit, f"{names} load", context=node.tail, pause_seconds=0.005)
    return hit


def test_a_runner_that_is_killed_while_it_loads_is_started_again_and_serves(node: Node, model: str):
    name = f"killed-{model}"
    file = f"fleet/deployments/{name}.yaml"
    node.push({file: placed(model, name)})
    pid = hit_while_loading(node, signal.SIGKILL, name)[name]
    for served in CARDS:
        answers(node, served)
    node.wait_replaced(name, pid)
    node.wait_ready(name)
    answers(node, name)
    node.push({file: None})


def test_runners_that_freeze_whatever_they_do_end_it_with_a_reason_and_are_replaced(node: Node):
    """All of them at once: what takes long is the patience with a silent runner."""
    late = {f"frozen-{model}": placed(model, f"frozen-{model}") for model in CARDS}
    node.push({f"fleet/deployments/{name}.yaml": text for name, text in late.items()})
    pids = hit_while_loading(node, signal.SIGSTOP, *late)
    crowds = []
    for model in CARDS:
        pids[model] = node.runner(model)["pid"]
        crowds.append(Crowd(node, model))
        os.kill(pids[model], signal.SIGSTOP)
    assert node.ask("bird", "hello").startswith("The quick brown fox")
    for crowd in crowds:
        crowd.check_told()
        # As the next runner comes before its patience ends, or not.
        status, code, answered = crowd.waits.ended()
        assert (status, answered) == (200, True) or (status in (502, 503) and code)
    for name, pid in pids.items():
        node.wait_replaced(name, pid)
        node.wait_ready(name)
    for name in late:
        answers(node, name)
    for model in CARDS:
        check_all_slots_are_free(node, model)
    node.push({f"fleet/deployments/{name}.yaml": None for name in late})


# --- clients --------------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_the_next_client_and_those_that_vanish_from_it_leave_nothing(node: Node, model: str):
    holders = hold_all_slots(node, model)
    queue = [Caller(node, model, QUESTION, stream=i % 2 == 0, **ENDLESS) for i in range(QUEUE_MAX)]
    wait_busy(node, model, CONCURRENCY, QUEUE_MAX)
    for stream in (True, False):
        with pytest.raises(openai.InternalServerError) as refused:
            node.openai.chat.completions.create(
                model=model, messages=[{"role": "user", "content": QUESTION}], stream=stream
            )
        assert (refused.value.status_code, refused.value.code) == (503, "queue_full")
        assert int(refused.value.response.headers["Retry-After"]) > 0
    for caller in queue:
        caller.vanish()
    wait_busy(node, model, CONCURRENCY, 0)
    lines = [node.finished(caller.id) for caller in queue]
    assert {(line["status"], line["error"]) for line in lines} == {(499, "client_gone")}
    for holder in holders:
        holder.wait_for(CONTENT)
        holder.vanish()
    check_all_slots_are_free(node, model)


def test_clients_that_vanish_while_their_prompts_are_read_leave_their_slots(node: Node, model: str):
    callers = [Caller(node, model, long_prompt(model), stream=stream, **ENDLESS) for stream in (True, False)]
    wait_busy(node, model, 2, 0)
    for caller in callers:
        caller.vanish()
    lines = [node.finished(caller.id) for caller in callers]
    assert [(line["error"], line["completion_tokens"]) for line in lines] == [("client_gone", 0)] * 2
    check_all_slots_are_free(node, model)


def test_clients_that_vanish_while_they_are_answered_leave_their_slots(node: Node, model: str):
    streams = [Caller(node, model, "Count from 1 to 100.", **ENDLESS) for _ in range(CONCURRENCY - 1)]
    whole = Caller(node, model, "Count from 1 to 100.", stream=False, **ENDLESS)
    for caller in streams:
        caller.wait_for(CONTENT)
    wait_busy(node, model, CONCURRENCY, 0)
    for caller in (*streams, whole):
        caller.vanish()
    lines = [node.finished(caller.id) for caller in (*streams, whole)]
    assert {line["error"] for line in lines} == {"client_gone"}
    check_all_slots_are_free(node, model)


def test_clients_that_vanish_at_the_last_token_leave_their_slots(node: Node, model: str):
    for end in (CONTENT, b'"finish_reason":"length"'):
        for _ in range(CONCURRENCY + 1):
            caller = Caller(node, model, "Count from 1 to 100.", max_tokens=1)
            caller.wait_for(end)
            caller.vanish()
            assert node.finished(caller.id)["completion_tokens"] == 1
    check_all_slots_are_free(node, model)


# --- daemons --------------------------------------------------------------------------------------------------


def test_a_daemon_that_ends_in_the_middle_of_a_grammar_leaves_none_to_the_next(node: Node):
    def held_to(schema: dict[str, Any]) -> dict[str, Any]:
        return {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}

    pids = {model: node.runner(model)["pid"] for model in CARDS}
    text = held_to({"type": "string", "minLength": 3000})
    callers = [Caller(node, model, "Tell me a story about a fox.", response_format=text) for model in CARDS]
    for caller in callers:
        caller.wait_for(CONTENT)
    node.end(signal.SIGKILL)
    for caller in callers:
        assert b"[DONE]" not in caller.seen
        caller.vanish()
    node.start()
    for model, pid in pids.items():
        node.wait_ready(model)
        assert (node.runner(model)["pid"], node.runner(model)["adopted"]) == (pid, True)
        answers(node, model)
        number = held_to({"type": "integer", "minimum": 1000, "maximum": 1009})
        assert 1000 <= int(node.ask(model, QUESTION, response_format=number, **GREEDY)) <= 1009
        check_all_slots_are_free(node, model)
