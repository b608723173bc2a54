"""Colour and terminal questions in one place: colour only on a terminal, never with NO_COLOR, never in a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import TextIO


class Ink(StrEnum):
    """The few colours in use, as SGR parameters. They underline a meaning that the text already has."""

    GOOD = "32"
    BAD = "31"
    CAUTION = "33"
    DIM = "2"
    BOLD = "1"


def has_colour(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether `stream` may get colour: a terminal that understands it, and NO_COLOR unset or empty."""
    return stream.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def paint(text: str, ink: Ink | None, *, stream: TextIO | None = None) -> str:
    """`text` in a colour when `stream` (default stdout) may get it, else unchanged."""
    if ink is None or not text or not has_colour(stream or sys.stdout, os.environ):
        return text
    return f"\x1b[{ink}m{text}\x1b[0m"


def is_interactive() -> bool:
    """A person sits in front: both stdin and stdout are terminals."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def printable(text: str) -> str:
    """`text` without control characters other than line ends and tabs.

    What a model or a log says must not be able to drive the terminal (move the cursor, change its title).
    """
    return "".join(c for c in text if c in "\n\t" or (ord(c) >= 32 and not 0x7F <= ord(c) <= 0x9F))
