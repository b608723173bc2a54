"""An mlx-lm model with the KV caches of many sequences.

A prompt is read into a cache of its own, for which short ones are read together. Sequences that generate share batch
caches of mlx-lm, a row each, padded on the left to the longest; who comes is appended, who goes is cut out. Called by
one thread only.
"""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skulk.core.formats.memory_errors import is_out_of_memory
from skulk.engines.batching import CacheLost, Chunk, Unusable, Wanted

ENTRIES_MAX = 16
"""Kept conversations beyond those that run: their memory is freed as soon as somebody needs it."""
TOGETHER_MAX = 8
"""So many prompts are read in one pass, if none is shorter than half of the longest."""
CACHE_CLEAR_STEPS = 256
"""mlx keeps freed buffers for reuse; while a cache grows they never fit again and pile up."""


@dataclass(eq=False, slots=True)
class Cache:
    """One sequence. `layers`: a cache of mlx-lm per layer, None while the sequence is a row of the batch."""

    layers: list[Any] | None
    length: int = 0


class MlxDecoder:
    """`Decoder` of one loaded model."""

    shared_tokens_min = 1
    """A copy takes as long as it is; what a template puts before every prompt is worth it."""

    def __init__(self, model: Any, *, context_tokens: int, slots: int) -> None:
        self._mx = importlib.import_module("mlx.core")
        self._caches = importlib.import_module("mlx_lm.models.cache")
        self._model = model
        self._room_tokens = context_tokens * slots
        layers = self._caches.make_prompt_cache(model)
        plain = all(type(layer) is self._caches.KVCache for layer in layers)
        # A window or a recurrent state has forgotten the middle of a sequence: no part of it can be taken.
        self.entries_max = ENTRIES_MAX if plain else 0
        self._batches = all(hasattr(layer, "merge") for layer in layers)
        """Kinds of caches that cannot be joined are run one after the other."""
        self._open: set[Cache] = set()
        self._rows: list[Cache] = []
        self._batch: list[Any] = []
        """A batch cache per layer, its rows those of `_rows`."""
        self._steps = 0

    def open(self, idle: Sequence[Cache]) -> tuple[Cache, Cache | None] | None:
        cache = Cache(self._caches.make_prompt_cache(self._model))
        self._open.add(cache)
        return cache, None

    def fits(self, handle: Cache, idle: Sequence[Cache]) -> bool:
        return True

    def copy(self, source: Cache, target: Cache, length: int) -> None:
        layers = source.layers or self._row(source)
        target.layers = [copy.copy(layer) for layer in layers]
        for layer in target.layers:
            # Arrays of their own: writing into an array shows in everything that holds the same object.
            layer.keys, layer.values = (
                self._mx.contiguous(array[..., :length, :]) for array in (layer.keys, layer.values)
            )
            layer.offset = length
        target.length = length

    def close(self, handle: Cache) -> None:
        self._open.discard(handle)
        handle.layers = None
        if handle in self._rows:
            self._take_out([handle])

    def trim(self, handle: Cache, length: int) -> None:
        if handle.layers is None:
            self._take_out([handle])
        for layer in handle.layers or ():
            layer.trim(handle.length - length)
        handle.length = length

    def has_room(self, tokens: int) -> bool:
        padded = max((cache.length for cache in self._rows), default=0) * len(self._rows)
        held = padded + sum(cache.length for cache in self._open if cache.layers is not None)
        return held + tokens <= self._room_tokens

    def run(self, chunks: Sequence[Chunk[Cache]]) -> list[Any]:
        outcomes: list[Any] = [None] * len(chunks)
        first: dict[int, Chunk[Cache]] = {}
        last: dict[int, Chunk[Cache]] = {}
        for i, chunk in enumerate(chunks):
            # Logits would be computed of every token of a chunk, so the last one goes by itself.
            before = len(chunk.tokens) - (chunk.wanted is not Wanted.NOTHING)
            if before > 0:
                first[i] = Chunk(chunk.handle, chunk.tokens[:before], chunk.start, Wanted.NOTHING)
            if before < len(chunk.tokens):
                last[i] = Chunk(chunk.handle, chunk.tokens[before:], chunk.start + before, chunk.wanted)
        for group in self._groups(first):
            if len(group) == 1 or not self._read_together([first[i] for i in group]):
                for i in group:
                    outcomes[i] = self._alone(first[i])
                    if outcomes[i] is not None:
                        last.pop(i, None)
        # A batch of caches cannot be made of an empty one, and one sequence needs none.
        alone = not self._batches or (len(last) == 1 and not self._rows)
        single = {i: chunk for i, chunk in last.items() if alone or chunk.start == 0}
        for i, chunk in single.items():
            outcomes[i] = self._alone(chunk)
        rows = {i: chunk for i, chunk in last.items() if i not in single}
        for i, outcome in zip(rows, self._together([*rows.values()]), strict=True):
            outcomes[i] = outcome
        self._steps += 1
        if self._steps % CACHE_CLEAR_STEPS == 0 or len(last) < len(chunks):
            self._mx.clear_cache()
        return outcomes

    def _groups(self, chunks: Mapping[int, Chunk[Cache]]) -> list[list[int]]:
        """What is read in one pass: chunks of about the same length, unless more than that is in a cache already, which
        would have to be copied."""
        groups: list[list[int]] = []
        longest = 0
        for i in sorted(chunks, key=lambda i: -len(chunks[i].tokens)):
            length = len(chunks[i].tokens)
            if self.entries_max == 0 or chunks[i].start > length or chunks[i].handle.layers is None:
                groups.append([i])
            elif longest and 2 * length >= longest and len(groups[0]) < TOGETHER_MAX:
                groups[0].append(i)
            else:
                groups.insert(0, [i])
                longest = length
        return groups

    def _read_together(self, chunks: Sequence[Chunk[Cache]]) -> bool:
        """Chunks of sequences with caches of their own. False when it failed, and nothing has changed."""
        longest = max(len(chunk.tokens) for chunk in chunks)
        padding = [longest - len(chunk.tokens) for chunk in chunks]
        rows = [list(chunk.tokens) + [0] * pad for pad, chunk in zip(padding, chunks, strict=True)]
        try:
            columns = zip(*(chunk.handle.layers or () for chunk in chunks), strict=True)
            batch = [column[0].merge(column) for column in columns]
            for layer in batch:
                layer.step = longest  # it lives for one pass: no room to grow
                layer.prepare(right_padding=padding)
            self._model(self._mx.array(rows), cache=batch)
            for layer in batch:
                layer.finalize()
            caches = [[layer.extract(row) for layer in batch] for row in range(len(chunks))]
            self._mx.eval([layer.state for layers in caches for layer in layers])
        except Exception as error:  # noqa: BLE001  (each is tried by itself)
            _memory_or(error)
            return False
        for chunk, layers in zip(chunks, caches, strict=True):
            chunk.handle.layers, chunk.handle.length = layers, chunk.start + len(chunk.tokens)
        return True

    def _alone(self, chunk: Chunk[Cache]) -> Any:
        """A chunk of a sequence with a cache of its own."""
        handle = chunk.handle
        try:
            if handle.layers is None:
                self._take_out([handle])
            logits = self._model(self._mx.array([chunk.tokens]), cache=handle.layers)
            if chunk.wanted is Wanted.NOTHING:
                self._mx.eval([layer.state for layer in handle.layers or ()])
                outcome = None
            else:
                (outcome,) = self._read(logits[:, -1], [chunk])
        except Exception as error:  # noqa: BLE001  (its sequence ends with it)
            return _memory_or(error)
        handle.length = chunk.start + len(chunk.tokens)
        return outcome

    def _together(self, chunks: Sequence[Chunk[Cache]]) -> list[Any]:
        """One token of every sequence of the batch."""
        if not chunks:
            return []
        handles = [chunk.handle for chunk in chunks]
        try:
            self._take_out([handle for handle in self._rows if handle not in handles])
            self._put_in([handle for handle in handles if handle.layers is not None])
            chunk_of = {chunk.handle: chunk for chunk in chunks}
            ordered = [chunk_of[handle] for handle in self._rows]
            logits = self._model(self._mx.array([chunk.tokens for chunk in ordered]), cache=self._batch)
            outcomes = dict(zip(self._rows, self._read(logits[:, -1], ordered), strict=True))
        except Exception as error:  # noqa: BLE001  (the caches of all of them are in an unknown state)
            reason = _memory_or(error)
            for handle in {*handles, *self._rows}:
                handle.layers, handle.length = self._caches.make_prompt_cache(self._model), 0
            self._rows, self._batch = [], []
            return [CacheLost(f"{type(reason).__name__}: {reason}")] * len(chunks)
        for handle in handles:
            handle.length += 1
        return [outcomes[handle] for handle in handles]

    def _read(self, logits: Any, chunks: Sequence[Chunk[Cache]]) -> list[Any]:
        """Outcomes of `logits` [chunks, vocabulary]; everything is computed at once."""
        mx = self._mx
        if logits.dtype == mx.float32 and mx.default_device() == mx.cpu:
            # numpy finds the highest of a row in a tenth of mlx's time on a processor.
            mx.eval(logits)
            table = np.array(logits, copy=False)
            highest = [int(row.argmax()) for row in table]
            return [
                _usable(float(row[index]), row if chunk.wanted is Wanted.LOGITS else index)
                for row, index, chunk in zip(table, highest, chunks, strict=True)
            ]
        peaks, indices = mx.max(logits, axis=-1), mx.argmax(logits, axis=-1)
        rows = {i: logits[i].astype(mx.float32) for i, chunk in enumerate(chunks) if chunk.wanted is Wanted.LOGITS}
        mx.eval(peaks, indices, *rows.values())
        # Views: copies of this size are given back to the system and faulted in again with every token.
        return [
            _usable(peak, np.array(rows[i], copy=False) if i in rows else index)
            for i, (peak, index) in enumerate(zip(peaks.tolist(), indices.tolist(), strict=True))
        ]

    # --- the batch ------------------------------------------------------------------------------------------

    def _put_in(self, handles: list[Cache]) -> None:
        """Layer by layer, so that there are never two copies of more than one."""
        if not handles:
            return
        own = [handle.layers or [] for handle in handles]
        for i in range(len(own[0])):
            joined = own[0][i].merge([layers[i] for layers in own])
            if self._rows:
                self._batch[i].extend(joined)
            else:
                self._batch.append(joined)
            del joined
            for layers in own:
                layers[i] = None
            self._settle(self._batch[i])
        for handle in handles:
            handle.layers = None
        self._rows += handles

    def _take_out(self, handles: list[Cache]) -> None:
        """Rows that are still open get caches of their own; the others are dropped. Layer by layer too."""
        if not handles:
            return
        leaving = [(handle, self._rows.index(handle)) for handle in handles if handle in self._open]
        kept = [i for i, handle in enumerate(self._rows) if handle not in handles]
        own: list[list[Any]] = [[] for _ in leaving]
        for i, batch in enumerate(self._batch):
            for layers, (_, row) in zip(own, leaving, strict=True):
                layers.append(batch.extract(row))
                self._settle(layers[-1])
            if kept:
                batch.filter(kept)
                self._settle(batch)
            else:
                self._batch[i] = None
        for layers, (handle, _) in zip(own, leaving, strict=True):
            handle.layers = layers
        self._rows = [self._rows[i] for i in kept]
        if not kept:
            self._batch = []

    def _settle(self, layer: Any) -> None:
        """Compute it, and give back what it was computed from."""
        self._mx.eval(layer.state)
        self._mx.clear_cache()

    def _row(self, handle: Cache) -> list[Any]:
        """A copy of a row as caches of their own."""
        layers = [batch.extract(self._rows.index(handle)) for batch in self._batch]
        self._mx.eval([layer.state for layer in layers])
        return layers


def _usable(peak: float, outcome: Any) -> Any:
    """`peak`: the highest logit; NaN when any of them is."""
    if math.isfinite(peak):
        return outcome
    return Unusable(f"the highest logit is {peak}: the model's output is unusable")


def _memory_or(error: Exception) -> Exception:
    """What mlx says when an allocation failed is a MemoryError, which no sequence survives; else the error itself."""
    if is_out_of_memory(error):
        raise MemoryError(str(error)) from error
    return error
