"""How the verbs end when a node cannot be reached, wants a key, or is no node at all."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.cli.conftest import Skulk
from tests.cli.fake_node import FakeNode


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


VERBS = (
    ("get", "nodes"),
    ("describe", "fleet"),
    ("why", "fox-tiny"),
    ("logs", "fox-tiny"),
    ("events",),
    ("reconcile", "fox-tiny", "--reset"),
    ("run", "fox-tiny", "hello"),
    ("wait", "deployment/fox-tiny", "--timeout", "300ms"),
)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_nobody_there_is_exit_4_with_the_address(verb: tuple[str, ...], closed_port: int, skulk: Skulk) -> None:
    result = skulk(*verb, "--url", f"http://127.0.0.1:{closed_port}")
    assert result.exit_code == 4
    assert f"http://127.0.0.1:{closed_port}" in result.stderr
    assert "SK-CLI-002" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
@pytest.mark.parametrize("key", [None, "sk-wrong"])
def test_a_missing_or_wrong_key_is_exit_6(verb: tuple[str, ...], key: str | None, node: FakeNode, skulk: Skulk) -> None:
    node.key = "sk-right"
    result = skulk(*verb, "--url", node.url, *(["--key", key] if key else []))
    assert result.exit_code == 6, result.output
    assert "SK-REQ-009" in result.stderr if key is None else "SK-REQ-010" in result.stderr
    assert "sk-" not in result.stderr


def test_address_and_key_come_from_the_environment(
    node: FakeNode, skulk: Skulk, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.key = "sk-right"
    monkeypatch.setenv("SKULK_URL", node.url)
    monkeypatch.setenv("SKULK_API_KEY", "sk-right")
    assert skulk("get", "nodes").exit_code == 0


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(
    node: FakeNode, closed_port: int, skulk: Skulk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port}")
    assert skulk("get", "nodes", "--url", node.url).exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--url", "ftp://host"),
        ("--url", "127.0.0.1:52415"),
        ("--url", "http://user:secret@host"),
        ("--key", "two\nlines"),
        ("--key", "schlüssel"),
    ],
)
def test_an_address_or_key_that_cannot_be_meant_is_wrong_usage(arguments: tuple[str, str], skulk: Skulk) -> None:
    result = skulk("get", "nodes", *arguments)
    assert result.exit_code == 2
    assert "SK-CLI-001" in result.stderr
    assert "secret" not in result.stderr
    assert arguments[1] not in result.stderr or arguments[0] == "--url"


class _Stranger(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404 if "fleet/v1/nodes" in self.path else 200)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def stranger() -> Iterator[str]:
    """A web server that is no Skulk node."""
    with http.server.HTTPServer(("127.0.0.1", 0), _Stranger) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("verb", [("get", "nodes"), ("events",)])
def test_a_stranger_on_the_port_is_named_as_such(verb: tuple[str, ...], stranger: str, skulk: Skulk) -> None:
    result = skulk(*verb, "--url", stranger)
    assert result.exit_code == 1
    assert "SK-CLI-005" in result.stderr
