"""Garbage in: each kind is refused with its status, names the field or position, and hurts nobody else."""

import contextlib
import json

import pytest
from gateway_fakes import Gate, says_then_waits, wait_for

from skulk.node.http_protocol import HEAD_BYTES_MAX

QUESTION = [{"role": "user", "content": "hi"}]
PATH = "/v1/chat/completions"
MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b'{"model": "tiny",', "line 1, column 18"),
        (b'{"model":\n nope}', "line 2, column 2"),
        (b"[1, 2]", "JSON object"),
        (b'"text"', "JSON object"),
        (b'{"model": "\xff"}', "byte 11"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"seed": ' + b"1" * 5000 + b"}", "too many digits"),
    ],
)
def test_a_body_that_is_no_json_object_is_400_with_the_place(gateway, body, words):
    with gateway.http() as http:
        reply = http.post(PATH, content=body)
    assert reply.status_code == 400
    assert words in reply.json()["error"]["message"]


def test_the_content_type_does_not_matter(gateway):
    with gateway.http() as http:
        body = json.dumps({"model": "tiny", "messages": QUESTION})
        assert http.post(PATH, content=body, headers={"Content-Type": "text/plain"}).status_code == 200
        assert http.post(PATH, content=b"\xef\xbb\xbf" + body.encode()).status_code == 200


def test_a_field_that_is_refused_is_named(gateway):
    with gateway.http() as http:
        for field, value in [("tools", {}), ("n", 0), ("temperature", float("nan")), ("frobnicate", 1)]:
            text = json.dumps({"model": "tiny", "messages": QUESTION, field: value})
            reply = http.post(PATH, content=text)
            assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)


def test_lone_surrogates_become_replacement_characters(serving, gateway):
    with gateway.http() as http:
        text = '{"model": "tiny", "messages": [{"role": "user", "content": "a\\ud800b"}]}'
        assert http.post(PATH, content=text).status_code == 200
        bad_name = http.post(PATH, content='{"model": "\\udfff", "messages": [{"role": "user", "content": "a"}]}')
    assert serving.generations[0].request.messages[0].content == "a\ufffdb"
    assert bad_name.status_code == 404


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_17_mib_is_413(serving, gateway, chunked):
    data = b"x" * (17 * MIB)
    with gateway.http() as http:
        reply = http.post(PATH, content=iter([data[:MIB]] * 17) if chunked else data)
    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == "request_too_large"
    assert not serving.submitted.done()


def test_a_body_of_16_mib_is_read(gateway):
    padding = "x" * (16 * MIB - 200)
    with gateway.http() as http:
        reply = http.post(PATH, json={"model": "tiny", "messages": QUESTION, "user": padding})
    assert reply.status_code == 200


