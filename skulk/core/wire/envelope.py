"""Signed envelopes: who wrote a message, in which life, and for whom, whoever passed it on.

A relay can delay or drop an envelope, not change or invent one. Layout, integers big-endian:

    "SKE1" · u32 header length · header (UTF-8 JSON) · u8 signature length · signature · body

The signature covers a context string, the header with its length, and the body. Signing and verifying are passed
in, so this module knows no algorithm (the planes use Ed25519, RFC 8032). Whether an envelope is newer than what is
known already is judged by the reader: `Envelope.version` for documents, `ReplayWindow` for calls.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass

from skulk.core.domain.ids import BootId, NodeName
from skulk.core.domain.planes import Life
from skulk.core.wire.fields import Fields

Sign = Callable[[bytes], bytes]
"""Bytes → signature. An empty signature is made where the planes are plain."""
Verify = Callable[[NodeName, bytes, bytes], bool]
"""(author, bytes, signature) → whether the author's key made it. False for an unknown author."""

_MAGIC = b"SKE1"
_CONTEXT = b"skulk envelope 1\0"
_LENGTH = struct.Struct(">I")
HEADER_BYTES_MAX = 4096
"""Names, numbers and a boot id: far below. A bound, so that a length field cannot make us read nonsense."""
REPLAY_CALLS = 1024
"""Calls of one author that may be on their way out of order; older numbers are refused."""


class EnvelopeError(ValueError):
    """The bytes are no envelope that may be believed. The message is one of few short reasons, for counting."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What was signed. `fleet` and `purpose` keep it from meaning something elsewhere; `to` is empty for all."""

    fleet: str
    purpose: str
    author: Life
    seq: int
    body: bytes
    to: str = ""
    """`NODE/BOOT` of the only reader."""
    re: int = 0
    """For an answer: the `seq` of what it answers."""

    @property
    def version(self) -> tuple[int, int]:
        """Grows with every document of an author, across its restarts."""
        return (self.author.number, self.seq)


def recipient(life: Life) -> str:
    """The `to` of an envelope that only this life of a node may act on."""
    return f"{life.node}/{life.boot}"


def seal(envelope: Envelope, sign: Sign) -> bytes:
    """The signed bytes."""
    header = json.dumps(
        {
            "fleet": envelope.fleet,
            "purpose": envelope.purpose,
            "node": envelope.author.node,
            "boot": envelope.author.boot,
            "life": envelope.author.number,
            "seq": envelope.seq,
            "to": envelope.to,
            "re": envelope.re,
        },
        separators=(",", ":"),
        sort_keys=True,
    ).encode()
    signature = sign(_signed(header, envelope.body))
    return b"".join(
        (_MAGIC, _LENGTH.pack(len(header)), header, bytes((len(signature),)), signature, envelope.body),
    )


def unseal(data: bytes, *, fleet: str, purpose: str, verify: Verify, to: str = "") -> Envelope:
    """Read and check an envelope. Raises EnvelopeError when it is malformed, meant for another fleet, purpose or
    reader, or not signed by the author it names."""
    header, signature, body = _parts(data)
    try:
        f = Fields(json.loads(header))
        envelope = Envelope(
            fleet=f.text("fleet"),
            purpose=f.text("purpose"),
            author=Life(NodeName(f.text("node")), BootId(f.text("boot")), f.whole("life")),
            seq=f.whole("seq"),
            body=body,
            to=f.text("to"),
            re=f.whole("re"),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EnvelopeError("malformed") from error
    if envelope.fleet != fleet:
        raise EnvelopeError("another fleet's")
    if envelope.purpose != purpose:
        raise EnvelopeError("meant for something else")
    if envelope.to != to:
        raise EnvelopeError("meant for another reader")
    if not verify(envelope.author.node, _signed(header, body), signature):
        raise EnvelopeError("not signed by its author")
    return envelope


def _signed(header: bytes, body: bytes) -> bytes:
    return b"".join((_CONTEXT, _LENGTH.pack(len(header)), header, body))


def _parts(data: bytes) -> tuple[bytes, bytes, bytes]:
    start = len(_MAGIC) + _LENGTH.size
    if data[: len(_MAGIC)] != _MAGIC or len(data) <= start:
        raise EnvelopeError("malformed")
    (length,) = _LENGTH.unpack_from(data, len(_MAGIC))
    at = start + length
    if length > HEADER_BYTES_MAX or len(data) <= at or len(data) < at + 1 + data[at]:
        raise EnvelopeError("malformed")
    return data[start:at], data[at + 1 : at + 1 + data[at]], data[at + 1 + data[at] :]


class ReplayWindow:
    """Which call numbers of one author were seen: each is new once, whatever the order of arrival."""

    def __init__(self) -> None:
        self._life = -1
        self._highest = 0
        self._seen: set[int] = set()

    def is_new(self, version: tuple[int, int]) -> bool:
        """Take note of (life number, seq). False: seen before, of an older life, or too old to tell."""
        life, seq = version
        if life > self._life:
            self._life, self._highest, self._seen = life, 0, set()
        if life < self._life or seq in self._seen or seq <= self._highest - REPLAY_CALLS:
            return False
        self._seen.add(seq)
        if seq > self._highest:
            self._highest = seq
            self._seen = {known for known in self._seen if known > seq - REPLAY_CALLS}
        return True
