"""The `messages` of OpenAI's chat completions → neutral turns, each refused with its place when it is wrong.

Tool calls of earlier turns are handed to the model's template with their arguments as objects, which is what
published templates expect.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from skulk.core.dialects.fields import Fields, clean_text, clean_value, invalid, shown, unsupported
from skulk.core.domain import Message
from skulk.core.errors import REQ_INVALID, RequestError

EXTRA_DEPTH_MAX = 16
"""Levels inside a message's tool_calls: an arguments object or two, not a bomb for the template."""
ROLES = ("system", "developer", "user", "assistant", "tool")


def read_messages(fields: Fields) -> tuple[Message, ...]:
    items = fields.items("messages")
    if not items:
        raise invalid("messages", "is required and must be a non-empty list")
    messages = tuple(_message(item, f"messages[{index}]") for index, item in enumerate(items))
    _check_results(messages)
    if not any(message.content.strip() for message in messages):
        raise RequestError(
            REQ_INVALID,
            "messages hold no text: at least one must have content that is not blank",
            status=400,
            param="messages",
            slug="invalid_value",
        )
    return messages


def _check_results(messages: Sequence[Message]) -> None:
    """Every result of a tool answers a call that stands before it."""
    called: set[object] = set()
    for index, message in enumerate(messages):
        calls = message.extra.get("tool_calls")
        if isinstance(calls, list):
            called.update(call.get("id") for call in calls if isinstance(call.get("id"), str))
        if message.role == "tool" and message.extra["tool_call_id"] not in called:
            given = shown(message.extra["tool_call_id"])
            raise invalid(f"messages[{index}].tool_call_id", f"({given}) is the id of no tool call before it")


def _message(item: object, path: str) -> Message:
    if not isinstance(item, dict):
        raise invalid(path, f"must be an object, not {shown(item)}")
    fields = Fields(item, path)
    role = fields.required_text("role")
    if role not in ROLES:
        raise invalid(f"{path}.role", f"must be one of {', '.join(ROLES)}, not {shown(role)}")
    extra: dict[str, object] = {}
    for key in fields.set_keys():
        value = fields.raw(key)
        if key in ("role", "content") or value in ([], {}):
            # Clients send their last answer back with its empty `annotations` and `tool_calls`.
            continue
        if key in ("name", "tool_call_id") or (key == "reasoning_content" and role == "assistant"):
            extra[key] = fields.text(key)
        elif key == "tool_calls" and role == "assistant":
            extra[key] = _tool_calls(fields)
        else:
            raise unsupported(fields.param(clean_text(key)), "is not supported by this version")
    if role == "tool" and "tool_call_id" not in extra:
        raise invalid(f"{path}.tool_call_id", "is required in a message of role tool")
    # `developer` is a newer name of `system`, which is the one that chat templates know.
    return Message("system" if role == "developer" else role, _content(fields, path), extra)


def _tool_calls(fields: Fields) -> list[object]:
    calls: list[object] = []
    for index, call in enumerate(fields.items("tool_calls") or []):
        path = f"{fields.param('tool_calls')}[{index}]"
        if not isinstance(call, dict):
            raise invalid(path, f"must be an object, not {shown(call)}")
        function = Fields(call, path).mapping("function")
        if function is None:
            raise unsupported(path, "must have a function: other kinds of calls are not supported")
        fields_of_function = Fields(function, f"{path}.function")
        fields_of_function.required_text("name")
        Fields(call, path).text("id")
        arguments = _arguments(fields_of_function)
        calls.append(clean_value({**call, "function": {**function, "arguments": arguments}}, EXTRA_DEPTH_MAX, path))
    return calls


def _arguments(function: Fields) -> object:
    """The arguments as an object, or as the text that came when that is none: the model has seen it too."""
    text = function.text("arguments")
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def _content(fields: Fields, path: str) -> str:
    value = fields.raw("content")
    if value is None:
        return ""
    if isinstance(value, str):
        return clean_text(value)
    parts = [value] if isinstance(value, dict) else value
    if not isinstance(parts, list):
        raise invalid(f"{path}.content", f"must be a string or a list of parts, not {shown(value)}")
    # Parts are paragraphs to those who send them; without the newline their words would run together.
    return "\n".join(_part(part, f"{path}.content[{index}]") for index, part in enumerate(parts))


def _part(part: object, path: str) -> str:
    if not isinstance(part, dict):
        raise invalid(path, f"must be an object, not {shown(part)}")
    fields = Fields(part, path)
    kind = fields.required_text("type")
    if kind != "text":
        raise unsupported(f"{path}.type", f"can only be text in this version, not {shown(kind)}")
    for key in fields.set_keys():
        if key not in ("type", "text"):
            raise unsupported(fields.param(clean_text(key)), "is not supported by this version")
    text = fields.text("text")
    if text is None:
        raise invalid(f"{path}.text", "is required")
    return text
