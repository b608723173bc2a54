"""What a wheel of Skulk says of itself: its version, its digest, and the hash-pinned requirements that travel in it.

The requirements come from the wheel, not from the program that reads it: a release of another version is installed with
what was locked for that version.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from packaging.utils import parse_wheel_filename
from packaging.version import Version

from skulk.core.errors import REL_WHEEL, InvalidInput
from skulk.core.release import Release

REQUIREMENTS = ("daemon.txt", "uv.txt")
"""Below `skulk/requirements` in the wheel: of the daemon, and of uv, which installs the rest."""
_TEXT_BYTES_MAX = 4 * 1024 * 1024
"""The daemon's requirements have 100 KB; more than this is no such file."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel file and what is in it."""

    path: Path
    release: Release
    requirements: dict[str, str]
    """File name of REQUIREMENTS → text."""


def read_wheel(path: Path) -> Wheel:
    """Raises InvalidInput REL_WHEEL when the file is no wheel of Skulk, or one that cannot be installed by hashes."""
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        with zipfile.ZipFile(path) as archive:
            version = _version(archive, path.name)
            requirements = {name: _text(archive, f"skulk/requirements/{name}") for name in REQUIREMENTS}
    except OSError as error:
        raise InvalidInput(REL_WHEEL, f"{path} cannot be read: {error.strerror}") from error
    except (zipfile.BadZipFile, zlib.error, ValueError, KeyError, RuntimeError) as error:
        # RuntimeError: it is encrypted, or packed in a way that this Python does not know.
        raise InvalidInput(REL_WHEEL, f"{path} is no wheel of Skulk: {error}") from error
    return Wheel(path, Release(version, digest), requirements)


def engine_requirements(path: Path, engine: str) -> str:
    """The pinned requirements of an engine, as the wheel has them. Raises InvalidInput REL_WHEEL for an unknown one."""
    folder = "skulk/engines/requirements/"
    try:
        with zipfile.ZipFile(path) as archive:
            known = sorted(
                name.removeprefix(folder).removesuffix(".txt")
                for name in archive.namelist()
                if name.startswith(folder) and name.endswith(".txt")
            )
            if engine in known:
                return _text(archive, f"{folder}{engine}.txt")
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise InvalidInput(REL_WHEEL, f"{path} cannot be read: {error}") from error
    raise InvalidInput(REL_WHEEL, f"{path.name} has no engine {engine!r}", fix=f"known are: {', '.join(known)}")


def _version(archive: zipfile.ZipFile, file_name: str) -> str:
    # Installers go by the file's name, so one that was renamed by a download would only fail on the nodes.
    project, named, *_ = parse_wheel_filename(file_name)
    names = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA") and name.count("/") == 1]
    if len(names) != 1:
        raise ValueError("it has no metadata")
    metadata = HeaderParser().parsestr(_text(archive, names[0]))
    if (metadata["Name"], project) != ("skulk", "skulk") or not metadata["Version"]:
        raise ValueError(f"it is {metadata['Name']!r}, called {project!r}")
    if Version(metadata["Version"]) != named:
        raise ValueError(f"its metadata say version {metadata['Version']!r}")
    return str(metadata["Version"])


def _text(archive: zipfile.ZipFile, name: str) -> str:
    if archive.getinfo(name).file_size > _TEXT_BYTES_MAX:
        raise ValueError(f"{name} is too large")
    return archive.read(name).decode("utf-8")
