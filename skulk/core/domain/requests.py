"""One client request in neutral form, and what comes back. Dialects map to and from these values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from skulk.core.domain.ids import BootId, NodeName, RequestId


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `extra` holds further template fields (tool_calls, name, reasoning_content), JSON values."""

    role: str
    content: str
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn: a pure function of (logits, these values, seed, position).

    temperature 0 is greedy. top_k 0 and min_p 0 are off; top_p 1 is off. seed is 64 bit unsigned.
    """

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


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
    """Template variables such as enable_thinking."""
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


@dataclass(frozen=True, slots=True)
class RunnerRefusal:
    """The runner will not run the request. `retriable`: another replica may take it; nothing was generated."""

    code: str
    message: str
    status: int
    retriable: bool = False


@dataclass(frozen=True, slots=True)
class Tokens:
    """One frame of one request: numbered from 1, token ids, their raw bytes, and the end when there is one."""

    number: int
    ids: tuple[int, ...]
    data: bytes
    finish: Finish | None = None
    error: str | None = None
    """Set with Finish.ERROR: what a person reads. With Finish.CANCELLED: the reason of the cancel."""
