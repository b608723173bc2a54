"""Failures: a real status before the first byte, an error event after it, and always an end with a reason."""

import json
import threading
from dataclasses import replace

import openai
import pytest
from gateway_fakes import (
    DEADLINE_SECONDS,
    MODEL,
    ROUTE,
    Gate,
    fails,
    never_ends,
    says,
    says_then_waits,
    wait_for,
)

from skulk.core.domain import Finish
from skulk.core.errors import REQ_CONTEXT, REQ_QUEUE_FULL, RUN_LOST, RequestError, Transient

QUESTION = [{"role": "user", "content": "hi"}]
BODY = {"model": "tiny", "messages": QUESTION}
PATH = "/v1/chat/completions"
LOST = RequestError(RUN_LOST, "the runner was lost", status=502, kind="server_error")


@pytest.fixture(params=[False, True], ids=["whole", "stream"])
def stream(request):
    return request.param


def events_of(text):
    return [part.removeprefix("data: ") for part in text.split("\n\n") if part.startswith("data: ")]


def test_an_unknown_model_is_404_and_lists_what_is_there(gateway, stream):
    with gateway.client() as client, pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nope", messages=QUESTION, stream=stream)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert "tiny" in caught.value.message


def test_a_model_that_is_not_ready_is_503_with_the_reason_and_when_to_try_again(serving, gateway, stream):
    model = replace(MODEL, routes=(replace(ROUTE, ready=False),), not_ready="loading weights", progress="40 %")
    serving.publish(models=(model,))
    with gateway.http() as http:
        reply = http.post(PATH, json={**BODY, "stream": stream})
    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) > 0
    assert "loading weights" in reply.json()["detail"]
    assert "40 %" in reply.json()["detail"]
    assert reply.json()["error"]["code"] == "model_not_ready"


def test_a_daemon_that_closes_takes_nothing_new(serving, gateway):
    serving.publish(closing=True)
    with gateway.http() as http:
        reply = http.post(PATH, json=BODY)
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "node_restarting"


@pytest.mark.parametrize(
    ("refusal", "status", "slug"),
    [
        (RequestError(REQ_CONTEXT, "too long", status=400), 400, "context_length_exceeded"),
        (RequestError(REQ_QUEUE_FULL, "full", status=503, retry_after_seconds=3), 503, "queue_full"),
        (Transient(RUN_LOST, "lost"), 503, "runner_lost"),
        (KeyError("a bug with a secret"), 500, "internal_error"),
    ],
)
def test_a_refusal_before_acceptance_has_its_own_status(serving, gateway, stream, refusal, status, slug):
    serving.refusal = refusal
    with gateway.http() as http:
        reply = http.post(PATH, json={**BODY, "stream": stream}, headers={"X-Request-Id": "r-1"})
    assert reply.status_code == status
    error = reply.json()["error"]
    assert (error["code"], error["request_id"]) == (slug, "r-1")
    assert reply.json()["detail"] == error["message"]
    assert "secret" not in reply.text
    assert reply.headers.get("retry-after") == ("3" if slug == "queue_full" else None)


def test_nothing_is_sent_before_the_runner_accepts(serving, gateway):
    serving.accept_gate = Gate()
    with gateway.connect() as sock:
        sock.sendall(post_bytes({**BODY, "stream": True}))
        serving.submitted.result(DEADLINE_SECONDS)
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        sock.settimeout(DEADLINE_SECONDS)
        serving.accept_gate.open()
        assert sock.recv(12) == b"HTTP/1.1 200"


def test_a_failure_after_the_first_piece_is_an_event_in_a_stream(serving, gateway):
    serving.script = fails(LOST, "a", "b")
    with gateway.http() as http:
        reply = http.post(PATH, json={**BODY, "stream": True})
    events = events_of(reply.text)
    assert reply.status_code == 200
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["error"]["code"] == "runner_lost"
    assert len(events) == 4


def test_the_openai_client_raises_what_an_error_event_says(serving, gateway):
    serving.script = fails(LOST, "a")
    with gateway.client() as client:
        stream = client.chat.completions.create(model="tiny", messages=QUESTION, stream=True)
        assert next(stream).choices[0].delta.content == "a"
        with pytest.raises(openai.APIError, match="the runner was lost"):
            next(stream)


def test_the_same_failure_is_a_true_status_without_stream(serving, gateway):
    serving.script = fails(LOST, "a", "b")
    with gateway.http() as http:
        assert http.post(PATH, json=BODY).status_code == 502


@pytest.mark.parametrize(
    ("script", "status", "slug", "words"),
    [
        (says("a", finish=Finish.ERROR, error="out of memory"), 500, "generation_failed", "out of memory"),
        (says("a", finish=Finish.CANCELLED, error="drained"), 499, "request_cancelled", "drained"),
        (fails(ValueError("inner words"), "a"), 500, "internal_error", "request id"),
    ],
)
def test_every_bad_end_is_told(serving, gateway, stream, script, status, slug, words):
    serving.script = script
    with gateway.http() as http:
        reply = http.post(PATH, json={**BODY, "stream": stream})
    failure = json.loads(events_of(reply.text)[-2]) if stream else reply.json()
    assert reply.status_code == (200 if stream else status)
    assert failure["error"]["code"] == slug
    assert words in failure["detail"]
    assert "inner words" not in reply.text


