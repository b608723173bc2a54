"""The last things that happened, for `skulk events`: a bounded ring, newest last."""

from __future__ import annotations

from collections import deque

from skulk.core.domain import Event

# At one event a second this is half an hour; a snapshot of it stays under 200 KB.
EVENTS_MAX = 2000


class EventLog:
    """Numbered from 1 per daemon life. Repeats of the newest line about a subject are not kept."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._latest: dict[str, tuple[str, str]] = {}
        self._number = 0

    def add(self, at: float, subject: str, reason: str, message: str) -> None:
        if self._latest.get(subject) == (reason, message):
            return
        if len(self._latest) > EVENTS_MAX:
            self._latest.clear()
        self._latest[subject] = (reason, message)
        self._number += 1
        self._events.append(Event(self._number, at, subject, reason, message))

    def snapshot(self) -> tuple[Event, ...]:
        return tuple(self._events)
