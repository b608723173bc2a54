"""`decide`: this node's part, the facts and the ledger → what to do next, what is waited for, what serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from skulk.core.domain import PlacementUid, Reason, Waiting
from skulk.core.errors import RUN_BREAKER
from skulk.core.reconcile.actions import Action, key
from skulk.core.reconcile.fold import STUCK, fold
from skulk.core.reconcile.ledger import Ledger
from skulk.core.reconcile.machine import Phase
from skulk.core.reconcile.observed import Observed, Part
from skulk.core.reconcile.rules import RULES, Context


@dataclass(frozen=True, slots=True)
class Decision:
    """The whole answer: printable, comparable, and all that the applier needs."""

    actions: tuple[Action, ...]
    waiting: tuple[Waiting, ...]
    ledger: Ledger
    routable: frozenset[PlacementUid]
    """Placements that requests may be sent to."""
    settled: bool
    """Nothing is under way: the next look may be a while off."""


def decide(part: Part, observed: Observed, ledger: Ledger, now: float) -> Decision:
    """One decision. Pure; raises IllegalTransition only for a mistake in our own tables."""
    wanted = frozenset(p.uid for p in part.placements)
    ledger = fold(ledger, observed, wanted, now)
    actions: list[Action] = []
    waiting: list[Waiting] = []
    for rule in RULES:
        step = rule(Context(part, observed, ledger, now))
        ledger = replace(
            ledger,
            records={**ledger.records, **step.records},
            fetches={**ledger.fetches, **step.fetches},
        )
        actions += step.actions
        waiting += step.waiting
    waiting += _stuck(ledger, now)
    # Two rules may want the same thing; it is done once, and not while it is being done.
    todo = tuple({key(a): a for a in reversed(actions) if key(a) not in observed.in_flight}.values())[::-1]
    return Decision(
        actions=todo,
        waiting=_one_per_subject(waiting),
        ledger=ledger,
        routable=frozenset(u for u, r in ledger.records.items() if r.phase is Phase.READY),
        settled=not todo and not observed.in_flight and _all_steady(ledger),
    )


_STEADY = frozenset({Phase.READY, Phase.BROKEN, Phase.WEDGED})


def _all_steady(ledger: Ledger) -> bool:
    return all(record.phase in _STEADY for record in ledger.records.values())


_STUCK_REASON: Mapping[Phase, Reason] = {
    Phase.BACKOFF: Reason.BACKOFF,
    Phase.BROKEN: Reason.BREAKER_OPEN,
    Phase.WEDGED: Reason.WEDGED,
}


def _stuck(ledger: Ledger, now: float) -> list[Waiting]:
    lines: list[Waiting] = []
    for uid, record in sorted(ledger.records.items()):
        if record.phase not in STUCK:
            continue
        cause = f"{record.blame.code} {record.blame.message}" if record.blame else "it failed"
        if record.phase is Phase.BROKEN:
            cause = f"{RUN_BREAKER.id} {len(record.failures)} failures in a row, the last: {cause}"
        if record.phase is Phase.BACKOFF:
            on = f"retry in {max(0.0, record.retry_at - now):.0f} s"
        else:
            on = "changed inputs or `skulk reconcile NAME --reset`"
        lines.append(Waiting(uid, on, _STUCK_REASON[record.phase], cause))
    return lines


def _one_per_subject(waiting: list[Waiting]) -> tuple[Waiting, ...]:
    """The first line about a subject is the nearest obstacle; later rules only repeat it from further off."""
    first: dict[str, Waiting] = {}
    for line in waiting:
        first.setdefault(line.subject, line)
    return tuple(first.values())
