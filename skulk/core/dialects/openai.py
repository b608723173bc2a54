"""OpenAI's chat completion request → the neutral `GenerationRequest`.

A field is honoured, or has a value that changes nothing, or is refused by name: never dropped. Seed, time, id and
deadline come from the caller, so that the same body gives the same request. Reading bytes and JSON is the
gateway's job; rendering the prompt is the runner's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from skulk.core.dialects.fields import Fields, clean_text, invalid, shown, unsupported
from skulk.core.dialects.grammar import JsonAnswer, ToolUse, grammar_of
from skulk.core.dialects.openai_messages import read_messages
from skulk.core.dialects.openai_tools import read_response_format, read_tools, template_tools
from skulk.core.domain import GenerationRequest, RequestId, Sampling, ServedModel, Tooling
from skulk.core.errors import REQ_CONTEXT, RequestError

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
CHOICES_MAX = 8
"""Each is a request of its own at the runner and takes a slot."""
TOP_LOGPROBS_MAX = 20
PENALTY_MAX = 2.0
REPETITION_CONTEXT_MAX = 2**31 - 1
LOGIT_BIASES_MAX = 1024
"""OpenAI names no bound; lists of words to avoid have hundreds of tokens."""
LOGIT_BIAS_MAX = 100.0
TOKEN_ID_MAX = 2**31 - 1
REPETITION_CONTEXT = 20
"""As long as mlx-lm's: enough against a loop, too short to forbid a word."""
CALL_FORMAT = "generic"
"""The one way of writing tool calls that this version reads."""
EFFORT_FIELD = "reasoning_effort"
"""Also the name of the template's variable: it takes effect only if the template reads it."""
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")

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
        "frequency_penalty": "-2 to 2, default 0 (off): off a token's logit for every time that the answer holds it",
        "presence_penalty": "-2 to 2, default 0 (off): off the logit of every token that the answer holds",
        "repetition_penalty": "above 0, at most 2, default 1 (off): divides the logits of recent tokens",
        "repetition_context_size": "how many of the last tokens repetition_penalty looks at, default 20",
        "logit_bias": f"token id to -100 … 100, added to its logit; at most {LOGIT_BIASES_MAX}",
        "n": f"how many answers, 1 (default) to {CHOICES_MAX}; the seed of each is one more than the one before",
        "logprobs": "true: the log-probability of every token of the content",
        "top_logprobs": f"0 to {TOP_LOGPROBS_MAX}: so many alternatives at each position; needs logprobs",
        "response_format": "text, json_object or json_schema: enforced by a grammar",
        "tools": "functions that the model may call",
        "tool_choice": "auto, none, required, or a function: enforced by a grammar",
        "parallel_tool_calls": "false: the answer ends after one call; default true",
        "stop": f"a string or up to {STOP_STRINGS_MAX}; searched in the content, nowhere else",
        "stream": "server-sent events instead of one answer",
        "stream_options": "include_usage adds a last chunk with the usage",
        "enable_thinking": "switch reasoning on or off, if the model's template can",
        "reasoning_effort": "none switches reasoning off; others switch it on and are handed to the model's template",
        "chat_template_kwargs": "enable_thinking, as above; nothing else",
        "user": "accepted: identifies the caller's user and changes nothing",
        "safety_identifier": "accepted: newer name of user",
    }
)
"""Field → what it does; the OpenAPI description and the reference page use it."""

# Values that ask for nothing beyond what happens anyway. Everything else in these fields is refused.
TRIVIAL: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {
        "functions": ([],),
        "function_call": ("none", "auto"),
        "modalities": (["text"],),
        "service_tier": ("auto", "default"),
        "store": (False,),
        "metadata": ({},),
        "verbosity": ("medium",),
    }
)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What the client asked for, and how it wants the answer."""

    generation: GenerationRequest
    stream: bool
    include_usage: bool
    choices: int = 1
    tools: ToolUse | None = None
    """None: the model is told of no tools, and what looks like a call is text."""
    json_answer: JsonAnswer | None = None
    thinking_field: str = "enable_thinking"
    """Which field switched reasoning on or off, for errors."""

    @property
    def generations(self) -> tuple[GenerationRequest, ...]:
        """One request per choice. All but the seed and the id are the same, so they share the prompt's cache."""
        if self.choices == 1:
            return (self.generation,)
        return tuple(_choice(self.generation, index) for index in range(self.choices))


