"""What probes, scrapers and log readers see."""

import json
from dataclasses import replace

import pytest
from gateway_fakes import COMMIT, Gate, fails, says, says_then_waits, says_until_cancelled, wait_for
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from skulk.core.domain import Accepted, Check, Condition, ConditionType, NodeName, Reason, Resource, Status
from skulk.core.errors import REQ_QUEUE_FULL, RUN_LOST, RequestError

QUESTION = [{"role": "user", "content": "a secret prompt"}]
BODY = {"model": "chat", "messages": QUESTION}
PATH = "/v1/chat/completions"


@pytest.mark.parametrize("path", ["/readyz", "/healthz", "/health"])
def test_ready_follows_the_checks(serving, gateway, path):
    with gateway.http() as http:
        assert (http.get(path).status_code, http.get(path).text) == (200, "ok\n")
        serving.publish(checks=(Check("source", False, "fleet/a.yaml:3 is wrong"),))
        bad = http.get(path)
        assert (bad.status_code, bad.text) == (503, "not ready\n")
        verbose = http.get(path + "?verbose")
        assert verbose.status_code == 503
        assert "[-]source fleet/a.yaml:3 is wrong" in verbose.text
        assert "[+]commit" in verbose.text
        assert http.head(path).status_code == 503


def test_a_node_without_a_commit_or_about_to_end_is_not_ready(serving, gateway):
    with gateway.http() as http:
        serving.publish(in_force=None)
        assert http.get("/readyz").status_code == 503
        serving.publish(in_force=COMMIT, closing=True)
        assert "[-]closing" in http.get("/readyz?verbose=1").text


def test_settled_asks_for_more_than_ready(serving, gateway):
    loading = Check("placements", False, "1 of 2 placements are ready", settling=True)
    with gateway.http() as http:
        serving.publish(checks=(loading,))
        assert http.get("/readyz").status_code == 200, "it serves what it has"
        for asked in ("settled", "settled=1", "settled=true"):
            assert (http.get(f"/readyz?{asked}").status_code, http.get(f"/readyz?{asked}").text) == (503, "not ready\n")
            assert http.head(f"/readyz?{asked}").status_code == 503
        assert http.get("/readyz?settled=false").status_code == 200
        assert http.get("/livez?settled").status_code == 200
        verbose = http.get("/readyz?settled&verbose")
        assert verbose.text.endswith("readyz failed\n")
        assert "[-]placements 1 of 2 placements are ready" in verbose.text
        plain = http.get("/readyz?verbose")
        assert (plain.status_code, "[-]placements" in plain.text) == (200, True), "named, though it does not count"
        serving.publish(checks=(Check("placements", True, "2 of 2 placements are ready", settling=True),))
        assert http.get("/readyz?settled").status_code == 200
        serving.publish(in_force=None)
        assert http.get("/readyz?settled").status_code == 503, "what counts for ready counts here too"


def test_live_looks_at_the_loop_alone(serving, gateway):
    with gateway.http() as http:
        serving.publish(in_force=None, closing=True, checks=(Check("source", False, "x"), Check("loop", True, "")))
        assert http.get("/livez").status_code == 200
        serving.publish(checks=(Check("loop", False, "no tick for 60 s"),))
        assert http.get("/livez").status_code == 503
        assert "no tick" in http.get("/livez?verbose").text


def test_readings_of_the_own_node_are_metrics_and_what_is_unknown_has_no_sample(serving, gateway):
    card = {"name": "GPU", "vendor": "amd", "utilisation": 0.5, "memoryUsedBytes": 7, "powerWatts": None}
    status = {
        "readings": {
            "memory": {"ageSeconds": 1.0, "totalBytes": 100, "availableBytes": 40, "swapUsedBytes": None},
            "accelerator": {"devices": [card, {**card, "utilisation": None}]},
            "disk": {"disks": [{"path": "/state", "freeBytes": 12}]},
        },
        "health": {"state": "degraded", "findings": []},
    }
    other = Resource("Node", "two", {}, {"readings": {"memory": {"totalBytes": 999}}})
    serving.publish(resources={"nodes": (Resource("Node", "one", {}, status), other)})
    with gateway.http() as http:
        found = samples(http)
    first = {"device": "0", "name": "GPU", "vendor": "amd"}
    assert value(found, "skulk_node_memory_total_bytes") == 100
    assert value(found, "skulk_node_swap_used_bytes") is None
    assert value(found, "skulk_node_disk_free_bytes", path="/state") == 12
    assert value(found, "skulk_accelerator_utilisation_ratio", **first) == 0.5
    assert value(found, "skulk_accelerator_utilisation_ratio", **first | {"device": "1"}) is None
    assert value(found, "skulk_accelerator_memory_used_bytes", **first | {"device": "1"}) == 7
    assert not [name for name, _ in found if name == "skulk_accelerator_power_watts"]
    assert [value(found, "skulk_node_health", state=s) for s in ("ok", "degraded", "failing")] == [0, 1, 0]


