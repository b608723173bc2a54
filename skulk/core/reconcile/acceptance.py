"""Whether this node may take a commit: ancestry, then signatures, then content. Pure.

A commit is taken as a whole or not at all, and judged by the policy of the commit accepted before it. Whatever is
said here depends on the commit, the accepted Fleet and `node.toml` only, so that equal nodes judge alike. Does not
fetch, check a signature or parse: the facts and the Fleet are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Protocol

from skulk.core.domain import CommitId, Fleet, NodeName, Reason, VerifyMode
from skulk.core.errors import (
    SRC_ANCESTOR,
    SRC_FORCED,
    SRC_INVALID,
    SRC_NAMESPACE,
    SRC_PRUNE,
    SRC_UNSIGNED,
    ErrorCode,
)
from skulk.core.ports import CommitFacts, Signature

# Removing a single thing is everyday work in a fleet of two; a slip of the hand removes a folder.
PRUNE_REMOVALS_MIN = 2

# Named in a message; the rest is counted. A condition must stay readable.
NAMES_SHOWN_MAX = 5
FINDINGS_SHOWN_MAX = 3

_COMMIT_SHOWN = 12
_STRICTNESS = (VerifyMode.OFF, VerifyMode.HEAD, VerifyMode.EVERY)
_SIGNATURE_WORDS = {
    Signature.NONE: "no signature",
    Signature.BAD: "a bad signature",
    Signature.UNTRUSTED: "a signature by a key that is not allowed, has ended or cannot be checked",
}


class Finding(Protocol):
    """What is read of a manifest diagnostic."""

    @property
    def file(self) -> str: ...
    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...
    @property
    def severity(self) -> str: ...
    @property
    def code(self) -> str: ...
    @property
    def message(self) -> str: ...


class Candidate(Protocol):
    """The outcome of loading a commit's manifests; `fleet` is None when anything in it is invalid."""

    @property
    def fleet(self) -> Fleet | None: ...
    @property
    def diagnostics(self) -> Sequence[Finding]: ...


@dataclass(frozen=True, slots=True)
class SourcePolicy:
    """The local facts of `node.toml` that a commit is judged by."""

    namespace: str
    node: NodeName
    verify: VerifyMode = VerifyMode.OFF
    allow_force_push: bool = False


class Membership(StrEnum):
    """How this node stands in an accepted commit."""

    MEMBER = "member"
    LEAVING = "leaving"
    """Its manifest was in the commit accepted before and is gone: drain, stop, leave."""
    OUTSIDE = "outside"
    """Its manifest is not there and was not there before either: run nothing, wait for one."""


@dataclass(frozen=True, slots=True)
class Accept:
    """The commit's Fleet is the desired state from now on."""

    fleet: Fleet
    membership: Membership = Membership.MEMBER
    unchanged: bool = False
    """It is the commit that was accepted already: nothing to do."""
    warnings: tuple[str, ...] = ()

    @property
    def leaving(self) -> bool:
        """This node has no part in the fleet: what runs here drains and stops."""
        return self.membership is not Membership.MEMBER

    @property
    def reason(self) -> Reason:
        return _MEMBERSHIP_REASONS[self.membership]


@dataclass(frozen=True, slots=True)
class Reject:
    """The commit is not taken; the accepted one stays. `names`: the commits, files or manifests that are why."""

    code: ErrorCode
    reason: Reason
    message: str
    names: tuple[str, ...] = ()


Verdict = Accept | Reject

_MEMBERSHIP_REASONS: Mapping[Membership, Reason] = {
    Membership.MEMBER: Reason.COMMIT_ACCEPTED,
    Membership.LEAVING: Reason.LEAVING,
    Membership.OUTSIDE: Reason.NODE_NOT_IN_FLEET,
}


def required_verification(policy: SourcePolicy, accepted: Fleet | None) -> VerifyMode:
    """The stricter of the node's own mode and that of the Fleet accepted before: what `Repo.facts` is asked for."""
    modes = (policy.verify, accepted.verify if accepted is not None else VerifyMode.OFF)
    return max(modes, key=_STRICTNESS.index)


def judge(
    facts: CommitFacts,
    candidate: Candidate,
    accepted: Fleet | None,
    policy: SourcePolicy,
    *,
    remembered: CommitId | None = None,
) -> Verdict:
    """Accept or reject the commit that `facts` and `candidate` describe.

    `facts` must be relative to `accepted.commit` and gathered with `required_verification(policy, accepted)`.
    `accepted` is None when no commit was accepted yet, or its manifests are lost (a damaged mirror): then
    `remembered` is what the journal knows of it, so that history cannot go backwards through the damage.
    """
    if accepted is not None and facts.commit == accepted.commit:
        return Accept(accepted, _membership(accepted, accepted, policy.node), unchanged=True)
    last = accepted.commit if accepted is not None else remembered
    rejection = _ancestry(facts, last, policy) or _signatures(facts, accepted, policy)
    if rejection is not None:
        return rejection
    fleet = candidate.fleet
    if fleet is None:
        return _invalid(facts, candidate)
    rejection = _namespace(facts, fleet, policy) or _prune(facts, fleet, accepted)
    if rejection is not None:
        return rejection
    found = tuple(_place(finding) for finding in candidate.diagnostics)
    warnings = (*found, *_needless_allowances(fleet, accepted))
    return Accept(fleet, _membership(fleet, accepted, policy.node), warnings=warnings)


