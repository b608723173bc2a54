"""Reading a file with a bound and without following a link, and writing one whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from skulk.core.errors import ErrorCode, InvalidInput


def read_bounded(path: Path, bytes_max: int, code: ErrorCode, *, follow: bool = False) -> bytes:
    """What a regular file holds. Raises InvalidInput `code` when it is missing, unreadable, no file or too large."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
        # Not closed with the stream: for a directory there will be none.
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InvalidInput(code, f"{path} is no regular file")
            with os.fdopen(descriptor, "rb", closefd=False) as stream:
                data = stream.read(bytes_max + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        what = "is a link" if not follow and path.is_symlink() else f"cannot be read: {error.strerror}"
        raise InvalidInput(code, f"{path} {what}") from None
    if len(data) > bytes_max:
        raise InvalidInput(code, f"{path} is larger than {bytes_max} bytes")
    return data


def write_whole(path: Path, data: bytes, code: ErrorCode, *, mode: int = 0o644, replace: bool = True) -> None:
    """Write a file that is there whole or not at all; a file that is there keeps its permissions.

    Raises InvalidInput `code` when it cannot be written, or exists and `replace` is false.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            if not replace:
                # A link, unlike a rename, fails when the name is taken.
                os.link(part, path)
                return
            if path.is_file() and not path.is_symlink():
                part.chmod(stat.S_IMODE(path.stat().st_mode))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidInput(code, f"{path} cannot be written: {error.strerror}") from None
