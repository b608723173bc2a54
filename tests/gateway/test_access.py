"""Who may call what: keys and scopes, anonymous fleets, and web pages that must not reach a gateway without keys."""

import hashlib
from dataclasses import replace

import openai
import pytest
from gateway_fakes import VIEW, FakeServing

from skulk.core.domain import Access, AccessKey, Scope
from skulk.core.errors import RequestError
from skulk.gateway.access import check_access, is_loopback, scope_of

QUESTION = [{"role": "user", "content": "hi"}]
LOCAL = {"host": "127.0.0.1:52415"}


def key(name, *scopes):
    return AccessKey(name, hashlib.sha256(f"sk-{name}".encode()).hexdigest(), scopes)


KEYS = Access(
    keys=(key("user", Scope.INFERENCE), key("viewer", Scope.READ), key("root", Scope.ADMIN)),
)
ROUTES = {
    Scope.INFERENCE: ("GET", "/v1/models"),
    Scope.READ: ("GET", "/fleet/v1/status"),
    Scope.ADMIN: ("POST", "/fleet/v1/reset/chat"),
}


def bearer(name):
    return {"Authorization": f"Bearer sk-{name}"}


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("user", {Scope.INFERENCE}),
        ("viewer", {Scope.READ}),
        ("root", {Scope.INFERENCE, Scope.READ, Scope.ADMIN}),
    ],
)
def test_a_key_opens_what_its_scopes_say(listen, name, allowed):
    with listen(FakeServing(replace(VIEW, access=KEYS))).http() as http:
        for scope, (method, path) in ROUTES.items():
            reply = http.request(method, path, headers=bearer(name))
            assert reply.status_code == (200 if scope in allowed else 403)
            if reply.status_code == 403:
                assert reply.json()["error"]["code"] == "insufficient_scope"


@pytest.mark.parametrize(
    "headers", [{}, bearer("nobody"), {"Authorization": "Basic sk-user"}, {"Authorization": "Bearer"}]
)
def test_without_a_valid_key_everything_but_health_is_401(listen, headers):
    with listen(FakeServing(replace(VIEW, access=KEYS))).http() as http:
        for path in ("/v1/models", "/fleet/v1/status", "/metrics", "/api/openapi.json", "/nowhere"):
            reply = http.get(path, headers=headers)
            assert reply.status_code == 401
            assert reply.headers["www-authenticate"].startswith("Bearer")
        assert http.post("/v1/chat/completions", headers=headers, content=b"x").status_code == 401
        for path in ("/livez", "/readyz", "/healthz", "/health"):
            assert http.get(path, headers=headers).status_code == 200
            assert http.get(path + "?verbose", headers=headers).status_code == 401


def test_the_caller_is_known_by_the_name_of_its_key():
    headers = {name.lower(): value for name, value in bearer("user").items()}
    assert check_access(KEYS, Scope.INFERENCE, headers, loopback=False) == "user"
    assert check_access(KEYS, None, headers, loopback=False) == ""
    assert check_access(Access(), Scope.ADMIN, LOCAL, loopback=True) == ""
    assert check_access(Access(anonymous=True), Scope.READ, {}, loopback=False) == ""


def test_the_openai_client_passes_its_key(listen):
    gateway = listen(FakeServing(replace(VIEW, access=KEYS)))
    with gateway.client("sk-user") as client:
        assert client.chat.completions.create(model="tiny", messages=QUESTION).choices
    with gateway.client("sk-viewer") as client, pytest.raises(openai.PermissionDeniedError):
        client.chat.completions.create(model="tiny", messages=QUESTION)
    with gateway.client("sk-wrong") as client, pytest.raises(openai.AuthenticationError) as caught:
        client.chat.completions.create(model="tiny", messages=QUESTION)
    assert caught.value.code == "invalid_api_key"


def test_keys_come_and_go_with_the_view(serving, gateway):
    with gateway.http() as http:
        assert http.get("/v1/models").status_code == 200
        serving.publish(access=KEYS)
        assert http.get("/v1/models").status_code == 401
        assert http.get("/v1/models", headers=bearer("user")).status_code == 200
        serving.publish(access=Access())
        assert http.get("/v1/models").status_code == 200


def test_beyond_loopback_without_keys_only_health_answers(serving, listen):
    with listen(serving, loopback=False).http() as http:
        assert http.get("/v1/models").status_code == 403
        assert http.get("/fleet/v1/status").status_code == 403
        assert http.get("/livez").status_code == 200


def test_an_anonymous_fleet_serves_and_shows_but_changes_nothing(listen):
    serving = FakeServing(replace(VIEW, access=Access(anonymous=True)))
    with listen(serving, loopback=False).http() as http:
        host = {"Host": "gpu.example"}
        assert http.get("/v1/models", headers=host).status_code == 200
        assert http.get("/fleet/v1/status", headers=host).status_code == 200
        assert http.post("/fleet/v1/reset/chat", headers=host).status_code == 403
        assert http.get("/v1/models", headers=host | {"Origin": "http://evil.example"}).status_code == 403
        assert http.get("/v1/models", headers=host | {"Origin": "http://gpu.example"}).status_code == 200
    assert serving.resets == []


def test_a_page_whose_name_was_rebound_to_loopback_is_421(serving, gateway):
    with gateway.http() as http:
        reply = http.get("/v1/models", headers={"Host": "evil.example:52415"})
        assert reply.status_code == 421
        assert http.get("/livez", headers={"Host": "evil.example"}).status_code == 200
        assert http.get("/v1/models", headers={"Host": "localhost:1"}).status_code == 200


def test_a_page_of_another_origin_is_403_and_gets_no_cors_headers(serving, gateway):
    with gateway.http() as http:
        for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
            reply = http.post("/v1/chat/completions", headers=headers, content=b"{}")
            assert reply.status_code == 403
        allowed = http.get("/v1/models", headers={"Origin": "http://localhost:3000"})
    assert allowed.status_code == 200
    assert not [name for name in allowed.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("a.localhost:80", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("", False),
        ("10.0.0.1", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("evil.example#@localhost", False),
        ("[::1", False),
    ],
)
def test_only_loopback_names_pass_as_host(host, good):
    if good:
        check_access(Access(), Scope.INFERENCE, {"host": host}, loopback=True)
    else:
        with pytest.raises(RequestError) as caught:
            check_access(Access(), Scope.INFERENCE, {"host": host}, loopback=True)
        assert caught.value.status == 421


def test_a_path_that_no_rule_names_needs_the_read_scope():
    assert scope_of("GET", "/something/new") is Scope.READ
    assert scope_of("DELETE", "/fleet/v1/anything") is Scope.ADMIN
    assert scope_of("GET", "/livez") is None
    assert scope_of("GET", "/livez/") is Scope.READ
    assert scope_of("GET", "/modelsX") is Scope.READ


def test_an_address_inside_ipv6_is_judged_like_the_address():
    assert is_loopback("::1")
    assert not is_loopback("fe80::1")
    assert not is_loopback("")
