"""What a runner needs of an engine: load, render, start, step, cancel. The shape is that of a batch.

An engine knows token ids and nothing of sockets, queues, frames or parsing; it is called by one thread only.
It ends a sequence by EOS ids and by its token budget, never by text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from skulk.core.domain.ids import RequestId
from skulk.core.domain.requests import Finish, GenerationRequest, Sampling, TokenLogprob
from skulk.core.errors import Terminal
from skulk.engines.constraint import Constraint

LoadProgress = Callable[[float], None]
"""Called with the share (0…1) of the model that is in memory."""
WarmUpProgress = Callable[[], None]
"""Called whenever warm-up got further: silence longer than the deadline counts as a wedge."""


class EngineFailure(Terminal):
    """The engine cannot go on at all: broken environment, unusable model, not enough memory. The process ends."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered request: token ids, and how the text leaves the model's reasoning."""

    ids: tuple[int, ...]
    reasoning: str = "none"
    """`open`: the text ends inside a block; `optional`: one may follow; `none`: the model reasons not, or not now."""
    constraint: Constraint | None = None
    """What the request's grammar lets it become."""

    @property
    def in_reasoning(self) -> bool:
        return self.reasoning == "open"


@dataclass(frozen=True, slots=True)
class Job:
    """One sequence to generate: at most `max_tokens` (≥ 1) tokens after a prompt of at least one id."""

    request: RequestId
    prompt: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    logprobs: int | None = None
    """None: not wanted. Else with so many alternatives."""
    constraint: Constraint | None = None
    """As in `Prompt`; its own."""


class Emission(NamedTuple):
    """What one step gave one sequence: new token ids and their raw bytes. An EOS id is in neither."""

    request: RequestId
    ids: tuple[int, ...]
    data: bytes
    finish: Finish | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    """One per id when the job wants them."""
    error: str | None = None
    """Set with Finish.ERROR: this sequence cannot go on, the others do."""
    engine_failed: bool = False
    """With `error`: computing failed. If it does for everybody, the engine is broken and not the request."""


class Engine(Protocol):
    """Called by the engine thread only, `load` first; `render` by another thread at any time after it. Any other
    exception than the ones named is a failed step."""

    version: str
    """Empty until `load` has found it."""
    slots: int
    """How many sequences the engine runs at once, at most what the launch allows."""
    reads_together: bool
    """Several prompts in one step take clearly less than one after the other."""

    def load(self, progress: LoadProgress) -> None:
        """Bring the model into memory. Raises EngineFailure or MemoryError."""
        ...

    def warm_up(self, progress: WarmUpProgress) -> None:
        """Generate at least one token, so that whatever is compiled lazily is compiled now."""
        ...

    def render(self, request: GenerationRequest) -> Prompt:
        """Chat template, tokeniser and grammar. Raises RequestError (400) when the request cannot be rendered, or its
        grammar not be satisfied."""
        ...

    def start(self, job: Job) -> int:
        """Take a sequence in; cheap, all work happens in `step`. At most `slots` at a time.

        Returns how many tokens of the prompt need not be computed, because a sequence before it had them too.
        Raises RequestError 400 for a bias on a token that the model has not.
        """
        ...

    def step(self) -> tuple[Emission, ...]:
        """Advance every running sequence by one step: a chunk of prompt, or a token or more each."""
        ...

    def cancel(self, request: RequestId) -> None:
        """Drop a sequence and what it holds; unknown ones are ignored."""
        ...

    def memory_bytes(self) -> int | None:
        """Memory that the engine's own allocator holds now, when it can tell."""
        ...
