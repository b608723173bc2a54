"""What the node remembers between two decisions, as a value.

Facts say what is; the ledger says what was: failures and when, why a runner was killed, when a drain began. It is
rebuilt from facts after a restart (adopted runners, last words on disk), so losing it costs nothing but counters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from skulk.core.domain import PlacementUid
from skulk.core.reconcile import limits
from skulk.core.reconcile.machine import Phase, RunnerEvent, step


@dataclass(frozen=True, slots=True)
class Blame:
    """Why we ended a runner, or what its last words were: an error code, a sentence, hung or not."""

    code: str
    message: str
    hung: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """One placement on this node. Times are seconds on the monotonic clock."""

    uid: PlacementUid
    phase: Phase = Phase.PENDING
    since: float = 0.0
    failures: tuple[float, ...] = ()
    """When it failed, within the breaker's window."""
    attempts: int = 0
    """Consecutive failures since it was last ready: the exponent of the backoff."""
    retry_at: float = 0.0
    load_seconds: float = 0.0
    """How long loading took the last time, for the breaker's window."""
    blame: Blame | None = None
    refused_since: float | None = None
    """Since when live memory does not admit it."""
    forgiven: bool = False
    """A person reset it: what an earlier process left on disk does not count any more."""

    def move(self, event: RunnerEvent, now: float) -> Record:
        """The record after `event`. Raises IllegalTransition."""
        return replace(self, phase=step(self.phase, event), since=now)

    def fail(self, blame: Blame, now: float) -> Record:
        """The record after a failure: backoff, breaker or wedge."""
        if blame.hung:
            return replace(self.move(RunnerEvent.HUNG, now), blame=blame)
        window = max(limits.BREAKER_WINDOW_SECONDS_MIN, limits.BREAKER_WINDOW_LOADS * self.load_seconds)
        failures = (*(t for t in self.failures if now - t < window), now)
        attempts = self.attempts + 1
        event = RunnerEvent.FAILED_TOO_OFTEN if len(failures) >= limits.BREAKER_FAILURES else RunnerEvent.FAILED
        return replace(
            self.move(event, now),
            failures=failures,
            attempts=attempts,
            retry_at=now + backoff_seconds(self.uid, attempts),
            blame=blame,
        )


@dataclass(frozen=True, slots=True)
class FetchRecord:
    """Fetches of one card's content that failed and may be tried again."""

    attempts: int = 0
    retry_at: float = 0.0
    failed_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Ledger:
    records: Mapping[PlacementUid, Record] = field(default_factory=dict)
    fetches: Mapping[str, FetchRecord] = field(default_factory=dict)

    def record(self, uid: PlacementUid) -> Record:
        return self.records.get(uid, Record(uid))

    def reset(self, uids: frozenset[PlacementUid], now: float, contents: frozenset[str] = frozenset()) -> Ledger:
        """Clear breaker, wedge and backoff of the given placements, and failed fetches of the given contents; others
        are untouched."""
        stuck = (Phase.BACKOFF, Phase.BROKEN, Phase.WEDGED)
        return replace(
            self,
            records={
                uid: Record(uid, since=now, forgiven=True) if uid in uids and record.phase in stuck else record
                for uid, record in self.records.items()
            },
            fetches={content: fetch for content, fetch in self.fetches.items() if content not in contents},
        )


def backoff_seconds(key: str, attempt: int, limit: float = limits.BACKOFF_SECONDS_MAX) -> float:
    """1, 2, 4 … `limit` seconds, ±20 %. The jitter is a digest of (key, attempt): spread, yet reproducible."""
    digest = hashlib.blake2b(f"{key}/{attempt}".encode(), digest_size=8).digest()
    unit = int.from_bytes(digest, "big") / 2**64
    base = min(limit, limits.BACKOFF_SECONDS_MIN * 2.0 ** min(attempt - 1, 30))
    return base * (1.0 + limits.BACKOFF_JITTER * (2.0 * unit - 1.0))
