"""One client request in neutral form, and what comes back. Dialects map to and from these values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from skulk.core.domain.ids import BootId, NodeName, RequestId


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `extra` holds further template fields (tool_calls, name, reasoning_content), JSON values."""

    role: str
    content: str
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn: a pure function of (logits, ids so far, these values, seed, position).

    temperature 0 is greedy. top_k 0 and min_p 0 are off; top_p 1 is off. seed is 64 bit unsigned. A
    repetition_penalty of 1 is off, the other penalties and biases at 0.
    """

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    """Divides positive logits, multiplies negative ones, of what stands in the last `repetition_context` tokens of
    prompt and answer."""
    repetition_context: int = 20
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once for every time that the answer holds it already."""
    presence_penalty: float = 0.0
    """Subtracted once from every token that the answer holds already."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, what is added to its logit)."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Everything a runner needs. Stop strings are here for the owner; the runner knows only token ids."""

    id: RequestId
    model: str
    messages: tuple[Message, ...]
    sampling: Sampling
    max_tokens: int | None = None
    """None: as many as the context leaves (bounded by the default of the gateway)."""
    stop: tuple[str, ...] = ()
    template: Mapping[str, object] = field(default_factory=dict)
    """Template variables such as enable_thinking and tools."""
    logprobs: int | None = None
    """None: not wanted. Else the log-probability of every token, and of this many most probable alternatives."""
    grammar: str = ""
    """What the answer may be, in llguidance's Lark; see `skulk.core.dialects.grammar`. Empty: anything."""
    tenant: str = ""
    """Name of the API key; queued requests of different tenants take turns."""
    now: float = 0.0
    """Seconds of the epoch, for templates that show the date; filled in by the owner."""
    deadline_seconds: float = 600.0
    """Until the first token."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose request it is: the node whose gateway took it, in this life of its daemon."""

    node: NodeName
    boot: BootId


class Finish(StrEnum):
    """Why a generation ended, as the runner sees it."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The runner's first frame: the request fits and runs."""

    prompt_ids: tuple[int, ...]
    prompt_tokens: int
    cached_tokens: int
    in_reasoning: bool
    """The rendered prompt ends inside a reasoning block."""
    context_left: int
    """Tokens that may still be generated."""
    queue_seconds: float = 0.0
    """How long the request waited for a free slot."""


@dataclass(frozen=True, slots=True)
class RunnerRefusal:
    """The runner will not run the request. `retriable`: another replica may take it; nothing was generated."""

    code: str
    message: str
    status: int
    retriable: bool = False
    param: str | None = None
    """The field of the client's request that is at fault."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural logarithms of probabilities by the model alone: before biases, penalties, temperature and grammar."""

    data: bytes
    """The token's raw bytes, maybe a part of a character."""
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()
    """The most probable tokens at that position, most probable first."""


class Tokens(NamedTuple):
    """One frame of one request: numbered from 1, token ids, their raw bytes, and the end when there is one."""

    # A tuple, as is all that is made for every token: a frozen data class sets each of its fields by a call.
    number: int
    ids: tuple[int, ...]
    data: bytes
    finish: Finish | None = None
    error: str | None = None
    """Set with Finish.ERROR: what a person reads. With Finish.CANCELLED: the reason of the cancel."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One per id when the request wants them, else empty."""
    seconds: float = 0.0
    """From `Accepted` to these tokens, by the runner's clock; 0 in a frame without any."""
