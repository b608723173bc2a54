"""One request's entries between two nodes: numbers, acknowledgement, resend. Pure; times are passed in.

The sender keeps every entry until the receiver has acknowledged it. The receiver takes entries only in order: one
beyond a gap is dropped and the gap reported, and the sender goes back to the first missing entry. There is no
reorder buffer, because the transport does not reorder within a key. Entry 1 is the verdict (accepted or refused),
every later entry one frame of tokens.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

ACK_SECONDS = 1.0
"""How often the receiver says how far it is."""
RESEND_SECONDS = 2.5 * ACK_SECONDS
"""No progress for so long, with entries out: the last ones, or the acknowledgement, were lost."""
AGAIN_SECONDS = 0.1
"""A gap is reported, and answered, no more often than this: one round trip of a slow network."""
ENTRIES_MAX = 65_536
"""Unacknowledged entries kept for one request: more than any context that is streamed within the patience with a
lost owner. Beyond it the request is cancelled, because the batch waits for nobody."""
BURST_ENTRIES_MAX = 512
"""Sent in one go; the rest follows in the next turn, so that a long replay does not hold up live streams."""
FORGET = -1
"""Instead of a number: the receiver does not know the stream, nothing more need be sent."""


class Outgoing(Generic[T]):
    """The sending side: appended to by the generation, drained by the network."""

    def __init__(self, now: float) -> None:
        self.ended = False
        """No entry will follow."""
        self._kept: deque[tuple[int, T]] = deque()
        self._last = 0
        self._next = 1
        self._moved_at = now
        """Last send or acknowledged progress."""
        self._rewound_at = now - AGAIN_SECONDS

    def append(self, entry: T, *, last: bool = False) -> None:
        if self.ended:
            raise ValueError("the stream has ended")
        self._last += 1
        self._kept.append((self._last, entry))
        self.ended = last

    @property
    def overfull(self) -> bool:
        return len(self._kept) > ENTRIES_MAX

    @property
    def finished(self) -> bool:
        """Ended and acknowledged to the last entry: it can be forgotten."""
        return self.ended and not self._kept

    def due(self, now: float) -> list[tuple[int, T]]:
        """Entries to send now, with their numbers; at most one burst."""
        if self._next > self._last:
            return []
        first = self._kept[0][0]
        skip = self._next - first
        burst = [self._kept[i] for i in range(skip, min(len(self._kept), skip + BURST_ENTRIES_MAX))]
        self._next = burst[-1][0] + 1
        self._moved_at = now
        return burst

    @property
    def waiting(self) -> bool:
        """More is due at once."""
        return self._next <= self._last

    def acknowledge(self, number: int, now: float, *, again: bool) -> None:
        """Everything up to `number` arrived. `again`: what follows it did not, send it once more."""
        if number > self._last:
            return
        while self._kept and self._kept[0][0] <= number:
            self._kept.popleft()
            self._moved_at = now
        self._next = max(self._next, number + 1)
        if again and now - self._rewound_at >= AGAIN_SECONDS:
            self._rewind(now)

    def tick(self, now: float) -> None:
        """Call about every second: resends when nothing has moved although entries are out."""
        if self._kept and self._next > self._last and now - self._moved_at >= RESEND_SECONDS:
            self._rewind(now)

    def _rewind(self, now: float) -> None:
        if self._kept:
            self._next = self._kept[0][0]
            self._rewound_at = self._moved_at = now


class Incoming:
    """The receiving side: which entry is next."""

    def __init__(self) -> None:
        self.received = 0
        """Number of the last entry that came in order: what is acknowledged."""
        self._gap = False
        self._asked_at: float | None = None

    def take(self, number: int) -> bool:
        """Whether this entry is the next one. A repeated one is dropped; one beyond a gap too, and remembered."""
        if number == self.received + 1:
            self.received = number
            self._gap = False
            return True
        if number > self.received:
            self._gap = True
        return False

    def ask_again(self, now: float) -> bool:
        """Whether to report a gap now; at most once per AGAIN_SECONDS."""
        if not self._gap or (self._asked_at is not None and now - self._asked_at < AGAIN_SECONDS):
            return False
        self._asked_at = now
        return True
