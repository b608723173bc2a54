"""Options and arguments that several verbs share, so that they read and behave alike everywhere."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from skulk.core.errors import CLI_USAGE, InvalidInput

DEFAULT_URL = "http://127.0.0.1:52415"
DEFAULT_CONFIG = Path("node.toml")

UrlOption = Annotated[str, typer.Option("--url", envvar="SKULK_URL", help="Address of any node of the fleet.")]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key", envvar="SKULK_API_KEY", show_default=False, help="API key; better by environment than by argument."
    ),
]
ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="SKULK_CONFIG", help="The node's local configuration.")
]
KindArgument = Annotated[
    str,
    typer.Argument(
        metavar="KIND",
        show_default=False,
        help="fleet, nodes, deployments, cards, placements or runners; singular and short forms too.",
    ),
]


class Output(StrEnum):
    """Forms of a listing."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


class Report(StrEnum):
    """Forms of a report that is no listing."""

    TEXT = "text"
    JSON = "json"


def examples(*commands: str) -> str:
    """The help's closing block. `\\b` keeps the help formatter from joining the lines."""
    return "\b\n" + "\n".join(["Examples:", *(f"  {command}" for command in commands)])


_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_TERM = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


def seconds_of(text: str) -> float:
    """`90`, `90s`, `10m`, `1h30m` → seconds. Raises InvalidInput (CLI_USAGE)."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not re.fullmatch(rf"(?:{_TERM.pattern})+", text):
        raise InvalidInput(CLI_USAGE, f'"{text}" is no duration', fix="write it like 90s, 10m or 1h30m")
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _TERM.findall(text))
