"""`/fleet/v1`: one consistent view as JSON, changes as a stream, logs as text."""

import json

import pytest
from gateway_fakes import COMMIT, DEADLINE_SECONDS, Gate

from skulk.core.domain import (
    KINDS,
    Condition,
    ConditionType,
    Event,
    Reason,
    Resource,
    Status,
    Waiting,
)

READY = Condition(ConditionType.READY, Status.TRUE, Reason.SERVING, "it serves", COMMIT, 12.5)
WAITING = Waiting("chat", "weights", Reason.FETCHING, "10 of 20 MB")


def test_status_says_where_the_node_stands(serving, gateway):
    serving.publish(conditions=(READY,), waiting=(WAITING,))
    with gateway.http() as http:
        assert http.get("/fleet/v1/status").json() == {
            "node": "one",
            "version": "0.1.0",
            "generation": 8,
            "attempted": COMMIT,
            "accepted": COMMIT,
            "inForce": COMMIT,
            "closing": False,
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "Serving",
                    "message": "it serves",
                    "commit": COMMIT,
                    "since": 12.5,
                }
            ],
            "waiting": [{"subject": "chat", "on": "weights", "reason": "Fetching", "message": "10 of 20 MB"}],
        }


def test_every_kind_can_be_listed_and_its_resources_read(serving, gateway):
    spec = {"tuple": (1, 2), "enum": Reason.SERVING, "nan": float("nan"), "inner": {"a": None}}
    resources = {kind: (Resource(kind, f"a-{kind}", spec, {}, (READY,), (WAITING,)),) for kind in KINDS}
    serving.publish(resources=resources)
    with gateway.http() as http:
        for kind in KINDS:
            listed = http.get(f"/fleet/v1/{kind}").json()
            one = http.get(f"/fleet/v1/{kind}/a-{kind}").json()
            assert (listed["kind"], listed["generation"], listed["commit"]) == (kind, 8, COMMIT)
            assert listed["items"] == [one]
            assert one["spec"] == {"tuple": [1, 2], "enum": "Serving", "nan": None, "inner": {"a": None}}
            assert one["conditions"][0]["reason"] == "Serving"
            assert one["waiting"][0]["on"] == "weights"


def test_a_list_that_did_not_change_is_304(serving, gateway):
    with gateway.http() as http:
        tag = http.get("/fleet/v1/nodes").headers["etag"]
        same = http.get("/fleet/v1/nodes", headers={"If-None-Match": f'"other", {tag}'})
        serving.publish()
        changed = http.get("/fleet/v1/nodes", headers={"If-None-Match": tag})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert changed.status_code == 200


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/fleet/v1/things", "deployments"),
        ("/fleet/v1/things/x", "deployments"),
        ("/fleet/v1/deployments/x", "chat"),
        ("/fleet/v1/why/x", "none"),
        ("/fleet/v1/logs/x", "x"),
    ],
)
def test_what_is_not_there_is_404_and_says_what_is(gateway, path, words):
    with gateway.http() as http:
        reply = http.get(path)
    assert reply.status_code == 404
    assert words in reply.json()["error"]["message"]


def test_why_gives_the_reasons_line_by_line(serving, gateway):
    serving.publish(why={"chat": ("node one: too little memory", "node two: cordoned")})
    with gateway.http() as http:
        reply = http.get("/fleet/v1/why/chat").json()
    assert reply == {"name": "chat", "lines": ["node one: too little memory", "node two: cordoned"]}


def test_events_go_on_after_the_last_one_known(serving, gateway):
    serving.publish(events=tuple(Event(n, 1.5, "chat", "Serving", f"m{n}") for n in (3, 4, 5)))
    with gateway.http() as http:
        assert [e["number"] for e in http.get("/fleet/v1/events").json()["items"]] == [3, 4, 5]
        later = http.get("/fleet/v1/events?after=4").json()["items"]
        bad = http.get("/fleet/v1/events?after=x")
    assert later == [{"number": 5, "at": 1.5, "subject": "chat", "reason": "Serving", "message": "m5"}]
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "after")


