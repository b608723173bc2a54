"""Which document this node follows: its newest one by (epoch, seq), judged by rules that need nobody else.

The order is that of documents, not of commits: after a partition a side that saw a newer commit would otherwise win
with a document that does not contain the majority. Signatures were checked before a body gets here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from skulk.core.coordination.actions import Action, FetchBody, Obtain, Persist
from skulk.core.coordination.context import SUBJECT, Context, Step
from skulk.core.coordination.document import Document, Version, belongs_to
from skulk.core.coordination.facts import Observed
from skulk.core.coordination.limits import FETCH_RETRY_SECONDS
from skulk.core.coordination.state import Durable, State
from skulk.core.domain import CommitId, NodeName, Reason, Waiting


@dataclass(frozen=True, slots=True)
class Objection:
    """Why this node does not accept a document."""

    reason: Reason
    message: str


def objection(document: Document, state: State, observed: Observed) -> Objection | None:
    """The first rule that the document breaks on this node, or None."""
    version, durable = document.version, state.durable
    current = durable.document
    if observed.me not in document.members:
        return Objection(Reason.DOCUMENT_REFUSED, f"it was not made for {observed.me}")
    if version.epoch < durable.promised:
        return Objection(Reason.DOCUMENT_REFUSED, f"epoch {version.epoch} is older than {durable.promised}")
    if current is not None and version.key <= current.key:
        return Objection(Reason.DOCUMENT_REFUSED, "it is not newer than the one in force here")
    if current is not None and version.epoch == current.version.epoch and version.author != current.version.author:
        return Objection(Reason.DOCUMENT_REFUSED, f"epoch {version.epoch} is {current.version.author}'s")
    validated = observed.validated(version.commit)
    if validated is None:
        return Objection(Reason.COMMIT_NOT_SEEN, f"commit {version.commit[:12]} has not been validated here")
    if current is not None and observed.place(version.commit) < observed.place(current.commit):
        return Objection(Reason.DOCUMENT_REFUSED, f"commit {version.commit[:12]} is older than the one in force here")
    author = validated.fleet.nodes.get(version.author)
    if author is None or not belongs_to(version.epoch, author.ordinal):
        return Objection(Reason.DOCUMENT_REFUSED, f"epoch {version.epoch} is not {version.author}'s")
    return None


def accept(ctx: Context) -> Step:
    """Take the newest of the documents at hand that breaks no rule: on disk first."""
    state = ctx.state
    for document in sorted(ctx.observed.bodies.values(), key=lambda d: (d.key, d.version.digest), reverse=True):
        if objection(document, state, ctx.observed) is None:
            durable = Durable(max(state.durable.promised, document.version.epoch), document)
            return Step(replace(state, durable=durable), (Persist(durable),))
    return Step(state)


def fetch(ctx: Context) -> Step:
    """Ask holders for bodies of newer documents, and for commits that others know and this node does not."""
    bodies = _bodies_wanted(ctx)
    commits = _commits_wanted(ctx)
    now, asked = ctx.now, ctx.state.wanted_at
    actions: list[Action] = []
    wanted_at: dict[str, float] = {}
    wishes: list[tuple[str, FetchBody | Obtain]] = [(w.version.digest, w) for w in bodies]
    wishes += [(w.commit, w) for w in commits]
    for key, wish in wishes:
        due = key not in asked or now - asked[key] >= FETCH_RETRY_SECONDS
        wanted_at[key] = now if due else asked[key]
        actions += [wish] if due else []
    refused = {i.commit: i.message for i in ctx.observed.local.invalid}
    waiting = tuple(
        Waiting(
            SUBJECT,
            f"commit {version.commit[:12]}",
            Reason.COMMIT_NOT_SEEN,
            refused.get(version.commit, f"document {version.key} of {version.author} needs a commit not seen here"),
        )
        for version in _newer(ctx)
        if ctx.observed.validated(version.commit) is None and version.commit not in ctx.observed.ancestors
    )
    return Step(replace(ctx.state, wanted_at=wanted_at), tuple(actions), waiting[-1:])


def _newer(ctx: Context) -> list[Version]:
    """Versions that exist and could be accepted as far as their number says, oldest first."""
    floor = ctx.document.key if ctx.document is not None else (0, 0)
    found = {v.digest: v for v in ctx.versions if v.key > floor and v.epoch >= ctx.state.durable.promised}
    return sorted(found.values(), key=lambda v: (v.key, v.digest))


def _bodies_wanted(ctx: Context) -> list[FetchBody]:
    wanted = []
    for version in _newer(ctx):
        if version.digest in ctx.observed.bodies or ctx.observed.validated(version.commit) is None:
            continue
        held = [name for name, r in ctx.live_reports.items() if r.accepted == version and name != version.author]
        author = [version.author] if version.author in ctx.peers else []
        if author or held:
            wanted.append(FetchBody(version, tuple(author + held)))
    return wanted


def _commits_wanted(ctx: Context) -> list[Obtain]:
    known = {v.commit for v in ctx.observed.commits} | ctx.observed.ancestors
    known |= {i.commit for i in ctx.observed.local.invalid}
    holders: dict[CommitId, set[NodeName]] = {}

    def note(commits: Iterable[CommitId], name: NodeName) -> None:
        for commit in commits:
            if commit not in known and name in ctx.peers:
                holders.setdefault(commit, set()).add(name)

    for name, report in ctx.live_reports.items():
        note(report.validated, name)
    for version in ctx.versions:
        note((version.commit,), version.author)
    return [Obtain(commit, tuple(sorted(names))) for commit, names in sorted(holders.items())]
