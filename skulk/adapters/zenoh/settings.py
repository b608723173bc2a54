"""What the planes are opened with: checked settings, and the session configuration made from them.

The values were measured (threads, lease, drop waits); each says what happens otherwise. Does not import the library.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from skulk.core.errors import PLN_EXPOSED, PLN_OPEN, InvalidInput
from skulk.core.wire.planes_keys import fleet_prefix

LEASE_MS = 2000
"""A silent node is noticed after this; 10 s, the library's default, is longer than a client should wait."""
KEEP_ALIVES_PER_LEASE = 4
WAIT_BEFORE_DROP_US = 200_000
"""A full queue may drain for so long before a message is dropped. At the default 1 ms, bursts lose a quarter; with
blocking instead of dropping, one cut node stalls the healthy ones for seconds."""
WAIT_BEFORE_DROP_LARGE_US = 500_000
"""The same for all parts of a message above 64 KiB together, such as a verdict with a long prompt's token ids."""
REDIAL_MS = (200, 1000)
"""First and longest pause between attempts to reach a node."""
RX_THREADS_MIN = 16
"""With the default of two, several connections that expire together block each other: a node whose cable is cut
does not notice. One per expected node, and never fewer than this."""
Mode = Literal["router", "peer"]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the fleet's CA, this node's certificate and its key."""

    ca: Path
    certificate: Path
    key: Path
    verify_names: bool = True
    """The dialled address must stand in the other node's certificate."""


@dataclass(frozen=True, slots=True)
class PlaneSettings:
    """One node's planes. Endpoints are `tls/HOST:PORT`, or `tcp/HOST:PORT` without certificates."""

    namespace: str
    listen: tuple[str, ...]
    dial: tuple[str, ...] = ()
    # Routers can forget each other's tokens when one was frozen, although they are connected (seen in about half of the
    # rounds; never among peers), and are repaired only seconds later.
    mode: Mode = "peer"
    tls: TlsFiles | None = None
    allow_plain: bool = False
    lease_ms: int = LEASE_MS


def checked(settings: PlaneSettings) -> PlaneSettings:
    """The same. Raises InvalidInput: PLN_EXPOSED for a plain endpoint beyond loopback that is not allowed, PLN_OPEN
    for one of another form or protocol."""
    protocol = "tls" if settings.tls is not None else "tcp"
    for endpoint in (*settings.listen, *settings.dial):
        scheme, _, rest = endpoint.partition("/")
        host, _, port = rest.rpartition(":")
        if scheme != protocol or not host or not port.isdecimal():
            raise InvalidInput(PLN_OPEN, f"planes: {endpoint!r} is not {protocol}/HOST:PORT")
        if settings.tls is None and not settings.allow_plain and not _is_loopback(host):
            raise InvalidInput(PLN_EXPOSED, f"planes: {endpoint!r} without certificates")
    return settings


def use_threads(expected_nodes: int = 0) -> None:
    """Set the library's thread counts. Only the first session of a process reads them: call before it is opened."""
    rx = max(RX_THREADS_MIN, expected_nodes)
    pools = f"(rx: (worker_threads: {rx}), net: (worker_threads: 4), acc: (worker_threads: 4))"
    os.environ.setdefault("ZENOH_RUNTIME", pools)


def session_config(settings: PlaneSettings) -> dict[str, object]:
    """The session's configuration as a JSON object."""
    quick, slow = REDIAL_MS
    none: dict[str, list[str]] = {"router": [], "peer": []}
    return {
        "mode": settings.mode,
        "namespace": fleet_prefix(settings.namespace),
        "listen": {"endpoints": list(settings.listen)},
        "connect": {
            "endpoints": list(settings.dial),
            "retry": {"period_init_ms": quick, "period_max_ms": slow, "period_increase_factor": 1.5},
        },
        # The lists are complete, so nobody is dialled because of hearsay: two connections of one pair lose messages.
        "scouting": {
            "multicast": {"enabled": False},
            "gossip": {"enabled": True, "multihop": True, "autoconnect": none},
        },
        "timestamping": {"enabled": True},
        # Shared memory gains nothing at these sizes and has a race under load.
        "transport": {"shared_memory": {"enabled": False}, "link": _link(settings)},
    }


def _link(settings: PlaneSettings) -> dict[str, object]:
    link: dict[str, object] = {
        "protocols": ["tls" if settings.tls is not None else "tcp"],
        "tx": {
            "lease": settings.lease_ms,
            "keep_alive": KEEP_ALIVES_PER_LEASE,
            "queue": {
                "congestion_control": {
                    "drop": {
                        "wait_before_drop": WAIT_BEFORE_DROP_US,
                        "max_wait_before_drop_fragments": WAIT_BEFORE_DROP_LARGE_US,
                    }
                }
            },
        },
    }
    if settings.tls is not None:
        certificate, key = str(settings.tls.certificate), str(settings.tls.key)
        link["tls"] = {
            "root_ca_certificate": str(settings.tls.ca),
            "enable_mtls": True,
            "listen_private_key": key,
            "listen_certificate": certificate,
            "connect_private_key": key,
            "connect_certificate": certificate,
            "verify_name_on_connect": settings.tls.verify_names,
        }
    return link


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False  # a name can point anywhere tomorrow
