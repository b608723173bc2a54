"""What a rule of coordination may look at, and what it adds. No decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from skulk.core.coordination.actions import Action
from skulk.core.coordination.document import Document, Version
from skulk.core.coordination.facts import Observed, Report
from skulk.core.coordination.limits import GRACE_SECONDS, NAMES_SHOWN_MAX
from skulk.core.coordination.state import State
from skulk.core.domain import (
    Blueprint,
    Condition,
    Fleet,
    Member,
    NodeName,
    Refusal,
    RunningPlacement,
    SessionPlacement,
    Waiting,
)

Plan = Callable[
    [Fleet, Sequence[SessionPlacement], Sequence[Member], Sequence[RunningPlacement], Sequence[Refusal]], Blueprint
]
"""The planner: `skulk.core.planner.plan`, or what a test puts in its place."""

SUBJECT = "coordination"
"""Whom the lines of this package are about."""


@dataclass(frozen=True)
class Context:
    """Everything a rule may look at. Derived sets are worked out once per rule."""

    state: State
    observed: Observed
    now: float
    plan: Plan

    @property
    def me(self) -> NodeName:
        return self.observed.me

    @property
    def document(self) -> Document | None:
        return self.state.durable.document

    @cached_property
    def declared(self) -> frozenset[NodeName]:
        """Nodes of every commit that matters here: a node that leaves or comes counts as long as one names it."""
        return frozenset(name for v in self.observed.commits for name in v.fleet.nodes)

    @cached_property
    def peers(self) -> frozenset[NodeName]:
        """The other live members."""
        return (self.observed.live & self.declared) - {self.me}

    @cached_property
    def live_reports(self) -> Mapping[NodeName, Report]:
        """The newest reports of the other live members, whatever they answer to."""
        heard = self.observed.heard
        return {name: heard[name].report for name in sorted(self.peers) if name in heard}

    @cached_property
    def sighted(self) -> frozenset[NodeName]:
        """Live members, and those that a live member sees although this node does not: on their word only, not on
        what somebody told them."""
        seen = (name for report in self.live_reports.values() for name in report.live)
        return (self.observed.live | frozenset(seen)) & self.declared | {self.me}

    @cached_property
    def answers(self) -> Mapping[NodeName, Report]:
        """Reports that answer this term's question, this node's own included, once it knows what runs here."""
        term = self.state.term
        if term is None:
            return {}
        found = {
            name: report
            for name, report in self.live_reports.items()
            if self.observed.heard[name].question >= term.question and report.stock_taken
        }
        if self.observed.local.stock_taken:
            found[self.me] = report_of(self.state, self.observed, self.now)
        return found

    @cached_property
    def versions(self) -> tuple[Version, ...]:
        """Documents that exist for certain, because a live member holds them or their live author announced them."""
        live = self.observed.live & self.declared
        own = (self.document.version,) if self.document is not None else ()
        held = tuple(r.accepted for r in self.live_reports.values() if r.accepted is not None)
        return own + held + tuple(v for v in self.observed.announced if v.author in live)


@dataclass(frozen=True, slots=True)
class Step:
    """What one rule adds: the memory after it, and what is to be done and told."""

    state: State
    actions: tuple[Action, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    conditions: tuple[Condition, ...] = ()


def graced(state: State, observed: Observed, now: float) -> bool:
    """Every declared node was seen, or had its time to come up, since this daemon began."""
    if observed.newest is None or state.born_at is None:
        return False
    return now - state.born_at >= GRACE_SECONDS or state.seen >= observed.newest.nodes.keys()


def report_of(state: State, observed: Observed, now: float) -> Report:
    """This node's report. Of a round's new state only when the round's `Persist` is on disk."""
    local, document = observed.local, state.durable.document
    return Report(
        node=local.node,
        boot=local.member.boot,
        promised=state.durable.promised,
        accepted=document.version if document is not None else None,
        validated=frozenset(v.commit for v in observed.commits),
        invalid=local.invalid,
        member=local.member,
        running=local.running,
        refusals=local.refusals,
        stock_taken=local.stock_taken,
        graced=graced(state, observed, now),
        live=observed.live,
    )


def shown(names: Sequence[str]) -> str:
    """The first names, and how many more."""
    more = f" and {len(names) - NAMES_SHOWN_MAX} more" if len(names) > NAMES_SHOWN_MAX else ""
    return ", ".join(names[:NAMES_SHOWN_MAX]) + more
