"""The HTTP client of the verbs: one node's API, with errors that a person can act on.

It retries nothing and caches nothing; verbs that wait reconnect themselves. The key goes into the Authorization
header only: never into a message, a URL or a log.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import skulk
from skulk.core.errors import (
    CLI_ANSWER,
    CLI_REQUEST,
    CLI_UNREACHABLE,
    CLI_USAGE,
    REQ_MODEL,
    REQ_NO_KEY,
    REQ_NOT_FOUND,
    REQ_SCOPE,
    ErrorCode,
    InvalidInput,
    RequestError,
    SkulkError,
    Transient,
)

if TYPE_CHECKING:
    # A tenth of a second to load, which verbs that ask no node do without: hence the imports below in functions.
    import httpx2

# A node on the same network accepts in milliseconds; longer means that nobody is there.
CONNECT_SECONDS = 5.0
# The read endpoints answer from memory; this only ends a hang.
ANSWER_SECONDS = 30.0
# A stream carries a keep-alive at least every 10 s, so three missed ones mean that the peer is gone.
SILENCE_SECONDS_MAX = 30.0
# An error body is shown to a person; more than this is not an error message.
ERROR_BYTES_MAX = 64 * 1024

Json = Mapping[str, Any]


class FleetClient:
    """One node's HTTP API. Use as a context manager.

    Every method raises Transient (CLI_UNREACHABLE) when no answer comes, RequestError when the node says no, and
    Transient (CLI_ANSWER) when what answers is not a Skulk node.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        import httpx2

        self.url = _checked_url(url)
        headers = {"User-Agent": f"skulk/{skulk.__version__}"}
        if key:
            if not key.isascii() or not key.isprintable() or " " in key:
                raise InvalidInput(CLI_USAGE, "the API key has characters that no key has", fix="check SKULK_API_KEY")
            headers["Authorization"] = f"Bearer {key}"
        self._http = httpx2.Client(
            base_url=self.url,
            headers=headers,
            timeout=httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            # a proxy from the environment must not swallow calls to this very machine
            trust_env=not _is_loopback(self.url),
        )

    def __enter__(self) -> FleetClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def get(self, path: str, **parameters: str | int) -> Json:
        """A JSON object. `path` starts with `/`; its variable parts are quoted by the caller (`part`)."""
        return self._object("GET", path, params=parameters)

    def post(self, path: str, body: Json | None = None, *, seconds: float = ANSWER_SECONDS) -> Json:
        """Send JSON, get a JSON object within `seconds`."""
        import httpx2

        return self._object("POST", path, json=body, timeout=httpx2.Timeout(seconds, connect=CONNECT_SECONDS))

    @contextmanager
    def stream(
        self, method: str, path: str, *, body: Json | None = None, silence: float | None, **parameters: str | int
    ) -> Iterator[httpx2.Response]:
        """An open response with status 200. `silence`: seconds without a byte until it counts as lost, None: never.

        Closing it early (leaving the block) closes the connection, which is how a request is cancelled.
        """
        import httpx2

        timeout = httpx2.Timeout(silence, connect=CONNECT_SECONDS)
        with (
            self._reached(),
            self._http.stream(method, path, params=parameters, json=body, timeout=timeout) as response,
        ):
            if response.status_code != httpx2.codes.OK:
                raise _refusal(response.status_code, _bounded_body(response))
            yield response

    def _object(self, method: str, path: str, **how: Any) -> Json:
        import httpx2

        with self._reached():
            response = self._http.request(method, path, **how)
        if response.status_code >= 400:
            raise _refusal(response.status_code, response.content)
        try:
            value = response.json()
        except ValueError:
            value = None
        if response.status_code not in (httpx2.codes.OK, httpx2.codes.ACCEPTED) or not isinstance(value, dict):
            raise Transient(CLI_ANSWER, f"{self.url}{path} answered {response.status_code} without a JSON object")
        return value

    @contextmanager
    def _reached(self) -> Iterator[None]:
        import httpx2

        try:
            yield
        except httpx2.TransportError as error:
            what = str(error) or type(error).__name__
            raise Transient(CLI_UNREACHABLE, f"cannot reach {self.url}: {what}") from error


def part(name: str) -> str:
    """A name as one segment of a path. Raises InvalidInput (CLI_USAGE) for what no resource can be called."""
    if not name.strip(".") or "/" in name:
        raise InvalidInput(CLI_USAGE, f'"{name}" is no resource name', fix="list the names: `skulk get KIND -o name`")
    return quote(name, safe="")


def _refusal(status: int, body: bytes) -> SkulkError:
    """The error of an HTTP status: with the node's own message when the body has our error form."""
    try:
        answer = json.loads(body)
        message = answer["error"]["message"]
        kind, param, slug = (answer["error"].get(key) for key in ("type", "param", "code"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Transient(CLI_ANSWER, f"an answer with HTTP status {status} that is not a Skulk node's")
    code: ErrorCode = {401: REQ_NO_KEY, 403: REQ_SCOPE, 404: REQ_NOT_FOUND}.get(status, CLI_REQUEST)
    if slug == "model_not_found":
        code = REQ_MODEL
    fix = "pass --key or set SKULK_API_KEY" if status == 401 else None
    return RequestError(
        code, str(message), status=status, kind=str(kind), param=param, slug=slug and str(slug), fix=fix
    )


def _bounded_body(response: httpx2.Response) -> bytes:
    body = b""
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) >= ERROR_BYTES_MAX:
            break
    return body


def _checked_url(url: str) -> str:
    """The base URL without a trailing slash. Raises InvalidInput (CLI_USAGE)."""
    import httpx2

    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise InvalidInput(CLI_USAGE, f"--url: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidInput(CLI_USAGE, f'--url "{url}" is no http:// or https:// address')
    if parsed.userinfo:
        raise InvalidInput(CLI_USAGE, "--url must not carry credentials", fix="pass the key by SKULK_API_KEY")
    return url.rstrip("/")


def _is_loopback(url: str) -> bool:
    import httpx2

    host = httpx2.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