def samples(http):
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples}


def value(found, metric, /, **labels):
    return found.get((metric, tuple(sorted(labels.items()))))


def test_metrics_count_what_clients_got(serving, gateway):
    model = {"gen_ai_request_model": "tiny", "gen_ai_provider_name": "skulk"}
    route = {"route": PATH, "method": "POST"}
    with gateway.http() as http:
        http.post(PATH, json=BODY)
        http.post(PATH, json={**BODY, "stream": True})
        serving.script = fails(RequestError(RUN_LOST, "lost", status=502), "a")
        http.post(PATH, json=BODY)
        # Counted when a request is over, which is a moment after its client has the answer.
        wait_for(lambda: value(samples(http), "skulk_http_requests_total", **route, status="502"))
        found = samples(http)
    assert value(found, "gen_ai_server_time_to_first_token_seconds_count", **model) == 3
    assert value(found, "gen_ai_server_time_per_output_token_seconds_count", **model) == 2
    duration = "gen_ai_server_request_duration_seconds_count"
    assert value(found, duration, **model, error_type="") == 2
    assert value(found, duration, **model, error_type="SK-RUN-008") == 1
    usage = "gen_ai_client_token_usage_sum"
    assert value(found, usage, **model, gen_ai_token_type="input") == 9
    assert value(found, usage, **model, gen_ai_token_type="output") == 5
    assert value(found, "skulk_http_requests_total", **route, status="200") == 2
    assert value(found, "skulk_http_requests_total", **route, status="502") == 1


def test_names_that_clients_invent_make_no_series(gateway):
    with gateway.http() as http:
        for number in range(10):
            http.post(PATH, json={**BODY, "model": f"invented-{number}"})
            http.get(f"/invented-{number}")
            http.get(f"/v1/models/invented-{number}")
        wait_for(lambda: 'status="404"} 10.0' in http.get("/metrics").text)
        text = http.get("/metrics").text
    assert "invented" not in text
    assert 'gen_ai_request_model="unknown"' in text


def test_runners_of_other_nodes_are_left_to_their_own_scrape(serving, gateway):
    view = serving.view()
    (model,) = [m for m in view.models if m.names[0] == "tiny"]
    there = replace(model, routes=tuple(replace(route, node=NodeName("two")) for route in model.routes))
    (runner,) = view.resources["runners"]
    runners = (replace(runner, status={**runner.status, "node": "two"}),)
    with gateway.http() as http:
        serving.publish(models=(there,), resources={**view.resources, "runners": runners})
        text = http.get("/metrics").text
    assert "skulk_runner_state{" not in text
    assert "skulk_requests_running{" not in text


def test_state_metrics_are_those_of_the_view_at_the_scrape(serving, gateway):
    stalled = Condition(ConditionType.STALLED, Status.TRUE, Reason.INVALID_MANIFESTS, "x")
    labels = {"type": "Stalled", "status": "True", "reason": "InvalidManifests"}
    runner = {"runner": "a" * 16, "deployment": "chat", "state": "ready"}
    with gateway.http() as http:
        serving.publish(conditions=(stalled,))
        found = samples(http)
        assert value(found, "skulk_condition", kind="node", name="one", **labels) == 1
        assert value(found, "skulk_applied_commit_info", node="one", commit=COMMIT) == 1
        assert value(found, "skulk_runner_state", **runner) == 1
        placement = {"model": "tiny", "deployment": "chat", "placement": "a" * 16}
        assert value(found, "skulk_requests_running", **placement) == 1
        assert value(found, "skulk_requests_waiting", **placement) == 2
        assert value(found, "skulk_node_ready") == 1
        serving.publish(conditions=(), resources={})
        found = samples(http)
        assert value(found, "skulk_condition", kind="node", name="one", **labels) is None
        assert value(found, "skulk_runner_state", **runner) is None


