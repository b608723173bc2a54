"""What a node may do next, as values. `skulk.node.apply` has one small coroutine per type.

Every action is idempotent: it may be decided again before its effect is seen, and is then skipped while the
first one still runs (`key`).
"""

from __future__ import annotations

from dataclasses import dataclass

from skulk.core.domain import Card, Launch, PlacementUid


@dataclass(frozen=True, slots=True)
class Adopt:
    """Connect to a live runner of an earlier daemon."""

    uid: PlacementUid


@dataclass(frozen=True, slots=True)
class Clear:
    """Remove what a dead runner left."""

    uid: PlacementUid


@dataclass(frozen=True, slots=True)
class Kill:
    """End the process group at once, for a reason that is told."""

    uid: PlacementUid
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Drain:
    uid: PlacementUid


@dataclass(frozen=True, slots=True)
class Stop:
    uid: PlacementUid


@dataclass(frozen=True, slots=True)
class Fetch:
    card: Card
    content: str
    keep_free_bytes: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Look at a card's files again: what is known of them, good or bad, does not count any more."""

    content: str


@dataclass(frozen=True, slots=True)
class Start:
    launch: Launch


Action = Adopt | Clear | Kill | Drain | Stop | Fetch | Forget | Start


def key(action: Action) -> str:
    """What must not run twice at once: `kind/subject`."""
    match action:
        case Fetch():
            return f"fetch/{action.content}"
        case Forget():
            return f"forget/{action.content}"
        case Start():
            return f"start/{action.launch.uid}"
        case _:
            return f"{type(action).__name__.lower()}/{action.uid}"
