"""What is left of a running placement under the new desired state: does it stand, and if not, how firmly must it go.

This is where stickiness lives: a placement that is started as it would be started today, on its own node with its
own backend, stands, whatever else became attractive.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from skulk.core.domain import EngineBuild, NodeName, Reason, RunningPlacement, Spread
from skulk.core.memory import card_context_limit
from skulk.core.planner.eligibility import (
    STAYING,
    Rejection,
    Wanted,
    backends,
    matches,
)
from skulk.core.planner.offers import Refusals
from skulk.core.planner.survey import Site, Survey


class Hold(Enum):
    """How long a placement that no longer stands may serve."""

    UNTIL_REPLACED = "until replaced"
    """What it is, or where, is out of date: it serves until a replacement does, however long that takes."""
    WHILE_POSSIBLE = "while a replacement is possible"
    """Its node is to be empty: it serves until a replacement does, and goes at once when there is none."""
    NOT = "not"
    """Its node leaves the fleet by itself: nothing can be counted on."""


@dataclass(frozen=True, slots=True)
class Stands:
    """The placement stays. `build` is None while its node is absent: then it stays as it is."""

    running: RunningPlacement
    build: EngineBuild | None

    @property
    def serves(self) -> bool:
        return serves(self.running)


@dataclass(frozen=True, slots=True)
class Falls:
    """The placement has to make way. `message` says what changed."""

    running: RunningPlacement
    reason: Reason
    message: str
    hold: Hold

    @property
    def serves(self) -> bool:
        return self.hold is not Hold.NOT and serves(self.running)


def serves(running: RunningPlacement) -> bool:
    """Requests are answered by it now. A draining one refuses them and cannot be turned back."""
    return running.complete and not running.draining


def standing(
    wanted: Wanted,
    running: RunningPlacement,
    survey: Survey,
    refusals: Refusals,
    taken: Collection[NodeName],
) -> Stands | Falls:
    """Judge one running placement of a wanted replica. `taken`: nodes where a lower replica stands."""
    site = survey.by_name.get(running.node)
    if site is None:
        message = f"{running.node} is not in the fleet any more"
        return Falls(running, Reason.NODE_NOT_IN_FLEET, message, Hold.NOT)
    for rule in STAYING:
        if (no := rule(wanted, site)) is not None:
            node_level = no.reason in (Reason.DRAINED, Reason.NOT_PARTICIPATING)
            hold = Hold.WHILE_POSSIBLE if node_level else Hold.UNTIL_REPLACED
            return Falls(running, no.reason, f"{site.name} {no.message}", hold)
    if site.node.cordon and running.draining:
        return Falls(running, Reason.CORDONED, f"{site.name} is cordoned", Hold.UNTIL_REPLACED)
    if running.node in taken and wanted.deployment.spread is Spread.NODE:
        message = f"{site.name} holds another replica (spread: node)"
        return Falls(running, Reason.SPREAD, message, Hold.UNTIL_REPLACED)
    if not site.reports():
        return Stands(running, None)
    return _as_launched(wanted, running, site, refusals)


def _as_launched(wanted: Wanted, running: RunningPlacement, site: Site, refusals: Refusals) -> Stands | Falls:
    """Compare with how it would be launched today; a veto counts until the placement has become complete."""
    able = backends(wanted, site)
    if isinstance(able, Rejection):
        return Falls(running, able.reason, f"{site.name} {able.message}", Hold.UNTIL_REPLACED)
    own = [build for build in able if build.backend == running.backend]
    if not own:
        message = f"{site.name} does not offer {running.backend} to it any more"
        return Falls(running, Reason.NO_BACKEND, message, Hold.UNTIL_REPLACED)
    tokens = _context(wanted, running)
    build = next((b for b in own if wanted.launch_hash(b, tokens) == running.launch_hash), None)
    if build is None:
        return Falls(running, Reason.SUPERSEDED, _changes(wanted, running, own[0]), Hold.UNTIL_REPLACED)
    refusal = refusals.get((site.name, wanted.deployment.name, running.launch_hash))
    if refusal is not None and not running.complete:
        message = f"{site.name} refused it ({refusal.reason.value}: {refusal.message})"
        return Falls(running, Reason.NODE_REFUSED, message, Hold.UNTIL_REPLACED)
    return Stands(running, build)


def _context(wanted: Wanted, running: RunningPlacement) -> int:
    """The context it should have: as declared, else the one it has while the card allows that, so that nothing
    restarts because something else came or went."""
    if wanted.deployment.context_tokens is not None:
        return wanted.deployment.context_tokens
    limit = card_context_limit(wanted.card)
    return running.context_tokens if limit is None else min(running.context_tokens, limit)


def _changes(wanted: Wanted, running: RunningPlacement, build: EngineBuild) -> str:
    """What is different, as far as the running side can be told: for people."""
    assert matches(running.backend, build.backend)
    pairs = (
        ("model", running.model, wanted.card.name),
        ("context", running.context_tokens, _context(wanted, running)),
        ("concurrency", running.concurrency, wanted.deployment.concurrency),
    )
    parts = [f"{name} {old} → {new}" for name, old, new in pairs if old != new]
    return ", ".join(parts) or f"the files or revision of {wanted.card.name}, engine options or engine build changed"
