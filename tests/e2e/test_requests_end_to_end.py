"""What a client and a person at a terminal see of a real node; requests also of one that serves for another."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest
from fleet_harness import Fleet
from harness import Node, alive, deployment, until

pytestmark = pytest.mark.e2e

SENTENCE = "The quick brown fox jumps over the lazy dog. Größe, 東京, 🦊."
SLOW = {"name": "scripted", "options": {"step_seconds": 0.05, "tokens": 600, "echo": "abcdefghij"}}


class Way(NamedTuple):
    """Where a request comes in, and where it is served."""

    gateway: Node
    server: Node

    def running(self, name: str) -> int:
        return int(self.server.runner(name)["running"])

    def complete(self, model: str, **more: Any) -> Any:
        messages: Any = [{"role": "user", "content": "hello"}]
        return self.gateway.openai.chat.completions.create(model=model, messages=messages, **more)


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory, engines_dir: Path) -> Iterator[Fleet]:
    """`near` serves clients only, `far` the models."""
    scripted = {
        "slow": SLOW,
        "plain": {"name": "scripted"},
        "failing": {"name": "scripted", "options": {"fail_step_every": 8}},
        "crashing": {"name": "scripted", "options": {"crash_after": 12, "step_seconds": 0.05}},
    }
    with Fleet(tmp_path_factory.mktemp("two"), engines_dir) as fleet:
        fleet.add("near", "  participation: management\n", engines=[])
        fleet.add("far", engines=[])
        names = {n: deployment(n, "parrot", engine=e, contextTokens=2048) for n, e in scripted.items()}
        commit = fleet.push_base(**names)
        fleet.start()
        fleet.wait_whole(commit)
        yield fleet


@pytest.fixture(params=["local", "remote"])
def way(request: pytest.FixtureRequest, two_nodes: Fleet) -> Way:
    return Way(two_nodes["far" if request.param == "local" else "near"], two_nodes["far"])


def test_a_client_that_goes_away_frees_the_slot(way: Way):
    stream = way.complete("slow", stream=True)
    next(iter(stream))
    until(lambda: way.running("slow") == 1, "it runs")
    stream.close()
    until(lambda: way.running("slow") == 0, "its slot is free long before it would have ended")


def test_a_stop_string_ends_the_answer_and_frees_the_slot(way: Way):
    answer = way.complete("slow", stop=["hij"])
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("abcdefg", "stop")
    until(lambda: way.running("slow") == 0, "its slot is free")


def test_a_character_that_comes_in_pieces_arrives_whole(way: Way):
    """The scripted engine's tokens are single bytes."""
    whole = way.complete("plain")
    pieces = [c.choices[0].delta.content or "" for c in way.complete("plain", stream=True) if c.choices]
    assert whole.choices[0].message.content == "".join(pieces) == SENTENCE
    assert "\ufffd" not in "".join(pieces)
    assert whole.usage.completion_tokens >= len(SENTENCE.encode())


def test_length_and_usage_are_told(way: Way):
    answer = way.complete("plain", max_tokens=7)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("The qui", "length")
    assert answer.usage.completion_tokens == 7
    streamed = list(way.complete("plain", max_tokens=7, stream=True, stream_options={"include_usage": True}))
    assert streamed[-1].usage == answer.usage


def test_a_prompt_that_is_too_long_is_refused_before_anything_is_sent(way: Way):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            way.gateway.ask("plain", "x" * 5000, stream=stream)
        assert refused.value.code == "context_length_exceeded"


def test_a_step_that_fails_ends_a_stream_with_an_error_and_an_answer_with_a_status(way: Way):
    with pytest.raises(openai.APIError) as told:
        list(way.complete("failing", stream=True))
    assert not isinstance(told.value, openai.APIStatusError)
    with pytest.raises(openai.InternalServerError):
        way.complete("failing")


def test_a_runner_that_dies_ends_a_stream_with_an_error_that_says_so(way: Way):
    until(lambda: way.gateway.condition("deployments", "crashing").get("status") == "True", "it is Ready")
    with pytest.raises(openai.APIError, match="runner"):
        list(way.complete("crashing", stream=True))


def test_a_runner_that_hangs_in_its_warm_up_is_a_wedge_and_is_not_retried(node: Node):
    node.start(SKULK_WARMUP_DEADLINE_SECONDS="2")
    hung = {"name": "scripted", "options": {"wedge": "warmup"}}
    node.push_base(slow=deployment("slow", "parrot", engine=hung))
    until(lambda: node.condition("deployments", "slow", "Stalled").get("reason") == "Wedged", "it is given up")
    started = [e for e in node.get("/fleet/v1/events")["items"] if e["reason"] == "Starting"]
    assert len(started) == 1
    assert node.http.get("/readyz").status_code == 200


