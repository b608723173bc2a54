"""When the coordinator publishes, and what it plans from.

Everything that keeps it from publishing is one gate with a line that says what it waits for. Whatever is not known
well enough to be planned anew is kept as it is: silent members, members that have not seen the commit, and nodes
that have been away for a moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from skulk.core.coordination.actions import Announce, Persist
from skulk.core.coordination.commits import choose
from skulk.core.coordination.context import SUBJECT, Context, Step, graced, shown
from skulk.core.coordination.document import Document, belongs_to, compose, epoch_after
from skulk.core.coordination.facts import Report, Validated
from skulk.core.coordination.limits import EPOCH_MAX, GRACE_SECONDS
from skulk.core.coordination.membership import missed
from skulk.core.coordination.state import Durable, Inputs, Term
from skulk.core.domain import (
    Blueprint,
    Fleet,
    NodeName,
    Quorum,
    Reason,
    Refusal,
    RunningPlacement,
    Waiting,
    begun,
)


def publish(ctx: Context) -> Step:
    """Plan when an input changed, and publish when the answer did."""
    term = ctx.state.term
    if term is None or term.epoch is None:
        return Step(ctx.state)
    choice = choose(ctx)
    chosen = choice.validated
    closed = None if chosen is None else _grace(ctx, chosen.fleet) or _majority(ctx, chosen.fleet)
    waiting = choice.waiting if closed is None else (*choice.waiting, closed)
    if chosen is None or closed is not None or ctx.me not in chosen.fleet.nodes:
        return Step(ctx.state, (), waiting, choice.conditions)
    inputs = gather(ctx, chosen)
    if inputs == term.inputs:
        return Step(ctx.state, (), waiting, choice.conditions)
    blueprint = ctx.plan(inputs.fleet, (), inputs.members, inputs.running, inputs.refusals)
    lonely = _lonely(ctx, chosen.fleet, blueprint)
    if lonely is not None:
        return Step(ctx.state, (), (*waiting, lonely), choice.conditions)
    step = _publish(ctx, replace(term, inputs=inputs), term.epoch, inputs, blueprint)
    return replace(step, waiting=waiting, conditions=choice.conditions)


def _publish(ctx: Context, term: Term, epoch: int, inputs: Inputs, blueprint: Blueprint) -> Step:
    if term.seq >= 0 and _says_the_same(ctx.document, inputs, blueprint):
        return Step(replace(ctx.state, term=term))
    ordinal = inputs.fleet.nodes[ctx.me].ordinal
    if not belongs_to(epoch, ordinal):
        # The commit gives this node another ordinal than the one the term began with.
        epoch, term = epoch_after(epoch, ordinal), replace(term, seq=-1)
        if epoch > EPOCH_MAX:
            # No number that counting could have reached; a new term says who claims it.
            return Step(replace(ctx.state, term=None))
    term = replace(term, epoch=epoch, seq=term.seq + 1)
    document = compose(ctx.me, inputs.names, replace(blueprint, epoch=epoch, seq=term.seq))
    durable = Durable(max(ctx.state.durable.promised, epoch), document)
    state = replace(ctx.state, term=term, durable=durable)
    return Step(state, (Persist(durable), Announce(document.version)))


def _says_the_same(document: Document | None, inputs: Inputs, blueprint: Blueprint) -> bool:
    """Only the facts behind it moved (a runner became ready): nobody needs to read it again."""
    if document is None or document.members != frozenset(inputs.names):
        return False
    published = document.blueprint
    return replace(blueprint, epoch=published.epoch, seq=published.seq, inputs=published.inputs) == published


# --- gates ----------------------------------------------------------------------------------------------------


def _grace(ctx: Context, fleet: Fleet) -> Waiting | None:
    """Declared nodes get time to come up after this daemon did, unless a member vouches that they had it."""
    if graced(ctx.state, ctx.observed, ctx.now) or any(report.graced for report in ctx.answers.values()):
        return None
    absent = sorted(fleet.nodes.keys() - ctx.state.seen)
    message = f"declared nodes have {GRACE_SECONDS:.0f} s to come up before anything is planned without them"
    return Waiting(SUBJECT, f"nodes {shown(absent)}", Reason.WAITING_FOR_NODES, message)


def _majority(ctx: Context, fleet: Fleet) -> Waiting | None:
    """Under `quorum: majority` more than half of the Node manifests must have answered."""
    if fleet.quorum is not Quorum.MAJORITY:
        return None
    here = len(ctx.answers.keys() & fleet.nodes.keys())
    if 2 * here > len(fleet.nodes):
        return None
    message = f"{here} of {len(fleet.nodes)} declared nodes answer, and quorum is majority"
    return Waiting(SUBJECT, "more nodes", Reason.NO_MAJORITY, message)


def _lonely(ctx: Context, fleet: Fleet, blueprint: Blueprint) -> Waiting | None:
    """A node that sees none of the others and can run nothing has nothing to say that could be true."""
    wanted = any(d.replicas and not d.suspend for d in fleet.deployments.values())
    if len(ctx.answers) > 1 or len(fleet.nodes) < 2 or blueprint.placements or not wanted:
        return None
    message = f"{ctx.me} sees no other node and could place nothing"
    return Waiting(SUBJECT, "another node", Reason.NOTHING_TO_PUBLISH, message)


# --- inputs ---------------------------------------------------------------------------------------------------


def gather(ctx: Context, chosen: Validated) -> Inputs:
    """What the planner gets: the members that can act on the commit, and everything that runs or may run."""
    fleet = chosen.fleet
    planned = {
        name: report
        for name, report in sorted(ctx.answers.items())
        if name in fleet.nodes and chosen.commit in report.validated
    }
    refusals: Iterable[Refusal] = (refusal for report in planned.values() for refusal in report.refusals)
    return Inputs(
        fleet,
        tuple(report.member for report in planned.values()),
        _running(ctx, fleet),
        tuple(refusals),
    )


def _running(ctx: Context, fleet: Fleet) -> tuple[RunningPlacement, ...]:
    """By report, and for what no report can say yet, by the last document. A node that is lost for good has none."""
    reports = _reports(ctx)
    found: list[RunningPlacement] = []
    for name in sorted({*reports, *fleet.nodes}):
        if name != ctx.me and name not in ctx.peers and not missed(ctx, name):
            continue
        report = reports.get(name)
        reported = report.running if report is not None else ()
        found += reported
        found += _expected(ctx, name, report, frozenset(r.uid for r in reported))
    return tuple(found)


def _reports(ctx: Context) -> Mapping[NodeName, Report]:
    """The newest report of everybody, also of those that are away; a report without stock says nothing of runners."""
    found = {name: heard.report for name, heard in ctx.observed.heard.items() if heard.report.stock_taken}
    return {**found, **{name: report for name, report in ctx.answers.items() if name == ctx.me}}


def _expected(
    ctx: Context, name: NodeName, report: Report | None, reported: frozenset[str]
) -> Iterable[RunningPlacement]:
    """What the last document gives the node, while the node has not said what became of it."""
    document = ctx.document
    if document is None:
        return ()
    told = report is not None and report.accepted is not None and report.accepted.key >= document.key
    # Who answers and was passed over says for itself what runs there: it cannot take the document.
    passed_over = name in ctx.answers and name not in document.members
    if told or passed_over:
        return ()
    # Begun, not complete: a placement that was only announced must never make another one stop.
    return tuple(begun(p, name) for p in document.blueprint.on_node(name) if p.uid not in reported)
