"""Which commit the next document names: how an accepted commit comes into force.

The newest one that no live member calls invalid, once every live member has validated it or had its time. Never an
older one than any live member acts on, and one that is in force already stays so.
"""

from __future__ import annotations

from dataclasses import dataclass

from skulk.core.coordination.context import SUBJECT, Context, shown
from skulk.core.coordination.facts import Validated
from skulk.core.coordination.limits import COMMIT_UNSEEN_SECONDS_MAX
from skulk.core.domain import CommitId, Condition, ConditionType, NodeName, Reason, Status, Waiting


@dataclass(frozen=True, slots=True)
class Choice:
    """The commit to plan, None while there is none, and what stands in the way of a newer one."""

    validated: Validated | None
    waiting: tuple[Waiting, ...] = ()
    conditions: tuple[Condition, ...] = ()


def choose(ctx: Context) -> Choice:
    """The newest commit that may be in force."""
    in_force = {version.commit for version in ctx.versions}
    unknown = _unknown_in_force(ctx, in_force)
    if unknown is not None:
        return Choice(None, (unknown,))
    waiting: list[Waiting] = []
    conditions: list[Condition] = []
    for candidate in reversed(ctx.observed.commits):
        blocked = _blocked(ctx, candidate.commit)
        if blocked is not None:
            conditions.append(blocked)
        if candidate.commit in in_force:
            # Too late to block it, and the fleet must stay able to plan. Who calls it invalid is passed over. The
            # newest of those in force ends the search, so that no live member is offered an older one.
            return Choice(candidate, tuple(waiting), tuple(conditions))
        if blocked is not None:
            waiting.append(Waiting(SUBJECT, "a valid commit", Reason.COMMIT_BLOCKED, blocked.message))
            continue
        unseen = _unseen(ctx, candidate)
        if not unseen:
            return Choice(candidate, tuple(waiting), tuple(conditions))
        message = f"commit {candidate.commit[:12]} is not in force before they have validated it"
        waiting.append(Waiting(SUBJECT, f"commit on {shown(unseen)}", Reason.COMMIT_NOT_SEEN, message))
    return Choice(None, tuple(waiting), tuple(conditions))


def _unknown_in_force(ctx: Context, in_force: set[CommitId]) -> Waiting | None:
    """A live member acts on a commit that is unknown here, and so may be newer: get it first, for a while."""
    known = {v.commit for v in ctx.observed.commits} | ctx.observed.ancestors
    fresh = sorted(c for c in in_force - known if ctx.now - ctx.state.commit_since[c] < COMMIT_UNSEEN_SECONDS_MAX)
    if not fresh:
        return None
    message = "a live member acts on it, and this node has not validated it yet"
    return Waiting(SUBJECT, f"commit {fresh[0][:12]}", Reason.COMMIT_NOT_SEEN, message)


def _blocked(ctx: Context, commit: CommitId) -> Condition | None:
    """The condition that names who calls the commit invalid, and why; None when nobody does."""
    for name, report in ctx.live_reports.items():
        for invalid in report.invalid:
            if invalid.commit == commit:
                message = f"commit {commit[:12]} is invalid on {name}: {invalid.message}"
                return Condition(ConditionType.STALLED, Status.TRUE, Reason.COMMIT_BLOCKED, message, commit)
    return None


def _unseen(ctx: Context, candidate: Validated) -> tuple[NodeName, ...]:
    """Members that must still be waited for. Silent ones are left out of the document anyway."""
    if ctx.now - ctx.state.commit_since[candidate.commit] >= COMMIT_UNSEEN_SECONDS_MAX:
        return ()
    answers = ctx.answers
    return tuple(
        name
        for name in sorted(ctx.peers & candidate.fleet.nodes.keys() & answers.keys())
        if candidate.commit not in answers[name].validated
    )
