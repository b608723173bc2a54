"""The run as it is now: per node the task it is at, what was counted, changed and failed. Folded from events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from skulk.core.bootstrap.diffs import diff_of
from skulk.core.bootstrap.events import Counted, Event, HostBegan, HostDone, Outcome, Said, Task, TaskBegan, clean

# Ansible explains an error in a playbook in some ten lines; more than this is a stream of warnings.
SAID_LINES_MAX = 40
_NOTE = "note: "


@dataclass(frozen=True, slots=True)
class Change:
    """A task that changed something (in check mode: would), and the difference if it can tell."""

    task: str
    diff: str = ""


@dataclass(frozen=True, slots=True)
class NodePicture:
    """One node so far. `at` is the task that runs there, None between two."""

    at: Task | None = None
    counts: Mapping[Outcome, int] = field(default_factory=dict)
    changed: tuple[Change, ...] = ()
    failures: tuple[HostDone, ...] = ()
    """In order, those that a playbook rescued later included."""
    seconds: float = 0.0
    """Spent in tasks of this node."""


@dataclass(frozen=True, slots=True)
class Picture:
    nodes: Mapping[str, NodePicture] = field(default_factory=dict)
    task: Task | None = None
    """The last one that began anywhere."""
    notes: tuple[str, ...] = ()
    """What roles want people to read, each once."""
    said: tuple[str, ...] = ()
    counted: Counted | None = None


def fold(picture: Picture, event: Event) -> Picture:
    """The picture after `event`."""
    match event:
        case TaskBegan(task):
            return replace(picture, task=task)
        case HostBegan(host, task):
            return _with(picture, host, replace(picture.nodes.get(host, NodePicture()), at=task))
        case HostDone():
            notes = tuple(dict.fromkeys((*picture.notes, *_notes(event))))
            node = _done(picture.nodes.get(event.host, NodePicture()), event)
            return replace(_with(picture, event.host, node), notes=notes)
        case Counted():
            return replace(picture, counted=event)
        case Said(text):
            return replace(picture, said=(*picture.said, *text.splitlines())[-SAID_LINES_MAX:])


def _with(picture: Picture, host: str, node: NodePicture) -> Picture:
    return replace(picture, nodes={**picture.nodes, host: node})


def _done(node: NodePicture, event: HostDone) -> NodePicture:
    failed = event.outcome in (Outcome.FAILED, Outcome.UNREACHABLE) and not event.ignored
    # A failure that does not matter is a task that was done.
    outcome = Outcome.OK if event.ignored else event.outcome
    return NodePicture(
        at=None,
        counts={**node.counts, outcome: node.counts.get(outcome, 0) + 1},
        changed=(*node.changed, Change(event.task.title, diff_of(event.result)))
        if outcome is Outcome.CHANGED
        else node.changed,
        failures=(*node.failures, event) if failed else node.failures,
        seconds=node.seconds + event.seconds,
    )


def _notes(event: HostDone) -> Iterator[str]:
    """A result's `skulk_note`, and the message of a debug task that begins with `note: `."""
    yield from _texts(event.result.get("skulk_note"))
    if event.task.action.rpartition(".")[2] == "debug":
        for text in _texts(event.result.get("msg")):
            if text.startswith(_NOTE):
                yield text.removeprefix(_NOTE)


def _texts(value: object) -> Iterator[str]:
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and text.strip():
            yield clean(text).strip()
