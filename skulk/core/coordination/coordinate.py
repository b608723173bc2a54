"""`coordinate`: one round of a node's coordination, from memory and facts to memory and what is to be done.

Level-triggered: call it when something changed and a few times a second; calling it twice does nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from skulk.core.coordination import acceptance, election, membership, publishing
from skulk.core.coordination.actions import Action
from skulk.core.coordination.context import Context, Plan, Step
from skulk.core.coordination.facts import Observed
from skulk.core.coordination.state import State
from skulk.core.domain import Condition, NodeName, Waiting

RULES: tuple[Callable[[Context], Step], ...] = (
    membership.watch,
    acceptance.accept,
    acceptance.fetch,
    election.stand,
    election.discover,
    publishing.publish,
    election.compare,
)
"""In order: each sees the memory as the rules before it left it."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """What is to be done, in this order, and what is to be told."""

    actions: tuple[Action, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    conditions: tuple[Condition, ...] = ()
    coordinator: NodeName | None = None
    """Who publishes now, as far as this node knows."""


def coordinate(state: State, observed: Observed, now: float, plan: Plan) -> tuple[State, Outputs]:
    """One round. `now` is monotonic seconds of this daemon.

    The new state counts only when every `Persist` among the actions has succeeded; otherwise the caller keeps the
    old one and does nothing that comes after the failed action.
    """
    actions: list[Action] = []
    waiting: list[Waiting] = []
    conditions: list[Condition] = []
    for rule in RULES:
        step = rule(Context(state, observed, now, plan))
        state = step.state
        actions += step.actions
        waiting += step.waiting
        conditions += step.conditions
    known = election.coordinator(Context(state, observed, now, plan))
    return state, Outputs(tuple(actions), tuple(waiting), tuple(conditions), known)
