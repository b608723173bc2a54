"""How single values are written for people: sizes, ages, commits, conditions. Pure; `-` stands for missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from skulk.cli.terminal import printable

MISSING = "-"
# Enough of a 40-digit commit to be unique in any repository we expect, and to be accepted by git and `wait`.
COMMIT_DIGITS_SHOWN = 12
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def plain(value: object) -> str:
    """Any JSON value as one cell: lists joined by commas, booleans as yes/no, nothing as `-`."""
    if value is None or value == "" or value == [] or value == {}:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ",".join(f"{key}={plain(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(plain(item) for item in value)
    return printable(" ".join(str(value).split()))


def size(value: object) -> str:
    """Bytes with a binary unit, one decimal below ten: `512B`, `1.5KiB`, `24GiB`."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return MISSING
    amount = float(value)
    unit = _UNITS[0]
    for unit in _UNITS:
        if abs(amount) < 1024 or unit == _UNITS[-1]:
            break
        amount /= 1024
    if unit == "B":
        return f"{int(amount)}B"
    shown = f"{amount:.1f}" if abs(amount) < 10 else f"{amount:.0f}"
    return f"{shown.removesuffix('.0')}{unit}"


def duration(seconds: float) -> str:
    """The two largest units: `45s`, `3m12s`, `2h5m`, `4d3h`. Negative (clocks that differ) counts as `0s`."""
    left = max(0, int(seconds))
    if left < 60:
        return f"{left}s"
    if left < 3600:
        return f"{left // 60}m{left % 60}s"
    if left < 86400:
        return f"{left // 3600}h{left % 3600 // 60}m"
    return f"{left // 86400}d{left % 86400 // 3600}h"


def age(since: object, now: float) -> str:
    """How long ago `since` (seconds of the epoch) was."""
    if not isinstance(since, int | float) or isinstance(since, bool) or since <= 0:
        return MISSING
    return duration(now - since)


def moment(at: object) -> str:
    """Seconds of the epoch as local time with its offset, to the second."""
    if not isinstance(at, int | float) or isinstance(at, bool):
        return MISSING
    return datetime.fromtimestamp(at, tz=UTC).astimezone().isoformat(timespec="seconds")


def commit(value: object) -> str:
    """A commit; the short form ends in an ellipsis so that nobody takes it for the whole id."""
    text = plain(value)
    if len(text) <= COMMIT_DIGITS_SHOWN + 4:
        return text
    digits = COMMIT_DIGITS_SHOWN + (4 if text.startswith("dir-") else 0)
    return text[:digits] + "…"


def condition(resource: Mapping[str, Any], type_: str) -> Mapping[str, Any] | None:
    """The condition of that type, if the resource has it."""
    return next((c for c in resource.get("conditions") or () if c.get("type") == type_), None)


def ready(resource: Mapping[str, Any]) -> str:
    """`True`, or `False (Reason)`, or `-` when the resource has no Ready condition."""
    found = condition(resource, "Ready")
    if found is None:
        return MISSING
    status = plain(found.get("status"))
    return status if status == "True" else f"{status} ({plain(found.get('reason'))})"


def sync(resource: Mapping[str, Any]) -> str:
    """How git and the fleet stand: Synced, OutOfSync (a newer commit is not accepted), Progressing, Unknown."""
    status = resource.get("status") or {}
    attempted, accepted, in_force = (status.get(key) for key in ("attempted", "accepted", "inForce"))
    if not accepted:
        return "Unknown"
    if attempted and attempted != accepted:
        return "OutOfSync"
    return "Synced" if in_force == accepted else "Progressing"


def health(resource: Mapping[str, Any]) -> str:
    """Healthy, Progressing (work is under way), Degraded (needs a person) or Unknown, from the conditions."""
    found = {c.get("type"): c.get("status") for c in resource.get("conditions") or ()}
    if found.get("Stalled") == "True":
        return "Degraded"
    if found.get("Ready") == "True":
        return "Healthy"
    if found.get("Reconciling") == "True":
        return "Progressing"
    return "Degraded" if found.get("Ready") == "False" else "Unknown"
