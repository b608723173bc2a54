"""Generation with mlx-lm models: one sequence at a time, its prompt in chunks, a token per step.

Sampling is `skulk.engines.sampling`, never mlx's own generator: the next token is a function of seed and position.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from skulk.core.domain.ids import RequestId
from skulk.core.domain.requests import Finish, GenerationRequest, Sampling
from skulk.core.domain.runners import Launch
from skulk.engines.engine import Emission, Job, LoadProgress, Prompt, WarmUpProgress
from skulk.engines.mlx.loading import LoadedModel, load_model, prepare_library
from skulk.engines.rendering import prompt_of
from skulk.engines.sampling import sample
from skulk.engines.warming import generate_a_little

PREFILL_CHUNK_TOKENS = 512
"""The most that a cancel waits for while a prompt is read; larger chunks gain little speed on a GPU."""
PREFILL_CHUNK_TOKENS_CPU = 64
"""On a CPU the cost is linear in the tokens from 16 up (5.3 CPU-seconds for 512 tokens of a 3 M parameter model,
whatever the chunk), so small chunks cost nothing and keep a step far from its deadline. Never chosen by the clock:
how a prompt is cut can change the last bits of bfloat16 results."""
CACHE_CLEAR_TOKENS = 256
"""mlx keeps freed buffers for reuse; while a cache grows they never fit again and pile up."""


@dataclass(slots=True)
class _Sequence:
    job: Job
    cache: list[Any]
    read: int = 0
    """Prompt tokens that are in the cache."""
    generated: list[int] = field(default_factory=list)


class MlxEngine:
    """`Engine` for mlx-lm. Every call to mlx happens in the thread that called `load`."""

    slots = 1

    def __init__(self, launch: Launch) -> None:
        self._backend = launch.backend
        self._model_dir = Path(launch.model_dir)
        self._model_name = launch.model
        self._token_delimited = launch.reasoning_format == "token_delimited"
        self.version = ""
        self._mx: Any = None
        self._make_cache: Any = None
        self._chunk_tokens = PREFILL_CHUNK_TOKENS
        self._loaded: LoadedModel
        self._sequence: _Sequence | None = None

    def load(self, progress: LoadProgress) -> None:
        self.version = prepare_library(self._backend)
        self._mx = importlib.import_module("mlx.core")
        if self._mx.default_device() == self._mx.cpu:
            self._chunk_tokens = PREFILL_CHUNK_TOKENS_CPU
        self._make_cache = importlib.import_module("mlx_lm.models.cache").make_prompt_cache
        self._loaded = load_model(self._model_dir, progress)

    def warm_up(self, progress: WarmUpProgress) -> None:
        generate_a_little(self, progress)

    def render(self, request: GenerationRequest) -> Prompt:
        def ids(text: str) -> tuple[int, ...]:
            return tuple(self._loaded.tokenizer.encode(text, add_special_tokens=False).ids)

        return prompt_of(self._loaded.template, self._model_name, request, ids, token_delimited=self._token_delimited)

    def start(self, job: Job) -> None:
        assert self._sequence is None, "mlx runs one sequence at a time"
        self._sequence = _Sequence(job, self._make_cache(self._loaded.model))

    def step(self) -> tuple[Emission, ...]:
        sequence = self._sequence
        if sequence is None:
            return ()
        unread = len(sequence.job.prompt) - sequence.read
        if unread > 1:
            self._read_prompt(sequence, min(unread - 1, self._chunk_tokens))
            return ()
        emission = self._next(sequence)
        if emission.finish is not None:
            self.cancel(sequence.job.request)
        return (emission,)

    def cancel(self, request: RequestId) -> None:
        if self._sequence is not None and self._sequence.job.request == request:
            self._sequence = None
            self._mx.clear_cache()

    def memory_bytes(self) -> int | None:
        return int(self._mx.get_active_memory() + self._mx.get_cache_memory())

    def _read_prompt(self, sequence: _Sequence, count: int) -> None:
        """Put the next `count` prompt tokens into the cache. The last prompt token is left for `_next`."""
        chunk = sequence.job.prompt[sequence.read : sequence.read + count]
        self._loaded.model(self._mx.array([chunk]), cache=sequence.cache)
        self._mx.eval([layer.state for layer in sequence.cache])
        self._mx.clear_cache()
        sequence.read += count

    def _next(self, sequence: _Sequence) -> Emission:
        job = sequence.job
        last = sequence.generated[-1] if sequence.generated else job.prompt[-1]
        logits = self._loaded.model(self._mx.array([[last]]), cache=sequence.cache)[0, -1]
        sequence.read = len(job.prompt)
        token = self._choose(logits, job.sampling, len(job.prompt) + len(sequence.generated))
        if token in self._loaded.eos_ids:
            return Emission(job.request, (), b"", Finish.STOP)
        sequence.generated.append(token)
        if len(sequence.generated) % CACHE_CLEAR_TOKENS == 0:
            self._mx.clear_cache()
        full = len(sequence.generated) >= job.max_tokens
        return Emission(job.request, (token,), self._loaded.vocabulary.data(token), Finish.LENGTH if full else None)

    def _choose(self, logits: Any, sampling: Sampling, position: int) -> int:
        if sampling.temperature <= 0:
            # The same as `sample` at temperature 0, on the device: two numbers are read back, not the vocabulary.
            peak, token = self._mx.max(logits), self._mx.argmax(logits)
            self._mx.eval(peak, token)
            if not math.isfinite(peak.item()):
                raise ValueError(f"the highest logit is {peak.item()}: the model's output is unusable")
            return int(token.item())
        return sample(np.array(logits.astype(self._mx.float32)), sampling, position)