def _choice(request: GenerationRequest, index: int) -> GenerationRequest:
    sampling = replace(request.sampling, seed=(request.sampling.seed + index) % (SEED_MAX + 1))
    return replace(request, id=RequestId(f"{request.id}-{index}"), sampling=sampling)


def parse_chat(
    body: Mapping[str, object],
    *,
    request_id: RequestId,
    seed: int,
    now: float,
    deadline_seconds: float,
    tenant: str = "",
) -> ChatRequest:
    """A chat completion body (decoded JSON) as a neutral request.

    `seed` is used when the client gave none; `now` is seconds of the epoch; `tenant` is the name of the caller's API
    key. Raises RequestError 400 that names the first field that is wrong or cannot be honoured.
    """
    fields = Fields(body)
    model = fields.required_text("model", chars_max=MODEL_CHARS_MAX)
    _refuse_others(fields)
    messages = read_messages(fields)
    tools = read_tools(fields)
    json_answer = read_response_format(fields)
    thinking_field, template = _thinking(fields)
    fields.text("user")
    fields.text("safety_identifier")
    generation = GenerationRequest(
        id=request_id,
        model=model,
        messages=messages,
        sampling=_sampling(fields, seed),
        max_tokens=_max_tokens(fields),
        stop=_stop(fields),
        template=template if tools is None else {**template, "tools": template_tools(tools)},
        logprobs=_logprobs(fields),
        grammar=grammar_of(tools, json_answer),
        tenant=tenant,
        now=now,
        deadline_seconds=deadline_seconds,
    )
    return ChatRequest(
        generation,
        stream=fields.flag("stream") or False,
        include_usage=_include_usage(fields),
        choices=_or_one(fields.whole("n", low=1, high=CHOICES_MAX)),
        tools=tools,
        json_answer=json_answer,
        thinking_field=thinking_field,
    )


def check_against_model(chat: ChatRequest, served: ServedModel) -> None:
    """Refuse what this model cannot honour. Raises RequestError 400."""
    request, card = chat.generation, served.card
    if "TextGeneration" not in card.tasks:
        raise invalid("model", f'"{request.model}" does not generate text (tasks: {", ".join(card.tasks)})')
    thinking = request.template.get("enable_thinking")
    reasons = card.reasoning.format != "none"
    if thinking is not None and thinking != reasons and not card.reasoning.supports_toggle:
        can = "always reasons" if reasons else "does not reason"
        word = request.template.get(EFFORT_FIELD, "none") if chat.thinking_field == EFFORT_FIELD else thinking
        raise unsupported(chat.thinking_field, f'cannot be {str(word).lower()}: "{request.model}" {can}')
    if chat.tools is not None:
        _check_tools(request.model, card.tooling)
    limit = served.max_context_tokens
    if limit and request.max_tokens is not None and request.max_tokens > limit:
        raise RequestError(
            REQ_CONTEXT,
            f"context_length_exceeded: max_tokens ({request.max_tokens}) cannot fit the context of {limit} tokens",
            status=400,
            param="max_tokens",
            slug="context_length_exceeded",
        )


def _check_tools(model: str, tooling: Tooling) -> None:
    if not tooling.supports_calls:
        raise unsupported("tools", f'cannot be used: "{model}" does not call tools (its card says so)')
    if tooling.format != CALL_FORMAT:
        raise unsupported(
            "tools", f'cannot be used: "{model}" writes calls as {tooling.format}, which is not in this version'
        )


