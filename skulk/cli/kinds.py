"""The resource kinds on the command line: the names people type, and the columns each kind is shown with.

A column is a heading and a function of the resource; the order here is the order on the screen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from skulk.cli import gauges, values
from skulk.core.domain.view import KINDS
from skulk.core.errors import CLI_USAGE, InvalidInput

Json = Mapping[str, Any]

# plural → the other spellings; the first is the singular that `-o name` and messages use
SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "fleet": ("fleet", "fleets"),
    "nodes": ("node", "no"),
    "deployments": ("deployment", "deploy", "dep"),
    "cards": ("card", "modelcard", "modelcards", "models", "model"),
    "placements": ("placement", "place", "pl"),
    "runners": ("runner", "run"),
}
assert set(SPELLINGS) == set(KINDS)
_BY_SPELLING = {word: kind for kind, words in SPELLINGS.items() for word in (kind, *words)}


def kind_of(word: str) -> str:
    """The kind that a person means. Raises InvalidInput (CLI_USAGE) with the nearest kind or all of them."""
    known = _BY_SPELLING.get(word.lower())
    if known is not None:
        return known
    near = get_close_matches(word.lower(), _BY_SPELLING, n=1)
    hint = f'did you mean "{_BY_SPELLING[near[0]]}"?' if near else "kinds: " + ", ".join(KINDS)
    raise InvalidInput(CLI_USAGE, f'unknown kind "{word}"', fix=hint)


def singular(kind: str) -> str:
    return SPELLINGS[kind][0]


@dataclass(frozen=True, slots=True)
class Column:
    """`cell(resource, now)`; `wide` columns appear with `-o wide` only, where `whole` replaces a shortened cell."""

    title: str
    cell: Callable[[Json, float], str]
    wide: bool = False
    whole: Callable[[Json, float], str] | None = None


def _status(title: str, key: str, *, wide: bool = False, form: Callable[[object], str] = values.plain) -> Column:
    return Column(title, lambda r, _: form((r.get("status") or {}).get(key)), wide)


def _counted(title: str, done: str, wanted: str) -> Column:
    def cell(resource: Json, _: float) -> str:
        status = resource.get("status") or {}
        return f"{values.plain(status.get(done))}/{values.plain(status.get(wanted))}"

    return Column(title, cell)


def _commit(title: str, key: str, *, wide: bool = False) -> Column:
    """Shortened with an ellipsis; `-o wide` shows it whole."""
    return Column(
        title,
        lambda r, _: values.commit((r.get("status") or {}).get(key)),
        wide,
        lambda r, _: values.plain((r.get("status") or {}).get(key)),
    )


def _present(resource: Json, _: float) -> str:
    status = resource.get("status") or {}
    total, fetched = status.get("bytes"), status.get("fetchedBytes")
    if not status.get("present") and isinstance(total, int) and isinstance(fetched, int) and 0 < fetched < total:
        return f"{100 * fetched // total}%"
    return values.plain(status.get("present"))


_READY = Column("READY", lambda r, _: values.ready(r))


def _age(key: str) -> Column:
    return Column("AGE", lambda r, now: values.age((r.get("status") or {}).get(key), now))


COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "fleet": (
        Column("SYNC", lambda r, _: values.sync(r)),
        Column("HEALTH", lambda r, _: values.health(r)),
        _READY,
        _commit("ACCEPTED", "accepted"),
        _counted("NODES", "liveNodes", "nodes"),
        _counted("DEPLOYMENTS", "readyDeployments", "deployments"),
        _commit("ATTEMPTED", "attempted", wide=True),
        _commit("IN-FORCE", "inForce", wide=True),
        _status("COORDINATOR", "coordinator", wide=True),
    ),
    "nodes": (
        _READY,
        _status("PRESENCE", "presence"),
        _status("BACKENDS", "backends"),
        _status("MEMORY", "memoryBytes", form=values.size),
        _status("PLACED", "placedBytes", form=values.size),
        _commit("ACCEPTED", "accepted"),
        Column("HEALTH", lambda r, _: gauges.health(r), wide=True),
        Column("MEMORY-USED", lambda r, _: gauges.memory(r), wide=True),
        _status("VERSION", "version", wide=True),
        _status("OS", "os", wide=True),
        _status("ARCH", "arch", wide=True),
        _status("PARTICIPATION", "participation", wide=True),
        _status("PROBLEMS", "problems", wide=True),
    ),
    "deployments": (
        _status("MODEL", "model"),
        _counted("REPLICAS", "readyReplicas", "replicas"),
        _READY,
        _status("PHASE", "phase"),
        _commit("COMMIT", "commit", wide=True),
        _status("MESSAGE", "message", wide=True),
    ),
    "cards": (
        _status("MODEL-ID", "modelId"),
        _status("SIZE", "bytes", form=values.size),
        Column("PRESENT", _present),
        _status("NODES", "nodes", wide=True),
        _status("DEPLOYMENTS", "deployments", wide=True),
    ),
    "placements": (
        _status("DEPLOYMENT", "deployment"),
        _status("REPLICA", "replica"),
        _status("NODE", "node"),
        _status("BACKEND", "backend"),
        _READY,
        _status("PHASE", "phase"),
        _age("since"),
        _status("MODEL", "model", wide=True),
        _status("CONTEXT", "contextTokens", wide=True),
        _status("CONCURRENCY", "concurrency", wide=True),
        _status("MEMORY", "memoryBytes", wide=True, form=values.size),
        _status("FAILURES", "failures", wide=True),
        _status("MESSAGE", "message", wide=True),
    ),
    "runners": (
        _status("NODE", "node"),
        _status("PID", "pid"),
        _status("PHASE", "phase"),
        _status("LINK", "link"),
        _status("RUNNING", "running"),
        _status("WAITING", "waiting"),
        _age("startedAt"),
        _status("PLACEMENT", "placement", wide=True),
        _status("STEPS", "steps", wide=True),
        _status("RESIDENT", "residentBytes", wide=True, form=values.size),
        _status("ADOPTED", "adopted", wide=True),
        _status("LOADED", "loadShare", wide=True),
    ),
}


def headings(kind: str, *, wide: bool) -> tuple[str, ...]:
    return ("NAME", *(c.title for c in COLUMNS[kind] if wide or not c.wide))


def row(kind: str, resource: Json, now: float, *, wide: bool) -> tuple[str, ...]:
    """The cells of one resource; `now` is seconds of the epoch, for ages."""
    chosen = ((c.whole or c.cell) if wide else c.cell for c in COLUMNS[kind] if wide or not c.wide)
    return (values.plain(resource.get("name")), *(cell(resource, now) for cell in chosen))
