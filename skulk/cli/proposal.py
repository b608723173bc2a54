"""What `skulk plan` compares: two sets of manifests over the same facts, offline or as a live fleet reports them.

Collects the inputs and runs the planner on them; how the answer looks is the business of `proposal_text`,
`proposal_markdown` and `proposal_json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from skulk.cli.live import Live
from skulk.cli.worktree import commit_of, first_parent, read_revision, read_worktree
from skulk.core.domain import CommitId, Fleet, Member, NodeName
from skulk.core.errors import CLI_USAGE, InvalidInput
from skulk.core.planner import Declared, Diff, Remark, declared_members, diff, rehearse

if TYPE_CHECKING:
    from skulk.core.manifests import Diagnostic
    from skulk.core.ports import TreeFile

WORKING_TREE = "working tree"
NOTHING = "none"
"""A base without any manifest: everything is new."""
_NO_COMMIT = CommitId("uncommitted")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two sets of manifests. `fleet` is None when they are invalid."""

    name: str
    """As a person names it: a revision, or `working tree`."""
    commit: CommitId | None
    fleet: Fleet | None
    diagnostics: tuple[Diagnostic, ...] = ()


@dataclass(frozen=True, slots=True)
class Proposal:
    """The change, and what it was worked out from."""

    base: Side
    target: Side
    live: str | None
    """Address of the node whose facts were used; None: declared hardware."""
    diff: Diff
    left_out: tuple[Remark, ...]
    assumed: tuple[Remark, ...]


def read_target(root: Path, revision: str | None) -> Side:
    """The manifests that are proposed. Raises what the readers of `worktree` raise."""
    if revision is None:
        return _loaded(WORKING_TREE, None, read_worktree(root))
    commit, files = read_revision(root, revision, "REV")
    return _loaded(revision, commit, files)


def read_base(root: Path, revision: str | None, target: Side, in_force: CommitId | None) -> Side:
    """The manifests that they are compared with: as asked, else the commit in force on the live fleet when this
    repository has it, else HEAD for the working tree and the parent for a commit; NOTHING where there is no such."""
    if revision == NOTHING:
        return Side(NOTHING, None, None)
    if revision is not None:
        return _at(root, revision, "--base")
    if in_force is not None and _has(root, in_force):
        return _at(root, in_force, "--base")
    if target.commit is None:
        # Before the first commit, or outside any repository, there is nothing yet.
        return _at(root, "HEAD", "--base") if _has(root, "HEAD") else Side(NOTHING, None, None)
    parent = first_parent(root, target.commit)
    return Side(NOTHING, None, None) if parent is None else _at(root, parent, "--base")


def propose(base: Side, target: Side, live: Live | None, url: str | None) -> Proposal:
    """Plan both over the same facts. Both are valid, or the base is NOTHING.

    Raises InvalidInput (CLI_USAGE) when there is not one node to plan for.
    """
    assert target.fleet is not None
    old = base.fleet or replace(target.fleet, nodes={}, cards={}, deployments={}, documents={})
    new = target.fleet
    if live is None:
        facts = _declared(old, new)
        known = {member.node for member in facts.members}
        planned = _only(new, known)
        running = rehearse(_only(old, known), facts.members, ()).running if base.fleet is not None else ()
    else:
        facts = _live(live, old, new)
        planned, running = new, live.running
    if not facts.members:
        raise InvalidInput(
            CLI_USAGE,
            "no node declares its hardware, so nothing can be planned offline",
            fix="put what `skulk node probe` prints into fleet/nodes/, or ask a node with --live URL",
        )
    return Proposal(
        base=base,
        target=target,
        live=url,
        diff=diff(old, planned, facts.members, rehearse(planned, facts.members, running)),
        left_out=facts.left_out,
        assumed=facts.assumed,
    )


def _loaded(name: str, commit: CommitId | None, files: Sequence[TreeFile]) -> Side:
    # pydantic and the YAML reader load only for the verbs that read manifests
    from skulk.core.manifests import load

    loaded = load(files, commit or _NO_COMMIT)
    return Side(name, commit, loaded.fleet, loaded.diagnostics)


def _at(root: Path, revision: str, option: str) -> Side:
    commit, files = read_revision(root, revision, option)
    return _loaded(revision, commit, files)


def _has(root: Path, revision: str) -> bool:
    try:
        return bool(commit_of(root, revision))
    except InvalidInput:
        return False


def _only(fleet: Fleet, names: Iterable[NodeName]) -> Fleet:
    known = frozenset(names)
    return replace(fleet, nodes={name: node for name, node in fleet.nodes.items() if name in known})


def _declared(old: Fleet, new: Fleet) -> Declared:
    """Facts for both sides: a machine is as the target declares it, or as the base did where the target is silent."""
    ours, theirs = declared_members(new), declared_members(old)
    known = {member.node for member in ours.members}
    rest = tuple(member for member in theirs.members if member.node not in known)
    known |= {member.node for member in rest}
    return Declared(
        (*ours.members, *rest),
        tuple(remark for remark in ours.left_out if remark.node not in known),
        (*ours.assumed, *(r for r in theirs.assumed if r.node in {member.node for member in rest})),
    )


def _live(live: Live, old: Fleet, new: Fleet) -> Declared:
    """What the fleet reports; a node that the target adds cannot report yet and counts as it is declared."""
    reporting = {member.node for member in live.members}
    added = new.nodes.keys() - old.nodes.keys() - reporting
    ours = declared_members(_only(new, added))
    known = reporting | {member.node for member in ours.members}
    silent = {remark.node: remark for remark in live.silent}
    left_out = [
        silent.get(name, Remark(name, "is not known to the node that was asked"))
        for name in sorted(new.nodes)
        if name not in known and name not in added
    ]
    members: tuple[Member, ...] = (*live.members, *ours.members)
    return Declared(members, (*left_out, *ours.left_out), ours.assumed)