def test_every_app_counts_for_itself(serving, listen):
    first, second = listen(serving), listen(serving)
    with first.http() as one, second.http() as two:
        one.post(PATH, json=BODY)
        wait_for(lambda: "completions" in one.get("/metrics").text)
        assert "completions" not in two.get("/metrics").text


def test_a_finished_request_is_logged_once_without_its_content(serving, listen):
    serving.script = says("a secret answer", "!")
    with capture_logs() as logs:
        gateway = listen(serving)
        with gateway.http() as http:
            http.post(PATH, json=BODY, headers={"X-Request-Id": "r-9"})
        gateway.close()
    [entry] = [entry for entry in logs if entry.get("request_id") == "r-9"]
    assert entry["event"] == "request_finished"
    assert (entry["model"], entry["status"], entry["finish"]) == ("tiny", 200, "stop")
    assert (entry["prompt_tokens"], entry["completion_tokens"]) == (3, 2)
    assert entry["ttft_seconds"] >= 0
    assert "secret" not in json.dumps(logs, default=str)


def test_what_is_logged_of_a_chat_says_how_long_it_waited_and_how_fast_it_was(serving, listen):
    # Six tokens of the prompt were computed; by the clock of the runner, a second passes before each token.
    serving.accepted = Accepted((1,) * 9, 9, 3, in_reasoning=False, context_left=9, queue_seconds=0.75)
    serving.script = says("a", "b", "c")
    with capture_logs() as logs:
        gateway = listen(serving)
        with gateway.http() as http:
            stats = http.post(PATH, json=BODY, headers={"X-Request-Id": "whole"}).json()["generation_stats"]
            http.post(PATH, json={**BODY, "stream": True}, headers={"X-Request-Id": "stream"})
            serving.refusal = RequestError(REQ_QUEUE_FULL, "full", status=503)
            http.post(PATH, json=BODY, headers={"X-Request-Id": "refused"})
        gateway.close()
    lines = {entry["request_id"]: entry for entry in logs if entry["event"] == "request_finished"}
    for name in ("whole", "stream"):
        line = lines[name]
        assert (line["queue_seconds"], line["prompt_tps"], line["generation_tps"]) == (0.75, 6.0, 1.0)
        assert 0 < line["ttft_seconds"] <= line["seconds"]
    assert lines["whole"]["ttft_seconds"] == round(stats["time_to_first_token_seconds"], 6)
    numbers = {"queue_seconds", "prompt_tps", "generation_tps", "ttft_seconds", "prompt_tokens", "completion_tokens"}
    assert not numbers & lines["refused"].keys()
    assert lines["refused"]["error"] == "SK-REQ-006"


@pytest.mark.parametrize("script", [says_then_waits("a", gate=Gate()), says_until_cancelled("a")])
def test_a_client_that_left_is_logged_as_gone(serving, listen, script):
    serving.script = script
    with capture_logs() as logs:
        gateway = listen(serving)
        with gateway.http() as http, http.stream("POST", PATH, json={**BODY, "stream": True}) as reply:
            next(reply.iter_lines())
        serving.generations[0].why_cancelled()
        gateway.close()
    [entry] = [entry for entry in logs if entry["event"] == "request_finished"]
    assert entry["error"] == "client_gone"


def test_a_crash_is_logged_with_its_place_and_without_local_variables(serving, listen):
    serving.refusal = KeyError("a bug")
    with capture_logs() as logs:
        gateway = listen(serving)
        with gateway.http() as http:
            http.post(PATH, json=BODY, headers={"X-Request-Id": "r-7"})
        gateway.close()
    [crash] = [entry for entry in logs if entry["event"] == "request_crashed"]
    assert crash["request_id"] == "r-7"
    assert "KeyError: 'a bug'" in crash["exception"]
    assert "secret" not in json.dumps(logs, default=str)
