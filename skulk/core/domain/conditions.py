"""What is told to people about a thing's state: conditions, waiting, and the closed list of reasons.

Vocabulary of Flux: `Ready` (it does its job), `Reconciling` (work is under way), `Stalled` (no progress without
a person or a changed input). Every Reason has a paragraph in docs/reference/conditions.md (tested).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from skulk.core.domain.ids import CommitId


class ConditionType(StrEnum):
    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class Status(StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Reason(StrEnum):
    """Why a condition, a wait or a rejection is as it is. CamelCase on the wire."""

    # the source
    COMMIT_ACCEPTED = "CommitAccepted"
    NO_COMMIT = "NoCommit"
    SOURCE_STALE = "SourceStale"
    SOURCE_UNREACHABLE = "SourceUnreachable"
    INVALID_MANIFESTS = "InvalidManifests"
    STALE_COMMIT = "StaleCommit"
    HISTORY_REWRITTEN = "HistoryRewritten"
    SIGNATURE_REFUSED = "SignatureRefused"
    NAMESPACE_MISMATCH = "NamespaceMismatch"
    PRUNE_PROTECTED = "PruneProtected"
    NODE_NOT_IN_FLEET = "NodeNotInFleet"
    # the planner: why a replica is not placed, or a node not eligible
    NO_ELIGIBLE_NODE = "NoEligibleNode"
    NOT_PARTICIPATING = "NotParticipating"
    CORDONED = "Cordoned"
    DRAINED = "Drained"
    EXCLUDED = "Excluded"
    SELECTOR_MISMATCH = "SelectorMismatch"
    NO_BACKEND = "NoBackend"
    INSUFFICIENT_MEMORY = "InsufficientMemory"
    NODE_ABSENT = "NodeAbsent"
    NODE_REFUSED = "NodeRefused"
    SPREAD = "Spread"
    SURGE_DOES_NOT_FIT = "SurgeDoesNotFit"
    CONTEXT_TOO_LARGE = "ContextTooLarge"
    SUSPENDED = "Suspended"
    SUPERSEDED = "Superseded"
    REPLICA_REMOVED = "ReplicaRemoved"
    DEPLOYMENT_REMOVED = "DeploymentRemoved"
    ROLLING = "Rolling"
    # a placement on its node
    FETCHING = "Fetching"
    FETCH_FAILED = "FetchFailed"
    WAITING_FOR_MEMORY = "WaitingForMemory"
    WAITING_FOR_PREDECESSOR = "WaitingForPredecessor"
    WAITING_FOR_STOCK = "WaitingForStock"
    STARTING = "Starting"
    LOADING = "Loading"
    WARMING_UP = "WarmingUp"
    SERVING = "Serving"
    DRAINING = "Draining"
    STOPPING = "Stopping"
    STOPPED = "Stopped"
    BACKOFF = "Backoff"
    BREAKER_OPEN = "BreakerOpen"
    WEDGED = "Wedged"
    ENGINE_MISSING = "EngineMissing"
    # coordination: why no document is published, or one is not accepted
    SETTLING = "Settling"
    DISCOVERING = "Discovering"
    WAITING_FOR_NODES = "WaitingForNodes"
    NO_MAJORITY = "NoMajority"
    COMMIT_BLOCKED = "CommitBlocked"
    COMMIT_NOT_SEEN = "CommitNotSeen"
    MEMBER_SILENT = "MemberSilent"
    NOTHING_TO_PUBLISH = "NothingToPublish"
    DOCUMENT_REFUSED = "DocumentRefused"
    # sums over the above
    ALL_REPLICAS_READY = "AllReplicasReady"
    REPLICAS_UNAVAILABLE = "ReplicasUnavailable"
    CONVERGED = "Converged"
    CONVERGING = "Converging"
    LEAVING = "Leaving"
    NEWER_VERSION = "NewerVersion"


@dataclass(frozen=True, slots=True)
class Condition:
    """One statement about a thing. `since` is in seconds of the epoch (UTC)."""

    type: ConditionType
    status: Status
    reason: Reason
    message: str
    commit: CommitId | None = None
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """Not an error: something will be done when `on` has happened."""

    subject: str
    on: str
    reason: Reason
    message: str
