"""OpenAI's chat completion request → the neutral `GenerationRequest`.

A field is honoured, or has a value that changes nothing, or is refused by name: never dropped. Seed, time, id and
deadline come from the caller, so that the same body gives the same request. Reading bytes and JSON is the
gateway's job; rendering the prompt is the runner's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from skulk.core.dialects.fields import Fields, clean_text, clean_value, invalid, shown, unsupported
from skulk.core.domain import GenerationRequest, Message, RequestId, Sampling, ServedModel
from skulk.core.errors import REQ_CONTEXT, REQ_INVALID, RequestError

MODEL_CHARS_MAX = 512
"""Names are far shorter; an error message repeats this one."""
STOP_STRINGS_MAX = 16
"""OpenAI takes 4; agents use a few more. Each is searched in every step, so the number is bounded."""
STOP_CHARS_MAX = 1024
"""A stop string delays as much text as it is long."""
TOKENS_MAX = 2**31 - 1
"""Engines count in 32 bits; no context is as long."""
TOP_K_MAX = 2**31 - 1
SEED_MAX = 2**64 - 1
TEMPERATURE_MAX = 2.0
EXTRA_DEPTH_MAX = 16
"""Levels inside a message's tool_calls: an arguments object or two, not a bomb for the template."""
ROLES = ("system", "developer", "user", "assistant", "tool")

HONOURED: Mapping[str, str] = MappingProxyType(
    {
        "model": "name of a model, deployment or alias",
        "messages": "the conversation; text only",
        "max_tokens": "at most so many new tokens; without it as many as the context leaves",
        "max_completion_tokens": "newer name of max_tokens",
        "temperature": "0 (greedy) to 2, default 1",
        "top_p": "above 0, at most 1, default 1 (off)",
        "top_k": "0 (off, default) or the number of candidates",
        "min_p": "0 (off, default) to 1",
        "seed": "unsigned 64-bit integer; drawn at random without it",
        "stop": f"a string or up to {STOP_STRINGS_MAX}; searched in the content, not in the reasoning",
        "stream": "server-sent events instead of one answer",
        "stream_options": "include_usage adds a last chunk with the usage",
        "enable_thinking": "switch reasoning on or off, if the model's template can",
        "user": "accepted: identifies the caller's user and changes nothing",
        "safety_identifier": "accepted: newer name of user",
    }
)
"""Field → what it does; the OpenAPI description and the reference page use it."""

