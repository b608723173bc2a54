"""Variables of the daemon that stand in a file: `skulk.env` beside node.toml. Pure; reads no file.

One line is `NAME=value`. Nothing is expanded and nothing is escaped, so that the value of a password is what stands
there; one pair of quotes around a value is taken off.
"""

from __future__ import annotations

import re

from skulk.core.errors import CFG_ENVIRONMENT, InvalidInput

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUOTES = ("'", '"')


def parse_environment(text: str, place: str) -> dict[str, str]:
    """The variables of a file's text. Raises InvalidInput naming `place` and the line, never a value."""
    found: dict[str, str] = {}
    # Not splitlines(): it also splits at characters that may stand in a value.
    for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        line = raw.strip()
        if not line or line.startswith(("#", ";")):
            continue
        name, equals, value = line.partition("=")
        where = f"{place}:{number}"
        if not equals or not _NAME.fullmatch(name):
            raise _invalid(f"{where}: NAME=value is expected")
        if "\0" in value:
            raise _invalid(f"{where}: the value of {name} holds a NUL character")
        if name in found:
            raise _invalid(f"{where}: {name} stands here for the second time")
        found[name] = _unquoted(value.strip(), f"{where}: the value of {name}")
    return found


def _unquoted(value: str, what: str) -> str:
    if not value.startswith(_QUOTES):
        return value
    if len(value) < 2 or not value.endswith(value[0]):
        raise _invalid(f"{what} begins with a quote and does not end with it")
    return value[1:-1]


def _invalid(message: str) -> InvalidInput:
    return InvalidInput(CFG_ENVIRONMENT, message)
