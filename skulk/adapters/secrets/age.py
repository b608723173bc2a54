"""Encrypting and decrypting with age, by the library pyrage: the only module that knows it.

Identities are files: age's own keys, or SSH keys of type ed25519 without a passphrase. No agent is asked: SSH agents
sign, they do not decrypt.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyrage

from skulk.adapters.secrets.files import read_bounded, write_whole
from skulk.core.errors import SEC_FILE, SEC_IDENTITY, SEC_NOT_FOR, SEC_RECIPIENTS, InvalidInput, Refused
from skulk.core.formats.age import read_header
from skulk.core.recipients import Recipient

# A private key of SSH has some 400 bytes, an identity file of age 200 and a line for each further key.
_IDENTITY_BYTES_MAX = 64 * 1024
# What the library says when every stanza was tried; anything else means that the file is damaged.
_NO_MATCH = "No matching keys found"
_LOCKED = "ssh key must be decrypted first"


@dataclass(frozen=True, slots=True)
class Identity:
    """A private key: where it was read, its public form when it is an age key, and the key itself, never shown."""

    path: Path
    public: str | None
    key: pyrage.x25519.Identity | pyrage.ssh.Identity = field(repr=False)


@dataclass(frozen=True, slots=True)
class Opened:
    """A decrypted secret, and the identity that opened it."""

    plain: bytes = field(repr=False)
    by: Identity


def seal(plain: bytes, recipients: Sequence[Recipient]) -> bytes:
    """Encrypt to all recipients, in ASCII armor. Raises InvalidInput SEC_RECIPIENTS naming one that cannot be used."""
    keys = [_public(recipient) for recipient in recipients]
    try:
        sealed: bytes = pyrage.encrypt(plain, keys, armored=True)
    except pyrage.EncryptError as error:
        raise InvalidInput(SEC_RECIPIENTS, f"nothing can be encrypted: {error}") from None
    return sealed


def _public(recipient: Recipient) -> pyrage.x25519.Recipient | pyrage.ssh.Recipient:
    kind = pyrage.ssh if recipient.is_ssh else pyrage.x25519
    try:
        return kind.Recipient.from_str(recipient.key)
    except pyrage.RecipientError:
        message = f"the public key of {recipient.owner} is mistyped: {recipient.key}"
        raise InvalidInput(SEC_RECIPIENTS, message, fix="copy it again, whole") from None


def unseal(data: bytes, identities: Sequence[Identity], name: str) -> Opened:
    """Decrypt what `seal` made; `name` is for messages. Age keys are tried before SSH keys.

    Raises InvalidInput SEC_FILE when the file is damaged, Refused SEC_NOT_FOR when no identity opens it.
    """
    try:
        read_header(data)
    except ValueError as error:
        raise InvalidInput(SEC_FILE, f"{name} is no usable age file: {error}") from None
    for identity in sorted(identities, key=lambda identity: identity.public is None):
        try:
            return Opened(pyrage.decrypt(data, [identity.key]), identity)
        except pyrage.DecryptError as error:
            if str(error) != _NO_MATCH:
                raise InvalidInput(SEC_FILE, f"{name} is damaged: {error}") from None
    tried = ", ".join(sorted({str(identity.path) for identity in identities}))
    raise Refused(SEC_NOT_FOR, f"{name} is not encrypted to {tried}")


def default_identities() -> list[Path]:
    """Where an operator's key is when none is named: the one of `skulk secrets key`, else the SSH key."""
    own = default_age_key()
    ssh = Path("~/.ssh/id_ed25519").expanduser()
    return [own] if own.exists() or not ssh.exists() else [ssh]


def default_age_key() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "skulk" / "age.key"


def load_identity(path: Path, maker: str = "skulk secrets key") -> list[Identity]:
    """The private keys of a file; `maker` is the command that makes one.

    Raises InvalidInput SEC_IDENTITY saying what is wrong with it.
    """
    if not _may_exist(path):
        fix = f"`{maker}` makes one; --identity names another"
        raise InvalidInput(SEC_IDENTITY, f"there is no identity {path}", fix=fix)
    data = read_bounded(path, _IDENTITY_BYTES_MAX, SEC_IDENTITY, follow=True)
    if path.stat().st_mode & stat.S_IRWXO:
        raise InvalidInput(SEC_IDENTITY, f"everybody on this machine has access to {path}", fix=f"chmod 600 {path}")
    if data.startswith((b"age-encryption.org/", b"-----BEGIN AGE ENCRYPTED")):
        raise InvalidInput(SEC_IDENTITY, f"{path} is protected by a passphrase", fix="decrypt it first: age --decrypt")
    if data.startswith(b"-----BEGIN"):
        return [Identity(path, None, _ssh_key(data, path))]
    keys = []
    for number, line in enumerate(data.decode("ascii", "replace").splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            try:
                key = pyrage.x25519.Identity.from_str(line.strip())
            except pyrage.IdentityError:
                raise InvalidInput(SEC_IDENTITY, f"{path}:{number}: this is no private key of age") from None
            keys.append(Identity(path, str(key.to_public()), key))
    if not keys:
        raise InvalidInput(SEC_IDENTITY, f"{path} holds no private key")
    return keys


def _may_exist(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return True  # behind a directory that is closed to us: reading says so


def _ssh_key(data: bytes, path: Path) -> pyrage.ssh.Identity:
    try:
        return pyrage.ssh.Identity.from_buffer(data)
    except pyrage.IdentityError as error:
        if str(error) == _LOCKED:
            message = f"the SSH key {path} is protected by a passphrase, and no agent can decrypt with it"
            fix = "make a key of its own for secrets: `skulk secrets key`"
            raise InvalidInput(SEC_IDENTITY, message, fix=fix) from None
        fix = "only ed25519 keys in OpenSSH's form are read: ssh-keygen -t ed25519, or `skulk secrets key`"
        raise InvalidInput(SEC_IDENTITY, f"{path} is no SSH key that can decrypt", fix=fix) from None


def make_identity(path: Path) -> str:
    """Make an age key in a new file that only its owner can read, and return the public key.

    Raises InvalidInput SEC_IDENTITY when something is there, or it cannot be written.
    """
    key = pyrage.x25519.Identity.generate()
    public = str(key.to_public())
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InvalidInput(SEC_IDENTITY, f"{path.parent} cannot be made: {error.strerror}") from None
    text = f"# public key: {public}\n{key}\n"
    write_whole(path, text.encode(), SEC_IDENTITY, mode=0o600, replace=False)
    return public
