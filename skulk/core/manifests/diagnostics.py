"""What is told about a fault in a manifest, and three ways to print it.

A diagnostic points at file, line and column, carries a stable code and says what would be right. Values that a
person wrote are quoted through `quoted`, which escapes control characters and cuts long text, so that a
manifest cannot write to a terminal or break out of an annotation. No fault is found here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

# Longer quotations bury the message; a name has at most 63 characters.
QUOTED_CHARACTERS_MAX = 80


class Severity(StrEnum):
    """An error refuses the commit; a warning is shown and nothing else."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One fault. `line` and `column` count from 1, columns in characters."""

    file: str
    line: int
    column: int
    severity: Severity
    code: str
    message: str
    hint: str = ""

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    @property
    def is_error(self) -> bool:
        return self.severity is Severity.ERROR


def tidy(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Sorted by place, then severity, code and text; each once."""
    return tuple(
        sorted(
            set(diagnostics),
            key=lambda d: (d.file, d.line, d.column, d.severity, d.code, d.message, d.hint),
        )
    )


def printable(text: str) -> str:
    """The text with everything that a terminal or log could interpret written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def quoted(value: object) -> str:
    """A value that a person wrote, for use inside a message: in quotes, one line, at most 80 characters."""
    text = printable(str(value))
    if len(text) > QUOTED_CHARACTERS_MAX:
        text = text[:QUOTED_CHARACTERS_MAX] + "…"
    return f'"{text}"'


def render_text(diagnostics: Iterable[Diagnostic]) -> str:
    """One line each: `file:line:col severity CODE message; hint`."""
    return "\n".join(
        printable(f"{d.place} {d.severity} {d.code} {d.message}" + (f"; {d.hint}" if d.hint else ""))
        for d in diagnostics
    )


def render_dicts(diagnostics: Iterable[Diagnostic]) -> list[dict[str, object]]:
    """JSON values with the keys file, line, column, severity, code, message, hint."""
    return [
        {
            "file": d.file,
            "line": d.line,
            "column": d.column,
            "severity": str(d.severity),
            "code": d.code,
            "message": d.message,
            "hint": d.hint,
        }
        for d in diagnostics
    ]


def render_github(diagnostics: Iterable[Diagnostic]) -> str:
    """GitHub workflow commands (`::error file=…,line=…,col=…,title=…::message`), one per line.

    Escapes as GitHub's documentation of workflow commands asks: %, CR and LF in data; also colon and comma in
    properties.
    """
    return "\n".join(
        f"::{d.severity} file={_property(d.file)},line={d.line},col={d.column},title={_property(d.code)}"
        f"::{_data(d.message + (f'; {d.hint}' if d.hint else ''))}"
        for d in diagnostics
    )


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
