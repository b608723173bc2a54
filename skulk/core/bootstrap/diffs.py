"""What a task changed, as text: from the `diff` that modules put into their results."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping

from skulk.core.bootstrap.events import clean

# A person reads a hunk; whoever replaces a whole binary or archive reads none.
DIFF_LINES_MAX = 200


def diff_of(result: Mapping[str, object]) -> str:
    """A unified diff of everything that the task and its items changed; empty when no module told."""
    lines = [line for diff in _diffs(result) for line in _lines(diff)]
    if len(lines) > DIFF_LINES_MAX:
        lines = [*lines[:DIFF_LINES_MAX], f"… {len(lines) - DIFF_LINES_MAX} lines more"]
    return "\n".join(lines)


def _diffs(result: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    for item in _list(result.get("results")):
        if isinstance(item, Mapping):
            yield from _diffs(item)
    for diff in _list(result.get("diff")):
        if isinstance(diff, Mapping):
            yield diff


def _lines(diff: Mapping[str, object]) -> Iterator[str]:
    if isinstance(prepared := diff.get("prepared"), str):
        yield from clean(prepared).rstrip("\n").splitlines()
        return
    if "src_binary" in diff or "dst_binary" in diff:
        yield "(a binary file)"
        return
    before, after = _text(diff.get("before")), _text(diff.get("after"))
    old, new = (diff.get(f"{when}_header") for when in ("before", "after"))
    names = (f"before: {old or new or ''}".strip(), f"after: {new or old or ''}".strip())
    yield from difflib.unified_diff(before, after, *names, lineterm="")


def _text(value: object) -> list[str]:
    """Files come as text, the state of a thing as a mapping."""
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value, indent=1, sort_keys=True)
    return clean(text).splitlines()


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else [] if value is None else [value]
