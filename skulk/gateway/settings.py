"""What the composition root decides about a gateway: where it listens, limits, and the sources of ids and time."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client.registry import Collector

MIB = 1024 * 1024


def random_id() -> str:
    return str(uuid.uuid4())


def random_seed() -> int:
    return secrets.randbits(64)


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Defaults are the product's; tests pass smaller limits and fixed sources."""

    loopback: bool | None = None
    """Whether callers come over loopback; None: told by the local address of each connection. Without keys only
    such callers are served (unless the Fleet says `anonymous`)."""
    body_bytes_max: int = 16 * MIB
    """A 10 MB prompt, escaped. More is a mistake or an attack, and is refused while it is read."""
    body_seconds_max: float = 120.0
    """For the whole body: 16 MiB in two minutes is 1 Mbit/s; slower senders would hold memory for nothing."""
    keep_alive_seconds: float = 10.0
    """Between comment lines on a silent stream: proxies drop connections that are silent for 30 to 60 s."""
    first_token_seconds: float = 600.0
    """Default deadline from the arrival of a request to its first token."""
    owner_buffer_bytes_max: int = 4 * MIB
    """Per slow client: about 10,000 chunks. Beyond it the request is cancelled; the engine never waits."""
    drain_seconds_max: float = 30.0
    """How long a client may take to read what is left after the end of its generation."""
    not_ready_retry_seconds: int = 5
    """Retry-After of a model that is being loaded: small models load in less."""
    webhook_secret: bytes | None = field(default=None, repr=False)
    """What forges sign their deliveries with; None: no webhooks are taken."""
    new_id: Callable[[], str] = random_id
    new_seed: Callable[[], int] = random_seed
    """64 bits, unsigned."""
    wall: Callable[[], float] = time.time
    """Seconds of the epoch."""
    monotonic: Callable[[], float] = time.monotonic
    collectors: tuple[Collector, ...] = ()
    """Further metrics of the node, exposed by `/metrics` with the gateway's own."""
