"""What `skulk wait` waits for: pure questions to a view of the fleet, and the answer with its reason."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skulk.cli import values
from skulk.cli.kinds import kind_of, singular
from skulk.core.errors import CLI_USAGE, InvalidInput

View = Mapping[str, Any]
# Fewer digits of a commit name too many of them.
COMMIT_DIGITS_MIN = 7
# Where a kind says which commit it was derived from.
_COMMIT_FIELD = {"fleet": "inForce", "nodes": "accepted", "deployments": "commit"}
_COMMIT = re.compile(rf"(dir-)?[0-9a-f]{{{COMMIT_DIGITS_MIN},40}}")


@dataclass(frozen=True, slots=True)
class Target:
    """One resource; `name` is empty for the fleet."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{singular(self.kind)}/{self.name}" if self.name else "fleet"


@dataclass(frozen=True, slots=True)
class Answer:
    """`holds`: all wishes hold in this view. `reason`: what a person should know, `Reason: message`."""

    holds: bool
    reason: str
    stalled: bool = False


def target_of(text: str | None) -> Target:
    """`KIND/NAME`; nothing or `fleet` means the fleet. Raises InvalidInput (CLI_USAGE)."""
    if text is None:
        return Target("fleet", "")
    word, slash, name = text.partition("/")
    kind = kind_of(word)
    if kind != "fleet" and not (slash and name):
        raise InvalidInput(CLI_USAGE, f'"{text}" names no resource', fix=f"write {singular(kind)}/NAME")
    return Target(kind, name)


def checked(wishes: Sequence[str], kind: str) -> tuple[str, ...]:
    """The wishes in one spelling. Raises InvalidInput (CLI_USAGE) for an unknown one."""
    result = []
    for wish in wishes:
        head, equals, commit = wish.partition("=")
        if wish.lower() in ("ready", "deleted"):
            result.append(wish.lower())
        elif head == "applied" and equals:
            if not _COMMIT.fullmatch(commit.lower()):
                fix = f"give {COMMIT_DIGITS_MIN} to 40 hexadecimal digits, for example $(git rev-parse HEAD)"
                raise InvalidInput(CLI_USAGE, f'--for: "{commit}" is no commit', fix=fix)
            if kind not in _COMMIT_FIELD:
                raise InvalidInput(CLI_USAGE, f"a {singular(kind)} has no commit", fix="wait for the fleet instead")
            result.append(f"applied={commit.lower()}")
        else:
            raise InvalidInput(CLI_USAGE, f'--for: "{wish}" is unknown', fix="Ready, Deleted or applied=COMMIT")
    if "deleted" in result and len(result) > 1:
        raise InvalidInput(CLI_USAGE, "--for=Deleted excludes any other", fix="wait for one after the other")
    return tuple(result)


def answer(view: View, target: Target, wishes: Sequence[str]) -> Answer:
    """How `view` answers the checked `wishes`."""
    resource = _find(view, target)
    if resource is None:
        if not (view.get("status") or {}).get("accepted"):
            # an empty view says nothing: the daemon has not read the repository yet
            return Answer(False, "NoCommit: no commit is accepted yet")
        gone = f"{target} does not exist"
        return Answer("deleted" in wishes, gone)
    reason, stalled = _reason(resource)
    for wish in wishes:
        if wish == "deleted":
            return Answer(False, f"it still exists; {reason}", stalled)
        if wish == "ready" and (values.condition(resource, "Ready") or {}).get("status") != "True":
            return Answer(False, reason, stalled)
        if wish.startswith("applied="):
            at = (resource.get("status") or {}).get(_COMMIT_FIELD[target.kind]) or ""
            if not str(at).startswith(wish.removeprefix("applied=")):
                where = f"it is at {at}" if at else "it is at no commit yet"
                return Answer(False, f"{where}; {reason}", stalled)
    return Answer(True, reason, stalled)


def _find(view: View, target: Target) -> Mapping[str, Any] | None:
    found = (view.get("resources") or {}).get(target.kind) or ()
    for resource in found:
        if not target.name or resource.get("name") == target.name:
            return dict(resource)
    status = view.get("status") or {}
    if target.kind == "fleet" and not target.name and status.get("accepted"):
        # the node's own status says the same of the fleet as a whole
        return {"status": status, "conditions": status.get("conditions") or ()}
    return None


def _reason(resource: Mapping[str, Any]) -> tuple[str, bool]:
    """The most telling condition: Stalled when it holds, else Ready, else Reconciling."""
    stalled = values.condition(resource, "Stalled")
    if stalled is not None and stalled.get("status") == "True":
        return _sentence(stalled), True
    for type_ in ("Ready", "Reconciling"):
        if (found := values.condition(resource, type_)) is not None:
            return _sentence(found), False
    return "it reports no condition", False


def _sentence(condition: Mapping[str, Any]) -> str:
    return f"{values.plain(condition.get('reason'))}: {values.plain(condition.get('message'))}"
