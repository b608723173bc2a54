"""Which paths of a source are manifests, and how a path is shown. Pure; shared by git and directory sources.

Manifests are `*.yaml` and `*.yml` below `fleet/` and `cards/`. `cards/**/files/**` holds model files and is never
looked at. Links are reported wherever else they stand in the two folders, since they could hide manifests.
"""

from __future__ import annotations

import unicodedata

from skulk.core.errors import SRC_INVALID, InvalidInput

FOLDERS = ("fleet", "cards")
SUFFIXES = (".yaml", ".yml")

# One manifest. The largest model cards with all their file digests stay below a tenth of this.
FILE_BYTES_MAX = 1024 * 1024
# One commit: twice the number of manifests that a fleet may have (the loader's limit gives the better message).
FILES_MAX = 10_000
# One commit, in memory at once: a push must not be able to exhaust every node's memory.
TOTAL_BYTES_MAX = 64 * 1024 * 1024


def in_folders(path: str) -> bool:
    """The path is one of the two folders or below, and not among model files."""
    first, *rest = path.split("/")
    return first in FOLDERS and not (first == "cards" and "files" in rest)


def is_manifest(path: str) -> bool:
    """The path, if it is a plain file, is a manifest."""
    return in_folders(path) and "/" in path and path.endswith(SUFFIXES)


def display(raw: bytes) -> str:
    """A path as text that can be printed and encoded: malformed UTF-8 and control characters become `\\xNN`."""
    text = raw.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(_escape(c) if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text)


def check_volume(files: int, total_bytes: int, where: str) -> None:
    """Raises InvalidInput SRC_INVALID when the manifests of `where` are too many or too large together."""
    if files > FILES_MAX:
        raise InvalidInput(SRC_INVALID, f"{where} has {files} manifest files; at most {FILES_MAX} are read")
    if total_bytes > TOTAL_BYTES_MAX:
        raise InvalidInput(
            SRC_INVALID, f"the manifests of {where} have {total_bytes} bytes; at most {TOTAL_BYTES_MAX} are read"
        )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
