"""How a run ended: per node and as a whole. What the shell is told is decided from `Ending`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from skulk.core.bootstrap.events import HostDone, Outcome
from skulk.core.bootstrap.failures import Failure, Kind, Target, explain
from skulk.core.bootstrap.picture import Change, NodePicture, Picture


class Status(StrEnum):
    """How one node ended."""

    OK = "ok"
    CHANGED = "changed"
    SKIPPED = "skipped"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    CUT_OFF = "cut off"
    """The run was cancelled while this node was at work."""
    NOT_BEGUN = "not begun"
    """The run ended before this node's turn, or no play concerns it."""


class Ending(StrEnum):
    """How the whole run ended."""

    DONE = "done"
    CHANGES = "changes"
    """In check mode: something would change."""
    FAILED = "failed"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class NodeReport:
    node: str
    status: Status
    changed: tuple[Change, ...] = ()
    seconds: float = 0.0
    task: str = ""
    """Title of the task that failed."""
    failure: Failure | None = None


def reports(
    picture: Picture, nodes: Sequence[str], targets: Mapping[str, Target], *, cancelled: bool
) -> tuple[NodeReport, ...]:
    """One report per node of `nodes`, and one per further host that the playbook brought in (such as localhost) if it
    failed."""
    others = [host for host, node in picture.nodes.items() if host not in nodes and _failure(picture, host, node)]
    return tuple(_report(picture, name, targets, cancelled) for name in (*nodes, *others))


def _report(picture: Picture, name: str, targets: Mapping[str, Target], cancelled: bool) -> NodeReport:
    node = picture.nodes.get(name)
    if node is None:
        return NodeReport(name, Status.NOT_BEGUN)
    failed = _failure(picture, name, node)
    if failed is not None:
        status = Status.UNREACHABLE if failed.outcome is Outcome.UNREACHABLE else Status.FAILED
        reason = explain(failed, targets.get(name, Target(name)))
        return NodeReport(name, status, node.changed, node.seconds, failed.task.title, reason)
    return NodeReport(name, _status(node, cancelled), node.changed, node.seconds)


def _status(node: NodePicture, cancelled: bool) -> Status:
    if cancelled:
        return Status.CUT_OFF
    if node.changed:
        return Status.CHANGED
    return Status.OK if node.counts.get(Outcome.OK) else Status.SKIPPED


def _failure(picture: Picture, name: str, node: NodePicture) -> HostDone | None:
    """The failure that ended this node: the first one that no `rescue` made good. Ansible says how many were made good
    only at the end; what comes after the last of those is what counts."""
    counted = picture.counted
    if counted is None:
        return next(iter(node.failures), None)
    if not counted.failed.get(name) and not counted.unreachable.get(name):
        return None
    last = node.failures[-1] if node.failures else None
    return next(iter(node.failures[counted.rescued.get(name, 0) :]), last)


def ending_of(nodes: Sequence[NodeReport], *, check: bool, cancelled: bool) -> Ending:
    """A failed task outweighs a refused machine, and both an unreachable one: `unreachable` and `refused` promise that
    nothing else is wrong."""
    if cancelled:
        return Ending.CANCELLED
    failed = [node for node in nodes if node.status is Status.FAILED]
    if any(node.failure is None or node.failure.kind is not Kind.REFUSED for node in failed):
        return Ending.FAILED
    if failed:
        return Ending.REFUSED
    if any(node.status is Status.UNREACHABLE for node in nodes):
        return Ending.UNREACHABLE
    return Ending.CHANGES if check and any(node.changed for node in nodes) else Ending.DONE
