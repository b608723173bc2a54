"""The source side of a node: look at the repository, judge what is there, keep the last good commit.

It only ever replaces its `state`; the node loop reads that. Polls with jitter and backoff; a directory source or
`poke()` makes it look at once. A commit that another node knows and this one does not is looked for in the remote,
then asked for from that node, and judged like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import structlog

from skulk.core.coordination import Invalid, Validated
from skulk.core.domain import CommitId, Condition, ConditionType, Fleet, NodeName, Reason, Status, VerifyMode
from skulk.core.errors import SkulkError
from skulk.core.manifests import load
from skulk.core.ports import Clock, Journal, Repo
from skulk.core.reconcile.acceptance import Accept, Reject, SourcePolicy, judge, required_verification
from skulk.core.reconcile.polling import is_stale, next_poll

_log = structlog.get_logger(component="source")

# Before the first accepted commit no Fleet says how often to look.
POLL_SECONDS_DEFAULT = 30.0
# Accepted commits that are kept in memory beyond the one in force: what a member that is behind may still name.
COMMITS_MAX = 32
# A commit that others know and that cannot be had is looked for again after this, then after twice as long, ...
OBTAIN_SECONDS = (2.0, 60.0)
# Commits named by others that are remembered at all: a member that names thousands is mistaken.
WANTED_MAX = 64
# Nobody names it any more (it was pushed away again, or its node is gone): it makes room for others.
WANTED_SECONDS_MAX = 600.0
# Refused commits that are reported: the newest of the source, and those that other nodes named.
INVALID_MAX = 16


@dataclass(frozen=True, slots=True)
class SourceState:
    """What the source has led to so far. `fleet` is the last accepted one, whatever came after it."""

    fleet: Fleet | None = None
    attempted: CommitId | None = None
    accepted: CommitId | None = None
    standing: Reason = Reason.COMMIT_ACCEPTED
    """How this node stands in the accepted commit: in it, leaving, or not in the fleet."""
    commits: tuple[Validated, ...] = ()
    """Commits this node accepted, oldest first: from the one in force to the newest."""
    invalid: tuple[Invalid, ...] = ()
    """Commits since the newest accepted one that were refused for what is in them, oldest first."""
    older: frozenset[CommitId] = frozenset()
    """Commits that other nodes named and that the newest accepted one descends from."""
    misses: int = 0
    conditions: tuple[Condition, ...] = (
        Condition(ConditionType.READY, Status.FALSE, Reason.NO_COMMIT, "the source was not looked at yet"),
    )

    @property
    def leaving(self) -> bool:
        """Nothing may run here: the accepted commit has no manifest of this node."""
        return self.standing is not Reason.COMMIT_ACCEPTED


@dataclass(slots=True)
class _Wanted:
    """A commit that another node named and that is unknown here."""

    holders: tuple[NodeName, ...]
    named_at: float
    due_at: float = 0.0
    pause: float = OBTAIN_SECONDS[0]


class SourceLoop:
    """Owns the port `Repo` and the journal's accepted commit."""

    def __init__(
        self,
        repo: Repo,
        journal: Journal,
        clock: Clock,
        policy: SourcePolicy,
        *,
        jitter: Callable[[], float],
        wake: Callable[[], None],
        poll_seconds: float | None = None,
        in_force: Callable[[], CommitId | None] = lambda: None,
        announce: Callable[[CommitId], None] = lambda _commit: None,
        bundle_of: Callable[[CommitId, NodeName, frozenset[CommitId]], Awaitable[bytes | None]] | None = None,
    ) -> None:
        """`in_force`: the commit the node acts on. `announce` tells the other nodes of a commit as soon as it is seen.
        `bundle_of` gets its objects beyond the given commits from another node, None when that has none."""
        self._repo = repo
        self._journal = journal
        self._clock = clock
        self._policy = policy
        self._jitter = jitter
        self._wake = wake
        self._poll_seconds = poll_seconds
        self._in_force = in_force
        self._announce = announce
        self._bundle_of = bundle_of
        self._wanted: dict[CommitId, _Wanted] = {}
        self._poked = asyncio.Event()
        self.state = SourceState()

    async def restore(self) -> None:
        """Take up the last accepted commit from the local mirror, without the network. A node that comes back
        while the remote is down goes on with what it had."""
        accepted = self._journal.load().accepted
        if accepted is None:
            return
        before = await self._restored_in_force(accepted)
        # Known even when its manifests cannot be read any more: it still bars the way back.
        self.state = replace(self.state, accepted=accepted)
        try:
            loaded = load(await self._repo.tree(accepted), accepted)
        except SkulkError as error:
            _log.warning("restore_failed", commit=accepted, code=error.code.id, error=error.message)
            message = f"commit {accepted[:12]} was accepted but cannot be read here: {error}"
            lost = Condition(ConditionType.READY, Status.FALSE, Reason.NO_COMMIT, message, accepted)
            self.state = replace(self.state, conditions=(lost,))
            return
        if loaded.fleet is not None:
            present = self._policy.node in loaded.fleet.nodes
            standing = Reason.COMMIT_ACCEPTED if present else Reason.NODE_NOT_IN_FLEET
            self.state = SourceState(
                loaded.fleet,
                accepted,
                accepted,
                standing,
                commits=(*before, Validated(accepted, loaded.fleet)),
                conditions=_accepted(accepted, standing),
            )

    async def _restored_in_force(self, accepted: CommitId) -> tuple[Validated, ...]:
        """The commit this node acts on, when a newer one was accepted but is not in force yet."""
        in_force = self._in_force()
        if in_force is None or in_force == accepted:
            return ()
        try:
            loaded = load(await self._repo.tree(in_force), in_force)
        except SkulkError as error:
            _log.warning("restore_failed", commit=in_force, code=error.code.id, error=error.message)
            return ()
        return (Validated(in_force, loaded.fleet),) if loaded.fleet is not None else ()

    def obtain(self, commit: CommitId, holders: tuple[NodeName, ...]) -> None:
        """Another node knows this commit: look at the source now, and ask `holders` for it if it is not there."""
        wanted = self._wanted.get(commit)
        if wanted is None:
            if len(self._wanted) >= WANTED_MAX:
                return
            wanted = self._wanted[commit] = _Wanted(holders, self._clock.now())
        wanted.holders, wanted.named_at = holders or wanted.holders, self._clock.now()
        if wanted.named_at >= wanted.due_at:
            self.poke()

    def hint(self, commit: CommitId) -> None:
        """Another node has seen this commit in the source. A hint only: what is there is looked at and judged here."""
        known = {v.commit for v in self.state.commits} | self.state.older | {self.state.attempted}
        if commit not in known:
            self.obtain(commit, ())

    def poke(self) -> None:
        """Look now instead of at the next poll."""
        self._poked.set()

    async def run(self) -> None:
        while True:
            await self.look()
            await self._wait()

    async def look(self) -> None:
        """One look at the source; every outcome ends in a new `state`."""
        try:
            head = await self._repo.head()
            if head != self.state.attempted or self.state.misses:
                self._announce(head)
                await self._consider(head)
        except SkulkError as error:
            self._miss(error)
        self._wake()
        if self._wanted:
            await self._look_elsewhere()
            self._wake()

    async def _look_elsewhere(self) -> None:
        """Settle every wanted commit: it is older than what is accepted, or can be judged, or stays wanted."""
        for commit, wanted in list(self._wanted.items()):
            now = self._clock.now()
            if now - wanted.named_at > WANTED_SECONDS_MAX:
                del self._wanted[commit]
                continue
            if now < wanted.due_at:
                continue
            wanted.due_at = now + wanted.pause
            wanted.pause = min(2 * wanted.pause, OBTAIN_SECONDS[1])
            try:
                if await self._settle(commit, wanted.holders):
                    del self._wanted[commit]
            except SkulkError as error:
                _log.debug("commit_not_obtained", commit=commit, code=error.code.id, error=error.message)

    async def _settle(self, commit: CommitId, holders: tuple[NodeName, ...]) -> bool:
        """Whether nothing more is to be done about a commit that another node named."""
        state = self.state
        if commit in {v.commit for v in state.commits} or commit in state.older:
            return True
        if state.accepted is not None and await self._repo.older((commit,), state.accepted):
            self.state = replace(self.state, older=self.state.older | {commit})
            return True
        if not self._repo.has_history:
            # Whoever syncs the directory says which state holds: one that another node still has may be the last one.
            return False
        if not await self._is_here(commit) and not await self._fetch_from(commit, holders):
            return False
        if not (await self._repo.facts(commit, state.accepted, VerifyMode.OFF)).descends:
            # A rewritten history is taken from the source or not at all: others may still be where it was before.
            return False
        attempted, misses, conditions = state.attempted, state.misses, state.conditions
        await self._consider(commit)
        if self.state.accepted != commit and self.state.attempted == commit:
            # Refused: what the source itself led to stays what is shown, and this one is named as invalid.
            self.state = replace(self.state, attempted=attempted, misses=misses, conditions=conditions)
        elif misses:
            # Taken from a member while the remote is away: it still is.
            self.state = replace(self.state, misses=misses, attempted=attempted)
        return True

    async def _is_here(self, commit: CommitId) -> bool:
        try:
            await self._repo.tree(commit)
        except SkulkError:
            return False
        return True

    async def _fetch_from(self, commit: CommitId, holders: tuple[NodeName, ...]) -> bool:
        """Get the objects from a member; they are verified as if they came from the remote. A remote that can be
        asked has the last word on what is in it, unless signatures say whose commit it is."""
        signed = required_verification(self._policy, self.state.fleet) is not VerifyMode.OFF
        if self._bundle_of is None or not (signed or self.state.misses):
            return False
        have = frozenset((self.state.accepted,)) if self.state.accepted is not None else frozenset()
        for holder in holders:
            data = await self._bundle_of(commit, holder, have)
            if data is None:
                continue
            await self._repo.unbundle(commit, data)
            _log.info("commit_from_member", commit=commit, member=holder)
            return True
        return False

    async def _consider(self, head: CommitId) -> None:
        before = self.state
        if head == before.accepted and before.fleet is not None:
            conditions = _accepted(head, before.standing)
            self.state = replace(before, attempted=head, invalid=(), misses=0, conditions=conditions)
            return
        verify = required_verification(self._policy, before.fleet)
        facts = await self._repo.facts(head, before.accepted, verify)
        loaded = load(await self._repo.tree(head), head)
        verdict = judge(facts, loaded, before.fleet, self._policy, remembered=before.accepted)
        match verdict:
            case Accept():
                # Durable before it is acted on: a daemon that dies now must not come back older than it was.
                self._journal.save(replace(self._journal.load(), accepted=head))
                self.state = SourceState(
                    verdict.fleet,
                    head,
                    head,
                    verdict.reason,
                    commits=self._kept(Validated(head, verdict.fleet)),
                    older=before.older - {head},
                    conditions=_accepted(head, verdict.reason),
                )
                _log.info("commit_accepted", commit=head, subject=facts.subject, warnings=list(verdict.warnings))
            case Reject():
                message = f"{verdict.code.id} {verdict.message} ({verdict.code.fix})"
                # An ancestor says nothing new of the history; everything else stands in a commit's way by name.
                stale = verdict.reason is Reason.STALE_COMMIT
                others = tuple(i for i in before.invalid if i.commit != head)
                self.state = replace(
                    before,
                    attempted=head,
                    invalid=others if stale else (*others, Invalid(head, message))[-INVALID_MAX:],
                    misses=0,
                    conditions=(
                        Condition(ConditionType.STALLED, Status.TRUE, verdict.reason, message, head),
                        Condition(ConditionType.READY, Status.FALSE, verdict.reason, message, head),
                    ),
                )
                _log.warning("commit_refused", commit=head, code=verdict.code.id, error=verdict.message)

    def _kept(self, newest: Validated) -> tuple[Validated, ...]:
        """The commits from the one in force to the newest. Others may lag behind it, but never go back to it."""
        commits = self.state.commits
        index = next((i for i, v in enumerate(commits) if v.commit == self._in_force()), 0)
        kept = commits[index:]
        if len(kept) > COMMITS_MAX:
            kept = (kept[0], *kept[-COMMITS_MAX:])
        return (*kept, newest)

    def _miss(self, error: SkulkError) -> None:
        misses = self.state.misses + 1
        reason = Reason.SOURCE_STALE if is_stale(misses) else Reason.SOURCE_UNREACHABLE
        message = f"{error} [{misses} looks in a row failed]"
        kept = tuple(c for c in self.state.conditions if c.type is ConditionType.STALLED and c.reason not in _UNREACHED)
        stale = Condition(ConditionType.RECONCILING, Status.TRUE, reason, message, self.state.accepted)
        ready = Condition(ConditionType.READY, Status.FALSE, reason, message, self.state.accepted)
        self.state = replace(self.state, misses=misses, conditions=(*kept, stale, ready))
        _log.warning("source_missed", code=error.code.id, error=error.message, misses=misses)

    async def _wait(self) -> None:
        interval = self._poll_seconds
        if interval is None:
            interval = self.state.fleet.poll_seconds if self.state.fleet else POLL_SECONDS_DEFAULT
        pause = next_poll(interval, self.state.misses, self._jitter())
        waits = [
            asyncio.ensure_future(self._clock.sleep(pause)),
            asyncio.ensure_future(self._repo.changed()),
            asyncio.ensure_future(self._poked.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        self._poked.clear()


_UNREACHED = frozenset({Reason.SOURCE_STALE, Reason.SOURCE_UNREACHABLE})


def _accepted(commit: CommitId, reason: Reason) -> tuple[Condition, ...]:
    if reason is Reason.COMMIT_ACCEPTED:
        return (Condition(ConditionType.READY, Status.TRUE, reason, f"commit {commit[:12]} is accepted", commit),)
    removed = "removed the manifest of this node" if reason is Reason.LEAVING else "has no manifest of this node"
    message = f"commit {commit[:12]} {removed}: nothing runs here until there is one"
    return (Condition(ConditionType.READY, Status.FALSE, reason, message, commit),)