def test_frames_that_break_off_or_skip_a_number_are_errors(serving, gateway):
    async def breaks_off(generation):
        async for tokens in says("a", "b")(generation):
            if tokens.finish is None:
                yield tokens

    async def skips(generation):
        async for tokens in says("a", "b", "c")(generation):
            if tokens.number != 2:
                yield tokens

    with gateway.http() as http:
        for script in (breaks_off, skips):
            serving.script = script
            assert http.post(PATH, json=BODY).status_code == 502
    assert serving.generations[1].why_cancelled()


def test_a_deadline_before_acceptance_is_504(serving, gateway, stream):
    serving.accept_gate = Gate()
    with gateway.http() as http:
        reply = http.post(PATH, json={**BODY, "stream": stream}, headers={"X-Skulk-Deadline-Seconds": "0.05"})
    assert reply.status_code == 504
    assert reply.json()["error"]["code"] == "deadline_exceeded"


def test_a_deadline_after_acceptance_is_504_or_an_event_and_cancels(serving, gateway, stream):
    serving.script = says_then_waits(gate=Gate())
    with gateway.http() as http:
        reply = http.post(PATH, json={**BODY, "stream": stream}, headers={"X-Skulk-Deadline-Seconds": "0.05"})
    failure = json.loads(events_of(reply.text)[-2]) if stream else reply.json()
    assert reply.status_code == (200 if stream else 504)
    assert failure["error"]["code"] == "deadline_exceeded"
    assert serving.generations[0].why_cancelled()


def test_the_deadline_is_for_the_first_token_only(serving, listen):
    gate = Gate()
    serving.script = says_then_waits("a", gate=gate)
    gateway = listen(serving, first_token_seconds=0.2, keep_alive_seconds=0.05)
    seen = ""
    with gateway.http() as http, http.stream("POST", PATH, json={**BODY, "stream": True}) as reply:
        for text in reply.iter_text():
            seen += text
            # Ten keep-alives are more than twice the deadline.
            if seen.count(": keep-alive") >= 10:
                gate.open()
    assert "error" not in seen
    assert seen.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", "1e9"])
def test_a_deadline_that_is_none_is_refused(gateway, text):
    with gateway.http() as http:
        reply = http.post(PATH, json=BODY, headers={"X-Skulk-Deadline-Seconds": text})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "X-Skulk-Deadline-Seconds"


def test_a_client_that_hangs_up_cancels_its_generation(serving, gateway, stream):
    serving.script = says_then_waits("a", gate=Gate())
    with gateway.connect() as sock:
        sock.sendall(post_bytes({**BODY, "stream": stream}))
        if stream:
            assert sock.recv(12) == b"HTTP/1.1 200"
        else:
            serving.submitted.result(DEADLINE_SECONDS)
    wait_for(lambda: serving.generations)
    assert "gone" in serving.generations[0].why_cancelled()


def test_a_client_that_hangs_up_while_it_waits_for_acceptance_is_forgotten(serving, gateway):
    ended = threading.Event()

    async def submit(request):
        serving.submitted.set_result(request)
        try:
            await Gate().passed()
        finally:
            ended.set()

    serving.submit = submit
    with gateway.connect() as sock:
        sock.sendall(post_bytes(BODY))
        serving.submitted.result(DEADLINE_SECONDS)
    assert ended.wait(DEADLINE_SECONDS)


def test_a_request_is_cancelled_by_its_command_id(serving, gateway):
    serving.script = says_then_waits("a", gate=Gate())
    with gateway.client() as client, gateway.http() as http:
        stream = client.chat.completions.create(model="tiny", messages=QUESTION, stream=True)
        command_id = next(stream).id
        reply = http.post(f"/v1/cancel/{command_id}")
        assert reply.json() == {"message": "Command cancelled.", "command_id": command_id}
        with pytest.raises(openai.APIError, match="cancelled"):
            next(stream)
        assert serving.generations[0].why_cancelled()
        wait_for(lambda: http.post(f"/v1/cancel/{command_id}").status_code == 404)


def test_a_client_that_does_not_read_is_cut_off_and_the_runner_goes_free(serving, listen):
    serving.script = never_ends("word " * 200)
    gateway = listen(serving, owner_buffer_bytes_max=100_000, drain_seconds_max=DEADLINE_SECONDS)
    with gateway.connect() as sock:
        sock.sendall(post_bytes({**BODY, "stream": True}))
        wait_for(lambda: serving.generations)
        assert "too slowly" in serving.generations[0].why_cancelled()
        # What was kept can still be read, and the end says why it is one.
        text = b""
        while b"[DONE]" not in text[-40:]:
            text += sock.recv(1 << 20)
    assert b"slow_client" in text


def test_a_client_that_never_reads_its_end_is_dropped(serving, listen):
    serving.script = never_ends("word " * 200)
    gateway = listen(serving, owner_buffer_bytes_max=100_000, drain_seconds_max=0.05)
    with gateway.connect() as sock, gateway.http() as http:
        sock.sendall(post_bytes({**BODY, "stream": True}))
        wait_for(lambda: serving.generations)
        command_id = serving.generations[0].request.id
        serving.generations[0].why_cancelled()
        wait_for(lambda: http.post(f"/v1/cancel/{command_id}").status_code == 404)


def post_bytes(body, path=PATH):
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data
