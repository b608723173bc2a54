"""Who is there, since when, and who had time to come: bookkeeping that the other rules judge by."""

from __future__ import annotations

from dataclasses import replace

from skulk.core.coordination.context import Context, Step
from skulk.core.coordination.limits import PATIENCE_SECONDS, SETTLE_SECONDS
from skulk.core.domain import CommitId, NodeName


def watch(ctx: Context) -> Step:
    """Note changes of the membership, absences, and commits that are named for the first time."""
    state, observed, now = ctx.state, ctx.observed, ctx.now
    named: set[CommitId] = {v.commit for v in observed.commits} | {v.commit for v in ctx.versions}
    for report in ctx.live_reports.values():
        named |= report.validated
    return Step(
        replace(
            state,
            born_at=now if state.born_at is None else state.born_at,
            changes=observed.changes,
            changed_at=state.changed_at if observed.changes == state.changes else now,
            absent_since={
                name: state.absent_since.get(name, now) for name in sorted(ctx.declared - observed.live - {ctx.me})
            },
            seen=(state.seen | observed.live | {ctx.me}) & ctx.declared,
            commit_since={commit: state.commit_since.get(commit, now) for commit in sorted(named)},
        )
    )


def settled(ctx: Context) -> bool:
    """Nobody has come or gone for a moment."""
    return ctx.now - ctx.state.changed_at >= SETTLE_SECONDS


def missed(ctx: Context, name: NodeName) -> bool:
    """The node is away, and still waited for: what it ran is taken as running on. One that others see runs on."""
    if name in ctx.sighted:
        return True
    since = ctx.state.absent_since.get(name)
    return since is not None and ctx.now - since < PATIENCE_SECONDS and name not in ctx.observed.departed