def _sampling(fields: Fields, seed: int) -> Sampling:
    given_seed = fields.whole("seed", low=0, high=SEED_MAX)
    return Sampling(
        seed=seed if given_seed is None else given_seed,
        temperature=_or(fields.number("temperature", low=0, high=TEMPERATURE_MAX), 1.0),
        top_p=_or(fields.number("top_p", low=0, high=1, above_low=True), 1.0),
        top_k=fields.whole("top_k", low=0, high=TOP_K_MAX) or 0,
        min_p=fields.number("min_p", low=0, high=1) or 0.0,
        repetition_penalty=_or(fields.number("repetition_penalty", low=0, high=PENALTY_MAX, above_low=True), 1.0),
        repetition_context=_repetition_context(fields),
        frequency_penalty=fields.number("frequency_penalty", low=-PENALTY_MAX, high=PENALTY_MAX) or 0.0,
        presence_penalty=fields.number("presence_penalty", low=-PENALTY_MAX, high=PENALTY_MAX) or 0.0,
        logit_bias=_logit_bias(fields),
    )


def _repetition_context(fields: Fields) -> int:
    given = fields.whole("repetition_context_size", low=0, high=REPETITION_CONTEXT_MAX)
    return REPETITION_CONTEXT if given is None else given


def _logit_bias(fields: Fields) -> tuple[tuple[int, float], ...]:
    given = fields.mapping("logit_bias") or {}
    if len(given) > LOGIT_BIASES_MAX:
        raise invalid("logit_bias", f"has {len(given)} tokens, at most {LOGIT_BIASES_MAX} are allowed")
    inner = Fields(given, "logit_bias")
    biases: dict[int, float] = {}
    for key in given:
        # The digits are counted first: Python refuses to convert thousands of them.
        number = int(key) if key.isascii() and key.isdigit() and len(key) <= len(str(TOKEN_ID_MAX)) else -1
        if not 0 <= number <= TOKEN_ID_MAX:
            raise invalid("logit_bias", f"has the key {shown(key)}, which is no token id")
        bias = inner.number(key, low=-LOGIT_BIAS_MAX, high=LOGIT_BIAS_MAX)
        if bias is None or number in biases:
            raise invalid("logit_bias", f"must have one number for the token {number}")
        biases[number] = bias
    return tuple(sorted(biases.items()))


def _logprobs(fields: Fields) -> int | None:
    wanted = fields.flag("logprobs") or False
    top = fields.whole("top_logprobs", low=0, high=TOP_LOGPROBS_MAX)
    if top and not wanted:
        raise invalid("top_logprobs", "needs logprobs: true")
    return top or 0 if wanted else None


def _thinking(fields: Fields) -> tuple[str, dict[str, object]]:
    """The template's variables about reasoning, and the field that they come from."""
    kwargs = Fields(fields.mapping("chat_template_kwargs") or {}, "chat_template_kwargs")
    for key in kwargs.set_keys():
        if key != "enable_thinking":
            raise unsupported(kwargs.param(clean_text(key)), "is not supported by this version")
    effort = fields.text(EFFORT_FIELD)
    if effort is not None and effort not in EFFORTS:
        raise invalid(EFFORT_FIELD, f"must be one of {', '.join(EFFORTS)}, not {shown(effort)}")
    given = {
        "enable_thinking": fields.flag("enable_thinking"),
        kwargs.param("enable_thinking"): kwargs.flag("enable_thinking"),
        EFFORT_FIELD: None if effort is None else effort != "none",
    }
    asked = {field: value for field, value in given.items() if value is not None}
    if not asked:
        return "enable_thinking", {}
    first, thinking = next(iter(asked.items()))
    for field, value in asked.items():
        if value != thinking:
            raise invalid(field, f"says the opposite of {first}; send one of them")
    variables: dict[str, object] = {"enable_thinking": thinking}
    return first, variables if effort in (None, "none") else {**variables, EFFORT_FIELD: effort}


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _or_one(value: int | None) -> int:
    return 1 if value is None else value


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
