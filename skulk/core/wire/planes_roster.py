"""What the Node manifests say about the planes: where each node listens, and whose signature counts.

Pure, and shared by whoever dials (`planes_keys.dial_list`), believes (`public_keys`) or checks manifests. Whether an
address can be reached, and whether a key is the one in a certificate, is found out elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import re

from skulk.core.domain.desired import Fleet, Node
from skulk.core.domain.ids import NodeName
from skulk.core.errors import PLN_TLS, InvalidInput
from skulk.core.wire.planes_keys import Dialable

PLANES_PORT = 52416
"""Where a node's planes listen when its address names no port."""
PUBLIC_KEY_BYTES = 32
"""A raw Ed25519 public key (RFC 8032)."""

KEY_PREFIX = "ed25519:"
_PORT = "(?:6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})"
_HOST = "[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?"
_H = "[0-9A-Fa-f]{1,4}"
# RFC 4291, section 2.2, forms 1 and 2: all eight groups, or `::` for some of them (not for all: that is no address).
_V6 = "|".join(
    (
        f"(?:{_H}:){{7}}{_H}",
        f"(?:{_H}:){{1,7}}:",
        *(f"(?:{_H}:){{1,{7 - n}}}(?::{_H}){{1,{n}}}" for n in range(1, 7)),
        f":(?::{_H}){{1,7}}",
    )
)
ADDRESS_PATTERN = f"^(?:{_HOST}(?::{_PORT})?|{_V6}|\\[(?:{_V6})\\](?::{_PORT})?)$"
"""HOST, HOST:PORT, IPv6 or [IPv6]:PORT. No zone (`%eth0`): it would mean something else on every other node."""
# The last sign of 32 bytes in base64 has two bits to spare, which are zero: one key has one text.
PUBLIC_KEY_PATTERN = f"^{KEY_PREFIX}[A-Za-z0-9+/]{{42}}[AEIMQUYcgkosw048]=$"


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of an address that matches ADDRESS_PATTERN; IPv6 without brackets. Raises ValueError for another."""
    if re.fullmatch(ADDRESS_PATTERN, address) is None:
        raise ValueError(f"{address!r} is not HOST, HOST:PORT or [IPV6]:PORT")
    if address.startswith("["):
        host, _, rest = address[1:].partition("]")
        return host, int(rest[1:] or PLANES_PORT)
    if address.count(":") == 1:
        host, _, port = address.partition(":")
        return host, int(port)
    return address, PLANES_PORT


def endpoint_of(node: Node, tls: bool) -> str | None:
    """`tls/HOST:PORT` (or `tcp/…`) of a declared node; None without an address: nobody can dial it."""
    if node.address is None:
        return None
    host, port = host_and_port(node.address)
    return f"{'tls' if tls else 'tcp'}/{f'[{host}]' if ':' in host else host}:{port}"


def endpoints(fleet: Fleet, tls: bool) -> tuple[Dialable, ...]:
    """Every declared node as `dial_list` takes it, lowest ordinal first; those without an address included, because
    they dial too."""
    nodes = sorted(fleet.nodes.values(), key=lambda node: node.ordinal)
    return tuple(Dialable(node.name, node.ordinal, endpoint_of(node, tls)) for node in nodes)


def public_keys(fleet: Fleet) -> dict[NodeName, bytes]:
    """The raw public keys of the nodes that declare one: only these are believed."""
    return {
        name: public_key_bytes(node.public_key) for name, node in fleet.nodes.items() if node.public_key is not None
    }


def public_key_text(raw: bytes) -> str:
    """`ed25519:` and base64: the form of `Node.spec.publicKey`."""
    return KEY_PREFIX + base64.b64encode(raw).decode()


def public_key_bytes(text: str) -> bytes:
    """The inverse. Raises InvalidInput PLN_TLS for another form."""
    try:
        raw = base64.b64decode(text.removeprefix(KEY_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not text.startswith(KEY_PREFIX) or len(raw) != PUBLIC_KEY_BYTES:
        fix = f"write {KEY_PREFIX}BASE64 of {PUBLIC_KEY_BYTES} bytes"
        raise InvalidInput(PLN_TLS, f"{text[:80]!r} is not a public key", fix=fix)
    return raw