def read_events(reply, count):
    """The next events of a stream of server-sent events as (event, id, data); comments are skipped."""
    found, fields = [], {}
    for line in reply:
        if line == "":
            if fields:
                found.append((fields["event"], int(fields["id"]), json.loads(fields["data"])))
                fields = {}
            if len(found) == count:
                return found
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
    return found


def test_a_watch_gives_the_view_at_once_and_at_every_change(serving, gateway):
    with gateway.http() as http, http.stream("GET", "/fleet/v1/watch") as reply:
        lines = reply.iter_lines()
        [(name, number, data)] = read_events(lines, 1)
        assert (name, number, data["generation"]) == ("view", 7, 7)
        assert data["status"]["node"] == "one"
        assert set(data["resources"]) == set(KINDS)
        serving.publish(conditions=(READY,))
        [(_, number, data)] = read_events(lines, 1)
        assert number == 8
        assert data["status"]["conditions"][0]["reason"] == "Serving"


@pytest.mark.parametrize(
    ("query", "headers"), [("?after=7", {}), ("", {"Last-Event-ID": "7"}), ("?after=1", {"Last-Event-ID": "7"})]
)
def test_a_watch_goes_on_where_the_client_was(serving, listen, query, headers):
    gateway = listen(serving, keep_alive_seconds=0.02)
    with gateway.http() as http, http.stream("GET", "/fleet/v1/watch" + query, headers=headers) as reply:
        lines = reply.iter_lines()
        assert next(lines) == ": keep-alive"
        serving.publish()
        assert read_events(lines, 1)[0][1] == 8


def test_a_cursor_of_an_earlier_life_gets_everything(gateway):
    with gateway.http() as http, http.stream("GET", "/fleet/v1/watch?after=999") as reply:
        assert read_events(reply.iter_lines(), 1)[0][1] == 7


def test_a_watch_ends_when_the_daemon_closes(serving, gateway):
    with gateway.http() as http, http.stream("GET", "/fleet/v1/watch") as reply:
        lines = reply.iter_lines()
        read_events(lines, 1)
        serving.publish(closing=True)
        assert [data["status"]["closing"] for _, _, data in read_events(lines, 99)] == [True]


def test_logs_are_plain_text_and_limited(gateway):
    with gateway.http() as http:
        reply = http.get("/fleet/v1/logs/chat")
        last = http.get("/fleet/v1/logs/chat?lines=1")
        bad = http.get("/fleet/v1/logs/chat?lines=-1")
    assert reply.headers["content-type"].startswith("text/plain")
    assert (reply.text, last.text, bad.status_code) == ("first\nsecond\n", "second\n", 400)


def test_following_logs_goes_on_until_the_client_leaves(serving, gateway):
    serving.log_gate = Gate()
    with gateway.http() as http, http.stream("GET", "/fleet/v1/logs/chat?lines=1&follow=true") as reply:
        lines = reply.iter_lines()
        assert next(lines) == "second"
        serving.log_gate.open()
        assert next(lines) == "later"
    serving.log_closed.result(DEADLINE_SECONDS)


def test_following_logs_ends_when_the_daemon_closes(serving, gateway):
    serving.log_gate = Gate()
    serving.publish(closing=True)
    with gateway.http() as http:
        assert http.get("/fleet/v1/logs/chat?follow=true").text == "first\n"


def test_poll_looks_at_the_source(serving, gateway):
    with gateway.http() as http:
        assert http.post("/fleet/v1/poll").status_code == 202
        assert http.get("/fleet/v1/poll").status_code == 404
    assert serving.pokes == 1


def test_reset_says_how_many_were_cleared(serving, gateway):
    with gateway.http() as http:
        assert http.post("/fleet/v1/reset/chat").json() == {"cleared": 2}
        assert http.post("/fleet/v1/reset/other").status_code == 404
        assert http.get("/fleet/v1/reset/chat").status_code == 404
    assert serving.resets == ["chat"]
