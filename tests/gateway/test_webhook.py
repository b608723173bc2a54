"""`POST /hooks/v1/git` over real HTTP: who gets through, what is answered, and how often the source is looked at."""

import hashlib
import socket
from dataclasses import replace

import pytest
import structlog
from forges import SECRET, forgejo, gitea, github, gitlab, push, standard
from gateway_fakes import DEADLINE_SECONDS, VIEW, FakeServing, wait_for

from skulk.core.domain import Access, AccessKey, Scope
from skulk.gateway import webhook
from skulk.gateway.webhook import BODY_BYTES_MAX, POKE_SECONDS_MIN, READING_MAX, Pokes, Seen
from skulk.sim.clock import VirtualClock, run

PATH = "/hooks/v1/git"
NOW = 1_700_000_000.0
SIGNED_BY = {
    "github": github,
    "gitea": gitea,
    "forgejo": forgejo,
    "gitlab": gitlab,
    "standard": lambda body: standard(body, at=NOW),
}


@pytest.fixture
def hook(listen, serving):
    return listen(serving, webhook_secret=SECRET.encode(), wall=lambda: NOW)


def counted(http):
    lines = http.get("/metrics").text.splitlines()
    found = {}
    for line in lines:
        if line.startswith("skulk_webhook_deliveries_total{"):
            labels, value = line.removeprefix("skulk_webhook_deliveries_total").rsplit(" ", 1)
            found[labels] = float(value)
    return found


@pytest.mark.parametrize("provider", SIGNED_BY)
def test_a_signed_delivery_makes_the_node_look(hook, serving, provider):
    body = push()
    with hook.http() as http:
        reply = http.post(PATH, content=body, headers=SIGNED_BY[provider](body))
        assert reply.status_code == 202
        assert reply.json()["outcome"] == "poke"
        assert serving.pokes == 1
        assert counted(http) == {f'{{outcome="poke",provider="{provider}"}}': 1.0}


@pytest.mark.parametrize("provider", SIGNED_BY)
def test_a_repeated_delivery_is_answered_and_not_acted_on(hook, serving, provider):
    body = push()
    headers = SIGNED_BY[provider](body)
    with hook.http() as http:
        http.post(PATH, content=body, headers=headers)
        again = http.post(PATH, content=body, headers=headers)
        assert again.status_code == 200
        assert again.json() == {"outcome": "seen", "message": "already seen: nothing was done"}
        assert counted(http)[f'{{outcome="seen",provider="{provider}"}}'] == 1.0
    assert serving.pokes == 1


def test_a_ping_is_answered_and_not_acted_on(hook, serving):
    body = b'{"zen": "Speak like a human."}'
    with hook.http() as http:
        reply = http.post(PATH, content=body, headers=github(body, event="ping"))
    assert (reply.status_code, reply.json()["outcome"]) == (200, "ping")
    assert serving.pokes == 0


def test_the_body_is_taken_as_it_is(hook, serving):
    """Any content type, any bytes: it is hashed and nothing else."""
    for number, body in enumerate((b"payload=%7B%7D", b"\xff\x00 no json", b"", b"[" * 100_000)):
        with hook.http() as http:
            headers = github(body, delivery=f"d-{number}") | {"Content-Type": "text/weird"}
            assert http.post(PATH, content=body, headers=headers).status_code == 202


def test_a_wrong_signature_is_401_with_the_envelope_and_without_effect(hook, serving):
    body = push()
    with hook.http() as http:
        for headers, message in (
            ({}, "no signature"),
            ({"Authorization": f"Bearer {SECRET}"}, "no signature"),
            (github(body, secret="not-the-secret-at-all"), "does not fit"),
            (gitlab(body, secret="not-the-secret-at-all"), "does not fit"),
            (github(push()), "does not fit"),
        ):
            reply = http.post(PATH, content=body, headers=headers)
            assert reply.status_code == 401
            error = reply.json()["error"]
            assert (error["skulk_code"], error["code"]) == ("SK-HOK-002", "invalid_signature")
            assert message in error["message"]
            assert SECRET not in reply.text
    assert serving.pokes == 0


def test_an_old_delivery_is_401_and_says_so(hook, serving):
    body = push()
    with hook.http() as http:
        reply = http.post(PATH, content=body, headers=standard(body, at=NOW - 301))
    assert (reply.status_code, reply.json()["error"]["skulk_code"]) == (401, "SK-HOK-003")
    assert serving.pokes == 0


def test_a_refused_delivery_does_not_use_up_its_id(hook, serving):
    body = push()
    with hook.http() as http:
        assert http.post(PATH, content=body, headers=github(body, secret="wrong-wrong-wrong")).status_code == 401
        assert http.post(PATH, content=body, headers=github(body)).status_code == 202


def test_without_a_secret_there_is_no_such_route_and_the_fix_is_named(gateway, serving):
    body = push()
    with gateway.http() as http:
        reply = http.post(PATH, content=body, headers=github(body, secret=""))
    assert reply.status_code == 404
    error = reply.json()["error"]
    assert error["skulk_code"] == "SK-HOK-001"
    assert "webhook.secretFile" in error["hint"]
    assert serving.pokes == 0


# --- access -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loopback", [True, False])
def test_keys_neither_open_nor_close_it(listen, loopback):
    key = AccessKey("root", hashlib.sha256(b"sk-root").hexdigest(), (Scope.ADMIN,))
    serving = FakeServing(replace(VIEW, access=Access(keys=(key,))))
    gateway = listen(serving, webhook_secret=SECRET.encode(), loopback=loopback)
    body = push()
    with gateway.http() as http:
        assert http.post(PATH, content=body, headers={"Authorization": "Bearer sk-root"}).status_code == 401
        assert http.post(PATH, content=body, headers=github(body)).status_code == 202
        assert http.get(PATH, headers=github(body)).status_code == 401
        assert http.post(PATH + "/", content=body, headers=github(body)).status_code == 401


