"""The rules of the node, in order. Each looks at everything and adds what it wants done.

A rule is a small pure function `(Context) -> Step`. Order matters: a rule sees the records as the rules before it
left them. Nothing here stops a runner except for the three causes of architecture §3: an accepted blueprint that
does not list it, its own failure, or leaving the fleet (which arrives as an empty, authoritative part).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from skulk.core.domain import (
    Card,
    Launch,
    Link,
    Placement,
    PlacementUid,
    Reason,
    Retiring,
    RunnerFacts,
    RunnerReport,
    Waiting,
    WeightsFacts,
)
from skulk.core.errors import ENG_MODEL
from skulk.core.formats.content import content_key
from skulk.core.memory import GIB
from skulk.core.reconcile import limits
from skulk.core.reconcile.actions import Action, Adopt, Clear, Drain, Fetch, Forget, Kill, Start, Stop
from skulk.core.reconcile.fold import LIVE, STUCK
from skulk.core.reconcile.ledger import Blame, FetchRecord, Ledger, Record, backoff_seconds
from skulk.core.reconcile.machine import Phase, RunnerEvent, allows
from skulk.core.reconcile.observed import Observed, Part


@dataclass(frozen=True, slots=True)
class Context:
    """Everything a rule may look at."""

    part: Part
    observed: Observed
    ledger: Ledger
    now: float

    @property
    def wanted(self) -> Mapping[PlacementUid, Placement]:
        return {p.uid: p for p in self.part.placements}

    @property
    def retiring(self) -> Mapping[PlacementUid, Retiring]:
        return {r.uid: r for r in self.part.retiring}

    def ready(self, uid: PlacementUid) -> bool:
        """The placement serves, here or on another node."""
        return uid in self.observed.ready_elsewhere or self.ledger.record(uid).phase is Phase.READY

    def files(self, content: str) -> WeightsFacts | None:
        """What is known of a card's files: nothing while they are being looked at again."""
        return None if f"forget/{content}" in self.observed.in_flight else self.observed.weights.get(content)

    def alive(self, uid: PlacementUid) -> bool:
        """Its runner lives here."""
        facts = self.observed.runners.get(uid)
        return facts is not None and facts.link is not Link.DEAD


