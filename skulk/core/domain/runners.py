"""Runner facts: what one is started with, and what is observed of it from outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from skulk.core.domain.desired import OptionValue
from skulk.core.domain.ids import CardName, ContentHash, DeploymentName, LaunchHash, PlacementUid


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything a runner process is started with; written beside its socket so that it can be adopted."""

    uid: PlacementUid
    deployment: DeploymentName
    replica: int
    model: CardName
    engine: str
    backend: str
    engine_digest: str
    """Names the engine environment to start in."""
    model_dir: str
    context_tokens: int
    concurrency: int
    launch_hash: LaunchHash
    content_hash: ContentHash
    memory_bytes: int
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    reasoning_format: str = "none"
    gguf_file: str | None = None
    orphan_seconds: float = 600.0
    queue_max: int = 64
    load_deadline_seconds: float = 60.0
    warmup_deadline_seconds: float = 300.0


class RunnerReport(StrEnum):
    """What the runner process says it is doing (its own phases, in order)."""

    STARTING = "starting"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Link(StrEnum):
    """How the daemon stands with the process."""

    UNCONNECTED = "unconnected"
    """Its lock is held, so it lives, but this daemon has not said hello to it (found at start)."""
    CONNECTING = "connecting"
    CONNECTED = "connected"
    SILENT = "silent"
    """No hello by the deadline, or a wrong one."""
    DEAD = "dead"
    """Its lock is free."""


@dataclass(frozen=True, slots=True)
class LastWords:
    """What a dead runner left: exit code when it is known, its error code (SK-…), message, wedge or not."""

    exit_code: int | None = None
    code: str | None = None
    message: str = ""

    WEDGE_EXIT_CODE = 86

    @property
    def wedged(self) -> bool:
        return self.exit_code == self.WEDGE_EXIT_CODE or self.code == "SK-RUN-005"


@dataclass(frozen=True, slots=True)
class RunnerFacts:
    """One runner process as this daemon sees it now. Times are seconds on the daemon's monotonic clock."""

    launch: Launch
    link: Link
    pid: int | None = None
    report: RunnerReport = RunnerReport.STARTING
    adopted: bool = False
    started_at: float = 0.0
    """When this daemon started or found it."""
    report_since: float = 0.0
    last_heartbeat_at: float = 0.0
    last_progress_at: float = 0.0
    """Last step or warm-up progress, as of the last heartbeat or report."""
    running: int = 0
    waiting: int = 0
    steps: int = 0
    load_share: float = 0.0
    """0…1 while loading."""
    last_words: LastWords | None = None
    resident_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class WeightsFacts:
    """How far the files of one card are on this node."""

    model: CardName
    content: str
    """Digest of the card's file list: a changed card is another model directory."""
    ready: bool = False
    model_dir: str = ""
    active: bool = False
    done_bytes: int = 0
    total_bytes: int = 0
    error_code: str | None = None
    error: str = ""
    retry: bool = False
    """The failure is transient: try again with backoff."""
    failed_at: float = 0.0
