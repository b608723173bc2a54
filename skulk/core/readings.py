"""What is measured of a machine: the kinds of readings, how often each is taken, and which changes a person would see.

A reading is a mapping of camelCase names to JSON values. A value that was not measured is None: never 0, never left
out to mean something. Nothing is measured here; docs/reference/telemetry.md lists the values of each kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from skulk.core.domain import Reading

Values = Mapping[str, object]


class Kind(StrEnum):
    """Kinds of readings, as they are named on the telemetry plane and in a Node's `status.readings`."""

    MEMORY = "memory"
    SYSTEM = "system"
    ACCELERATOR = "accelerator"
    DAEMON = "daemon"
    DISK = "disk"
    IDENTITY = "identity"


INTERVAL_SECONDS: Mapping[Kind, float] = {
    # What a person watches while a model loads or answers.
    Kind.MEMORY: 2.0,
    Kind.SYSTEM: 2.0,
    Kind.ACCELERATOR: 2.0,
    # Slow to change, and of interest when something is wrong already.
    Kind.DAEMON: 10.0,
    # A disk fills over minutes, and a network disk should not be asked all the time.
    Kind.DISK: 30.0,
    # Changes with an update of the operating system or a new name.
    Kind.IDENTITY: 300.0,
}

# More than any quantity here in any unit; whole numbers of other nodes may have any number of digits.
NUMBER_MAX = 1e30


def interval_seconds(kind: Kind) -> float:
    """The pace of a kind."""
    return INTERVAL_SECONDS[kind]


# Uptime and the like are shown by the minute.
SHOWN_SECONDS = 60.0
# An age below this is as good as now; above, nobody asks for single seconds.
AGE_STEP_SECONDS = 5.0

# Values that grow all the time: their growth is no news.
_GROWING = frozenset({"uptimeSeconds", "cpuSeconds"})
# A change of this share of the whole is seen on a bar of twenty steps.
_SHARE_SEEN = 0.05
# Values between 0 and 1 move by this much before it is worth a look.
_RATIO_SEEN = 0.05
# The names of values between 0 and 1.
_RATIOS = frozenset({"cpuUtilisation", "utilisation", "stallShare"})
# Two degrees are noise of the sensor.
_DEGREES_SEEN = 3.0
# All other numbers (loads, watts, counts): by this share of what was shown.
_RELATIVE_SEEN = 0.25
# Loads and lags below one are noise.
_ABSOLUTE_SEEN = 1.0


def is_seen(before: Values, after: Values) -> bool:
    """Whether a person who looks at `before` would call `after` different. Compared with what was last shown, not with
    the last sample, so that slow growth is seen in the end and jitter around a limit never is."""
    if before.keys() != after.keys():
        return True
    whole = _whole(after)
    return any(_differs(name, before[name], value, whole) for name, value in after.items())


def _whole(values: Values) -> float | None:
    """What byte counts beside it are a part of."""
    for name in ("totalBytes", "memoryTotalBytes"):
        total = number(values, name)
        if total is not None and total > 0:
            return total
    return None


def _differs(name: str, before: object, after: object, whole: float | None) -> bool:
    if name in _GROWING or before == after:
        return False
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return is_seen(before, after)
    if isinstance(before, list | tuple) and isinstance(after, list | tuple):
        return len(before) != len(after) or any(_differs(name, b, a, whole) for b, a in zip(before, after, strict=True))
    if _is_number(before) and _is_number(after):
        return _moved(name, float(before), float(after), whole)  # type: ignore[arg-type]
    return before != after


def _moved(name: str, before: float, after: float, whole: float | None) -> bool:
    change = abs(after - before)
    if name in _RATIOS:
        return change >= _RATIO_SEEN
    if name.endswith("Bytes") and whole is not None:
        return change >= _SHARE_SEEN * whole
    if name.endswith("Celsius"):
        return change >= _DEGREES_SEEN
    return change >= max(_ABSOLUTE_SEEN, _RELATIVE_SEEN * abs(before))


class Steady:
    """Readings as a view shows them: values stay until a person would see a difference or SHOWN_SECONDS have passed,
    ages go in steps. Without it every sample of every node would be a new view for every watcher."""

    def __init__(self) -> None:
        self._shown: dict[tuple[str, str], tuple[float, Values]] = {}

    def status(self, node: str, readings: Mapping[str, Reading], now: float) -> dict[str, dict[str, object]]:
        """`status.readings` of a Node resource: kind → `ageSeconds` and values. Kinds that are not in `Kind` are for
        machines and are left out. `now`: monotonic seconds."""
        shown: dict[str, dict[str, object]] = {}
        for kind in Kind:
            reading = readings.get(kind)
            if reading is None:
                self._shown.pop((node, kind), None)
                continue
            at, values = self._shown.get((node, kind), (now, reading.values))
            if now - at >= SHOWN_SECONDS or is_seen(values, reading.values):
                at, values = now, reading.values
            self._shown[node, kind] = (at, values)
            shown[kind.value] = {"ageSeconds": AGE_STEP_SECONDS * (reading.age_seconds // AGE_STEP_SECONDS), **values}
        return shown


def number(values: Values, name: str) -> float | None:
    """A number of a reading, None for anything else: readings of other nodes are taken as data."""
    value = values.get(name)
    return float(value) if _is_number(value) else None  # type: ignore[arg-type]


def text(values: Values, name: str) -> str | None:
    """A text of a reading, None for anything else."""
    value = values.get(name)
    return value if isinstance(value, str) else None


def entries(values: Values, name: str) -> tuple[Values, ...]:
    """A list of mappings of a reading (disks, devices); what is none is left out."""
    value = values.get(name)
    return tuple(item for item in value if isinstance(item, Mapping)) if isinstance(value, list | tuple) else ()


def _is_number(value: object) -> bool:
    # Beyond the bounds nothing is measured; NaN, which compares false with everything, is left out with it.
    return isinstance(value, int | float) and not isinstance(value, bool) and -NUMBER_MAX < value < NUMBER_MAX