def test_a_body_that_announces_more_than_will_be_read_is_refused_at_once(gateway):
    with gateway.connect() as sock:
        sock.sendall(f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n".encode())
        assert sock.recv(12) == b"HTTP/1.1 413"


def test_a_body_that_never_comes_is_408(serving, listen):
    gateway = listen(serving, body_seconds_max=0.05)
    with gateway.connect() as sock:
        sock.sendall(f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{{".encode())
        assert sock.recv(12) == b"HTTP/1.1 408"


def test_garbage_behind_a_good_request_does_not_spoil_it(gateway):
    body = json.dumps({"model": "tiny", "messages": QUESTION}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with gateway.connect() as sock:
        sock.sendall(head + body + b"\x00\x01 garbage \r\n\r\n")
        text = read_to_end(sock)
    assert text.startswith(b"HTTP/1.1 200")
    assert b"Hello" in text


def test_two_pipelined_requests_are_answered_in_order(gateway):
    get = b"GET /v1/models/%s HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
    with gateway.connect() as sock:
        sock.sendall(get % (b"nope", b"") + get % (b"tiny", b"Connection: close\r\n"))
        text = read_to_end(sock)
    assert text.index(b"404") < text.index(b"200 OK")


def test_bytes_that_are_no_http_are_refused_and_others_go_on(serving, gateway):
    gate = Gate()
    serving.script = says_then_waits("a", gate=gate)
    with gateway.client() as client, gateway.connect() as sock:
        stream = client.chat.completions.create(model="tiny", messages=QUESTION, stream=True)
        assert next(stream).choices[0].delta.content == "a"
        sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
        assert read_to_end(sock).startswith(b"HTTP/1.1 400")
        gate.open()
        assert next(stream).choices[0].finish_reason == "stop"


def test_a_body_in_bad_chunks_is_refused(gateway):
    with gateway.connect() as sock:
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        sock.sendall(head + b"2\r\n{}\r\nno size\r\n")
        assert read_to_end(sock).startswith(b"HTTP/1.1 400")


def endless(first, piece):
    """More bytes than any head may have, sent until the other side is fed up."""
    yield first
    for _ in range(16 * MIB // len(piece)):
        yield piece


TRAILERS = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n"


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (b"GET /", b"x" * 4096),
        (b"GET / HTTP/1.1\r\nX-Long: ", b"x" * 4096),
        (b"GET / HTTP/1.1\r\n", b"X-Many: 1\r\n" * 400),
        (TRAILERS.encode(), b"X-Many: 1\r\n" * 400),
        (TRAILERS.encode() + b"X-Long: ", b"x" * 4096),
    ],
    ids=["line", "header", "headers", "trailers", "trailer"],
)
def test_a_head_without_an_end_is_431(gateway, first, piece):
    with gateway.connect() as sock:
        with contextlib.suppress(ConnectionError):
            for data in endless(first, piece):
                sock.sendall(data)
            raise AssertionError("all of it was taken")
        # Its answer is here before the connection is: what we went on sending may have cut that off.
        with contextlib.suppress(ConnectionError):
            assert read_to_end(sock)[:12] in (b"HTTP/1.1 431", b"")


@pytest.mark.parametrize(
    "end", [b"", b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n{}"], ids=["begun", "whole", "with body"]
)
def test_a_head_above_the_limit_is_431(gateway, end):
    with gateway.connect() as sock:
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nX-Long: ".encode()
        sock.sendall(head.ljust(HEAD_BYTES_MAX + len(head), b"x") + end)
        text = read_to_end(sock)
    assert text.startswith(b"HTTP/1.1 431")
    assert str(HEAD_BYTES_MAX).encode() in text
    assert text.count(b"HTTP/1.1") == 1


def test_a_large_head_and_many_small_chunks_are_read(gateway):
    body = json.dumps({"model": "tiny", "messages": QUESTION, "user": "x" * 100_000}).encode()
    cookies = {"X-Long": "x" * (HEAD_BYTES_MAX - 1024)}
    with gateway.http() as http:
        reply = http.post(PATH, content=(body[at : at + 4] for at in range(0, len(body), 4)), headers=cookies)
    assert reply.status_code == 200


def test_a_head_without_an_end_behind_a_request_does_not_spoil_its_answer(serving, gateway):
    gate = Gate()
    serving.script = says_then_waits("a", gate=gate)
    body = json.dumps({"model": "tiny", "messages": QUESTION, "stream": True}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with gateway.connect() as sock:
        sock.sendall(head + body)
        text = sock.recv(1 << 16)
        sock.sendall(b"GET / HTTP/1.1\r\nX-Long: " + b"x" * HEAD_BYTES_MAX)
        wait_for(gateway.reads_no_more)
        gate.open()
        text += read_to_end(sock)
    assert text.startswith(b"HTTP/1.1 200")
    assert b"[DONE]" in text
    assert text.count(b"HTTP/1.1") == 1


def test_unknown_routes_and_methods_have_the_same_envelope(gateway):
    with gateway.http() as http:
        nowhere = http.get("/nowhere")
        wrong = http.put(PATH)
        slash = http.get("/v1/models/")
    assert (nowhere.status_code, wrong.status_code, slash.status_code) == (404, 405, 404)
    assert wrong.headers["allow"] == "POST"
    for reply in (nowhere, wrong, slash):
        assert reply.json()["error"]["message"] == reply.json()["detail"]
        assert reply.json()["error"]["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize(
    ("given", "echoed"),
    [("abc-123", "abc-123"), ("a b\tc", "abc"), ("é", None), ("x" * 500, "x" * 128), ("", None)],
)
def test_a_request_id_is_kept_clean_or_made(serving, listen, given, echoed):
    gateway = listen(serving, new_id=lambda: "made")
    with gateway.http() as http:
        reply = http.get("/v1/models", headers=[(b"X-Request-Id", given.encode())])
    assert reply.headers["x-request-id"] == (echoed or "made")


def read_to_end(sock):
    text = b""
    while piece := sock.recv(1 << 16):
        text += piece
    return text
