"""Continuous batching: many sequences in one engine, each with its own sampling, grammar and end.

Requests join and leave between two steps. A step gives every sequence that generates one token and reads a bounded
piece of the prompts that wait (`skulk.engines.schedule`); the next token is chosen per sequence by
`skulk.engines.sampling`, a function of seed and position, so that company changes nothing. What a sequence leaves in
the KV cache is kept for prompts that begin alike (`skulk.engines.prefixes`).

The model and its cache are behind `Decoder`; both real engines share everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from skulk.core.domain.ids import RequestId
from skulk.core.domain.requests import Finish, TokenLogprob
from skulk.core.errors import REQ_INVALID, RequestError
from skulk.core.formats.memory_errors import is_out_of_memory
from skulk.engines.constraint import GrammarBroke
from skulk.engines.engine import Emission, Job
from skulk.engines.prefixes import Kept, Prefixes, common_length
from skulk.engines.sampling import adjusted, is_adjusted, logprobs_of, masked, sample
from skulk.engines.schedule import Unread, prompt_shares

AWAITED_TOKENS_MIN = 32
"""A shorter beginning in common (templates begin alike) is not worth waiting for another sequence that reads it."""

TAIL_TOKENS_MAX = 8
"""So little of a kept sequence is not worth a copy of all that comes before."""

H = TypeVar("H")


class Wanted(Enum):
    """What is read back of a chunk."""

    NOTHING = 0
    LOGITS = 1
    """A float vector [vocabulary]."""
    MOST_PROBABLE = 2
    """The index of the highest logit: a device finds it without handing out a vocabulary of numbers."""


class Chunk(NamedTuple, Generic[H]):
    """Tokens to put into one sequence's cache at `start`, …; `wanted` is what their last one leads to."""

    handle: H
    tokens: tuple[int, ...]
    start: int
    wanted: Wanted


class Unusable(Exception):
    """Computing went well, but its result is no choice of a token."""


class CacheLost(Exception):
    """Computing failed half-way: the cache of its sequence is empty now, and none that is kept can be relied on."""


class NoRoom(Exception):
    """The cache has no place for the tokens of this step; nothing of it was done."""


class Decoder(Protocol[H]):
    """A model and the KV caches of its sequences. A handle is one cache, from `open` or `fork` to `close`."""

    entries_max: int
    """How many finished sequences may stay in the cache; 0 where a part of a sequence cannot be reused."""
    shared_tokens_min: int
    """A shorter beginning of a kept sequence is not worth a copy: reading it takes less."""

    def has_room(self, tokens: int) -> bool:
        """Is there memory for so many tokens beyond what open sequences hold?"""
        ...

    def open(self, idle: Sequence[H]) -> tuple[H, H | None] | None:
        """A new sequence. `idle` are open ones that do not run, least recently used first; when the new one takes the
        place of one of them, that one is closed and is the second value. None when there is no place."""
        ...

    def copy(self, source: H, target: H, length: int) -> None:
        """Give an empty sequence the first `length` tokens of another one, whose cache stays as it is."""
        ...

    def fits(self, handle: H, idle: Sequence[H]) -> bool:
        """Is an idle sequence well placed to run, so that copying it elsewhere would gain nothing?"""
        ...

    def trim(self, handle: H, length: int) -> None:
        """Leave the first `length` tokens of a sequence."""
        ...

    def close(self, handle: H) -> None: ...

    def run(self, chunks: Sequence[Chunk[H]]) -> list[Any]:
        """Put all chunks into their caches; per chunk what it wants, valid until the next call, or the exception that
        ends its sequence (CacheLost: that makes it begin again). Raises NoRoom, MemoryError, or what the library
        raises: then no cache has changed.
        """
        ...


