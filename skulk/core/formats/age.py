"""The header of an age file (age-encryption.org/v1), read without any key: what it is encrypted to, as far as it says.

Pure. Stanzas for SSH keys carry a tag of the key, those for age's own keys (X25519) are anonymous and can only be
counted. Nothing is decrypted, and the header's MAC cannot be checked here: who has a key does that.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

ARMOR_BEGIN = b"-----BEGIN AGE ENCRYPTED FILE-----"
ARMOR_END = b"-----END AGE ENCRYPTED FILE-----"
VERSION_LINE = b"age-encryption.org/v1"
# A nonce of 16 bytes, then at least one chunk with its tag of 16.
PAYLOAD_BYTES_MIN = 32
_COLUMNS = 64
_ARGUMENTS = re.compile(rb"-> ([!-~]+(?: [!-~]+)*)")
_MAC = re.compile(rb"--- [A-Za-z0-9+/]{43}")
_BODY = re.compile(rb"[A-Za-z0-9+/]{0,64}")
# Stanzas with random names that writers add so that readers stay tolerant of stanzas they do not know.
_GREASE = "-grease"


@dataclass(frozen=True, slots=True)
class AgeHeader:
    """What a file is encrypted to: tags of SSH keys, a number of age keys, and types of any other stanzas."""

    ssh_tags: tuple[str, ...] = ()
    age_keys: int = 0
    others: tuple[str, ...] = ()


def read_header(data: bytes) -> AgeHeader:
    """The header of a file, binary or armored. Raises ValueError saying what is wrong; never shows the content."""
    rest = _dearmored(data) if data.lstrip().startswith(ARMOR_BEGIN) else data
    line, rest = _line(rest)
    if line != VERSION_LINE:
        raise ValueError("it does not begin like an age file")
    stanzas: list[list[str]] = []
    line, rest = _line(rest)
    while not line.startswith(b"---"):
        matched = _ARGUMENTS.fullmatch(line)
        if matched is None:
            raise ValueError("its header is damaged")
        stanzas.append(matched[1].decode("ascii").split(" "))
        # The body is wrapped; a line that is shorter than the others, the empty one included, is the last.
        line, rest = _line(rest)
        while len(line) == _COLUMNS and _BODY.fullmatch(line):
            line, rest = _line(rest)
        if _BODY.fullmatch(line) is None:
            raise ValueError("its header is damaged")
        line, rest = _line(rest)
    if _MAC.fullmatch(line) is None or not stanzas:
        raise ValueError("its header is damaged")
    if len(rest) < PAYLOAD_BYTES_MIN:
        raise ValueError("it is cut off")
    return AgeHeader(
        ssh_tags=tuple(words[1] for words in stanzas if words[0] == "ssh-ed25519" and len(words) > 1),
        age_keys=sum(words[0] == "X25519" for words in stanzas),
        others=tuple(
            words[0]
            for words in stanzas
            if words[0] not in ("X25519", "ssh-ed25519") and not words[0].endswith(_GREASE)
        ),
    )


def _line(data: bytes) -> tuple[bytes, bytes]:
    line, end, rest = data.partition(b"\n")
    if not end:
        raise ValueError("it does not begin like an age file" if len(line) > len(VERSION_LINE) else "it is cut off")
    return line, rest


def _dearmored(data: bytes) -> bytes:
    lines = data.strip().splitlines()
    if lines[-1] != ARMOR_END:
        raise ValueError("it is cut off")
    try:
        return base64.b64decode(b"".join(lines[1:-1]), validate=True)
    except binascii.Error:
        raise ValueError("its armor is damaged") from None
