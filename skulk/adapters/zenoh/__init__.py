"""The planes on Zenoh: the one place that imports the library. `open_planes` puts the parts together."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping

from skulk.adapters.planes import Identity, Planes
from skulk.adapters.zenoh.certificates import load_key, verifier
from skulk.adapters.zenoh.session import ZenohTransport
from skulk.adapters.zenoh.settings import Mode, PlaneSettings, TlsFiles, checked, use_threads
from skulk.core.domain import Life, NodeName
from skulk.core.ports import Clock, PlaneHost
from skulk.core.wire.planes_roster import public_key_bytes, public_key_text

__all__ = [
    "Mode",
    "PlaneSettings",
    "TlsFiles",
    "ZenohTransport",
    "checked",
    "identity",
    "open_planes",
    "public_key_bytes",
    "public_key_text",
    "use_threads",
]

SECRET_BYTES = 16
"""Of a stream: 128 bit, not to be guessed."""


def identity(settings: PlaneSettings, life: Life) -> Identity:
    """Who this node is, with its certificate's key; plain without certificates. Raises InvalidInput PLN_TLS."""

    def secret() -> str:
        return secrets.token_hex(SECRET_BYTES)

    if settings.tls is None:
        return Identity(
            settings.namespace,
            life,
            sign=lambda data: b"",
            verifier=lambda keys: lambda author, data, signature: signature == b"",
            secret=secret,
            plain=True,
        )
    key = load_key(settings.tls, life.node)
    return Identity(settings.namespace, life, sign=key.sign, verifier=verifier, secret=secret)


async def open_planes(
    settings: PlaneSettings,
    life: Life,
    *,
    keys: Mapping[NodeName, bytes],
    clock: Clock,
    host: PlaneHost,
    wake: Callable[[], None],
) -> Planes:
    """Join the fleet's network. `keys` are the nodes' public keys, this node's among them (see `Planes.trust`);
    without certificates they are ignored. Raises InvalidInput (PLN_EXPOSED, PLN_TLS, PLN_OPEN) for settings that cannot
    work, Transient PLN_OPEN when opening fails now."""
    planes = Planes(identity(settings, life), ZenohTransport(settings), clock, host, wake)
    planes.trust(keys)
    await planes.open()
    return planes
