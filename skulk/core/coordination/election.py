"""Whether this node coordinates, and what it must have asked before it may.

The incumbent is the author of the newest document that a live member holds: whoever returns with an empty memory does
not push it aside. Without one it is the live member with the lowest ordinal. Two nodes may believe it of themselves
for a while; epochs keep their documents apart, and the comparison of what members hold ends it.
"""

from __future__ import annotations

from dataclasses import replace

from skulk.core.coordination.actions import Action, Announce, Ask
from skulk.core.coordination.context import SUBJECT, Context, Step, shown
from skulk.core.coordination.document import epoch_after
from skulk.core.coordination.limits import (
    ANTI_ENTROPY_SECONDS,
    ASK_RETRY_SECONDS,
    DISCOVERY_SECONDS_MAX,
    EPOCH_MAX,
    SETTLE_SECONDS,
)
from skulk.core.coordination.membership import settled
from skulk.core.coordination.state import Term
from skulk.core.domain import NodeName, Reason, Waiting


def coordinator(ctx: Context) -> NodeName | None:
    """Who publishes now, as far as this node knows; None before a commit names any live node."""
    fleet = ctx.observed.newest
    if fleet is None:
        return None
    eligible = {name for name in ctx.observed.live | {ctx.me} if name in fleet.nodes}
    newest = max(ctx.versions, key=lambda v: (v.key, v.digest), default=None)
    if newest is not None and newest.author in eligible:
        return newest.author
    return min(eligible, key=lambda name: (fleet.nodes[name].ordinal, name), default=None)


def stand(ctx: Context) -> Step:
    """Begin a term, end it, or begin another one because the membership moved or somebody promised more."""
    state = ctx.state
    if coordinator(ctx) != ctx.me:
        return Step(replace(state, term=None))
    if not settled(ctx):
        line = Waiting(SUBJECT, "the membership", Reason.SETTLING, f"it changed less than {SETTLE_SECONDS} s ago")
        # Any event ends the term, also one that leaves the set as it was: a thawed coordinator must begin anew.
        return Step(replace(state, term=None), waiting=(line,))
    term = state.term
    if term is not None and not _outbid(ctx, term):
        return Step(state)
    question = state.question + 1
    # Asked "long ago": discovery asks at once.
    began = Term(question, ctx.now, asked_at=ctx.now - ASK_RETRY_SECONDS)
    return Step(replace(state, question=question, term=began))


def _outbid(ctx: Context, term: Term) -> bool:
    """Somebody promised a later epoch: nothing this term publishes would be accepted there."""
    return term.epoch is not None and _highest_promise(ctx) > term.epoch


def _highest_promise(ctx: Context) -> int:
    """Of every declared node that was ever heard: what an absent one promised counts when it returns."""
    heard = [h.report.promised for name, h in ctx.observed.heard.items() if name in ctx.declared]
    return max([ctx.state.durable.promised, *heard])


def discover(ctx: Context) -> Step:
    """Ask every live member until all have answered, or the silent ones had their time; then take an epoch."""
    term, fleet = ctx.state.term, ctx.observed.newest
    if term is None or term.epoch is not None or fleet is None:
        return Step(ctx.state)
    silent = sorted(ctx.peers - ctx.answers.keys())
    patient = ctx.now - term.began_at < DISCOVERY_SECONDS_MAX
    if (silent and patient) or not ctx.observed.local.stock_taken:
        return _ask(ctx, term, silent)
    epoch = epoch_after(_highest_promise(ctx), fleet.nodes[ctx.me].ordinal)
    if epoch > EPOCH_MAX:
        return Step(ctx.state, waiting=(_at_the_end(ctx),))
    # The answers are the first comparison of what the members hold.
    return Step(replace(ctx.state, term=replace(term, epoch=epoch, compared_at=ctx.now)))


def _at_the_end(ctx: Context) -> Waiting:
    """Counting does not get there: somebody claims a number that was made up."""
    claims = {name: h.report.promised for name, h in ctx.observed.heard.items() if name in ctx.declared}
    claims[ctx.me] = ctx.state.durable.promised
    who = max(sorted(claims), key=lambda name: claims[name])
    message = f"it promised {claims[who]}, and no epoch is left above: its manifest or its journal must go"
    return Waiting(SUBJECT, f"a lower epoch of {who}", Reason.DISCOVERING, message)


def _ask(ctx: Context, term: Term, silent: list[NodeName]) -> Step:
    missing = silent or [ctx.me]
    line = Waiting(SUBJECT, f"answer of {shown(missing)}", Reason.DISCOVERING, "every live member is asked first")
    if not silent or ctx.now - term.asked_at < ASK_RETRY_SECONDS:
        return Step(ctx.state, waiting=(line,))
    asked = replace(ctx.state, term=replace(term, asked_at=ctx.now))
    return Step(asked, (Ask(tuple(silent), term.question),), (line,))


def compare(ctx: Context) -> Step:
    """Anti-entropy: ask all members what they hold, and announce again while one lacks the document."""
    term, document = ctx.state.term, ctx.document
    if term is None or term.epoch is None:
        return Step(ctx.state)
    silent = sorted(ctx.peers - ctx.answers.keys())
    line = Waiting(SUBJECT, f"answer of {shown(silent)}", Reason.MEMBER_SILENT, "left out, what runs there is kept")
    waiting = (line,) if silent else ()
    if ctx.now - term.compared_at < ANTI_ENTROPY_SECONDS:
        return Step(ctx.state, waiting=waiting)
    actions: list[Action] = [Ask(tuple(sorted(ctx.peers)), term.question)] if ctx.peers else []
    if document is not None and document.version.epoch == term.epoch:
        lacking = [n for n, r in ctx.live_reports.items() if n in document.members and r.accepted != document.version]
        actions += [Announce(document.version)] if lacking else []
    compared = replace(ctx.state, term=replace(term, compared_at=ctx.now))
    return Step(compared, tuple(actions), waiting)