def _ancestry(facts: CommitFacts, last: CommitId | None, policy: SourcePolicy) -> Reject | None:
    if last is None:
        return None
    new, old = _short(facts.commit), _short(last)
    if facts.is_ancestor:
        message = f"commit {new} is an ancestor of the accepted commit {old}"
        return Reject(SRC_ANCESTOR, Reason.STALE_COMMIT, message, (facts.commit,))
    if not facts.descends and not policy.allow_force_push:
        message = f"commit {new} does not descend from the accepted commit {old}"
        return Reject(SRC_FORCED, Reason.HISTORY_REWRITTEN, message, (facts.commit,))
    return None


def _signatures(facts: CommitFacts, accepted: Fleet | None, policy: SourcePolicy) -> Reject | None:
    mode = required_verification(policy, accepted)
    faults = [
        (commit, found)
        for commit, found in facts.unsigned
        if found is not Signature.GOOD
        and (mode is VerifyMode.EVERY or (mode is VerifyMode.HEAD and commit == facts.commit))
    ]
    if not faults:
        return None
    told = [f"{_short(commit)} has {_SIGNATURE_WORDS[found]}" for commit, found in faults]
    message = f"verification is '{mode.value}': commit {_listed(told, '; ')}"
    return Reject(SRC_UNSIGNED, Reason.SIGNATURE_REFUSED, message, tuple(commit for commit, _ in faults))


def _invalid(facts: CommitFacts, candidate: Candidate) -> Reject:
    errors = [finding for finding in candidate.diagnostics if finding.severity == "error"]
    told = [_place(finding) for finding in errors[:FINDINGS_SHOWN_MAX]]
    counted = f"{len(errors)} error{'' if len(errors) == 1 else 's'}"
    more = f" | and {len(errors) - len(told)} more" if len(errors) > len(told) else ""
    message = f"commit {_short(facts.commit)}: {counted}: {' | '.join(told)}{more}"
    files = tuple(dict.fromkeys(finding.file for finding in errors))
    return Reject(SRC_INVALID, Reason.INVALID_MANIFESTS, message, files)


def _namespace(facts: CommitFacts, fleet: Fleet, policy: SourcePolicy) -> Reject | None:
    if fleet.namespace == policy.namespace:
        return None
    message = (
        f"commit {_short(facts.commit)}: Fleet.spec.namespace is {fleet.namespace!r}, "
        f"node.toml's namespace is {policy.namespace!r}"
    )
    return Reject(SRC_NAMESPACE, Reason.NAMESPACE_MISMATCH, message, (fleet.namespace,))


def _prune(facts: CommitFacts, fleet: Fleet, accepted: Fleet | None) -> Reject | None:
    """Refuse to lose much at once. Compares the two manifest sets and nothing else."""
    if accepted is None:
        return None
    # As written: 0.29 of 100 is 29, which binary floating point makes a little less.
    share = Fraction(str(accepted.prune.max_share))
    allowed = frozenset(fleet.prune.allow_removal)
    told: list[str] = []
    missing: list[str] = []
    for kind, before, after in _compared(fleet, accepted):
        removed = sorted(before - after)
        if len(removed) < PRUNE_REMOVALS_MIN or len(removed) <= share * len(before):
            continue
        unlisted = [name for name in removed if name not in allowed]
        if unlisted:
            told.append(
                f"removes {len(removed)} of {len(before)} {kind}, not in allowRemoval: {_listed(unlisted, ', ')}"
            )
            missing += unlisted
    if not missing:
        return None
    limit = f"{float(share * 100):g} %"
    message = f"commit {_short(facts.commit)} {' and '.join(told)} (more than {limit} at once)"
    return Reject(SRC_PRUNE, Reason.PRUNE_PROTECTED, message, tuple(dict.fromkeys(missing)))


def _needless_allowances(fleet: Fleet, accepted: Fleet | None) -> tuple[str, ...]:
    """Names in allowRemoval that the commit does not remove: a slip, or left over from an earlier commit."""
    removed = {
        name
        for _, before, after in (_compared(fleet, accepted) if accepted is not None else ())
        for name in before - after
    }
    return tuple(
        f"prune.allowRemoval names {name!r}, which this commit does not remove"
        for name in dict.fromkeys(fleet.prune.allow_removal)
        if name not in removed
    )


def _compared(fleet: Fleet, accepted: Fleet) -> tuple[tuple[str, frozenset[str], frozenset[str]], ...]:
    """(kind, names before, names after) of the kinds that prune protection covers."""
    return (
        ("deployments", frozenset(accepted.deployments), frozenset(fleet.deployments)),
        ("nodes", frozenset(accepted.nodes), frozenset(fleet.nodes)),
    )


def _membership(fleet: Fleet, accepted: Fleet | None, node: NodeName) -> Membership:
    if node in fleet.nodes:
        return Membership.MEMBER
    if accepted is not None and node in accepted.nodes:
        return Membership.LEAVING
    return Membership.OUTSIDE


def _place(finding: Finding) -> str:
    return f"{finding.file}:{finding.line}:{finding.column} {finding.code} {finding.message}"


def _short(commit: str) -> str:
    return commit[:_COMMIT_SHOWN]


def _listed(names: Sequence[str], separator: str) -> str:
    shown = separator.join(names[:NAMES_SHOWN_MAX])
    return f"{shown} and {len(names) - NAMES_SHOWN_MAX} more" if len(names) > NAMES_SHOWN_MAX else shown
