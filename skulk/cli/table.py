"""Tables in the plainest form: left-aligned columns, two spaces apart, never cut to the terminal's width.

A cut id is worse than a wrapped line: it cannot be copied, and nobody sees that something is missing.
"""

from __future__ import annotations

from collections.abc import Sequence

from skulk.cli.terminal import Ink, paint

_GAP = "  "
_INK_OF_WORD = {
    "True": Ink.GOOD,
    "Healthy": Ink.GOOD,
    "Synced": Ink.GOOD,
    "ready": Ink.GOOD,
    "False": Ink.BAD,
    "Degraded": Ink.BAD,
    "OutOfSync": Ink.BAD,
    "failed": Ink.BAD,
    "ok": Ink.GOOD,
    "live": Ink.GOOD,
    "failing": Ink.BAD,
    "lost": Ink.BAD,
    "degraded": Ink.CAUTION,
    "suspect": Ink.CAUTION,
    "Unknown": Ink.CAUTION,
    "Progressing": Ink.CAUTION,
}


def widths(rows: Sequence[Sequence[str]]) -> tuple[int, ...]:
    """The width of each column: its longest cell."""
    return tuple(max(map(len, column)) for column in zip(*rows, strict=True))


def line(cells: Sequence[str], columns: Sequence[int], *, heading: bool = False) -> str:
    """One row. A cell longer than its column (possible while watching) pushes the rest to the right."""
    last = len(cells) - 1
    padded = [cell if i == last else cell.ljust(columns[i]) for i, cell in enumerate(cells)]
    painted = [paint(text, Ink.BOLD if heading else _ink(text)) for text in padded]
    return _GAP.join(painted).rstrip()


def lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """The whole table; the first row is the heading."""
    columns = widths(rows)
    return [line(cells, columns, heading=number == 0) for number, cells in enumerate(rows)]


def _ink(cell: str) -> Ink | None:
    return _INK_OF_WORD.get(cell.split(" ", 1)[0].strip())
