"""The answer of `skulk plan` for a terminal, and the words that every form of it uses. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from skulk.cli import table, values
from skulk.cli.proposal import NOTHING, Proposal, Side
from skulk.cli.terminal import Ink, paint, printable
from skulk.core.domain import RunningPlacement, Unplaced
from skulk.core.planner import Action, Change, Diff
from skulk.core.planner.diff import Download, Edit, Memory

MEMORY_ROWS_MAX = 20
"""More nodes than this: those that nothing changes for are counted, not listed."""

SIGNS = {
    Action.START: "+",
    Action.REPLACE: "~",
    Action.MOVE: ">",
    Action.STOP: "-",
    Action.HOLD: "!",
    Action.STAY: "=",
}
_INK = {Action.START: Ink.GOOD, Action.STOP: Ink.BAD, Action.HOLD: Ink.CAUTION, Action.REPLACE: Ink.CAUTION}
_DONE = {
    Action.START: "to start",
    Action.REPLACE: "to replace",
    Action.MOVE: "to move",
    Action.STOP: "to stop",
    Action.HOLD: "held back",
    Action.STAY: "to stay",
}


def as_text(proposal: Proposal) -> str:
    """Sections for what there is to say; what stays as it is gets counted."""
    diff = proposal.diff
    sections = [
        [heading(proposal)],
        _section("Manifests", (f"{_edit_sign(edit)} {edit_words(edit)}" for edit in diff.edits)),
        _section("Replicas", _replicas(diff)),
        _section("Not placed", map(unplaced_words, diff.unplaced)),
        _section("Without service meanwhile", (outage_words(diff, n) for n in range(len(diff.outages)))),
        _section("Downloads", (f"{d.node}  {download_words(d)}" for d in diff.downloads)),
        _section("Memory", _memory(diff.memory)),
        _section("Left out", (f"{r.node} {r.message}" for r in proposal.left_out)),
        _section("Assumed", (f"{r.node} {r.message}" for r in proposal.assumed)),
        _section("Warnings", warnings(proposal)),
        [summary(diff)],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def heading(proposal: Proposal) -> str:
    facts = f"as {proposal.live} reports it" if proposal.live is not None else "over declared hardware"
    return f"{_side(proposal.target)} against {_side(proposal.base)}, {facts}"


def _side(side: Side) -> str:
    if side.name == NOTHING and side.commit is None:
        return "nothing"
    if side.commit is None or side.commit == side.name:
        return values.commit(side.name) if side.commit is not None else side.name
    return f"{side.name} ({values.commit(side.commit)})"


def summary(diff: Diff) -> str:
    """One line with every number that is not zero."""
    if not diff.changed:
        return "no changes: " + (", ".join(_counted(diff)) or "nothing runs")
    parts = _counted(diff) or ["nothing runs"]
    if diff.unplaced:
        parts.append(f"{len(diff.unplaced)} without a place")
    if diff.outages:
        parts.append(f"{number_of(len(diff.outages), 'deployment')} without service meanwhile")
    if total := sum(download.bytes for download in diff.downloads):
        parts.append(f"{values.size(total)} to download")
    steps = f"; in {number_of(diff.steps, 'step')}" if diff.steps > 1 else ""
    return "changes: " + ", ".join(parts) + steps


def _counted(diff: Diff) -> list[str]:
    counts = ((diff.count(action), words) for action, words in _DONE.items())
    return [f"{count} {words}" for count, words in counts if count]


def number_of(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def change_words(change: Change) -> str:
    """What happens to one replica, without its name and the action's."""
    old, new = change.before, change.after
    if old is None:
        assert new is not None
        return clean(f"{_placement(new)} on {new.node}")
    how = f", {change.strategy.value}" if change.strategy is not None else ""
    if new is None or change.action in (Action.HOLD, Action.STAY):
        words = f"{_placement(old)} on {old.node}"
    elif old.node == new.node:
        words = f"{_placement(new)} on {new.node}{how}"
    else:
        words = f"{_placement(new)} from {old.node} to {new.node}{how}"
    return clean(f"{words}: {change.message}" if change.message else words)


def _placement(entry: RunningPlacement) -> str:
    return f"{entry.model}, {entry.backend}, {entry.context_tokens} tokens × {entry.concurrency}"


def edit_words(edit: Edit) -> str:
    return f"{edit.kind}/{edit.name}: " + (", ".join(edit.fields) or edit.how)


def outage_words(diff: Diff, number: int) -> str:
    without = diff.outages[number]
    when = f" (from step {without.step})" if diff.steps > 1 else ""
    return f"{without.outage.deployment}{when}: {without.outage.message}"


def unplaced_words(line: Unplaced) -> str:
    return f"{line.deployment}/{line.replica}: {line.reason.value}: {line.message}"


def download_words(download: Download) -> str:
    files = number_of(download.files, "file")
    return f"{values.size(download.bytes)} in {files} ({', '.join(download.models)})"


def warnings(proposal: Proposal) -> Iterator[str]:
    """What the plan linter and the manifests' own check found, and whether the fleet comes to rest."""
    for note in proposal.diff.notes:
        yield f"{note.finding.value}: {note.subject} {note.message}"
    for diagnostic in proposal.target.diagnostics:
        place = f"{diagnostic.file}:{diagnostic.line}" if diagnostic.line else diagnostic.file
        yield f"{place} {diagnostic.code} {diagnostic.message}"
    if not proposal.diff.settled:
        yield "the fleet does not come to rest: later steps are not shown"


def memory_rows(memory: Sequence[Memory]) -> tuple[list[list[str]], int]:
    """(heading and rows, number of rows left out): nothing changes for those that are left out."""
    touched = [m for m in memory if not m.before_bytes == m.peak_bytes == m.after_bytes]
    listed = memory if len(memory) <= MEMORY_ROWS_MAX else touched
    # The pool is worth a column only where there are two of them.
    pools = len({m.pool for m in listed}) > 1
    rows = [["NODE", *(["POOL"] if pools else []), "BEFORE", "PEAK", "AFTER", "USABLE"]]
    for m in listed:
        sizes = (m.before_bytes, m.peak_bytes, m.after_bytes, m.usable_bytes)
        rows.append([clean(m.node), *([m.pool.value] if pools else []), *map(values.size, sizes)])
    return rows, len(memory) - len(listed)


def _memory(memory: Sequence[Memory]) -> Iterator[str]:
    rows, left_out = memory_rows(memory)
    if len(rows) > 1:
        yield from table.lines(rows)
    if left_out:
        yield f"{number_of(left_out, 'node')} as before"


def _replicas(diff: Diff) -> Iterator[str]:
    shown = [change for change in diff.changes if change.action is not Action.STAY]
    width = max((len(f"{c.deployment}/{c.replica}") for c in shown), default=0)
    for change in shown:
        name = f"{change.deployment}/{change.replica}".ljust(width)
        sign = paint(f"{SIGNS[change.action]} {change.action.value:<7}", _INK.get(change.action))
        yield f"{sign} {name}  {change_words(change)}"


def _edit_sign(edit: Edit) -> str:
    return {"added": "+", "removed": "-"}.get(edit.how, "~")


def _section(title: str, lines: Iterable[str]) -> list[str]:
    found = [f"  {line}" for line in lines]
    return [paint(f"{title}:", Ink.BOLD), *found] if found else []


def clean(text: str) -> str:
    """One line without control characters: what a manifest says must not drive the terminal."""
    return printable(" ".join(text.split()))
