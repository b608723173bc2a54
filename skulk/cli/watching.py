"""Views of the fleet as they change, over connections that may break.

Each connection starts from nothing (no `after`): the node answers with its present view at once, and a daemon that
restarted in between counts its generations anew, so that a remembered number would miss changes.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from skulk.cli.client import SILENCE_SECONDS_MAX, FleetClient
from skulk.cli.sse import frames
from skulk.core.errors import CLI_ANSWER, CLI_TIMEOUT, CLI_UNREACHABLE, RequestError, SkulkError, Transient

if TYPE_CHECKING:
    import httpx2

# Short enough not to be felt after a daemon's restart, long enough not to hammer a port that nobody listens on.
RECONNECT_SECONDS_MIN = 0.2
RECONNECT_SECONDS_MAX = 2.0
# A fresh daemon needs some seconds to listen; a wrong address must not cost the whole --timeout.
FIRST_CONTACT_SECONDS = 15.0

View = Mapping[str, Any]


def views(client: FleetClient, seconds: float | None) -> Generator[View]:
    """Every view from now on, coalesced by the node, until the caller stops or `seconds` have passed.

    Raises Transient: CLI_TIMEOUT at the end of the time, CLI_UNREACHABLE when the node was never reached within
    `FIRST_CONTACT_SECONDS`. A connection that breaks later is made again. Other errors (401, 404) are final.
    """
    start = time.monotonic()
    deadline = None if seconds is None else start + seconds
    contact_by = start + min(FIRST_CONTACT_SECONDS, FIRST_CONTACT_SECONDS if seconds is None else seconds)
    reached = False
    pause = RECONNECT_SECONDS_MIN
    while True:
        lost: SkulkError | None = None
        try:
            for view in _connection(client, deadline):
                reached, pause = True, RECONNECT_SECONDS_MIN
                yield view
        except SkulkError as error:
            if not _passes(error):
                raise
            lost = error
        now = time.monotonic()
        reached = reached or not _never_connected(lost)
        if not reached and lost is not None and now >= contact_by:
            raise lost
        if deadline is not None and now >= deadline:
            raise Transient(CLI_TIMEOUT, f"it did not happen within {seconds} s")
        time.sleep(pause if deadline is None else max(0.0, min(pause, deadline - now)))
        pause = min(pause * 2, RECONNECT_SECONDS_MAX)


def _passes(error: SkulkError) -> bool:
    """A lost connection, or a node that is just ending or starting: worth another connection."""
    return error.code is CLI_UNREACHABLE or (isinstance(error, RequestError) and error.status == 503)


def _never_connected(lost: SkulkError | None) -> bool:
    # not at the top: see skulk.cli.client
    import httpx2

    return lost is not None and isinstance(lost.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout)


def _connection(client: FleetClient, deadline: float | None) -> Iterator[View]:
    """The views of one connection. Ends when the node closes it or the deadline passes."""
    with (
        client.stream("GET", "/fleet/v1/watch", silence=SILENCE_SECONDS_MAX) as response,
        _cut_at(response, deadline),
    ):
        for frame in frames(response.iter_lines()):
            if frame.event == "view" and frame.comment is None:
                yield _view(frame.data)


def _view(data: str) -> View:
    try:
        view = json.loads(data)
    except ValueError:
        view = None
    if not isinstance(view, dict):
        raise Transient(CLI_ANSWER, "the watch stream carried something other than a view")
    return view


@contextmanager
def _cut_at(response: httpx2.Response, deadline: float | None) -> Iterator[None]:
    """Shut the response's socket at `deadline` (monotonic), so that a blocked read returns in time.

    A read timeout alone would start anew with every keep-alive.
    """
    stream = response.extensions.get("network_stream")
    connection = stream.get_extra_info("socket") if stream is not None else None
    if deadline is None or connection is None:
        yield
        return

    def cut() -> None:
        with suppress(OSError):
            # the plain method: a TLS socket's own would drop state that the reading thread still uses
            socket.socket.shutdown(connection, socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
