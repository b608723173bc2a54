"""`skulk wait`: block until the fleet says so, for scripts and CI."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Annotated

import typer

from skulk.cli.client import FleetClient
from skulk.cli.options import DEFAULT_URL, KeyOption, UrlOption, seconds_of
from skulk.cli.values import duration
from skulk.cli.waiting import Answer, answer, checked, target_of
from skulk.cli.watching import views
from skulk.core.errors import CLI_TIMEOUT, Transient

EXAMPLES = (
    "skulk wait deployment/fox-tiny --for=Ready --timeout 10m",
    "skulk wait --for=applied=$(git rev-parse HEAD)",
    "skulk wait deployment/fox-tiny --for=applied=$(git rev-parse HEAD) --for=Ready",
)


def wait(
    target: Annotated[
        str | None, typer.Argument(metavar="KIND/NAME", show_default=False, help="Nothing means the fleet.")
    ] = None,
    wishes: Annotated[
        list[str] | None,
        typer.Option(
            "--for", metavar="CONDITION", show_default="Ready", help="Ready, Deleted or applied=COMMIT; repeatable."
        ),
    ] = None,
    timeout: Annotated[str, typer.Option("--timeout", help="How long at most, like 90s, 10m or 1h30m.")] = "10m",
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Wait until a resource is ready, gone, or made from a commit.

    Survives restarts of the node. Something that is stalled is reported once and waited for: a push can heal it.
    Exit codes: 0 it holds, 5 the time is over (the last known reason is printed), 4 the node was never reached.
    """
    asked = wishes or ["Ready"]
    subject = target_of(target)
    wanted = checked(asked, subject.kind)
    seconds = seconds_of(timeout)
    last = Answer(False, "the node was not reached")
    reported = ""
    try:
        with FleetClient(url, key) as client, closing(views(client, seconds)) as stream:
            for view in stream:
                last = answer(view, subject, wanted)
                if last.holds:
                    break
                if last.stalled and reported != last.reason:
                    reported = last.reason
                    print(f"{subject} is stalled, still waiting: {last.reason}", file=sys.stderr)
    except Transient as error:
        if error.code is not CLI_TIMEOUT:
            raise
        wish = " and ".join(asked)
        look = f"why {subject.name}" if subject.name else "describe fleet"
        message = f"{subject} is not {wish} after {duration(seconds)}: {last.reason}"
        raise Transient(CLI_TIMEOUT, message, fix=f"see `skulk {look}`") from error
    print(f"{subject} {' and '.join(asked)}: {last.reason}")
