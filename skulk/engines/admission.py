"""Does a rendered request fit the context, and how many tokens may it generate? Pure."""

from __future__ import annotations

from collections.abc import Mapping

from skulk.core.domain.requests import Accepted
from skulk.core.errors import REQ_CONTEXT, REQ_INVALID, RequestError
from skulk.engines.engine import Prompt

MAX_TOKENS_DEFAULT = 4096
"""Without max_tokens a model that never ends would hold its slot for the whole context; 4096 is a long answer."""
MAX_TOKENS_VARIABLES = ("SKULK_MAX_OUTPUT_TOKENS", "SKULK_MAX_TOKENS")
"""Set another default; the first that is a positive number counts."""


def max_tokens_default(environment: Mapping[str, str]) -> int:
    """Tokens that a request without max_tokens may generate, if the context has room for them."""
    for name in MAX_TOKENS_VARIABLES:
        value = environment.get(name, "")
        if value.isdecimal() and int(value) > 0:
            return int(value)
    return MAX_TOKENS_DEFAULT


def refuse_oversized(text_bytes: int, context_tokens: int, piece_bytes_max: int) -> None:
    """Refuse what cannot fit before it is counted, which takes seconds for megabytes. `piece_bytes_max`: of the
    vocabulary's longest token. Raises RequestError 400, SK-REQ-005."""
    least = -(-text_bytes // piece_bytes_max)
    if least >= context_tokens:
        raise _too_long(
            f"the prompt has {text_bytes} bytes, at least {least} tokens; the context holds {context_tokens}",
            "messages",
        )


def budget(prompt: Prompt, max_tokens: int | None, context_tokens: int, default: int = MAX_TOKENS_DEFAULT) -> int:
    """How many tokens to generate at most (≥ 1). `default`: where the request says nothing.

    Raises RequestError 400: SK-REQ-005 when prompt (and the explicit max_tokens) exceed the context, with the
    numbers; SK-REQ-001 for an empty prompt or a max_tokens below 1.
    """
    used = len(prompt.ids)
    if used == 0:
        raise RequestError(REQ_INVALID, "the rendered prompt is empty: send a message", status=400, param="messages")
    if max_tokens is not None and max_tokens < 1:
        raise RequestError(
            REQ_INVALID, f"max_tokens is {max_tokens}, at least 1 is needed", status=400, param="max_tokens"
        )
    left = context_tokens - used
    if left < 1:
        raise _too_long(f"the prompt has {used} tokens, the context holds {context_tokens}", "messages")
    if max_tokens is not None and max_tokens > left:
        raise _too_long(
            f"the prompt has {used} tokens and max_tokens is {max_tokens}, together {used + max_tokens};"
            f" the context holds {context_tokens}",
            "max_tokens",
        )
    return min(default, left) if max_tokens is None else max_tokens


def accepted(prompt: Prompt, context_tokens: int, cached_tokens: int, queue_seconds: float) -> Accepted:
    """The first frame of a request that fits."""
    return Accepted(
        prompt_ids=prompt.ids,
        prompt_tokens=len(prompt.ids),
        cached_tokens=cached_tokens,
        in_reasoning=prompt.in_reasoning,
        context_left=context_tokens - len(prompt.ids),
        queue_seconds=queue_seconds,
    )


def _too_long(detail: str, param: str) -> RequestError:
    slug = "context_length_exceeded"
    return RequestError(REQ_CONTEXT, f"{slug}: {detail}", status=400, param=param, slug=slug)