@dataclass(slots=True)
class _Sequence(Generic[H]):
    job: Job
    handle: H
    read: int = 0
    """Tokens of prompt and answer that are in the cache."""
    generated: list[int] = field(default_factory=list)
    awaits: RequestId | None = None
    """Another sequence that is about to read what this one begins with."""
    awaits_tokens: int = 0
    lost: bool = False
    """Its cache was lost once, and it has begun again."""
    wanted: Wanted = field(init=False)
    """What its next token is chosen from."""

    def __post_init__(self) -> None:
        job = self.job
        plain = job.constraint is None and job.logprobs is None and not is_adjusted(job.sampling)
        self.wanted = Wanted.MOST_PROBABLE if plain and job.sampling.temperature <= 0 else Wanted.LOGITS

    @property
    def unread(self) -> int:
        """Tokens that are not in the cache: 1 for whoever generates."""
        return len(self.job.prompt) + len(self.generated) - self.read

    @property
    def generates(self) -> bool:
        """Only its newest token is unread."""
        return bool(self.generated) and self.unread == 1

    @property
    def cached_ids(self) -> tuple[int, ...]:
        return (*self.job.prompt, *self.generated)[: self.read]


class Batch(Generic[H]):
    """All running sequences of one engine. `chunk_tokens`: of prompts, per step."""

    def __init__(
        self,
        decoder: Decoder[H],
        end_ids: frozenset[int],
        pieces: Sequence[bytes],
        chunk_tokens: int,
    ) -> None:
        self._decoder = decoder
        self._end_ids = end_ids
        self._pieces = pieces
        self._chunk_tokens = chunk_tokens
        self._prefixes: Prefixes[H] = Prefixes(decoder.entries_max)
        self._running: dict[RequestId, _Sequence[H]] = {}
        """In the order they came."""

    def __len__(self) -> int:
        """How many sequences run."""
        return len(self._running)

    def start(self, job: Job) -> int:
        """As `Engine.start`."""
        for token, _ in job.sampling.logit_bias:
            if token >= len(self._pieces):
                raise RequestError(
                    REQ_INVALID,
                    f"logit_bias names token {token}; the model's vocabulary ends at {len(self._pieces) - 1}",
                    status=400,
                    param="logit_bias",
                    slug="invalid_value",
                )
        kept, shared = self._kept_of(job.prompt)
        ahead, common = self._ahead(job.prompt)
        if ahead is not None and common >= shared + AWAITED_TOKENS_MIN:
            sequence = _Sequence(job, self._open(), awaits=ahead, awaits_tokens=common)
            self._running[job.request] = sequence
            self._follow(sequence)
            return common
        handle = self._open() if kept is None else self._reuse(kept, shared)
        self._running[job.request] = _Sequence(job, handle, read=shared)
        return shared

    def step(self) -> tuple[Emission, ...]:
        """As `Engine.step`."""
        failed = self._follow_all()
        self._let_go(failed)
        emissions: list[Emission] = []
        for sequence, outcome in self._run(self._work()):
            if isinstance(outcome, CacheLost) and not sequence.lost:
                sequence.read, sequence.lost = 0, True
                self.forget()
            elif isinstance(outcome, Exception):
                emissions.append(_failed(sequence.job, outcome))
            elif outcome is not None:
                emissions.append(self._next(sequence, outcome))
        self._let_go(emissions)
        return (*failed, *emissions)

    def cancel(self, request: RequestId) -> None:
        """As `Engine.cancel`."""
        if request in self._running:
            self._leave(request, reusable=True)

    def forget(self) -> None:
        """Drop everything that is kept beyond its request."""
        while self._drop_oldest():
            pass

    # --- prefixes -------------------------------------------------------------------------------------------

    def _kept_of(self, prompt: tuple[int, ...]) -> tuple[Kept[H] | None, int]:
        """The kept sequence that shares most with a prompt, and how much; (None, 0) when none does."""
        kept, shared = self._prefixes.find(prompt)
        # The last token of the prompt is always computed: its logits are the first answer.
        shared = min(shared, len(prompt) - 1)
        return (kept, shared) if kept is not None and shared >= self._decoder.shared_tokens_min else (None, 0)

    def _reuse(self, kept: Kept[H], shared: int) -> H:
        """A cache with the first `shared` tokens of a kept one: a copy, or the kept one itself where that loses nothing
        or there is no other place."""
        idle = self._prefixes.handles()
        worth = len(kept.ids) - shared > TAIL_TOKENS_MAX or not self._decoder.fits(kept.handle, idle)
        if worth and self._make_room(shared, beside=kept.handle):
            others = [handle for handle in self._prefixes.handles() if handle is not kept.handle]
            opened = self._opened(others)
            if opened is not None:
                self._copy(kept.handle, opened, shared)
                return opened
        self._prefixes.take(kept.handle)
        self._decoder.trim(kept.handle, shared)
        return kept.handle

    def _copy(self, source: H, target: H, length: int) -> None:
        try:
            self._decoder.copy(source, target, length)
        except BaseException:
            self._decoder.close(target)
            raise

    def _open(self) -> H:
        opened = self._opened(self._prefixes.handles())
        assert opened is not None, "more sequences run than there are slots"
        return opened

    def _opened(self, idle: Sequence[H]) -> H | None:
        found = self._decoder.open(idle)
        if found is None:
            return None
        handle, given_up = found
        if given_up is not None:
            self._prefixes.take(given_up)
        return handle

    def _drop_oldest(self) -> bool:
        handle = self._prefixes.oldest()
        if handle is None:
            return False
        self._decoder.close(handle)
        return True

    def _ahead(self, prompt: tuple[int, ...], before: RequestId | None = None) -> tuple[RequestId | None, int]:
        """The running sequence that has read, or will read, most of what `prompt` begins with. Of those that came
        before the request `before`: so nobody waits for somebody who waits for him."""
        best, length = None, 0
        if self._decoder.entries_max == 0:
            return best, length
        for request, other in self._running.items():
            if request == before:
                break
            common = min(common_length(other.job.prompt, prompt), len(prompt) - 1)
            if common > length:
                best, length = request, common
        return best, length

    def _follow_all(self) -> list[Emission]:
        """Those whose copy failed end with that."""
        failed: list[Emission] = []
        for sequence in self._running.values():
            try:
                self._follow(sequence)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                failed.append(_failed(sequence.job, error))
        return failed

    def _follow(self, sequence: _Sequence[H]) -> None:
        """Take over from the sequence ahead as soon as it is there; when it left early, from what else there is."""
        while sequence.awaits is not None:
            ahead = self._running.get(sequence.awaits)
            if ahead is not None:
                if ahead.read >= sequence.awaits_tokens:
                    self._make_room(sequence.awaits_tokens)
                    self._decoder.copy(ahead.handle, sequence.handle, sequence.awaits_tokens)
                    sequence.read, sequence.awaits = sequence.awaits_tokens, None
                return
            prompt = sequence.job.prompt
            kept, shared = self._kept_of(prompt)
            sequence.awaits, common = self._ahead(prompt, before=sequence.job.request)
            if sequence.awaits is not None and common >= shared + AWAITED_TOKENS_MIN:
                sequence.awaits_tokens = common
                continue
            sequence.awaits = None
            if kept is not None:
                self._decoder.close(sequence.handle)
                try:
                    sequence.handle, sequence.read = self._reuse(kept, shared), shared
                except BaseException:
                    sequence.handle = self._open()  # every sequence has one, to its end
                    raise

    def _let_go(self, emissions: Sequence[Emission]) -> None:
        """Whoever ends with these leaves."""
        for emission in emissions:
            if emission.finish is not None:
                self._leave(emission.request, reusable=emission.error is None)

    def _leave(self, request: RequestId, *, reusable: bool) -> None:
        sequence = self._running.pop(request)
        ids = sequence.cached_ids
        gone = self._prefixes.keep(ids, sequence.handle) if reusable and ids else [sequence.handle]
        for handle in gone:
            self._decoder.close(handle)

    def _make_room(self, tokens: int, beside: H | None = None) -> bool:
        """Give up what is kept, the least recently used first, until there is room for so many tokens; `beside` one
        that is needed, and was used last. False when there is none."""
        while not self._decoder.has_room(tokens):
            if self._prefixes.handles()[:1] == [beside] or not self._drop_oldest():
                return False
        return True

    # --- one step -------------------------------------------------------------------------------------------

    def _work(self) -> list[tuple[_Sequence[H], Chunk[H]]]:
        prompts = [
            Unread(request, s.unread) for request, s in self._running.items() if not s.generates and s.awaits is None
        ]
        shares = prompt_shares(prompts, self._chunk_tokens)
        work: list[tuple[_Sequence[H], Chunk[H]]] = []
        for request, s in self._running.items():
            if s.generates:
                work.append((s, Chunk(s.handle, (s.generated[-1],), s.read, s.wanted)))
            elif share := shares.get(request, 0):
                tokens = (*s.job.prompt, *s.generated)[s.read : s.read + share]
                work.append((s, Chunk(s.handle, tokens, s.read, s.wanted if share == s.unread else Wanted.NOTHING)))
        return work

    def _run(self, work: list[tuple[_Sequence[H], Chunk[H]]]) -> list[tuple[_Sequence[H], Any]]:
        """Run all chunks. When that fails, each alone: one sequence's fault ends that sequence only."""
        if not work:
            return []
        self._make_room(sum(len(chunk.tokens) for _, chunk in work))
        try:
            outcomes = self._decoder.run([chunk for _, chunk in work])
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  (told to its client; for everybody it is the worker's to judge)
            if isinstance(error, NoRoom) and len(self._prefixes):
                self.forget()
                return self._run(work)
            if len(work) == 1:
                return [(work[0][0], error)]
            # What logits point to is overwritten by the next run.
            return [(sequence, _own(outcome)) for one in work for sequence, outcome in self._run([one])]
        for sequence, chunk in work:
            sequence.read += len(chunk.tokens)
        return [(sequence, outcome) for (sequence, _), outcome in zip(work, outcomes, strict=True)]

    def _next(self, sequence: _Sequence[H], outcome: Any) -> Emission:
        """Choose the next token of a sequence. Whatever goes wrong here is its own."""
        job = sequence.job
        try:
            token, ended = self._choose(sequence, outcome)
            if token in self._end_ids:
                return Emission(job.request, (), b"", Finish.STOP)
            sequence.generated.append(token)
            data = self._pieces[token]
            logprobs: tuple[TokenLogprob, ...] = ()
            if job.logprobs is not None:
                logprobs = (logprobs_of(outcome, token, job.logprobs, self._pieces.__getitem__),)
        except (ValueError, GrammarBroke) as error:
            return _failed(job, Unusable(error) if isinstance(error, ValueError) else error)
        finish = None
        if ended:
            finish = Finish.STOP
        elif len(sequence.generated) >= job.max_tokens:
            finish = Finish.LENGTH
        return Emission(job.request, (token,), data, finish, logprobs)

    def _choose(self, sequence: _Sequence[H], outcome: Any) -> tuple[int, bool]:
        """The next token, and whether the grammar ends with it."""
        if sequence.wanted is Wanted.MOST_PROBABLE:
            return int(outcome), False
        logits, sampling, prompt = outcome, sequence.job.sampling, sequence.job.prompt
        if is_adjusted(sampling):
            logits = adjusted(logits, sampling, prompt, sequence.generated)
        if sequence.job.constraint is not None:
            logits = masked(logits, sequence.job.constraint.allowed())
        token = sample(logits, sampling, len(prompt) + len(sequence.generated))
        if sequence.job.constraint is None or token in self._end_ids:
            return token, False
        return token, sequence.job.constraint.accept(token)


def _own(outcome: Any) -> Any:
    return outcome.copy() if hasattr(outcome, "copy") else outcome


def _failed(job: Job, error: Exception) -> Emission:
    own = isinstance(error, Unusable | GrammarBroke)
    text = str(error) if own or isinstance(error, CacheLost) else f"{type(error).__name__}: {error}"
    return Emission(job.request, (), b"", Finish.ERROR, error=text, engine_failed=not own)