def test_the_command_line_tells_the_story_of_a_deployment(node: Node):
    node.start()
    commit = node.push_base(slow=deployment("slow", "parrot", engine={"name": "scripted"}))
    waited = node.skulk("wait", "deployment/slow", "--for=Ready", "--timeout", "2m")
    assert waited.returncode == 0, waited.stderr
    assert node.skulk("wait", "fleet", f"--for=applied={commit}", "--timeout", "1m").returncode == 0
    (uid,) = [p["name"] for p in node.items("placements")]
    assert (
        node.skulk("get", "placements", "-o", "name").stdout.split() == [f"placements/{uid}"]
        or uid in node.skulk("get", "placements", "-o", "name").stdout
    )
    assert uid in node.skulk("why", "slow").stdout
    assert node.skulk("describe", "deployment", "slow").returncode == 0
    answer = node.skulk("run", "slow", "hello")
    assert (answer.returncode, answer.stdout.strip()[:9]) == (0, "The quick")
    assert node.skulk("logs", "slow").stdout
    assert "Ready" in node.skulk("events").stdout
    missing = node.skulk("run", "nothing", "hello")
    assert missing.returncode != 0
    assert "slow" in missing.stderr
    pid = node.runner("slow")["pid"]
    stopped = node.skulk("node", "stop", "--config", "node.toml")
    assert stopped.returncode == 0, stopped.stderr
    assert not alive(pid)


def test_a_second_daemon_of_the_same_state_and_a_taken_port_are_named(node: Node):
    node.start()
    again = node.skulk("node", "run", "--config", "node.toml")
    assert again.returncode != 0
    assert "SK-CFG-005" in again.stderr
    assert str(node.daemon.pid) in again.stderr
    other = (node.base / "node.toml").read_text().replace(str(node.state), str(node.base / "other"))
    (node.base / "other.toml").write_text(other)
    taken = node.skulk("node", "run", "--config", "other.toml")
    assert taken.returncode != 0
    assert "SK-CFG-003" in taken.stderr
    assert str(node.port) in taken.stderr


def test_metrics_name_the_commit_and_the_runners(node: Node):
    node.start()
    commit = node.push_base(slow=deployment("slow", "parrot", engine={"name": "scripted"}))
    node.wait_ready("slow", commit)
    node.ask("slow", "hello")
    counted = "gen_ai_server_time_to_first_token_seconds_count"
    # A request is counted when its last byte is out, which the client may see first.
    until(lambda: counted in node.http.get("/metrics").text, "the request is counted")
    text = node.http.get("/metrics").text
    assert f'commit="{commit}"' in text
    assert "skulk_runner_state" in text


def test_a_client_on_a_dead_node_is_cut_off_and_the_slot_is_free_for_the_next_daemon(node: Node):
    node.start()
    node.push_base(slow=deployment("slow", "parrot", engine=SLOW))
    node.wait_ready("slow")
    stream = node.stream("slow", "hello")
    next(stream)
    pid = node.runner("slow")["pid"]
    os.kill(node.daemon.pid, signal.SIGKILL)
    node.daemon.wait()
    node.start()
    node.wait_ready("slow")
    assert node.runner("slow")["pid"] == pid
    until(lambda: node.runner("slow")["running"] == 0, "the orphaned request was cancelled")


def test_a_directory_that_is_edited_is_followed(node_at, tmp_path):
    watched = tmp_path / "watched"
    node = node_at(source={"directory": str(watched)})
    node.push_base(slow=deployment("slow", "parrot", engine={"name": "scripted"}))
    shutil.copytree(node.checkout, watched, ignore=shutil.ignore_patterns(".git"))
    node.start()
    node.wait_ready("slow")
    manifest = watched / "fleet" / "deployments" / "slow.yaml"
    manifest.write_text(deployment("slow", "parrot", replicaz=1))
    until(lambda: node.condition("fleet", "demo", "Stalled").get("reason") == "InvalidManifests", "it is refused")
    assert "slow.yaml:7:3" in node.condition("fleet", "demo", "Stalled")["message"]
    manifest.write_text(deployment("slow", "parrot", engine={"name": "scripted", "options": {"echo": "edited"}}))
    until(lambda: node.ask("slow", "hello") == "edited", "the edit is served")


def test_the_fleet_sets_what_is_logged(node: Node):
    node.start()
    node.push_base(slow=deployment("slow", "parrot", engine={"name": "scripted"}))
    node.wait_ready("slow")
    fleet = (node.checkout / "fleet" / "fleet.yaml").read_text()
    commit = node.push({"fleet/fleet.yaml": fleet + "  logging:\n    level: debug\n"})
    until(lambda: node.get("/fleet/v1/status")["inForce"] == commit, "the commit is in force")
    until(lambda: '"level": "debug"' in node.tail(200), "debug lines are there", context=node.tail)


def test_a_stream_that_outlasts_the_patience_of_a_restart_ends_with_an_error_that_says_so(node: Node):
    node.start()
    endless = {"name": "scripted", "options": {"step_seconds": 0.2, "tokens": 900, "echo": "abcdefghij"}}
    node.push_base(slow=deployment("slow", "parrot", engine=endless))
    node.wait_ready("slow")
    pid = node.runner("slow")["pid"]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        stream = node.stream("slow", "hello")
        next(stream)
        ending = pool.submit(node.end, signal.SIGTERM)
        with pytest.raises(openai.APIError, match="restarting"):
            list(stream)
        assert ending.result(120) == 0
    assert alive(pid)
