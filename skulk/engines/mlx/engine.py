"""The engine `mlx`: what is between a runner and mlx-lm. Batching is shared with the other engine."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from skulk.core.domain.ids import RequestId
from skulk.core.domain.requests import GenerationRequest
from skulk.core.domain.runners import Launch
from skulk.engines.batching import Batch
from skulk.engines.constraint import Grammars
from skulk.engines.engine import Emission, Job, LoadProgress, Prompt, WarmUpProgress
from skulk.engines.mlx.decoder import Cache, MlxDecoder
from skulk.engines.mlx.loading import LoadedModel, load_model, prepare_library
from skulk.engines.rendering import prompt_of
from skulk.engines.warming import generate_a_little

PREFILL_CHUNK_TOKENS = 512
"""The most that a cancel, and everybody's next token, waits for; larger chunks gain little speed on a GPU."""
PREFILL_CHUNK_TOKENS_CPU = 64
"""On a CPU the cost is linear in the tokens from 16 up (5.3 CPU-seconds for 512 tokens of a 3 M parameter model,
whatever the chunk), so small chunks cost nothing and keep a step far from its deadline. Never chosen by the clock:
how a prompt is cut can change the last bits of bfloat16 results."""
PREFILL_CHUNK_TOKENS_CPU_FLOAT32 = 256
"""Products of float32 matrices are the ones for which mlx has a library on CPUs: there a token of many costs a tenth of
one alone, and a step more is what costs."""


class MlxEngine:
    """`Engine` for mlx-lm. Every call to mlx happens in the thread that called `load`; `render` makes none."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._token_delimited = launch.reasoning_format == "token_delimited"
        self.slots = launch.concurrency
        self.reads_together = True
        self.version = ""
        self._mx: Any = None
        self._loaded: LoadedModel
        self._batch: Batch[Cache]
        self._grammars: Grammars
        self._piece_bytes_max = 0

    def load(self, progress: LoadProgress) -> None:
        launch = self._launch
        self.version = prepare_library(launch.backend)
        self._mx = importlib.import_module("mlx.core")
        on_cpu = self._mx.default_device() == self._mx.cpu
        self._loaded = load_model(Path(launch.model_dir), progress)
        chunk_tokens = self._chunk_tokens_cpu() if on_cpu else PREFILL_CHUNK_TOKENS
        decoder = MlxDecoder(self._loaded.model, context_tokens=launch.context_tokens, slots=self.slots)
        pieces = [self._loaded.vocabulary.data(token) for token in range(self._vocabulary_size())]
        self._piece_bytes_max = max(map(len, pieces))
        end_ids = self._loaded.eos_ids
        self._grammars = Grammars(
            pieces,
            self._loaded.vocabulary.special_ids(),
            sorted(end_ids),
            self._encode,
        )
        self._batch = Batch(decoder, end_ids, pieces, chunk_tokens)

    def warm_up(self, progress: WarmUpProgress) -> None:
        generate_a_little(self, progress)
        self._batch.forget()
        self._mx.clear_cache()

    def render(self, request: GenerationRequest) -> Prompt:
        return prompt_of(
            self._loaded.template,
            self._launch.model,
            request,
            self._encode,
            self._grammars,
            token_delimited=self._token_delimited,
            context_tokens=self._launch.context_tokens,
            piece_bytes_max=self._piece_bytes_max,
        )

    def start(self, job: Job) -> int:
        return self._batch.start(job)

    def step(self) -> tuple[Emission, ...]:
        return self._batch.step()

    def cancel(self, request: RequestId) -> None:
        self._batch.cancel(request)

    def memory_bytes(self) -> int | None:
        return int(self._mx.get_active_memory() + self._mx.get_cache_memory())

    def _encode(self, text: str) -> tuple[int, ...]:
        # The only one of the library's functions that lets other threads run meanwhile.
        (encoded,) = self._loaded.tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return tuple(encoded.ids)

    def _chunk_tokens_cpu(self) -> int:
        arrays = importlib.import_module("mlx.utils").tree_flatten(self._loaded.model.parameters())
        plain = all(array.dtype == self._mx.float32 for _, array in arrays)
        return PREFILL_CHUNK_TOKENS_CPU_FLOAT32 if plain else PREFILL_CHUNK_TOKENS_CPU

    def _vocabulary_size(self) -> int:
        """Rows of the output: models are padded beyond their tokenizer."""
        logits = self._loaded.model(self._mx.array([[0]]))
        return int(logits.shape[-1])
