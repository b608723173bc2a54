"""Whether the node lives and is ready, as a pure reading of its view."""

from __future__ import annotations

from skulk.core.domain import Check, FleetView

LOOP_CHECK = "loop"
"""Name of the check that the node sets false when its loop stopped ticking: the only one that /livez looks at."""


def checks(view: FleetView) -> tuple[Check, ...]:
    """The node's checks, and those that every view answers by itself."""
    own: list[Check] = []
    names = {check.name for check in view.checks}
    if "commit" not in names:
        commit = view.in_force
        message = f"{commit[:12]} is in force" if commit else "no commit is in force yet"
        own.append(Check("commit", commit is not None, message))
    if view.closing:
        own.append(Check("closing", False, "the daemon is about to end"))
    return (*own, *view.checks)


def is_ready(view: FleetView, *, settled: bool = False) -> bool:
    """`settled`: also in its place, with its runners ready and other nodes in sight."""
    return all(check.ok for check in checks(view) if settled or not check.settling)


def is_alive(view: FleetView) -> bool:
    return all(check.ok for check in view.checks if check.name == LOOP_CHECK)
