"""From a push to an answer and back, with real processes: what a fleet does while things change and break."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import threading
import time

import httpx2
import openai
import pytest
from harness import Node, alive, deployment, until

pytestmark = pytest.mark.e2e

QUESTION = "What is 9 * 7?"
ANSWER = "9 * 7 = 63"
GREEDY = {"temperature": 0.0}
SLOW = {"name": "scripted", "options": {"step_seconds": 0.05, "tokens": 120, "echo": "abcdefghij"}}


@pytest.mark.engine
def test_a_push_makes_a_model_answer(node: Node):
    node.start()
    commit = node.push_base(chat=deployment("chat", "fox-tiny", contextTokens=2048))
    node.wait_ready("chat", commit)
    assert node.ask("chat", QUESTION, **GREEDY).strip() == ANSWER
    assert "".join(node.stream("chat", QUESTION, **GREEDY)).strip() == ANSWER
    assert node.get("/fleet/v1/status")["inForce"] == commit


@pytest.mark.engine
@pytest.mark.timeout(400)
def test_replacing_a_model_start_first_fails_no_request_and_a_revert_brings_it_back(node: Node):
    node.start()
    node.push_base(chat=deployment("chat", "fox-tiny", contextTokens=2048))
    node.wait_ready("chat")
    first = node.runner("chat")["pid"]
    failures: list[str] = []
    answers: list[str] = []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            try:
                answers.append(node.ask("chat", QUESTION, **GREEDY))
            except openai.OpenAIError as error:
                failures.append(repr(error))

    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        clients = [pool.submit(client) for _ in range(5)]
        began = time.monotonic()
        try:
            replaced = {first}
            changes = [
                deployment("chat", "fox-tiny-bf16", contextTokens=2048),
                deployment("chat", "fox-tiny-bf16", contextTokens=1024),
            ]
            for text in changes:
                commit = node.push({"fleet/deployments/chat.yaml": text})
                node.wait_ready("chat", commit)
                replaced.add(node.runner("chat")["pid"])
            commit = node.revert()
            node.wait_ready("chat", commit)
            replaced.add(node.runner("chat")["pid"])
            until(lambda: time.monotonic() - began > 60.0, "a minute of load")
        finally:
            stop.set()
        for done in clients:
            done.result()
    assert failures == []
    assert len(replaced) == 4
    assert len(answers) > 20
    assert {answer.strip() for answer in answers} == {ANSWER}


def test_what_is_queued_at_the_old_runner_is_answered_by_the_new_one(node: Node):
    node.start()
    spec = {"engine": {**SLOW, "options": {**SLOW["options"], "tokens": 60}}, "concurrency": 1}
    node.push_base(slow=deployment("slow", "parrot", contextTokens=1024, **spec))
    node.wait_ready("slow")
    old = node.runner("slow")["pid"]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(node.ask, "slow", "hello") for _ in range(4)]
        until(lambda: node.runner("slow")["waiting"] >= 3, "three requests wait")
        commit = node.push({"fleet/deployments/slow.yaml": deployment("slow", "parrot", contextTokens=512, **spec)})
        node.wait_ready("slow", commit)
        answers = [done.result(120) for done in asked]
    assert answers == ["abcdefghij" * 6] * 4
    until(lambda: not alive(old), "the old runner is gone")


def test_an_invalid_manifest_changes_nothing_and_is_named_by_file_and_line(node: Node):
    node.start()
    node.push_base(slow=deployment("slow", "parrot", engine={"name": "scripted"}))
    node.wait_ready("slow")
    before = node.runner("slow")["pid"]
    node.push({"fleet/deployments/slow.yaml": deployment("slow", "parrot", replicaz=2)})
    until(lambda: node.condition("fleet", "demo", "Stalled").get("status") == "True", "the commit is refused")
    stalled = node.condition("fleet", "demo", "Stalled")
    assert stalled["reason"] == "InvalidManifests"
    assert "fleet/deployments/slow.yaml:7:3" in stalled["message"]
    assert "replicas" in stalled["message"] or "replicaz" in stalled["message"]
    assert node.ask("slow", "hello")
    assert node.runner("slow")["pid"] == before
    commit = node.revert()
    node.wait_ready("slow", commit)
    assert node.runner("slow")["pid"] == before


def test_a_killed_runner_comes_back_after_a_pause(node: Node):
    node.start()
    node.push_base(slow=deployment("slow", "parrot", engine={"name": "scripted"}))
    node.wait_ready("slow")
    killed = node.runner("slow")["pid"]
    os.kill(killed, signal.SIGKILL)
    node.wait_replaced("slow", killed)
    assert node.ask("slow", "hello")
    reasons = [event["reason"] for event in node.get("/fleet/v1/events")["items"]]
    assert "Backoff" in reasons


def test_a_killed_runner_ends_its_streams_with_an_error_that_says_so(node: Node):
    node.start()
    node.push_base(slow=deployment("slow", "parrot", engine=SLOW))
    node.wait_ready("slow")
    stream = node.stream("slow", "hello")
    next(stream)
    os.kill(node.runner("slow")["pid"], signal.SIGKILL)
    with pytest.raises(openai.APIError, match="runner"):
        list(stream)


@pytest.mark.engine
def test_a_killed_daemon_leaves_its_runner_which_the_next_one_adopts_without_a_reload(node: Node):
    node.start()
    commit = node.push_base(
        chat=deployment("chat", "fox-tiny", contextTokens=2048), slow=deployment("slow", "parrot", engine=SLOW)
    )
    node.wait_ready("chat", commit)
    node.wait_ready("slow", commit)
    pids = {name: node.runner(name)["pid"] for name in ("chat", "slow")}
    stream = node.stream("slow", "hello")
    next(stream)
    node.end(signal.SIGKILL)
    # The connection is cut without a clean end, so that no client takes the answer for complete.
    with pytest.raises((openai.APIError, httpx2.TransportError)):
        list(stream)
    assert all(alive(pid) for pid in pids.values())
    node.start()
    node.wait_ready("chat")
    for name, pid in pids.items():
        assert node.runner(name)["pid"] == pid
        assert node.runner(name)["adopted"] is True
    assert node.ask("chat", QUESTION, **GREEDY).strip() == ANSWER
    # What the dead daemon had asked for was cancelled: the slot is free.
    until(lambda: node.runner("slow")["running"] == 0, "the lost request was cancelled")


def test_a_restart_under_load_lets_streams_finish_and_keeps_the_runner(node: Node):
    node.start()
    node.push_base(slow=deployment("slow", "parrot", engine=SLOW))
    node.wait_ready("slow")
    pid = node.runner("slow")["pid"]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        stream = node.stream("slow", "hello")
        got = [next(stream)]
        ending = pool.submit(node.end, signal.SIGTERM)
        got += list(stream)
        assert ending.result(120) == 0
    assert "".join(got) == "abcdefghij" * 12
    node.start()
    node.wait_ready("slow")
    assert node.runner("slow")["pid"] == pid


def test_a_frozen_runner_is_replaced(node: Node):
    node.start()
    node.push_base(slow=deployment("slow", "parrot", engine={"name": "scripted"}))
    node.wait_ready("slow")
    frozen = node.runner("slow")["pid"]
    os.kill(frozen, signal.SIGSTOP)
    until(lambda: not alive(frozen), "the frozen runner is killed")
    node.wait_replaced("slow", frozen)
    assert node.ask("slow", "hello")


def test_a_deleted_deployment_is_drained_then_stopped(node: Node):
    node.start()
    node.push_base(
        slow=deployment("slow", "parrot", engine=SLOW), other=deployment("other", "parrot", engine={"name": "scripted"})
    )
    node.wait_ready("slow")
    pid = node.runner("slow")["pid"]
    stream = node.stream("slow", "hello")
    got = [next(stream)]
    node.push({"fleet/deployments/slow.yaml": None})
    got += list(stream)
    assert "".join(got) == "abcdefghij" * 12
    until(lambda: not alive(pid), "the runner is gone")
    with pytest.raises(openai.NotFoundError, match="other"):
        node.ask("slow", "hello")


def test_runners_without_a_daemon_free_their_memory(node_at):
    node = node_at(orphan_seconds=3.0).start()
    node.push_base(slow=deployment("slow", "parrot", engine={"name": "scripted"}))
    node.wait_ready("slow")
    pid = node.runner("slow")["pid"]
    node.end(signal.SIGKILL)
    assert alive(pid)
    until(lambda: not alive(pid), "the orphan ends")
    node.start()
    node.wait_replaced("slow", pid)
    # It ended as agreed: nothing is held against it.
    (placement,) = node.items("placements")
    assert placement["status"]["failures"] == 0


def test_node_stop_ends_everything_even_when_the_daemon_is_dead(node: Node):
    node.start()
    node.push_base(slow=deployment("slow", "parrot", engine={"name": "scripted"}))
    node.wait_ready("slow")
    pid = node.runner("slow")["pid"]
    assert node.end(signal.SIGUSR1) == 0
    assert not alive(pid)
    node.start()
    pid = node.wait_replaced("slow", pid)
    node.end(signal.SIGKILL)
    assert node.skulk("node", "stop", "--config", "node.toml").returncode == 0
    assert not alive(pid)


def test_a_node_whose_manifest_is_removed_drains_and_stays_out(node: Node):
    node.start()
    node.push_base(slow=deployment("slow", "parrot", engine={"name": "scripted"}))
    node.wait_ready("slow")
    pid = node.runner("slow")["pid"]
    node.push({"fleet/nodes/demo.yaml": None})
    until(lambda: not alive(pid), "the runner is stopped")
    assert any(c["reason"] == "Leaving" for c in node.get("/fleet/v1/status")["conditions"])
    commit = node.revert()
    node.wait_ready("slow", commit)


def test_a_remote_that_goes_away_changes_nothing(node: Node):
    node.start()
    node.push_base(slow=deployment("slow", "parrot", engine={"name": "scripted"}))
    node.wait_ready("slow")
    hidden = node.remote.with_suffix(".away")
    node.remote.rename(hidden)
    until(
        lambda: any(c["reason"] == "SourceStale" for c in node.get("/fleet/v1/status")["conditions"]),
        "the source is stale",
    )
    assert node.ask("slow", "hello")
    pid = node.runner("slow")["pid"]
    assert node.end(signal.SIGTERM) == 0
    node.start()
    node.wait_ready("slow")
    assert node.runner("slow")["pid"] == pid
    hidden.rename(node.remote)
    until(
        lambda: not any(c["reason"] == "SourceStale" for c in node.get("/fleet/v1/status")["conditions"]),
        "the source is back",
    )


def test_a_crash_loop_opens_the_breaker_and_a_reset_closes_it(node: Node):
    node.start()
    broken = {"name": "scripted", "options": {"fail_load": "no such tensor: lm_head"}}
    node.push_base(slow=deployment("slow", "parrot", engine=broken))
    until(
        lambda: node.condition("deployments", "slow", "Stalled").get("reason") == "BreakerOpen",
        "the breaker opens",
        context=node.tail,
    )
    assert "no such tensor: lm_head" in node.condition("deployments", "slow", "Stalled")["message"]
    with pytest.raises(openai.InternalServerError) as refused:
        node.ask("slow", "hello")
    assert refused.value.status_code == 503
    assert "lm_head" in refused.value.message
    assert node.http.post("/fleet/v1/reset/slow").json() == {"cleared": 1}
    commit = node.push({"fleet/deployments/slow.yaml": deployment("slow", "parrot", engine={"name": "scripted"})})
    node.wait_ready("slow", commit)
