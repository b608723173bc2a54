"""Fake ports with switches for faults. They pass the same conformance tests as the real adapters where both can be
driven alike; what they leave out (bytes, processes) is exactly what the simulator does without."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from skulk.core import errors
from skulk.core.domain import (
    Card,
    CommitId,
    EngineBuild,
    LastWords,
    Launch,
    Link,
    PlacementUid,
    RunnerFacts,
    RunnerReport,
    VerifyMode,
    WeightsFacts,
)
from skulk.core.ports import Clock, CommitFacts, Machine, Persisted, Signature, TreeFile
from skulk.core.readings import Kind


class FakeRepo:
    """A linear (or rewritten) history of trees. `down` makes every look fail."""

    def __init__(self) -> None:
        self.trees: dict[CommitId, tuple[TreeFile, ...]] = {}
        self.parents: dict[CommitId, CommitId | None] = {}
        self.branch: CommitId | None = None
        self.down = False
        self.history = True
        """False: states without an order, as those of a directory."""
        self.unsigned: set[CommitId] = set()
        self.unreadable: set[CommitId] = set()
        """Commits whose objects the local mirror has lost."""

    def commit(self, files: Mapping[str, str], *, parent: CommitId | None = None, rewrite: bool = False) -> CommitId:
        """Put a commit on the branch (after its head, or after `parent` when `rewrite`)."""
        base = parent if rewrite else self.branch
        tree = tuple(TreeFile(path, text.encode(), size=len(text)) for path, text in sorted(files.items()))
        digest = hashlib.sha1(repr((base, tree)).encode(), usedforsecurity=False).hexdigest()
        commit = CommitId(digest)
        self.trees[commit], self.parents[commit], self.branch = tree, base, commit
        return commit

    @property
    def has_history(self) -> bool:
        return self.history

    async def head(self) -> CommitId:
        if self.down:
            raise errors.Transient(errors.SRC_UNREACHABLE, "the remote is down")
        if self.branch is None:
            raise errors.Transient(errors.SRC_EMPTY, "no commit yet")
        return self.branch

    def _ancestors(self, commit: CommitId | None) -> list[CommitId]:
        chain = []
        while commit is not None:
            chain.append(commit)
            commit = self.parents.get(commit)
        return chain

    async def facts(self, commit: CommitId, accepted: CommitId | None, verify: VerifyMode) -> CommitFacts:
        if not self.history:
            return CommitFacts(commit)
        chain = self._ancestors(commit)
        checked = [] if verify is VerifyMode.OFF else chain[:1] if verify is VerifyMode.HEAD else chain
        return CommitFacts(
            commit,
            descends=accepted is None or accepted in chain,
            is_ancestor=accepted is not None and commit != accepted and commit in self._ancestors(accepted),
            unsigned=tuple((c, Signature.NONE) for c in checked if c in self.unsigned and c != accepted),
        )

    async def tree(self, commit: CommitId) -> tuple[TreeFile, ...]:
        if commit in self.unreadable:
            raise errors.Transient(errors.SRC_CORRUPT, f"commit {commit[:12]} is not in the mirror")
        if commit not in self.trees:
            raise errors.Transient(errors.SRC_UNREACHABLE, f"commit {commit[:12]} is not local")
        return self.trees[commit]

    async def changed(self) -> None:
        await asyncio.get_running_loop().create_future()

    async def bundle(self, commit: CommitId, have: frozenset[CommitId]) -> bytes:
        if commit not in self.trees:
            raise errors.Transient(errors.SRC_UNREACHABLE, f"commit {commit[:12]} is not local")
        there = {a for known in have if known in self.trees for a in self._ancestors(known)}
        new = [c for c in reversed(self._ancestors(commit)) if c not in there]
        files = {c: {f.path: f.data.decode() for f in self.trees[c]} for c in new}
        return json.dumps([[c, self.parents[c], files[c]] for c in new]).encode()

    async def unbundle(self, commit: CommitId, data: bytes) -> None:
        """The ids are digests here too: whatever was changed on the way is noticed."""
        if commit in self.trees:
            return
        incoming = FakeRepo()
        incoming.trees, incoming.parents = dict(self.trees), dict(self.parents)
        try:
            made = [incoming.commit(files, parent=parent, rewrite=True) == c for c, parent, files in json.loads(data)]
        except (ValueError, TypeError, AttributeError):
            made = [False]
        history = set(incoming._ancestors(commit))
        # Complete, and nothing else came along.
        if not all(made) or not history <= incoming.trees.keys() <= history | self.trees.keys():
            raise errors.Refused(errors.SRC_BUNDLE, f"no usable bundle of commit {commit[:12]}")
        self.trees, self.parents = incoming.trees, incoming.parents

    async def older(self, commits: Collection[CommitId], than: CommitId) -> frozenset[CommitId]:
        ancestors = self._ancestors(than) if self.history and than in self.trees else []
        return frozenset(c for c in commits if c != than and c in ancestors)


@dataclass(slots=True)
class _Process:
    """One fake runner process, which outlives its daemon."""

    launch: Launch
    pid: int
    born_at: float
    ready_after: float
    frozen: bool = False
    draining: bool = False
    dead: LastWords | None = None
    killed: bool = False

    @property
    def alive(self) -> bool:
        return self.dead is None and not self.killed

    def report(self, now: float) -> RunnerReport:
        age = now - self.born_at
        if self.draining:
            return RunnerReport.DRAINING
        if age < 0.2:
            return RunnerReport.STARTING
        if age < self.ready_after / 2:
            return RunnerReport.LOADING
        return RunnerReport.WARMING if age < self.ready_after else RunnerReport.READY


class FakeHost:
    """Processes of one machine, and one daemon's view of them. `attach()` begins a new daemon's life."""

    def __init__(self, clock: Clock, memory_bytes: int) -> None:
        self._clock = clock
        self.memory_bytes = memory_bytes
        self.processes: dict[PlacementUid, _Process] = {}
        self.connected: set[PlacementUid] = set()
        self.found_at: dict[PlacementUid, float] = {}
        self.ready_after = 2.0
        self.crash_on_load: set[str] = set()
        """Deployments whose runners die while loading."""
        self.stale_for = 0.0
        """`observe` answers with what was true this long ago: facts seen late."""
        self.busy_for = 0.0
        """A draining runner has this many seconds of requests left."""
        self.requests = 0
        """How many run in each runner."""
        self.violations: list[str] = []
        self.starts: list[tuple[float, PlacementUid]] = []
        self._pids = 1000
        self._history: list[tuple[float, dict[PlacementUid, RunnerFacts]]] = []

    # --- what really happens --------------------------------------------------------------------------------

    def attach(self) -> None:
        """The daemon died and another one starts: connections are gone, processes are not."""
        self.connected.clear()
        self._history.clear()
        self.found_at = {uid: self._clock.now() for uid in self.processes}

    def crash(self, uid: PlacementUid, words: LastWords | None = None) -> None:
        process = self.processes.get(uid)
        if process is not None and process.alive:
            process.killed = True
            process.dead = words

    def freeze(self, uid: PlacementUid) -> None:
        if uid in self.processes:
            self.processes[uid].frozen = True

    def _advance(self) -> None:
        now = self._clock.now()
        for process in self.processes.values():
            doomed = process.launch.deployment in self.crash_on_load
            if process.alive and doomed and now - process.born_at > 0.5:
                process.dead = LastWords(1, "SK-ENG-003", "cannot load")
        used = sum(p.launch.memory_bytes for p in self.processes.values() if p.alive)
        if used > self.memory_bytes:
            self.violations.append(f"{used} bytes of runners over {self.memory_bytes} at {now:.1f}")

    # --- the port -------------------------------------------------------------------------------------------

    def observe(self) -> Mapping[PlacementUid, RunnerFacts]:
        self._advance()
        now = self._clock.now()
        current = {uid: self._facts(p, now) for uid, p in self.processes.items()}
        self._history = [h for h in self._history if h[0] >= now - self.stale_for - 1.0] + [(now, current)]
        late = [facts for at, facts in self._history if at <= now - self.stale_for]
        return late[-1] if self.stale_for and late else current

    def _facts(self, process: _Process, now: float) -> RunnerFacts:
        uid = process.launch.uid
        link = Link.UNCONNECTED
        if not process.alive:
            link = Link.DEAD
        elif uid in self.connected:
            link = Link.CONNECTED
        elif process.frozen and now - self.found_at.get(uid, now) > 5.0:
            link = Link.SILENT
        since = process.born_at + (process.ready_after if process.report(now) is RunnerReport.READY else 0.0)
        busy = process.draining and now - self.found_at.get(uid, 0.0) < self.busy_for
        return RunnerFacts(
            launch=process.launch,
            link=link,
            pid=process.pid,
            report=process.report(now),
            started_at=process.born_at,
            report_since=since,
            last_heartbeat_at=self.found_at.get(uid, now) if process.frozen else now,
            last_progress_at=now,
            running=max(int(busy), self.requests),
            last_words=process.dead,
        )

    async def start(self, launch: Launch) -> None:
        await self._clock.sleep(0.05)
        if launch.uid in self.processes and self.processes[launch.uid].alive:
            return
        self._pids += 1
        now = self._clock.now()
        self.processes[launch.uid] = _Process(launch, self._pids, now, self.ready_after)
        self.connected.add(launch.uid)
        self.found_at[launch.uid] = now
        self.starts.append((now, launch.uid))
        self._advance()

    async def adopt(self, uid: PlacementUid) -> None:
        await self._clock.sleep(0.005)
        process = self.processes.get(uid)
        if process is not None and process.alive and not process.frozen:
            self.connected.add(uid)

    async def drain(self, uid: PlacementUid) -> None:
        process = self.processes.get(uid)
        if process is not None and process.alive and not process.frozen and not process.draining:
            process.draining = True
            self.found_at[uid] = self._clock.now()

    async def stop(self, uid: PlacementUid, *, force: bool) -> None:
        await self._clock.sleep(0.02)
        process = self.processes.get(uid)
        if process is not None and process.alive and (force or not process.frozen):
            process.killed = True

    async def clear(self, uid: PlacementUid) -> None:
        if uid in self.processes and not self.processes[uid].alive:
            del self.processes[uid]
            self.connected.discard(uid)


class FakeWeights:
    """Files that arrive after `seconds`, unless the card is in `failing`; for good when it is in `refused` too."""

    def __init__(self, clock: Clock, wake: Callable[[], None] = lambda: None) -> None:
        self._clock = clock
        self._wake = wake
        self._facts: dict[str, WeightsFacts] = {}
        self._cards: dict[str, Card] = {}
        self.seconds = 1.0
        self.failing: set[str] = set()
        self.refused: set[str] = set()

    def observe(self) -> Mapping[str, WeightsFacts]:
        return dict(self._facts)

    async def fetch(self, card: Card, content: str, *, keep_free_bytes: int) -> None:
        if content in self._facts and self._facts[content].ready:
            return
        self._cards[content] = card
        begun = WeightsFacts(card.name, content, active=True, total_bytes=card.storage_bytes)
        self._facts[content] = begun
        try:
            await self._clock.sleep(self.seconds)
        except asyncio.CancelledError:
            self._facts[content] = replace(begun, active=False)
            raise
        if card.name in self.failing:
            self._facts[content] = replace(
                begun,
                active=False,
                error_code="SK-WGT-002",
                error="a file is missing",
                retry=card.name not in self.refused,
                failed_at=self._clock.now(),
            )
        else:
            done = card.storage_bytes
            self._facts[content] = replace(
                begun, active=False, ready=True, done_bytes=done, model_dir=f"/models/{content}"
            )
        self._wake()

    def files(self) -> frozenset[str]:
        ready = (self._cards[content] for content, facts in self._facts.items() if facts.ready)
        return frozenset(file.sha256 for card in ready for file in card.files)

    async def forget(self, content: str) -> None:
        self._facts.pop(content, None)


@dataclass(slots=True)
class FakeProbe:
    """A machine with one engine build."""

    memory_bytes: int = 16 * 2**30
    builds: tuple[EngineBuild, ...] = (EngineBuild("mlx-cpu", "mlx", "1.0", "d1"),)
    used: Callable[[], int] = field(default=lambda: 0)

    async def machine(self) -> Machine:
        return Machine(self.memory_bytes, "linux", "x86_64", self.builds)

    def free_memory_bytes(self) -> int:
        return self.memory_bytes - self.used()

    def free_disk_bytes(self) -> int:
        return 2**40


class FakeJournal:
    """Survives the daemon because the test keeps it."""

    def __init__(self) -> None:
        self.persisted = Persisted()

    def load(self) -> Persisted:
        return self.persisted

    def save(self, persisted: Persisted) -> None:
        self.persisted = persisted


class FakeSampler:
    """A machine whose readings are set by the test. `hanging` kinds never answer, `failing` ones raise."""

    def __init__(self) -> None:
        self.values: dict[Kind, Mapping[str, object]] = {
            Kind.MEMORY: {"totalBytes": 16 * 2**30, "availableBytes": 12 * 2**30, "swapUsedBytes": 0, "pressure": None},
            Kind.SYSTEM: {"cpuUtilisation": 0.1, "load1": 0.2, "uptimeSeconds": 100.0, "temperatureCelsius": None},
            Kind.ACCELERATOR: {"devices": []},
            Kind.DAEMON: {"residentBytes": 80 * 2**20, "cpuSeconds": 1.0, "openFiles": 12},
            Kind.DISK: {"disks": [{"path": "/state", "totalBytes": 2**40, "freeBytes": 2**39}]},
            Kind.IDENTITY: {"hostname": "fake", "os": "linux", "arch": "x86_64", "machine": None},
        }
        self.hanging: set[Kind] = set()
        self.failing: set[Kind] = set()
        self.asked: dict[Kind, int] = dict.fromkeys(Kind, 0)

    async def sample(self, kind: Kind) -> Mapping[str, object]:
        self.asked[kind] += 1
        if kind in self.hanging:
            await asyncio.Event().wait()
        if kind in self.failing:
            raise OSError("the sensor is broken")
        return dict(self.values[kind])