@dataclass(frozen=True, slots=True)
class Step:
    """What one rule adds."""

    actions: tuple[Action, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    records: Mapping[PlacementUid, Record] = field(default_factory=dict)
    fetches: Mapping[str, FetchRecord] = field(default_factory=dict)


def adopt_found(ctx: Context) -> Step:
    """A live runner that an earlier daemon left is connected to, wanted or not."""
    found = [uid for uid, facts in ctx.observed.runners.items() if facts.link is Link.UNCONNECTED]
    return Step(tuple(Adopt(uid) for uid in sorted(found)))


def kill_unresponsive(ctx: Context) -> Step:
    """A process that misses a deadline is ended; what it missed is remembered as the cause of its death."""
    actions: list[Action] = []
    records: dict[PlacementUid, Record] = {}
    for uid, facts in sorted(ctx.observed.runners.items()):
        record = ctx.ledger.record(uid)
        blame = _missed_deadline(facts, record, ctx.now, ctx.observed.awake_since)
        if blame is None:
            continue
        actions.append(Kill(uid, blame.code, blame.message))
        records[uid] = replace(record, blame=record.blame or blame)
    return Step(tuple(actions), records=records)


def _missed_deadline(facts: RunnerFacts, record: Record, now: float, awake_since: float) -> Blame | None:
    if facts.link is Link.SILENT:
        said = facts.last_words.message if facts.last_words is not None else ""
        return Blame("SK-RUN-002", said or f"no hello within {limits.HELLO_SECONDS_MAX:.0f} s")
    if record.phase is Phase.STOPPING and facts.link is not Link.DEAD:
        overdue = now - record.since > limits.STOP_SECONDS_MAX
        return Blame("SK-RUN-003", "it did not stop when asked") if overdue else None
    if facts.link is not Link.CONNECTED:
        return None
    if now - max(facts.last_heartbeat_at, awake_since) > limits.HEARTBEAT_SECONDS_MAX:
        return Blame("SK-RUN-003", f"no heartbeat for {limits.HEARTBEAT_SECONDS_MAX:.0f} s")
    age = now - facts.started_at
    in_report = now - facts.report_since
    launch = facts.launch
    match facts.report:
        case RunnerReport.STARTING if age > limits.FIRST_REPORT_SECONDS_MAX:
            return Blame("SK-RUN-004", f"nothing reported for {limits.FIRST_REPORT_SECONDS_MAX:.0f} s")
        case RunnerReport.LOADING if in_report > launch.load_deadline_seconds:
            return Blame("SK-RUN-004", f"loading took over {launch.load_deadline_seconds:.0f} s")
        case RunnerReport.WARMING if _stuck(facts, now, launch.warmup_deadline_seconds):
            return Blame("SK-RUN-005", "the warm-up made no progress", hung=True)
        case RunnerReport.READY | RunnerReport.DRAINING if facts.running and _stuck(
            facts, now, limits.STEP_SECONDS_MAX
        ):
            return Blame("SK-RUN-005", "generating made no progress", hung=True)
    return None


def _stuck(facts: RunnerFacts, now: float, deadline_seconds: float) -> bool:
    # The runner's own watchdog acts at the deadline itself and leaves last words; this is the backstop.
    quiet_since = max(facts.last_progress_at, facts.report_since)
    return now - quiet_since > deadline_seconds + limits.WEDGE_BACKSTOP_SECONDS


def clear_dead(ctx: Context) -> Step:
    """What a dead runner left goes, except where it is the durable memory of a wedge or an open breaker."""
    actions: list[Action] = []
    for uid, facts in sorted(ctx.observed.runners.items()):
        if facts.link is not Link.DEAD:
            continue
        record = ctx.ledger.record(uid)
        kept = record.phase in (Phase.WEDGED, Phase.BROKEN) and uid in ctx.wanted
        # Without a blueprint nobody knows yet whether it is wanted, and its last words still count.
        if not kept and (ctx.part.authoritative or record.phase is Phase.GONE):
            actions.append(Clear(uid))
            actions += _files_to_check(ctx, uid, record)
    return Step(tuple(actions))


def _files_to_check(ctx: Context, uid: PlacementUid, record: Record) -> list[Action]:
    """A model that cannot be loaded may be a file that was damaged after it was verified: look again."""
    placement = ctx.wanted.get(uid)
    card = ctx.part.cards.get(placement.model) if placement is not None else None
    unloadable = record.blame is not None and record.blame.code == ENG_MODEL.id
    return [Forget(content_key(card))] if card is not None and unloadable else []


def drain_retiring(ctx: Context) -> Step:
    """What the blueprint retires, or does not list, ends: a ready runner drains, one that never served stops."""
    if not ctx.part.authoritative:
        return Step()
    actions: list[Action] = []
    records: dict[PlacementUid, Record] = {}
    waiting: list[Waiting] = []
    for uid in sorted(ctx.observed.runners):
        if uid in ctx.wanted or not ctx.alive(uid):
            continue
        record = ctx.ledger.record(uid)
        retiring = ctx.retiring.get(uid)
        if retiring is not None and not _due(ctx, retiring):
            until = f"placement {retiring.until}" if retiring.until else "a place for its replacement"
            waiting.append(Waiting(uid, until, retiring.reason, retiring.message))
            continue
        if record.phase is Phase.READY:
            actions.append(Drain(uid))
            records[uid] = record.move(RunnerEvent.DRAIN_ORDERED, ctx.now)
        elif _may_be_stopped(record, ctx.observed.runners[uid]):
            actions.append(Stop(uid))
            records[uid] = record.move(RunnerEvent.STOP_ORDERED, ctx.now)
    return Step(tuple(actions), tuple(waiting), records)


def _may_be_stopped(record: Record, facts: RunnerFacts) -> bool:
    """It can hear us, and it is not on its way out already."""
    stoppable = record.phase is not Phase.DRAINING and allows(record.phase, RunnerEvent.STOP_ORDERED)
    return stoppable and facts.link is Link.CONNECTED


def _due(ctx: Context, retiring: Retiring) -> bool:
    if retiring.keep:
        return False
    return retiring.until is None or ctx.ready(retiring.until)


def stop_drained(ctx: Context) -> Step:
    """A draining runner stops when it is idle or its time is over. One that is wanted again stops too: the start
    after it is a fresh one."""
    actions: list[Action] = []
    records: dict[PlacementUid, Record] = {}
    waiting: list[Waiting] = []
    for uid, record in sorted(ctx.ledger.records.items()):
        facts = ctx.observed.runners.get(uid)
        if record.phase is not Phase.DRAINING or facts is None or facts.link is not Link.CONNECTED:
            continue
        told = facts.report is RunnerReport.DRAINING
        idle = told and facts.running == 0 and facts.waiting == 0
        if idle or ctx.now - record.since > limits.DRAIN_SECONDS_MAX:
            actions.append(Stop(uid))
            records[uid] = record.move(RunnerEvent.STOP_ORDERED, ctx.now)
        else:
            if not told:
                actions.append(Drain(uid))
            waiting.append(
                Waiting(uid, f"{facts.running} running requests", Reason.DRAINING, "requests are being finished")
            )
    return Step(tuple(actions), tuple(waiting), records)


def fetch_missing(ctx: Context) -> Step:
    """Files of wanted placements are brought here before anything is started, retried with backoff."""
    actions: list[Action] = []
    waiting: list[Waiting] = []
    fetches: dict[str, FetchRecord] = {}
    for placement in ctx.part.placements:
        card = ctx.part.cards.get(placement.model)
        if card is None or ctx.ledger.record(placement.uid).phase not in {Phase.PENDING, *STUCK}:
            continue
        content = content_key(card)
        facts = ctx.files(content)
        if facts is not None and facts.ready:
            continue
        fetch = fetches.get(content, ctx.ledger.fetches.get(content, FetchRecord()))
        if facts is not None and facts.error_code and facts.failed_at > fetch.failed_at:
            attempts = fetch.attempts + 1
            pause = backoff_seconds(content, attempts, limits.FETCH_BACKOFF_SECONDS_MAX)
            fetch = FetchRecord(attempts, ctx.now + pause if facts.retry else float("inf"), facts.failed_at)
            fetches[content] = fetch
        failed = facts is not None and bool(facts.error_code)
        active = (facts is not None and facts.active) or bool(
            ctx.observed.in_flight & {f"fetch/{content}", f"forget/{content}"}
        )
        if not active and ctx.now >= fetch.retry_at:
            actions.append(Fetch(card, content, ctx.part.reserve_disk_bytes))
        if failed and facts is not None:
            waiting.append(Waiting(placement.uid, "weights", Reason.FETCH_FAILED, facts.error))
        else:
            done = f"{facts.done_bytes}/{facts.total_bytes} bytes" if facts is not None else "about to start"
            waiting.append(Waiting(placement.uid, f"weights of {card.name}", Reason.FETCHING, done))
    unique = {a.content: a for a in actions if isinstance(a, Fetch)}
    return Step(tuple(unique.values()), tuple(waiting), fetches=fetches)


def start_wanted(ctx: Context) -> Step:
    """A wanted placement with everything in place starts, admitted against what is free at this moment."""
    actions: list[Action] = []
    waiting: list[Waiting] = []
    records: dict[PlacementUid, Record] = {}
    free = _free_after_promises(ctx)
    for placement in ctx.part.placements:
        record = ctx.ledger.record(placement.uid)
        if record.phase is not Phase.PENDING or placement.uid in ctx.observed.runners:
            continue
        card = ctx.part.cards.get(placement.model)
        blocked = _blocked(ctx, placement, card)
        if blocked is not None:
            waiting.append(blocked)
            continue
        need = placement.ranks[0].memory_bytes
        if need > free * (1.0 + limits.ADMISSION_TOLERANCE):
            message = f"needs {need / GIB:.2f} GiB, {max(0, free) / GIB:.2f} GiB are free now"
            waiting.append(Waiting(placement.uid, "memory", Reason.WAITING_FOR_MEMORY, message))
            records[placement.uid] = replace(record, refused_since=record.refused_since or ctx.now)
            continue
        assert card is not None, "_blocked names a missing card"
        free -= need
        launch = launch_of(ctx, placement, card)
        actions.append(Start(launch))
        started = record.move(RunnerEvent.START_ORDERED, ctx.now)
        records[placement.uid] = replace(started, refused_since=None, blame=None, forgiven=False)
    return Step(tuple(actions), tuple(waiting), records)


def _blocked(ctx: Context, placement: Placement, card: Card | None) -> Waiting | None:
    """What must happen first, or None. Failed or running fetches are reported by `fetch_missing`."""
    uid = placement.uid
    if not ctx.observed.stock_taken:
        return Waiting(uid, "stock", Reason.WAITING_FOR_STOCK, "runners of an earlier daemon are looked for")
    if card is None:
        return Waiting(uid, f"card {placement.model}", Reason.INVALID_MANIFESTS, "the card is not in the commit")
    after = placement.after
    if after is not None and (ctx.alive(after) or after in ctx.observed.alive_elsewhere):
        return Waiting(uid, f"placement {after}", Reason.WAITING_FOR_PREDECESSOR, "the old runner stops first")
    if _build(ctx, placement) is None:
        return Waiting(
            uid,
            f"engine {placement.backend}",
            Reason.ENGINE_MISSING,
            f"no environment offers {placement.backend} {placement.engine_version} any more",
        )
    facts = ctx.files(content_key(card))
    if facts is None or not facts.ready:
        return Waiting(uid, f"weights of {card.name}", Reason.FETCHING, "the files are not here yet")
    return None


def _free_after_promises(ctx: Context) -> int:
    """Bytes a new runner may take: what is free, less what runners that still load have been promised, and never
    more than the total less everything that lives here (two runners over a node's memory must not happen)."""
    promised = 0
    placed = 0
    for facts in ctx.observed.runners.values():
        if facts.link is Link.DEAD:
            continue
        placed += facts.launch.memory_bytes
        if ctx.ledger.record(facts.launch.uid).phase in LIVE - {Phase.READY}:
            promised += max(0, facts.launch.memory_bytes - (facts.resident_bytes or 0))
    for uid, placement in ctx.wanted.items():
        if f"start/{uid}" in ctx.observed.in_flight and uid not in ctx.observed.runners:
            promised += placement.ranks[0].memory_bytes
            placed += placement.ranks[0].memory_bytes
    total = ctx.observed.memory_bytes - ctx.part.reserve_memory_bytes
    return min(ctx.observed.free_memory_bytes - promised, total - placed)


def _build(ctx: Context, placement: Placement) -> str | None:
    """Digest of the engine build that the placement was planned for, when it is still installed."""
    planned = (placement.backend, placement.engine_digest)
    return next((b.digest for b in ctx.observed.builds if (b.backend, b.digest) == planned), None)


def launch_of(ctx: Context, placement: Placement, card: Card) -> Launch:
    """Everything the runner of `placement` is started with."""
    deployment = ctx.part.deployments.get(placement.deployment)
    return Launch(
        uid=placement.uid,
        deployment=placement.deployment,
        replica=placement.replica,
        model=placement.model,
        engine=placement.backend.partition("-")[0],
        backend=placement.backend,
        engine_digest=_build(ctx, placement) or "",
        model_dir=ctx.observed.weights[content_key(card)].model_dir,
        context_tokens=placement.context_tokens,
        concurrency=placement.concurrency,
        launch_hash=placement.launch_hash,
        content_hash=placement.content_hash,
        memory_bytes=placement.ranks[0].memory_bytes,
        options=deployment.engine_options if deployment is not None else {},
        reasoning_format=card.reasoning.format,
        gguf_file=card.gguf_file,
        orphan_seconds=ctx.observed.orphan_seconds,
        load_deadline_seconds=limits.load_deadline_seconds(card.storage_bytes),
        warmup_deadline_seconds=limits.WARMUP_SECONDS_MAX,
    )


RULES: tuple[Callable[[Context], Step], ...] = (
    adopt_found,
    kill_unresponsive,
    clear_dead,
    drain_retiring,
    stop_drained,
    fetch_missing,
    start_wanted,
)
