"""Facts → ledger: what has happened to each placement since the last decision.

Level-triggered: it compares what is with what was, so facts that were missed, repeated or seen late lead to the
same ledger. It orders nothing.
"""

from __future__ import annotations

from dataclasses import replace

from skulk.core.domain import LastWords, Link, PlacementUid, RunnerFacts, RunnerReport
from skulk.core.errors import CODES
from skulk.core.reconcile import limits
from skulk.core.reconcile.ledger import Blame, Ledger, Record
from skulk.core.reconcile.machine import Phase, RunnerEvent, allows
from skulk.core.reconcile.observed import Observed

LIVE = frozenset({Phase.STARTING, Phase.LOADING, Phase.WARMING, Phase.READY})
ENDING = frozenset({Phase.DRAINING, Phase.STOPPING})
STUCK = frozenset({Phase.BACKOFF, Phase.BROKEN, Phase.WEDGED})

_SEEN = {
    RunnerReport.LOADING: RunnerEvent.LOADING_SEEN,
    RunnerReport.WARMING: RunnerEvent.WARMING_SEEN,
    RunnerReport.READY: RunnerEvent.READY_SEEN,
    RunnerReport.DRAINING: RunnerEvent.DRAINING_SEEN,
}


def fold(ledger: Ledger, observed: Observed, wanted: frozenset[PlacementUid], now: float) -> Ledger:
    """The ledger after looking at the facts. Records of placements that are neither wanted nor present go."""
    records: dict[PlacementUid, Record] = {}
    for uid in sorted({*ledger.records, *observed.runners, *wanted}):
        before = ledger.records.get(uid, Record(uid, since=now))
        facts = observed.runners.get(uid)
        if facts is None:
            after = _without_process(before, observed, uid in wanted, now)
        elif facts.link is Link.DEAD:
            after = _dead(before, facts, now)
        elif facts.link is Link.CONNECTED:
            after = _connected(before, facts, now)
        else:
            after = before
        if facts is not None or uid in wanted or after.phase in LIVE | ENDING:
            records[uid] = after
    return replace(ledger, records=records)


def _without_process(record: Record, observed: Observed, wanted: bool, now: float) -> Record:
    failed = observed.failed_starts.get(record.uid)
    starting = f"start/{record.uid}" in observed.in_flight
    if record.phase in LIVE and failed is not None:
        return record.fail(failed, now)
    young = record.phase is Phase.STARTING and now - record.since < limits.HELLO_SECONDS_MAX
    if record.phase in LIVE and not starting and not young:
        return record.fail(record.blame or Blame("SK-RUN-008", "the runner disappeared"), now)
    if record.phase in ENDING:
        record = record.move(RunnerEvent.ENDED, now)
    if record.phase is Phase.GONE and wanted:
        return Record(record.uid, since=now)
    if record.phase is Phase.BACKOFF and now >= record.retry_at:
        return record.move(RunnerEvent.RETRY_DUE, now)
    return record


def _dead(record: Record, facts: RunnerFacts, now: float) -> Record:
    words = facts.last_words
    if record.phase in LIVE:
        return record.fail(record.blame or _blame(words, facts), now)
    if record.phase in ENDING:
        return record.move(RunnerEvent.ENDED, now)
    if record.phase is Phase.PENDING and not record.forgiven and words is not None and words.code is not None:
        # Found at start: an earlier daemon's runner that said why it failed. Without last words (a reboot, a
        # kill) nothing is held against it.
        return record.fail(_blame(words, facts), now)
    return record


def _connected(record: Record, facts: RunnerFacts, now: float) -> Record:
    event = _SEEN.get(facts.report)
    if event is None or not allows(record.phase, event):
        return record
    moved = record.move(event, now)
    if event is RunnerEvent.READY_SEEN:
        return replace(moved, attempts=0, blame=None, load_seconds=max(0.0, now - facts.started_at))
    return moved


def _blame(words: LastWords | None, facts: RunnerFacts) -> Blame:
    if words is None:
        return Blame("SK-RUN-001", f"the runner (pid {facts.pid}) ended without last words, as a kill does")
    exit_text = "" if words.exit_code is None else f"exit code {words.exit_code}"
    code = words.code if words.code in CODES else "SK-RUN-001"
    message = words.message or f"the runner ended, {exit_text or 'exit code unknown'}"
    return Blame(code or "SK-RUN-001", message, hung=words.wedged)
