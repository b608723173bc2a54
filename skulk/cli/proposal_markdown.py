"""The answer of `skulk plan` as Markdown: a comment under a proposed change. Pure.

The summary is readable without unfolding anything; tables are folded when they are long.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from skulk.cli import values
from skulk.cli.proposal import Proposal
from skulk.cli.proposal_text import (
    SIGNS,
    change_words,
    clean,
    edit_words,
    heading,
    memory_rows,
    outage_words,
    summary,
    unplaced_words,
    warnings,
)
from skulk.core.planner import Action

OPEN_ROWS_MAX = 12
"""A longer table is folded, so that the comment stays short."""
COMMENT_CHARACTERS_MAX = 60_000
"""GitHub refuses comments of more than 65,536 characters."""

# Characters that would format, link, mention or leave the table cell.
_ACTIVE = re.compile(r"([\\`*_\[\]<>|@#~])")


def as_markdown(proposal: Proposal) -> str:
    """Headed by the summary; ends with a note when it had to be cut to what a comment may hold."""
    text = "\n".join(_lines(proposal)).rstrip() + "\n"
    if len(text) <= COMMENT_CHARACTERS_MAX:
        return text
    cut = text[: text.rindex("\n", 0, COMMENT_CHARACTERS_MAX)]
    # What was open is closed again, or the note would be folded away with the table.
    closing = "\n\n</details>" if cut.count("<details>") > cut.count("</details>") else ""
    return f"{cut}{closing}\n\n*Cut here: the whole plan is too long for a comment.*\n"


def _lines(proposal: Proposal) -> Iterator[str]:
    diff = proposal.diff
    yield f"### {_safe(summary(diff))}"
    yield ""
    yield _safe(heading(proposal))
    yield ""
    yield from _list("Without service meanwhile", (outage_words(diff, n) for n in range(len(diff.outages))))
    yield from _list("Not placed", map(unplaced_words, diff.unplaced))
    changes = [change for change in diff.changes if change.action is not Action.STAY]
    rows = [[f"{SIGNS[c.action]} {c.action.value}", f"{c.deployment}/{c.replica}", change_words(c)] for c in changes]
    yield from _table("Replicas", [["", "replica", "what"], *rows])
    downloads = [[d.node, values.size(d.bytes), str(d.files), ", ".join(d.models)] for d in diff.downloads]
    yield from _table("Downloads", [["node", "size", "files", "models"], *downloads])
    memory, left_out = memory_rows(diff.memory)
    yield from _table("Memory", [[cell.lower() for cell in memory[0]], *memory[1:]])
    if left_out:
        yield f"{left_out} nodes as before."
        yield ""
    yield from _list("Manifests", map(edit_words, diff.edits))
    yield from _list("Left out", (f"{r.node} {r.message}" for r in proposal.left_out))
    yield from _list("Assumed", (f"{r.node} {r.message}" for r in proposal.assumed))
    yield from _list("Warnings", warnings(proposal))


def _list(title: str, items: Iterable[str]) -> Iterator[str]:
    lines = [f"- {_safe(item)}" for item in items]
    if lines:
        yield from _folded(title, lines)


def _table(title: str, rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if len(rows) < 2:
        return
    cells = ["| " + " | ".join(map(_safe, row)) + " |" for row in rows]
    yield from _folded(title, [cells[0], "|" + "---|" * len(rows[0]), *cells[1:]])


def _folded(title: str, lines: Sequence[str]) -> Iterator[str]:
    if len(lines) > OPEN_ROWS_MAX:
        yield from (f"<details><summary>{title}</summary>", "", *lines, "", "</details>", "")
    else:
        yield from (f"**{title}**", "", *lines, "")


def _safe(text: str) -> str:
    return _ACTIVE.sub(r"\\\1", clean(text))
