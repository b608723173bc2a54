"""Who may read the fleet's secrets: the operators of `fleet/secrets/operators.txt` and the host keys of the nodes.

Pure: reads the list, puts both together, and says how the header of an encrypted file differs from it. Every secret
is for all of them; which node uses which is not decided here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from skulk.core.domain.desired import Fleet
from skulk.core.formats.age import AgeHeader
from skulk.core.formats.ssh_key import comment_of, is_ssh_key, tag_of, without_comment

SECRETS_FOLDER = "fleet/secrets"
OPERATORS_FILE = "operators.txt"
SEALED_SUFFIX = ".age"
SECRET_BYTES_MAX = 64 * 1024
"""Keys, tokens and certificates are a few kilobytes; larger things are no secrets but files."""
SEALED_BYTES_MAX = 256 * 1024
"""The largest secret in armor (a third more) with the stanzas of some 400 recipients."""

# As for manifests: no slash, no leading dot, so that a name never leaves its folder.
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
# Bech32 (BIP 173) of 32 bytes after `age1`; its checksum is checked by whoever encrypts.
_AGE_KEY = re.compile(r"age1[02-9ac-hj-np-z]{58}")


@dataclass(frozen=True, slots=True)
class Recipient:
    """A public key that secrets are encrypted to: `age1…` or `ssh-ed25519 BASE64`, and whose it is, for people."""

    key: str
    owner: str

    @property
    def is_ssh(self) -> bool:
        return self.key.startswith("ssh-")


@dataclass(frozen=True, slots=True)
class Difference:
    """How a file's recipients differ from those it should have. Age keys are anonymous: only their number is known."""

    missing: tuple[str, ...] = ()
    superfluous_tags: tuple[str, ...] = ()
    age_keys_too_many: int = 0
    others: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self != Difference()

    def sentences(self) -> Iterator[str]:
        """What is wrong, one finding each."""
        if self.missing:
            yield f"not encrypted to {', '.join(self.missing)}"
        if self.superfluous_tags:
            yield f"encrypted to SSH keys that are no recipients (tags {', '.join(self.superfluous_tags)})"
        if self.age_keys_too_many:
            number = abs(self.age_keys_too_many)
            yield f"encrypted to {number} age key{'s' * (number > 1)} {self._direction()} than {OPERATORS_FILE} lists"
        if self.others:
            yield f"encrypted in a way that is not used here ({', '.join(self.others)})"

    def _direction(self) -> str:
        return "more" if self.age_keys_too_many > 0 else "fewer"


def is_secret_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def parse_operators(text: str, place: str = f"{SECRETS_FOLDER}/{OPERATORS_FILE}") -> list[Recipient]:
    """One public key a line, `age1…` or `ssh-ed25519 AAAA…`, then a comment; `#` begins a line that is none.

    Raises ValueError naming place, line and what is wrong. A line that is not understood is never repeated: it may be
    a private key.
    """
    found: dict[str, Recipient] = {}
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        words = line.split()
        if _AGE_KEY.fullmatch(words[0]):
            key, comment = words[0], " ".join(words[1:])
        elif is_ssh_key(line):
            key, comment = without_comment(line), comment_of(line)
        elif words[0].upper().startswith("AGE-SECRET-KEY-"):
            raise ValueError(f"{place}:{number}: this is a private key; only the public one (age1…) belongs here")
        else:
            raise ValueError(f"{place}:{number}: this is no public key of the form age1… or ssh-ed25519 AAAA…")
        if key in found:
            raise ValueError(f"{place}:{number}: this key stands in the file already")
        found[key] = Recipient(key, f"operator {_told(comment) or f'of line {number}'}")
    return list(found.values())


def recipients_of(fleet: Fleet, operators: Sequence[Recipient]) -> tuple[Recipient, ...]:
    """Operators as listed, then the nodes with a host key by name; a key that both have counts once."""
    nodes = [
        Recipient(node.ssh_host_key, f"node {name}")
        for name, node in sorted(fleet.nodes.items())
        if node.ssh_host_key is not None
    ]
    found: dict[str, Recipient] = {}
    for recipient in (*operators, *nodes):
        found.setdefault(recipient.key, recipient)
    return tuple(found.values())


def compared(header: AgeHeader, recipients: Sequence[Recipient]) -> Difference:
    """What is wrong with a file's recipients; false when nothing is, as far as its header says."""
    wanted = Counter(tag_of(recipient.key) for recipient in recipients if recipient.is_ssh)
    there = Counter(header.ssh_tags)
    return Difference(
        missing=tuple(
            recipient.owner for recipient in recipients if recipient.is_ssh and not there[tag_of(recipient.key)]
        ),
        superfluous_tags=tuple(sorted((there - wanted).elements())),
        age_keys_too_many=header.age_keys - sum(not recipient.is_ssh for recipient in recipients),
        others=header.others,
    )


def is_proven(header: AgeHeader, recipients: Sequence[Recipient], opened_by: str | None) -> bool:
    """Whether a file that the age key `opened_by` (None: another kind of key) opens is encrypted to exactly
    `recipients`, beyond doubt.

    One age key in the header, one in the list, and that one opened it: then it is the same. With several, one of them
    may have been replaced by another, which no header tells.
    """
    age_keys = [recipient.key for recipient in recipients if not recipient.is_ssh]
    return not compared(header, recipients) and (not age_keys or age_keys == [opened_by])


def _told(comment: str) -> str:
    """A comment as it may stand in a message."""
    return "".join(c for c in comment.lstrip("# ") if c.isprintable())[:80]
