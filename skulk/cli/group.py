"""The outermost command: turns every way of ending into one line on stderr and one exit code.

Deliberate errors (`SkulkError`) print `error: CODE message` and the fix; wrong usage prints the same form; Ctrl-C
and a closed pipe end quietly. Anything else is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from skulk.cli.exits import ExitCode, exit_code
from skulk.core.errors import CLI_USAGE, SkulkError


class Skulk(TyperGroup):
    """The `skulk` command. `main` never returns: it raises SystemExit with an `ExitCode`."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        try:
            result = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
            sys.stdout.flush()
        except SkulkError as error:
            _print_error(f"{error.code.id} {error.message}", error.fix)
            raise SystemExit(int(exit_code(error))) from None
        except typer.TyperException as error:
            raise SystemExit(_report_usage(error)) from None
        except (KeyboardInterrupt, typer.Abort):
            raise SystemExit(int(ExitCode.INTERRUPTED)) from None
        except BrokenPipeError:
            _silence_stdout()
            raise SystemExit(int(ExitCode.BROKEN_PIPE)) from None
        # typer returns the code of an Exit, and None when the verb simply came to its end
        raise SystemExit(result if isinstance(result, int) else int(ExitCode.DONE))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # typer would answer with its own exit code 1; the flush in `main` silences what is left
            raise typer.Exit(int(ExitCode.BROKEN_PIPE)) from None


def _report_usage(error: typer.TyperException) -> int:
    """Print wrong usage with the command whose --help tells more; a group without a verb prints its help."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "skulk"
    message = error.format_message()
    if message.startswith("Usage:"):
        print(message, file=sys.stderr)
    else:
        _print_error(f"{CLI_USAGE.id} {message}", f"see `{path} --help`")
    return int(ExitCode.USAGE)


def _print_error(line: str, fix: str) -> None:
    print(f"error: {line}", file=sys.stderr)
    if fix:
        print(f"fix: {fix}", file=sys.stderr)


def _silence_stdout() -> None:
    """Point stdout at nothing, so that the flush at interpreter exit does not complain a second time."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, descriptor)
    os.close(devnull)
