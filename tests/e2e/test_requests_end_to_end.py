"""What a client and a person at a terminal see of a real node."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import signal

import openai
import pytest
from harness import Node, alive, deployment, until

pytestmark = pytest.mark.e2e

SLOW = {"name": "scripted", "options": {"step_seconds": 0.05, "tokens": 600, "echo": "abcdefghij"}}


def test_a_client_that_goes_away_frees_the_slot(node: Node):
    node.start()
    node.push_base(slow=deployment("slow", "parrot", engine=SLOW))
    node.wait_ready("slow")
    stream = node.openai.chat.completions.create(
        model="slow", messages=[{"role": "user", "content": "hello"}], stream=True
    )
    next(iter(stream))
    until(lambda: node.runner("slow")["running"] == 1, "it runs")
    stream.close()
    until(lambda: node.runner("slow")["running"] == 0, "its slot is free long before it would have ended")


def test_a_stop_string_ends_the_answer_and_frees_the_slot(node: Node):
    node.start()
    node.push_base(slow=deployment("slow", "parrot", engine=SLOW))
    node.wait_ready("slow")
    assert node.ask("slow", "hello", stop=["hij"]) == "abcdefg"
    until(lambda: node.runner("slow")["running"] == 0, "its slot is free")


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
