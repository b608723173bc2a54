"""Taking a release out of a wheelhouse, on the node that installs it as root.

Who can write a wheelhouse decides what runs on the node: a directory must belong to root alone, a URL is read over
TLS without following redirections, and a wheel counts only with the digest that the index names.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import httpx2

from skulk.core.errors import REL_WHEELHOUSE, InvalidInput, Refused, SkulkError, Transient
from skulk.core.update import INDEX, Listed, Wheelhouse, read_index

FETCH_SECONDS_MAX = 60.0
"""Without a byte. At a boot the node waits for this; nobody is there to answer usually says so at once."""
CONNECT_SECONDS_MAX = 10.0
INDEX_BYTES_MAX = 1024 * 1024
"""A release takes some 150 bytes."""
WHEEL_BYTES_MAX = 256 * 1024 * 1024
"""A wheel of Skulk has less than a megabyte."""
_SHARED = stat.S_IWGRP | stat.S_IWOTH


def releases_of(place: Wheelhouse) -> dict[str, Listed]:
    """Version → release. Raises REL_WHEELHOUSE: Refused for a directory that others can write, InvalidInput for an
    index that is none, Transient when it cannot be reached."""
    if not place.is_url:
        refuse_shared(Path(place.location), "the wheelhouse")
    data = _read(place, INDEX, INDEX_BYTES_MAX)
    try:
        return read_index(data.decode("utf-8"))
    except ValueError as error:
        raise InvalidInput(REL_WHEELHOUSE, f"{place.place(INDEX)}: {error}") from error


def take_wheel(place: Wheelhouse, listed: Listed, into: Path) -> Path:
    """The wheel, in the directory `into`. Raises REL_WHEELHOUSE: Refused for another digest than the index names,
    Transient when it cannot be had."""
    if not place.is_url:
        # Whole directories are checked, so that nothing can be exchanged; a file may have been linked in.
        refuse_shared(Path(place.place(listed.wheel)), "the wheel")
    data = _read(place, listed.wheel, WHEEL_BYTES_MAX)
    if (digest := hashlib.sha256(data).hexdigest()) != listed.release.digest:
        raise Refused(
            REL_WHEELHOUSE,
            f"{place.place(listed.wheel)} has the sha256 {digest}, but {INDEX} says {listed.release.digest}",
        )
    path = into / listed.wheel
    path.write_bytes(data)
    return path


def refuse_shared(path: Path, what: str) -> None:
    """Raise Refused REL_WHEELHOUSE unless only root (or who runs this) can change or exchange what is at `path`."""
    try:
        resolved = path.resolve(strict=True)
        for place in (resolved, *resolved.parents):
            status = place.stat()
            # In a directory such as /tmp nobody can exchange what belongs to somebody else.
            shared = status.st_mode & _SHARED and not status.st_mode & stat.S_ISVTX
            if status.st_uid not in (0, os.geteuid()) or shared:
                raise Refused(
                    REL_WHEELHOUSE,
                    f"{what} {path} decides what root runs, but others than root can change {place}",
                    fix=f"chown root {place} && chmod go-w {place}",
                )
    except OSError as error:
        raise _unreachable(str(path), error.strerror or str(error)) from error


def _read(place: Wheelhouse, name: str, bytes_max: int) -> bytes:
    return _fetch(place.place(name), bytes_max) if place.is_url else _open(Path(place.place(name)), bytes_max)


def _open(path: Path, bytes_max: int) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(bytes_max + 1)
    except OSError as error:
        raise _unreachable(str(path), error.strerror or str(error)) from error
    return _bounded(str(path), data, bytes_max)


def _fetch(url: str, bytes_max: int) -> bytes:
    timeout = httpx2.Timeout(FETCH_SECONDS_MAX, connect=CONNECT_SECONDS_MAX)
    data = bytearray()
    try:
        with httpx2.stream("GET", url, timeout=timeout, follow_redirects=False) as response:
            if response.status_code != httpx2.codes.OK:
                raise _unreachable(url, f"the server answers {response.status_code}")
            for chunk in response.iter_bytes():
                data += chunk
                if len(data) > bytes_max:
                    break
    except (httpx2.HTTPError, OSError) as error:
        raise _unreachable(url, str(error) or type(error).__name__) from error
    return _bounded(url, bytes(data), bytes_max)


def _bounded(where: str, data: bytes, bytes_max: int) -> bytes:
    if len(data) > bytes_max:
        raise InvalidInput(REL_WHEELHOUSE, f"{where} is longer than {bytes_max} bytes")
    return data


def _unreachable(where: str, why: str) -> SkulkError:
    return Transient(REL_WHEELHOUSE, f"{where} cannot be read: {why}")
