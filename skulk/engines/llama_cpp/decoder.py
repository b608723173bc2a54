"""A llama.cpp context with the KV caches of many sequences: one batch per step, whatever its sequences do.

Every sequence has cells of its own, as many as the context: in a pool for all, each token would be compared with the
cells of everybody (a GPU computes them all, a processor looks at each). A finished sequence stays in its place until
another one needs it. Called by one thread only.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skulk.core.errors import ENG_MODEL
from skulk.core.formats.memory_errors import tells_of_memory
from skulk.engines.batching import CacheLost, Chunk, NoRoom, Unusable, Wanted
from skulk.engines.engine import EngineFailure
from skulk.engines.llama_cpp.loading import LibraryLog, threads
from skulk.engines.sampling import most_probable
from skulk.engines.schedule import tokens_max

COPY_BYTES_MAX = 256 * 2**20
"""A copy of all cells of a sequence, used or not, that takes less than reading a few hundred tokens."""
SEQUENCES_MAX = 256
"""`LLAMA_MAX_SEQ`."""
FLASH_ATTENTION_WHERE_SUPPORTED = -1
"""`LLAMA_FLASH_ATTN_TYPE_AUTO`: without it the compute buffer grows with heads × context."""
CACHE_TYPES = {"f16": 1, "q8_0": 8}
"""Option `kvCache` → `enum ggml_type`."""
_NO_ROOM, _NO_MEMORY = 1, -2
"""What `llama_decode` answers when the KV cache has no place for the tokens, and when an allocation failed."""


@dataclass(frozen=True, slots=True)
class Cache:
    """One sequence of the context."""

    id: int


class LlamaDecoder:
    """`Decoder` of one loaded model. Raises MemoryError or EngineFailure when the context cannot be made."""

    shared_tokens_min = 32
    """Places are as few as slots: whoever copies a few tokens takes one from a whole conversation."""

    def __init__(
        self,
        library: Any,
        model: Any,
        messages: LibraryLog,
        *,
        vocabulary: int,
        context_tokens: int,
        slots: int,
        chunk_tokens: int,
        cache_type: str,
    ) -> None:
        self._library = library
        self._messages = messages
        self._row = ctypes.c_float * vocabulary
        """The logits of one token, as the library lays them out."""
        whole = not (
            library.llama_model_n_swa(model)
            or library.llama_model_is_recurrent(model)
            or library.llama_model_is_hybrid(model)
        )
        # A window or a recurrent state has forgotten the middle of a sequence: no part of it can be taken.
        self.entries_max = slots if whole else 0
        self._batch_tokens = tokens_max(chunk_tokens) + slots
        settings = library.llama_context_default_params()
        settings.n_ctx = context_tokens * slots
        settings.n_batch = settings.n_ubatch = self._batch_tokens
        settings.n_seq_max = slots
        settings.kv_unified = False
        # Logits are wanted of one token per sequence; by default there would be room for those of a whole batch. The
        # library insists on one for each sequence that it may hold.
        settings.n_outputs_max = settings.n_seq_max
        settings.n_threads = settings.n_threads_batch = threads()
        settings.flash_attn_type = FLASH_ATTENTION_WHERE_SUPPORTED
        settings.type_k = settings.type_v = CACHE_TYPES[cache_type]
        settings.no_perf = True
        before = messages.buffer_bytes
        messages.complaints()
        self._context = library.llama_init_from_model(model, settings)
        self._sequence_bytes = (messages.buffer_bytes - before) // slots
        # Also after success: what it complained of, it then found a way around.
        reason = messages.complaints()
        if not self._context:
            message = f"llama.cpp cannot make a context of {settings.n_ctx} tokens: "
            message += reason or "it gave no reason; want of memory is the likeliest"
            no_memory = not reason or tells_of_memory(reason)
            raise MemoryError(message) if no_memory else EngineFailure(ENG_MODEL, message)
        self._memory = library.llama_get_memory(self._context)
        self._batch = library.llama_batch_init(self._batch_tokens, 0, 1)
        self._tokens = np.ctypeslib.as_array(self._batch.token, (self._batch_tokens,))
        self._positions = np.ctypeslib.as_array(self._batch.pos, (self._batch_tokens,))
        self._outputs = np.ctypeslib.as_array(self._batch.logits, (self._batch_tokens,))
        np.ctypeslib.as_array(self._batch.n_seq_id, (self._batch_tokens,))[:] = 1
        # The library allots a number per token; numbers that lie side by side can be written at once.
        self._owners = np.zeros(self._batch_tokens, np.int32)
        for i in range(self._batch_tokens):
            place = ctypes.c_void_p(self._owners.ctypes.data + i * self._owners.itemsize)
            self._batch.seq_id[i] = ctypes.cast(place, ctypes.POINTER(library.llama_seq_id))
        self._slots = slots
        self._free = set(range(slots))

    def has_room(self, tokens: int) -> bool:
        return True

    def open(self, idle: Sequence[Cache]) -> tuple[Cache, Cache | None] | None:
        ranks = {cache.id: rank for rank, cache in enumerate(idle)}
        places = [*self._free, *ranks]
        if not places:
            return None
        # The library computes sequences in one go that lie side by side.
        place = min(places, key=lambda p: (-self._neighbours(p, ranks), ranks.get(p, -1), p))
        given_up = idle[ranks[place]] if place in ranks else None
        if given_up is not None:
            self.close(given_up)
        self._free.remove(place)
        return Cache(place), given_up

    def fits(self, handle: Cache, idle: Sequence[Cache]) -> bool:
        ranks = {cache.id: rank for rank, cache in enumerate(idle)}
        nobody = len(self._free) + len(ranks) == self._slots
        return nobody or self._neighbours(handle.id, ranks) > 0 or self._sequence_bytes > COPY_BYTES_MAX

    def _neighbours(self, place: int, idle: Mapping[int, int]) -> int:
        """How many of the places beside this one are of sequences that run."""
        return sum(0 <= p < self._slots and p not in self._free and p not in idle for p in (place - 1, place + 1))

    def copy(self, source: Cache, target: Cache, length: int) -> None:
        # Between places only whole sequences are copied.
        self._library.llama_memory_seq_cp(self._memory, source.id, target.id, -1, -1)
        self.trim(target, length)

    def trim(self, handle: Cache, length: int) -> None:
        self._cut(handle, length)

    def close(self, handle: Cache) -> None:
        self._cut(handle, 0)
        self._free.add(handle.id)

    def run(self, chunks: Sequence[Chunk[Cache]]) -> list[Any]:
        # Neighbours are found in the order of the batch.
        order = sorted(range(len(chunks)), key=lambda i: chunks[i].handle.id)
        rows = dict(zip(order, self._fill([chunks[i] for i in order]), strict=True))
        answer = self._library.llama_decode(self._context, self._batch)
        if answer != 0:
            # What was done before the failure is undone, so that the step can be tried again in another way.
            undone = [self._cut(chunk.handle, chunk.start) for chunk in chunks]
            reason = self._messages.complaints()
            if answer == _NO_ROOM:
                raise NoRoom(f"the KV cache has no room for {self._batch.n_tokens} tokens more")
            message = f"llama_decode failed with {answer}: {reason or 'no reason given'}"
            # A device that has no memory left for the computation shows as a failure like any other.
            no_memory = answer == _NO_MEMORY or tells_of_memory(reason)
            if no_memory:
                raise MemoryError(message)
            if all(undone):
                raise RuntimeError(message)
            for chunk in chunks:
                self._cut(chunk.handle, 0)
            return [CacheLost(message)] * len(chunks)
        return [self._read(chunk, rows[i]) for i, chunk in enumerate(chunks)]

    def _cut(self, handle: Cache, length: int) -> bool:
        """Leave so many tokens of a sequence. False when that is impossible: a recurrent state goes back to its
        beginning only."""
        return bool(self._library.llama_memory_seq_rm(self._memory, handle.id, length or -1, -1))

    def _fill(self, chunks: Sequence[Chunk[Cache]]) -> list[int]:
        """Write the batch; returns the row of each chunk's last token."""
        batch, at, rows = self._batch, 0, []
        for chunk in chunks:
            count = len(chunk.tokens)
            end = at + count
            if count == 1:  # nearly always, and an element is written in a fraction of a slice's time
                self._tokens[at], self._positions[at], self._owners[at] = chunk.tokens[0], chunk.start, chunk.handle.id
            else:
                self._tokens[at:end] = chunk.tokens
                self._positions[at:end] = range(chunk.start, chunk.start + count)
                self._outputs[at:end] = 0
                self._owners[at:end] = chunk.handle.id
            self._outputs[end - 1] = chunk.wanted is not Wanted.NOTHING
            rows.append(end - 1)
            at = end
        batch.n_tokens = at
        return rows

    def _read(self, chunk: Chunk[Cache], row: int) -> Any:
        if chunk.wanted is Wanted.NOTHING:
            return None
        found = self._library.llama_get_logits_ith(self._context, row)
        values: Any = self._row.from_address(ctypes.addressof(found.contents))
        logits = np.frombuffer(values, np.float32)
        if chunk.wanted is Wanted.LOGITS:
            return logits
        try:
            return most_probable(logits)
        except ValueError as error:
            return Unusable(error)
