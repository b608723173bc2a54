"""What the planes need of a messaging layer: keys, four classes of traffic, liveliness, queries.

The real one is `skulk.adapters.zenoh`; the simulator has a network in memory. Everything is called on the event
loop and nothing here blocks it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Traffic(StrEnum):
    """How a message may be treated on its way."""

    CONTROL = "control"
    """Small and sparse, must arrive: waits for room, ahead of everything else."""
    SIGNAL = "signal"
    """Acknowledgements: ahead of tokens, may be dropped, sent again every second."""
    DATA = "data"
    """Tokens: may be dropped after a moment of waiting, sent again on a gap."""
    TELEMETRY = "telemetry"
    """Readings: dropped first."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """What one node listens to and answers, as key expressions below the fleet's prefix."""

    token: str
    """Its liveliness token."""
    tokens: str
    """Those of all."""
    retained: tuple[str, ...]
    """Messages of which the last of every key is delivered to late subscribers."""
    messages: tuple[str, ...]
    queries: tuple[str, ...]


Reply = Callable[[bytes | None], None]
"""Answer a query, once; None ends it without an answer."""


class Inbox(Protocol):
    """Where everything that arrives goes, on the event loop."""

    def on_reset(self) -> None:
        """The connection was made anew: the tokens that exist are reported again."""
        ...

    def on_token(self, key: str, alive: bool) -> None: ...

    def on_message(self, key: str, payload: bytes) -> None: ...

    def on_query(self, key: str, payload: bytes, reply: Reply) -> None: ...


class Transport(Protocol):
    """One node's access to the network."""

    async def open(self, wiring: Wiring, inbox: Inbox) -> None:
        """Raises PLN_OPEN."""
        ...

    def retain(self, key: str, payload: bytes, traffic: Traffic) -> None:
        """Send, and keep for those who subscribe later."""
        ...

    def send(self, key: str, payload: bytes, traffic: Traffic) -> None: ...

    async def query(
        self, key: str, payload: bytes, timeout_seconds: float, *, large: bool = False
    ) -> tuple[bytes, ...]:
        """All answers until the timeout; none when nobody answers to the key. `large`: the answer may be many
        times a network packet, let it wait rather than drop it."""
        ...

    async def redial(self, endpoints: tuple[str, ...], *, anew: bool = False) -> bool: ...

    async def close(self, deadline_seconds: float) -> bool: ...
