"""Tool calls in a model's text: `<tool_call>` blocks → calls, everything else → text.

Nothing is lost: a block that is no call of a known tool, or that never ends, is text with its markers. The result does
not depend on how the text was cut. Blanks before a call and between calls are layout and are dropped.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from skulk.core.formats.grammar_rules import MARKERS

TOOL_OPEN = MARKERS["tool_open"]
TOOL_CLOSE = MARKERS["tool_close"]
CALL_CHARS_MAX = 1024 * 1024
"""Held back while it is open whether a block is a call; a longer one is text."""
BLANK_CHARS_MAX = 64
"""Dropped before a call, and therefore held back: more is text like any other."""

_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BLANK = " \t\r\n"
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Text:
    """Text that is no call. `at`: offset of its first character in all that was fed."""

    text: str
    at: int


@dataclass(frozen=True, slots=True)
class Called:
    """A complete call. `arguments` is a JSON object as the model wrote it."""

    name: str
    arguments: str


class CallSplitter:
    """Text with `<tool_call>` blocks → texts and calls in order, held back until it is clear which is which."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._buffer = ""
        self._at = 0
        """Offset of the buffer in all that was fed."""
        self._searched = 0
        """Before this place of the buffer no marker closes the block that it holds."""
        self._after_call = False

    def feed(self, text: str) -> list[Text | Called]:
        self._buffer += text
        return self._take(end=False)

    def end(self) -> list[Text | Called]:
        """What was held back."""
        return self._take(end=True)

    def _take(self, *, end: bool) -> list[Text | Called]:
        found: list[Text | Called] = []
        while (marker := self._buffer.find(TOOL_OPEN)) != -1:
            blanks = _blanks_before(self._buffer, marker)
            self._show(found, marker - blanks)
            closed = self._close(blanks + len(TOOL_OPEN), end)
            if closed is None:
                return found
            call = None if closed < 0 else read_call(self._buffer[blanks + len(TOOL_OPEN) : closed], self._names)
            if call is None:
                # The marker is text. What follows it is looked at again: it may hold a call.
                self._show(found, blanks + len(TOOL_OPEN))
            else:
                self._drop(closed + len(TOOL_CLOSE))
                self._after_call = True
                found.append(call)
        self._show_text(found, end)
        return found

    def _show_text(self, found: list[Text | Called], end: bool) -> None:
        """No marker in the buffer: show it, but for what may begin one and the blanks before that."""
        if not end:
            until = len(self._buffer) - _begun_chars(self._buffer, TOOL_OPEN)
            self._show(found, until - _blanks_before(self._buffer, until))
        elif self._after_call and not self._buffer.strip(_BLANK):
            self._drop(len(self._buffer))
        else:
            self._show(found, len(self._buffer))

    def _close(self, start: int, end: bool) -> int | None:
        """Where the block whose body begins at `start` is closed; -1: nowhere, it is text; None: not known yet."""
        limit = start + CALL_CHARS_MAX
        while True:
            at = self._buffer.find(TOOL_CLOSE, max(self._searched, start), limit)
            if at == -1:
                if end or len(self._buffer) >= limit:
                    return -1
                self._searched = max(0, len(self._buffer) - len(TOOL_CLOSE) + 1)
                return None
            if not _inside_string(self._buffer[start:at]):
                return at
            # An argument may speak of the marker.
            self._searched = at + len(TOOL_CLOSE)

    def _show(self, found: list[Text | Called], chars: int) -> None:
        if chars > 0:
            self._after_call = False
            found.append(Text(self._buffer[:chars], self._at))
            self._drop(chars)

    def _drop(self, chars: int) -> None:
        self._buffer = self._buffer[chars:]
        self._at += chars
        self._searched = 0


def read_call(body: str, names: frozenset[str]) -> Called | None:
    """The call that stands between the markers; None when it is none, or of a tool that nobody offered."""
    try:
        members = _members(body.strip(_BLANK))
        if not {"name"} <= members.keys() <= {"name", "arguments"}:
            return None
        name = json.loads(members["name"])
        arguments = members.get("arguments", "{}")
        value = json.loads(arguments, parse_constant=_refuse)
        if isinstance(value, str):
            # Some models write the object as a string, as OpenAI's API shows it.
            arguments, value = value, json.loads(value, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if name not in names or not isinstance(value, dict):
        return None
    return Called(name, arguments)


def _members(text: str) -> dict[str, str]:
    """The members of a JSON object, each value as it is written. Raises ValueError when it is none."""
    members: dict[str, str] = {}
    at = _past(text, 0, "{")
    while True:
        key, at = _DECODER.raw_decode(text, _skip(text, at))
        start = _skip(text, _past(text, at, ":"))
        _, at = _DECODER.raw_decode(text, start)
        if not isinstance(key, str) or key in members:
            raise ValueError("a key is a string, and stands once")
        members[key] = text[start:at]
        if text[_skip(text, at) : _skip(text, at) + 1] != ",":
            break
        at = _past(text, at, ",")
    if _past(text, at, "}") != len(text):
        raise ValueError("something follows the object")
    return members


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] in tuple(_BLANK):
        at += 1
    return at


def _past(text: str, at: int, mark: str) -> int:
    at = _skip(text, at)
    if text[at : at + 1] != mark:
        raise ValueError(f"{mark} is missing")
    return at + 1


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _inside_string(body: str) -> bool:
    return '"' in _JSON_STRING.sub("", body)


def _blanks_before(text: str, at: int) -> int:
    """How many of the last BLANK_CHARS_MAX characters before `at` are blanks without a break."""
    window = text[max(0, at - BLANK_CHARS_MAX) : at]
    return len(window) - len(window.rstrip(_BLANK))


def _begun_chars(text: str, marker: str) -> int:
    """Length of the end of `text` that is the beginning of the marker."""
    return next((n for n in range(min(len(marker) - 1, len(text)), 0, -1) if marker.startswith(text[-n:])), 0)
