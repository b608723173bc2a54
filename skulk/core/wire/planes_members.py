"""Membership: liveliness tokens and the age of readings become peers with a presence. Pure; times are passed in.

A reading carries the sender's own monotonic time. What is added to it to get ours is the least difference among the
last readings, so that a burst of readings that waited somewhere does not look fresh, and clocks that drift apart do
no harm. The first reading after a connection is taken as new.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from skulk.core.domain.ids import BootId, NodeName
from skulk.core.domain.planes import Life, Peer, Presence, Reading

READING_SECONDS = 1.0
"""How often every node sends at least one reading (its pulse)."""
FRESH_INTERVALS = 3
"""So many intervals without a reading make a connected node suspect: one lost message does not."""
FORGET_SECONDS = 600.0
"""A node that is gone for so long is no longer listed here; the manifests still name it."""
PULSE = "pulse"
"""The kind of reading that carries no values: it only shows that the daemon's loop turns."""
DELAYS_KEPT = 60
"""Readings that the difference of two clocks is taken from: about a minute. Ordinary clocks drift by less than a
hundredth of a second in it."""
LIFE_MAX = 2**62
"""A greater number of a life was made up: tokens are not signed."""
KINDS_MAX = 32
"""Kinds of readings of one node; more come from a broken sender and are not kept."""


@dataclass(slots=True)
class _Known:
    life: Life
    token: bool
    since: float
    """When the token came, or went."""
    left: bool = False
    delays: deque[float] = field(default_factory=lambda: deque(maxlen=DELAYS_KEPT))
    """Arrival minus sender's time."""
    newest: float = 0.0
    """Sender's time of the newest reading."""
    seqs: dict[str, int] = field(default_factory=dict)
    readings: dict[str, tuple[float, Mapping[str, object]]] = field(default_factory=dict)

    def age(self, taken_at: float, now: float) -> float:
        return max(0.0, now - taken_at - min(self.delays, default=now - taken_at))


class Membership:
    """What tokens, goodbyes and readings add up to. Methods return whether anything may look different now."""

    def __init__(self, me: Life) -> None:
        self.me = me
        self._known: dict[NodeName, _Known] = {}
        self._rivals: set[BootId] = set()
        self._superseded = 0

    def reset(self, now: float) -> None:
        """The connection was made anew: tokens that are still there are about to be reported again."""
        self._rivals.clear()
        for known in self._known.values():
            if known.token:
                known.token, known.since = False, now

    def token(self, life: Life, alive: bool, now: float) -> bool:
        if life.node == self.me.node and life.boot != self.me.boot:
            (self._rivals.add if alive else self._rivals.discard)(life.boot)
            if self.me.number < life.number <= LIFE_MAX:
                self._superseded = max(self._superseded, life.number)
            return True
        known = self._known.get(life.node)
        if not alive:
            if known is None or known.life != life or not known.token:
                return False
            known.token, known.since = False, now
            return True
        if known is None or life.number > known.life.number:
            self._known[life.node] = _Known(life, True, now)
        elif life != known.life:
            return False  # an older life whose token has not run out yet
        elif not known.token:
            known.token, known.since, known.left = True, now, False
            known.delays.clear()  # it may have slept meanwhile, and its clock with it
        return True

    def goodbye(self, life: Life) -> bool:
        """Its author was checked by the caller."""
        known = self._known.get(life.node)
        if known is None or known.life != life:
            return False
        known.left = True
        return True

    def reading(
        self, life: Life, kind: str, seq: int, taken_at: float, values: Mapping[str, object], now: float
    ) -> bool:
        """Last write wins by (life, seq). A reading of another life than the connected one says nothing."""
        known = self._known.get(life.node)
        if known is None or known.life != life or seq <= known.seqs.get(kind, -1):
            return False
        if kind not in known.seqs and len(known.seqs) >= KINDS_MAX:
            return False
        known.delays.append(now - taken_at)
        known.newest = max(known.newest, taken_at)
        known.seqs[kind] = seq
        if kind != PULSE:
            known.readings[kind] = (taken_at, values)
        return True

    def life_of(self, node: NodeName) -> Life | None:
        """The connected life of a node; None when its token is not there."""
        known = self._known.get(node)
        return known.life if known is not None and known.token else None

    def peers(self, now: float) -> dict[NodeName, Peer]:
        """All nodes seen and not yet forgotten, by name."""
        for name in [n for n, k in self._known.items() if not k.token and now - k.since > FORGET_SECONDS]:
            del self._known[name]
        return {name: self._peer(known, now) for name, known in sorted(self._known.items())}

    def readings(self, now: float) -> dict[NodeName, dict[str, Reading]]:
        """The last values of every listed node with their ages; absent where nothing was ever reported."""
        return {
            name: {kind: Reading(values, known.age(at, now)) for kind, (at, values) in sorted(known.readings.items())}
            for name, known in sorted(self._known.items())
            if known.readings
        }

    def rivals(self) -> tuple[BootId, ...]:
        return tuple(sorted(self._rivals))

    def superseded(self) -> int:
        """The greatest number of a rival above this life's own; 0 when there was none. The others hear that life, and
        will not hear this one again when it is gone."""
        return self._superseded

    def _peer(self, known: _Known, now: float) -> Peer:
        age = None if not known.delays else known.age(known.newest, now)
        if known.left:
            presence = Presence.LEFT
        elif not known.token:
            presence = Presence.LOST
        else:
            # A newcomer gets the same patience from the moment its token appeared.
            silent = now - known.since if age is None else min(age, now - known.since)
            presence = Presence.SUSPECT if silent > FRESH_INTERVALS * READING_SECONDS else Presence.LIVE
        return Peer(known.life, presence, age, 0.0 if known.token else now - known.since)
