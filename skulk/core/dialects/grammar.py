"""What an answer may be → a grammar in llguidance's dialect of Lark, for `GenerationRequest.grammar`.

The start rule is `start`; each grammar begins with `reasoning`, so that a model may think before any answer. How a
model's markers and its reasoning look to the tokeniser only the runner knows. It appends the rules

    reasoning · tool_open · tool_close · text · text_tool_open

of `skulk.core.formats.grammar_rules` and changes nothing else. Rules here and there have distinct names.

A tool call is written as models with generic markup are trained to: the marker, and on a line of its own
`{"name": NAME, "arguments": OBJECT}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from skulk.core.formats.grammar_rules import JSON_RULE

# Without it a small model writes white space for ever: it is allowed at every place where it is not wrong.
_LAYOUT: Mapping[str, object] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_ANY_OBJECT: Mapping[str, object] = {"type": "object"}
_NO_ARGUMENTS: Mapping[str, object] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters` is a JSON Schema; None: it takes no arguments."""

    name: str
    description: str | None = None
    parameters: Mapping[str, object] | None = None
    strict: bool = False
    """The arguments follow the schema to the letter, also where the model is free to call or not."""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of a request and what the model must do with them. There is at least one."""

    tools: tuple[Tool, ...]
    required: bool = False
    """The answer is calls and nothing else."""
    named: str | None = None
    """The answer is one call of this tool."""
    parallel: bool = True
    """The answer may hold several calls."""

    @property
    def names(self) -> frozenset[str]:
        return frozenset(tool.name for tool in self.tools)


@dataclass(frozen=True, slots=True)
class JsonAnswer:
    """The answer is JSON. `schema` None: any object."""

    schema: Mapping[str, object] | None = None
    strict: bool = False


def grammar_of(use: ToolUse | None, answer: JsonAnswer | None) -> str:
    """The grammar of a request; empty when the model may write anything."""
    if use is not None and use.named is not None:
        return _grammar("tool_open first_call", _calls(use))
    if use is not None and use.required:
        return _grammar("tool_open calls", _calls(use))
    if answer is not None:
        json_rule = f"{JSON_RULE}: {_json(answer.schema or _ANY_OBJECT, strict=answer.strict)}"
        if use is None:
            return _grammar(JSON_RULE, [json_rule])
        return _grammar(f"({JSON_RULE} | tool_open calls)", [json_rule, *_calls(use)])
    if use is not None and any(tool.strict for tool in use.tools):
        return _grammar("(text | text_tool_open calls)", _calls(use))
    return ""


def _grammar(answer: str, rules: list[str]) -> str:
    return "\n".join([f"start: reasoning {answer}", *rules]) + "\n"


def _calls(use: ToolUse) -> list[str]:
    """`first_call`: what follows the marker of a call. `calls`: the same, and more calls where that is allowed."""
    tools = [tool for tool in use.tools if use.named in (None, tool.name)]
    rules = [
        'calls: first_call ("\\n" tool_open first_call)*' if use.parallel else "calls: first_call",
        f'first_call: "\\n" ({" | ".join(f"call_{index}" for index in range(len(tools)))}) "\\n" tool_close',
    ]
    for index, tool in enumerate(tools):
        # The schema stands by itself, not inside one of the whole call: its `#/…` references count from its own root.
        before = json.dumps(f'{{"name": {json.dumps(tool.name)}, "arguments": ')
        rules.append(f'call_{index}: {before} arguments_{index} "}}"')
        rules.append(f"arguments_{index}: {_arguments(tool)}")
    return rules


def _arguments(tool: Tool) -> str:
    schema = _NO_ARGUMENTS if tool.parameters is None else {**tool.parameters, "type": "object"}
    return _json(schema, strict=tool.strict)


def _json(schema: Mapping[str, object], *, strict: bool) -> str:
    """A schema as a part of a rule. Not strict: keywords that the compiler lacks are passed over."""
    layout = _LAYOUT if strict else {**_LAYOUT, "lenient": True}
    return "%json " + json.dumps({**schema, "x-guidance": layout})
