"""Exit codes, and which error ends in which one. Scripts rely on them; docs/reference/exit-codes.md says why.

Nothing here prints or exits: `skulk.cli.group` does.
"""

from __future__ import annotations

from enum import IntEnum

from skulk.core import errors
from skulk.core.errors import InvalidInput, Refused, RequestError, SkulkError


class ExitCode(IntEnum):
    """What a finished command tells the shell."""

    DONE = 0
    FINDINGS = 1
    """Differences, findings, or a failure that has no code of its own."""
    USAGE = 2
    INVALID = 3
    UNREACHABLE = 4
    TIMEOUT = 5
    REFUSED = 6
    INTERRUPTED = 130
    """128 + SIGINT, as shells expect after Ctrl-C."""
    BROKEN_PIPE = 141
    """128 + SIGPIPE: whoever read the output has gone away."""


# Codes whose exit is not what their class would give.
_BY_CODE: dict[str, ExitCode] = {
    errors.CLI_UNREACHABLE.id: ExitCode.UNREACHABLE,
    errors.CLI_TIMEOUT.id: ExitCode.TIMEOUT,
    errors.CLI_DRIFT.id: ExitCode.FINDINGS,
    errors.SRC_INVALID.id: ExitCode.INVALID,
    errors.SRC_UNREACHABLE.id: ExitCode.UNREACHABLE,
    errors.SRC_TIMEOUT.id: ExitCode.UNREACHABLE,
    errors.CFG_EXPOSED.id: ExitCode.REFUSED,
    errors.CFG_PORT_TAKEN.id: ExitCode.FINDINGS,
    errors.CFG_STATE_LOCKED.id: ExitCode.FINDINGS,
}

# HTTP answers that mean "not now": the same command may succeed later.
_UNAVAILABLE_STATUS = frozenset({408, 429, 502, 503, 504})


def exit_code(error: SkulkError) -> ExitCode:
    """The exit code of an error: by its code where that is listed, else by the HTTP status, else by its class."""
    if (listed := _BY_CODE.get(error.code.id)) is not None:
        return listed
    if isinstance(error, RequestError):
        if error.status in (401, 403):
            return ExitCode.REFUSED
        if error.status in _UNAVAILABLE_STATUS:
            return ExitCode.UNREACHABLE
        return ExitCode.USAGE if 400 <= error.status < 500 else ExitCode.FINDINGS
    if isinstance(error, Refused):
        return ExitCode.REFUSED
    if error.code.id.startswith("SK-MAN-"):
        return ExitCode.INVALID
    if isinstance(error, InvalidInput):
        return ExitCode.USAGE
    return ExitCode.FINDINGS