def test_a_forge_behind_a_proxy_reaches_a_gateway_without_keys_by_its_own_name(hook, serving):
    body = push()
    with hook.http() as http:
        reply = http.post(PATH, content=body, headers=github(body) | {"Host": "hooks.example.org"})
        assert reply.status_code == 202
        assert http.get("/fleet/v1/status", headers={"Host": "hooks.example.org"}).status_code == 421


# --- limits -------------------------------------------------------------------------------------------------


def test_a_body_over_a_mebibyte_is_413_whether_it_says_so_or_not(hook, serving):
    body = b"x" * (BODY_BYTES_MAX + 1)
    with hook.http() as http:
        assert http.post(PATH, content=body, headers=github(body)).status_code == 413
        assert http.post(PATH, content=iter([body]), headers=github(body)).status_code == 413
        assert http.post(PATH, content=body[1:], headers=github(body[1:])).status_code == 202
        assert counted(http)['{outcome="too_large",provider=""}'] == 2.0
    assert serving.pokes == 1


def test_a_body_that_does_not_come_is_408(hook, serving, monkeypatch):
    monkeypatch.setattr(webhook, "BODY_SECONDS_MAX", 0.05)
    with hook.connect() as client:
        client.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nX-Gitlab-Token: x\r\nContent-Length: 9\r\n\r\n" % PATH.encode())
        assert client.recv(100).startswith(b"HTTP/1.1 408")


def test_strangers_hold_few_bodies_at_once_and_unsigned_ones_none(hook, serving):
    body = push()
    head = b"POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: 9\r\n\r\nabc"
    waiting = [hook.connect() for _ in range(READING_MAX)]
    try:
        for client in waiting:
            client.sendall(head % (PATH.encode(), b"X-Gitlab-Token: x\r\n"))
        with hook.http() as http:

            def busy():
                reply = http.post(PATH, content=body, headers=github(body, secret="not-the-secret-at-all"))
                return reply.status_code == 503 and reply.headers["retry-after"] == "1"

            wait_for(busy)
            assert http.post(PATH, content=body).status_code == 401
            for client in waiting:
                client.sendall(b"defghi")
            for client in waiting:
                client.settimeout(DEADLINE_SECONDS)
                assert client.recv(100).startswith(b"HTTP/1.1 401")
            assert http.post(PATH, content=body, headers=github(body)).status_code == 202
    finally:
        for client in waiting:
            client.close()


def test_a_client_that_leaves_in_the_middle_frees_its_place(hook, serving):
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nX-Gitlab-Token: x\r\nContent-Length: 9\r\n\r\nabc" % PATH.encode()
    for _ in range(READING_MAX * 2):
        with hook.connect() as client:
            client.sendall(head)
            client.shutdown(socket.SHUT_RDWR)
    body = push()
    with hook.http() as http:
        wait_for(lambda: http.post(PATH, content=body, headers=github(body)).status_code in (200, 202))


def test_pokes_are_held_a_second_apart_and_none_is_lost():
    async def story():
        clock = VirtualClock()
        at = []
        pokes = Pokes(lambda: at.append(clock.now()))
        for pause in (0.0, 0.3, 0.3, 5.0, 0.9, 0.2):
            await clock.sleep(pause)
            pokes.ask()
        await clock.sleep(10.0)
        return at

    # Asked for at 0, 0.3, 0.6, 5.6, 6.5 and 6.7 s.
    apart = POKE_SECONDS_MIN
    assert run(story()) == pytest.approx([0.0, apart, 5.6, 5.6 + apart, 5.6 + 2 * apart])


def test_many_deliveries_at_once_lead_to_a_look_after_the_last(hook, serving):
    with hook.http() as http:
        for number in range(10):
            body = push()
            before = serving.pokes
            assert http.post(PATH, content=body, headers=github(body, delivery=f"d-{number}")).status_code == 202
        wait_for(lambda: serving.pokes > before)


def test_only_the_newest_marks_are_remembered():
    seen = Seen(3)
    for mark in "abcd":
        seen.add((mark,))
    assert list(seen) == ["b", "c", "d"]
    seen.add(("b",))
    seen.add(("e",))
    assert list(seen) == ["d", "b", "e"]
    assert "a" not in seen
    assert len(seen) == 3


# --- what is told -------------------------------------------------------------------------------------------


def test_the_log_names_delivery_and_provider_and_neither_secret_nor_body(hook, serving):
    body = push() + b" private"
    with structlog.testing.capture_logs() as lines, hook.http() as http:
        http.post(PATH, content=body, headers=github(body, delivery="d-good"))
        http.post(PATH, content=body, headers=gitlab(body, secret="guessed-secret-value", delivery="d-bad"))
        wait_for(lambda: sum(line["event"] == "request_finished" for line in lines) >= 2)
    told = {line["event"]: line for line in lines}
    assert (told["webhook_received"]["provider"], told["webhook_received"]["delivery"]) == ("github", "d-good")
    assert (told["webhook_refused"]["provider"], told["webhook_refused"]["outcome"]) == ("gitlab", "forged")
    for secret in (SECRET, "guessed-secret-value", "private"):
        assert secret not in str(lines)


def test_settings_do_not_show_the_secret():
    from skulk.gateway import GatewaySettings

    assert SECRET not in repr(GatewaySettings(webhook_secret=SECRET.encode()))
