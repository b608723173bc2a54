"""The half of an answer's grammar that depends on the model: its markers and its reasoning.

`skulk.core.dialects.grammar` writes what the client asked for in llguidance's dialect of Lark and refers to rules that
it cannot know; the runner, which has the tokeniser, appends them with `runner_rules`:

    reasoning        what may stand before the answer: a reasoning block with the blank lines after it, or nothing
    tool_open        the marker before a tool call, `<tool_call>`
    tool_close       the marker behind it
    text             any text without a tool call
    text_tool_open   any text, then `tool_open`

Standard library only: engines import it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MARKERS: Mapping[str, str] = {
    "think_open": "<think>",
    "think_close": "</think>",
    "tool_open": "<tool_call>",
    "tool_close": "</tool_call>",
}
"""Rule → how the marker reads. As one special token it is written `<[ID]>`, as plain text `"<think>"`."""
JSON_RULE = "json_answer"
"""Rule of the schema of `response_format`; those of tools have other names."""
REASONING_MODES = ("none", "optional", "open")
_BLANK_LINES = r"/\n{0,4}/"
"""After a reasoning block. Bounded: a small model would go on for ever."""
_ANY = r"/(?s:.*)/"


def runner_rules(*, markers: Mapping[str, str], reasoning: str) -> str:
    """The rules above, as Lark text that begins with a line end.

    `markers` has a Lark expression for each key of MARKERS: a special token (`<think>` or `<[3]>`), or a string literal
    (`"<think>"`) where the tokeniser has no such token. `reasoning`: `none` (the model does not reason, or the prompt
    holds a closed block already), `optional` (a block may come), `open` (the prompt ends inside one). Raises
    ValueError for another word or a marker that is missing.
    """
    if reasoning not in REASONING_MODES:
        raise ValueError(f"reasoning is one of {', '.join(REASONING_MODES)}, not {reasoning!r}")
    if missing := MARKERS.keys() - markers.keys():
        raise ValueError(f"no marker {', '.join(sorted(missing))}")
    rules = [f"{name}: {markers[name]}" for name in MARKERS]
    rules += [*_reasoning(markers["think_close"], reasoning), *_text(markers["tool_open"])]
    return "\n" + "\n".join(rules) + "\n"


def blamed_field(grammar: str, error: str) -> str:
    """The field of the request that is at fault when llguidance does not compile its grammar: `error` is what
    `LLMatcher.validate_grammar` says, which begins with the place, `at LINE(COLUMN)`."""
    place = re.match(r"at (\d+)\(", error)
    lines = grammar.splitlines()
    if place is not None and 0 < int(place[1]) <= len(lines):
        lines = [lines[int(place[1]) - 1]]
    return "response_format" if any(line.startswith(JSON_RULE + ":") for line in lines) else "tools"


def _reasoning(close: str, reasoning: str) -> list[str]:
    if reasoning == "none":
        return ['reasoning: ""']
    rest = f"thought {_BLANK_LINES}"
    rule = f"reasoning: {rest}" if reasoning == "open" else f"reasoning: (think_open {rest})?"
    return [rule, *_until(close, "thought", "THOUGHT")]


def _text(tool_open: str) -> list[str]:
    return [f"text: {_ANY}", *_until(tool_open, "text_tool_open", "BEFORE_TOOL")]


def _until(marker: str, rule: str, terminal: str) -> list[str]:
    """`rule`: the shortest text that ends with the marker, marker included."""
    if marker.startswith('"'):
        return [f"{rule}[suffix={marker}]: {_ANY}"]
    # No text matches a special token, so the text before it needs no care.
    return [f"{rule}: {terminal} {marker}", f"{terminal}: {_ANY}"]
