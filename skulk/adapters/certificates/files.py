"""Files of keys and certificates: read with bounds, written whole or not at all, private ones for their owner only.

A file that exists is never replaced in silence: a key that is overwritten is gone, and with it a node's identity.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from skulk.core.errors import CRT_EXISTS, CRT_FILE, InvalidInput

PEM_BYTES_MAX = 64 * 1024
"""A request or certificate has about 500 bytes; a file of this size is something else."""
PRIVATE = 0o600
PUBLIC = 0o644
_OF_OTHERS = 0o077


def read_public(path: Path) -> bytes:
    """What the file holds. Raises InvalidInput CRT_FILE naming it when it cannot be read or is too large."""
    try:
        with path.open("rb") as stream:
            data = stream.read(PEM_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidInput(CRT_FILE, f"{path} cannot be read: {error.strerror}") from error
    if len(data) > PEM_BYTES_MAX:
        raise InvalidInput(CRT_FILE, f"{path} is larger than {PEM_BYTES_MAX} bytes: no key or certificate")
    return data


def read_private(path: Path) -> bytes:
    """The same for a secret. Raises InvalidInput CRT_FILE also when others than its owner can read or change it."""
    data = read_public(path)
    if path.stat().st_mode & _OF_OTHERS:
        raise InvalidInput(CRT_FILE, f"{path} is accessible to others than its owner", fix=f"chmod 600 {path}")
    return data


def read_passphrase(path: Path) -> bytes:
    """The first line of a file that only its owner can read. Raises InvalidInput CRT_FILE, also for an empty one."""
    line = read_private(path).partition(b"\n")[0].rstrip(b"\r")
    if not line:
        raise InvalidInput(
            CRT_FILE, f"{path} begins with an empty line", fix="write the passphrase into its first line"
        )
    return line


def write_new(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Write a file that does not exist yet; after a crash it is there whole or not at all.

    Directories on the way are made for the owner alone. Raises InvalidInput CRT_EXISTS when something is there, a link
    included, CRT_FILE when it cannot be written.
    """
    try:
        part = _part(path, data, mode)
        try:
            # A link, unlike a rename, fails when the name is taken.
            os.link(part, path)
            _sync_directory(path.parent)
        finally:
            part.unlink()
    except FileExistsError:
        raise InvalidInput(CRT_EXISTS, f"{path} exists already") from None
    except OSError as error:
        raise InvalidInput(CRT_FILE, f"{path} cannot be written: {error.strerror}") from error


def write_public(path: Path, data: bytes, *, replace: bool) -> bool:
    """Write a certificate; False when it is there already with these bytes.

    Other bytes stay unless `replace` is set: raises InvalidInput CRT_EXISTS; CRT_FILE when it cannot be written.
    """
    if not os.path.lexists(path):
        write_new(path, data, PUBLIC)
        return True
    if path.is_symlink() or not path.is_file():
        raise InvalidInput(CRT_EXISTS, f"{path} is a link or no file", fix="name another directory")
    if read_public(path) == data:
        return False
    if not replace:
        raise InvalidInput(CRT_EXISTS, f"{path} exists already, with another content")
    try:
        _part(path, data, PUBLIC).replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        raise InvalidInput(CRT_FILE, f"{path} cannot be written: {error.strerror}") from error
    return True


def _part(path: Path, data: bytes, mode: int) -> Path:
    """The data in a new file beside `path`, on disk."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return part


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