# Values that ask for nothing beyond what happens anyway. Everything else in these fields is refused.
TRIVIAL: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {
        "n": (1,),
        "logprobs": (False,),
        "top_logprobs": (0,),
        "frequency_penalty": (0,),
        "presence_penalty": (0,),
        "repetition_penalty": (1,),
        "logit_bias": ({},),
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "parallel_tool_calls": (True, False),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
        "service_tier": ("auto", "default"),
        "store": (False,),
        "metadata": ({},),
        "verbosity": ("medium",),
        "chat_template_kwargs": ({},),
    }
)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What the client asked for, and how it wants the answer."""

    generation: GenerationRequest
    stream: bool
    include_usage: bool


def parse_chat(
    body: Mapping[str, object], *, request_id: RequestId, seed: int, now: float, deadline_seconds: float
) -> ChatRequest:
    """A chat completion body (decoded JSON) as a neutral request.

    `seed` is used when the client gave none; `now` is seconds of the epoch. Raises RequestError 400 that names the
    first field that is wrong or cannot be honoured.
    """
    fields = Fields(body)
    model = fields.required_text("model", chars_max=MODEL_CHARS_MAX)
    _refuse_others(fields)
    messages = _messages(fields)
    given_seed = fields.whole("seed", low=0, high=SEED_MAX)
    sampling = Sampling(
        seed=seed if given_seed is None else given_seed,
        temperature=_or(fields.number("temperature", low=0, high=TEMPERATURE_MAX), 1.0),
        top_p=_or(fields.number("top_p", low=0, high=1, above_low=True), 1.0),
        top_k=fields.whole("top_k", low=0, high=TOP_K_MAX) or 0,
        min_p=fields.number("min_p", low=0, high=1) or 0.0,
    )
    thinking = fields.flag("enable_thinking")
    fields.text("user")
    fields.text("safety_identifier")
    generation = GenerationRequest(
        id=request_id,
        model=model,
        messages=messages,
        sampling=sampling,
        max_tokens=_max_tokens(fields),
        stop=_stop(fields),
        template={} if thinking is None else {"enable_thinking": thinking},
        now=now,
        deadline_seconds=deadline_seconds,
    )
    return ChatRequest(generation, fields.flag("stream") or False, _include_usage(fields))


def check_against_model(chat: ChatRequest, served: ServedModel) -> None:
    """Refuse what this model cannot honour. Raises RequestError 400."""
    request, card = chat.generation, served.card
    if "TextGeneration" not in card.tasks:
        raise invalid("model", f'"{request.model}" does not generate text (tasks: {", ".join(card.tasks)})')
    thinking = request.template.get("enable_thinking")
    reasons = card.reasoning.format != "none"
    if thinking is not None and thinking != reasons and not card.reasoning.supports_toggle:
        can = "always reasons" if reasons else "does not reason"
        raise unsupported("enable_thinking", f'cannot be {str(thinking).lower()}: "{request.model}" {can}')
    limit = served.max_context_tokens
    if limit and request.max_tokens is not None and request.max_tokens > limit:
        raise RequestError(
            REQ_CONTEXT,
            f"context_length_exceeded: max_tokens ({request.max_tokens}) cannot fit the context of {limit} tokens",
            status=400,
            param="max_tokens",
            slug="context_length_exceeded",
        )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _refuse_others(fields: Fields) -> None:
    for key in fields.set_keys():
        if key in HONOURED:
            continue
        value = fields.raw(key)
        allowed = TRIVIAL.get(key)
        if allowed is None:
            raise unsupported(clean_text(key)[:MODEL_CHARS_MAX], "is not supported by this version")
        if not any(_same(value, one) for one in allowed):
            values = " or ".join(shown(one) for one in allowed)
            raise unsupported(key, f"can only be {values} in this version, not {shown(value)}")


def _same(value: object, allowed: object) -> bool:
    """Equal as JSON: true is not 1, but 0.0 is 0."""
    return value == allowed and isinstance(value, bool) == isinstance(allowed, bool)


def _max_tokens(fields: Fields) -> int | None:
    old = fields.whole("max_tokens", low=1, high=TOKENS_MAX)
    new = fields.whole("max_completion_tokens", low=1, high=TOKENS_MAX)
    if old is not None and new is not None and old != new:
        raise invalid("max_completion_tokens", f"({new}) and max_tokens ({old}) differ; send one of them")
    return old if new is None else new


def _stop(fields: Fields) -> tuple[str, ...]:
    value = fields.raw("stop")
    strings = [value] if isinstance(value, str) else fields.items("stop") or []
    if len(strings) > STOP_STRINGS_MAX:
        raise invalid("stop", f"has {len(strings)} strings, at most {STOP_STRINGS_MAX} are allowed")
    stops: list[str] = []
    for index, text in enumerate(strings):
        if not isinstance(text, str) or not 0 < len(text) <= STOP_CHARS_MAX:
            param = "stop" if isinstance(value, str) else f"stop[{index}]"
            raise invalid(param, f"must be a string of 1 to {STOP_CHARS_MAX} characters, not {shown(text)}")
        stops.append(clean_text(text))
    return tuple(stops)


def _include_usage(fields: Fields) -> bool:
    options = fields.mapping("stream_options")
    if options is None:
        return False
    inner = Fields(options, "stream_options")
    for key in inner.set_keys():
        if key == "include_obfuscation" and inner.flag(key) is False:
            continue
        if key != "include_usage":
            raise unsupported(inner.param(clean_text(key)), "is not supported by this version")
    return inner.flag("include_usage") or False


# --- messages -----------------------------------------------------------------------------------------------


def _messages(fields: Fields) -> tuple[Message, ...]:
    items = fields.items("messages")
    if not items:
        raise invalid("messages", "is required and must be a non-empty list")
    messages = tuple(_message(item, f"messages[{index}]") for index, item in enumerate(items))
    if not any(message.content.strip() for message in messages):
        raise RequestError(
            REQ_INVALID,
            "messages hold no text: at least one must have content that is not blank",
            status=400,
            param="messages",
            slug="invalid_value",
        )
    return messages


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
        Fields(function, f"{path}.function").required_text("name")
        calls.append(clean_value(call, EXTRA_DEPTH_MAX, path))
    return calls


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
