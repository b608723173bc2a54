"""What went wrong, from what git printed: one essential line, one code, and whether the mirror is to blame.

git has no machine-readable errors, so this reads its English messages (commands run with LC_ALL=C). An unknown
message is `SRC_UNREACHABLE` with the message shown: nothing depends on the list being complete.
"""

from __future__ import annotations

import re
from pathlib import Path

from skulk.adapters.git.command import Output
from skulk.adapters.git.location import redact
from skulk.core.errors import (
    SRC_AUTH,
    SRC_CORRUPT,
    SRC_DISK,
    SRC_UNREACHABLE,
    SkulkError,
    Transient,
)

# A line for a log or a status table; remotes may send pages.
ESSENCE_CHARACTERS_MAX = 300

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_NOISE = re.compile(
    r"^(hint:|warning:|Warning:|fatal: Could not read from remote repository\.|Please make sure you have"
    r"|and the repository exists\.|The most similar command|\s*$)"
)
_MISSING_REF = re.compile(r"couldn't find remote ref|Remote branch .* not found", re.IGNORECASE)
_AUTH = re.compile(
    r"Authentication failed|could not read (Username|Password)|terminal prompts disabled"
    r"|Permission denied \(|Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED"
    r"|returned error: 40[13]|Invalid username or|Access denied|not authorized",
    re.IGNORECASE,
)
_DISK = re.compile(
    r"No space left on device|Disk quota exceeded|File too large|Read-only file system|sha1 file .* write error",
    re.IGNORECASE,
)
_CORRUPT = re.compile(
    r"not a git repository|is corrupt|is empty$|bad object|missing blob|missing tree|unable to read (tree|sha1)"
    r"|unable to parse|bad config|key does not contain a section|packfile .* (cannot|does not match|is invalid)"
    r"|garbage at end of|inflate|loose object|bad (signature|tree|pack|index)|index file .* is too small"
    r"|did not send all necessary objects|could not read .*refs|broken ref|bad ref|invalid (sha1|ref) pointer"
    r"|File exists|file .*\.idx|not a valid object|unresolved deltas|missing necessary objects|cannot lock ref"
    r"|pack has bad object|could not parse|could not get object info|invalid gitfile|unknown repository",
    re.IGNORECASE | re.MULTILINE,
)
_OWNERSHIP = re.compile(r"dubious ownership in repository at '(?P<path>[^']*)'")


def essence(stderr: str) -> str:
    """The line of git's complaint that says most, without control characters and credentials."""
    lines = [_CONTROL.sub(" ", redact(line)).strip() for line in stderr.splitlines()]
    own = [line for line in lines if not line.startswith("remote:") and not _NOISE.match(line)]
    told = [line for line in lines if line.startswith("remote:") and line != "remote:"]
    fatal = [line for line in own if line.startswith("fatal:")] or own
    chosen = fatal[-1].removeprefix("fatal: ") if fatal else ""
    if told:
        chosen = f"{chosen} ({told[0]})" if chosen else told[0]
    return chosen[:ESSENCE_CHARACTERS_MAX] or "git gave no reason"


def missing_ref(output: Output) -> bool:
    """The remote answered and has no such branch."""
    return bool(_MISSING_REF.search(output.stderr))


def corrupt(output: Output, mirror: Path) -> bool:
    """The failure may come from the mirror rather than from the remote.

    May err towards yes: a new mirror is only put in place after it has been filled successfully.
    """
    if missing_ref(output) or _DISK.search(_own_lines(output)) or _AUTH.search(output.stderr):
        return False
    text = _own_lines(output)
    if "not a git repository" in text and str(mirror) not in text:
        return False
    return bool(_CORRUPT.search(text))


def network_error(output: Output, label: str) -> SkulkError:
    """The error for a failed fetch or ls-remote of the remote `label`."""
    line = essence(output.stderr)
    if _DISK.search(_own_lines(output)):
        return Transient(SRC_DISK, f"the mirror of {label} could not be written: {line}")
    ownership = _OWNERSHIP.search(output.stderr)
    if ownership:
        return Transient(
            SRC_UNREACHABLE,
            f"{label}: {line}",
            fix=f"as the daemon's user: git config --global --add safe.directory {ownership['path']}",
        )
    if _AUTH.search(output.stderr):
        return Transient(SRC_AUTH, f"{label}: {line}")
    return Transient(SRC_UNREACHABLE, f"{label}: {line}")


def mirror_error(output: Output, label: str) -> SkulkError:
    """The error for a failed local command on the mirror of `label`."""
    return Transient(SRC_CORRUPT, f"the mirror of {label} cannot be read: {essence(output.stderr)}")


def _own_lines(output: Output) -> str:
    """Without what the remote says of itself: its full disk is not ours."""
    return "\n".join(line for line in output.stderr.splitlines() if not line.startswith("remote:"))
