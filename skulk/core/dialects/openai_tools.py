"""`tools`, `tool_choice`, `parallel_tool_calls` and `response_format` of OpenAI's API → what a grammar is made of."""

from __future__ import annotations

import re

from skulk.core.dialects.fields import Fields, clean_text, invalid, shown, unsupported
from skulk.core.dialects.grammar import JsonAnswer, Tool, ToolUse
from skulk.core.dialects.schemas import read_schema

TOOLS_MAX = 128
"""As many as OpenAI takes."""
TOOLS_CHARS_MAX = 256 * 1024
"""All descriptions and schemas together: they are part of the prompt and of the grammar."""
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NAME_RULE = "must be 1 to 64 letters, digits, _, . or -"
_CHOICES = ("none", "auto", "required")


def read_tools(fields: Fields) -> ToolUse | None:
    """The tools and what is asked of them; None when there are none, or none may be called.

    With `none` the model is not told of them either: one that sees tools calls them, whatever it is told.
    """
    parallel = fields.flag("parallel_tool_calls")
    items = fields.items("tools") or []
    if len(items) > TOOLS_MAX:
        raise invalid("tools", f"has {len(items)} tools, at most {TOOLS_MAX} are allowed")
    tools = tuple(_tool(item, f"tools[{index}]") for index, item in enumerate(items))
    names = [tool.name for tool in tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise invalid(f"tools[{index}].function.name", f"({shown(name)}) is the name of a tool before it")
    if sum(len(str(tool.parameters)) + len(tool.description or "") for tool in tools) > TOOLS_CHARS_MAX:
        raise invalid("tools", f"have more than {TOOLS_CHARS_MAX} characters together")
    choice, named = _choice(fields, names)
    if not tools or choice == "none":
        return None
    return ToolUse(tools, choice == "required", named, parallel is not False)


def template_tools(use: ToolUse) -> list[object]:
    """The tools as chat templates expect them: OpenAI's form, without `strict`, which is no word for a model."""
    return [{"type": "function", "function": _described(tool)} for tool in use.tools]


def _described(tool: Tool) -> dict[str, object]:
    written = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {key: value for key, value in written.items() if value is not None}


def _tool(item: object, path: str) -> Tool:
    if not isinstance(item, dict):
        raise invalid(path, f"must be an object, not {shown(item)}")
    fields = Fields(item, path)
    kind = fields.required_text("type")
    if kind != "function":
        raise unsupported(f"{path}.type", f"can only be function in this version, not {shown(kind)}")
    _refuse_beyond(fields, ("type", "function"))
    function = fields.mapping("function")
    if function is None:
        raise invalid(f"{path}.function", "is required")
    inner = Fields(function, f"{path}.function")
    _refuse_beyond(inner, ("name", "description", "parameters", "strict"))
    name = inner.required_text("name")
    if not NAME.fullmatch(name):
        raise invalid(inner.param("name"), f"{_NAME_RULE}, not {shown(name)}")
    return Tool(name, inner.text("description"), _parameters(inner), inner.flag("strict") or False)


def _parameters(function: Fields) -> dict[str, object] | None:
    written = function.raw("parameters")
    if written is None:
        return None
    schema = read_schema(written, function.param("parameters"))
    if schema.get("type", "object") != "object":
        raise invalid(function.param("parameters"), f"must have the type object, not {shown(schema['type'])}")
    return schema


def _choice(fields: Fields, names: list[str]) -> tuple[str, str | None]:
    """`tool_choice` as a word, and the function that it names."""
    value = fields.raw("tool_choice")
    if value is None:
        return "auto", None
    if isinstance(value, str):
        if value not in _CHOICES:
            raise invalid("tool_choice", f"must be one of {', '.join(_CHOICES)} or a function, not {shown(value)}")
        if value == "required" and not names:
            raise invalid("tool_choice", "cannot be required: the request has no tools")
        return value, None
    if not isinstance(value, dict):
        raise invalid("tool_choice", f"must be a string or an object, not {shown(value)}")
    choice = Fields(value, "tool_choice")
    if choice.raw("type") != "function":
        raise unsupported("tool_choice", f"can only name a function in this version, not {shown(choice.raw('type'))}")
    _refuse_beyond(choice, ("type", "function"))
    inner = Fields(choice.mapping("function") or {}, "tool_choice.function")
    _refuse_beyond(inner, ("name",))
    name = inner.required_text("name")
    if name not in names:
        there = ", ".join(names[:TOOLS_MAX]) or "none"
        raise invalid("tool_choice.function.name", f"({shown(name)}) is none of the tools of the request: {there}")
    return "required", name


def read_response_format(fields: Fields) -> JsonAnswer | None:
    """What the answer must be; None: text."""
    written = fields.mapping("response_format")
    if written is None:
        return None
    inner = Fields(written, "response_format")
    kind = inner.required_text("type")
    if kind == "json_schema":
        _refuse_beyond(inner, ("type", "json_schema"))
        return _json_schema(inner)
    _refuse_beyond(inner, ("type",))
    if kind == "text":
        return None
    if kind == "json_object":
        return JsonAnswer()
    raise unsupported("response_format.type", f"must be text, json_object or json_schema, not {shown(kind)}")


def _json_schema(fields: Fields) -> JsonAnswer:
    written = fields.mapping("json_schema")
    if written is None:
        raise invalid("response_format.json_schema", "is required")
    inner = Fields(written, "response_format.json_schema")
    # Name and description are for people and for models of others; here the grammar alone decides.
    _refuse_beyond(inner, ("name", "description", "schema", "strict"))
    name = inner.required_text("name")
    if not NAME.fullmatch(name):
        raise invalid(inner.param("name"), f"{_NAME_RULE}, not {shown(name)}")
    inner.text("description")
    schema = inner.raw("schema")
    strict = inner.flag("strict") or False
    return JsonAnswer(None if schema is None else read_schema(schema, inner.param("schema")), strict)


def _refuse_beyond(fields: Fields, known: tuple[str, ...]) -> None:
    for key in fields.set_keys():
        if key not in known:
            raise unsupported(fields.param(clean_text(key)), "is not supported by this version")
