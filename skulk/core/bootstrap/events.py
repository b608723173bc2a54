"""Ansible's events (as ansible-runner gives them: JSON mappings) as the few values that anything is decided by.

What a host says is data: a field of the wrong type counts as absent, and no text keeps control characters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

_SAID = frozenset({"verbose", "error", "warning", "system_warning"})
_STARTED = frozenset({"playbook_on_task_start", "playbook_on_handler_task_start"})


class Outcome(StrEnum):
    """How one task ended on one host."""

    OK = "ok"
    CHANGED = "changed"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    SKIPPED = "skipped"


_OUTCOMES: Mapping[str, Outcome] = {
    "runner_on_ok": Outcome.OK,
    "runner_on_failed": Outcome.FAILED,
    "runner_on_unreachable": Outcome.UNREACHABLE,
    "runner_on_skipped": Outcome.SKIPPED,
}


@dataclass(frozen=True, slots=True)
class Task:
    """A task as the playbook names it."""

    name: str
    role: str = ""
    action: str = ""
    """Such as `ansible.builtin.assert`."""

    @property
    def title(self) -> str:
        return f"{self.role} : {self.name}" if self.role else self.name


@dataclass(frozen=True, slots=True)
class TaskBegan:
    task: Task


@dataclass(frozen=True, slots=True)
class HostBegan:
    host: str
    task: Task


@dataclass(frozen=True, slots=True)
class HostDone:
    """One task ended on one host. `ignored`: it failed, and the playbook says that this does not matter."""

    host: str
    task: Task
    outcome: Outcome
    result: Mapping[str, object] = field(default_factory=dict)
    ignored: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Counted:
    """Ansible's own account at the end: host → how many tasks. A failure that was rescued is in `rescued` only."""

    failed: Mapping[str, int]
    unreachable: Mapping[str, int]
    rescued: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Said:
    """A line of Ansible that belongs to no host: an error in a playbook, a warning."""

    text: str


Event = TaskBegan | HostBegan | HostDone | Counted | Said


def read_event(raw: Mapping[str, object]) -> Event | None:
    """None for an event that nothing depends on."""
    name = raw.get("event")
    data = _mapping(raw.get("event_data"))
    if name in _SAID:
        text = clean(_text(raw.get("stdout"))).strip()
        return Said(text) if text else None
    if name == "playbook_on_stats":
        return Counted(_counts(data.get("failures")), _counts(data.get("dark")), _counts(data.get("rescued")))
    task = Task(clean(_text(data.get("task"))), clean(_text(data.get("role"))), _text(data.get("task_action")))
    if name in _STARTED:
        return TaskBegan(task)
    host = _text(data.get("host"))
    if not host:
        return None
    if name == "runner_on_start":
        return HostBegan(host, task)
    outcome = _OUTCOMES.get(str(name))
    if outcome is None:
        return None
    result = _mapping(data.get("res"))
    if outcome is Outcome.OK and result.get("changed") is True:
        outcome = Outcome.CHANGED
    seconds = data.get("duration")
    return HostDone(
        host,
        task,
        outcome,
        result,
        ignored=data.get("ignore_errors") is True,
        seconds=float(seconds) if isinstance(seconds, int | float) else 0.0,
    )


def clean(text: str) -> str:
    """Without control characters other than line feeds and tabs: what a host says must not drive a terminal."""
    text = text.replace("\r\n", "\n")
    return "".join(c for c in text if c in "\n\t" or (ord(c) >= 32 and not 0x7F <= ord(c) <= 0x9F))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _counts(value: object) -> Mapping[str, int]:
    return {host: count for host, count in _mapping(value).items() if isinstance(count, int)}
