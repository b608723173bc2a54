"""Server-sent events from a stream of text lines (WHATWG HTML, section "Server-sent events"), reading side only.

Reconnecting, timeouts and what the data means are the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Frame:
    """One event, or one comment line when `comment` is set (keep-alives are comments)."""

    data: str = ""
    event: str = "message"
    id: str = ""
    comment: str | None = None


def frames(lines: Iterable[str]) -> Iterator[Frame]:
    """Events and comments in order. An event that the end of the stream cuts off is dropped, as the standard says."""
    data: list[str] = []
    event = last_id = ""
    for raw in lines:
        text = raw.rstrip("\r\n")
        if not text:
            if data:
                yield Frame("\n".join(data), event or "message", last_id)
            data, event = [], ""
            continue
        name, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if not name:
            yield Frame(comment=value)
        elif name == "data":
            data.append(value)
        elif name == "event":
            event = value
        elif name == "id" and "\0" not in value:
            last_id = value
