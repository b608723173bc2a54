"""The engine `llama_cpp`: what is between a runner and llama.cpp. Batching is shared with the other engine."""

from __future__ import annotations

from pathlib import Path

from skulk.core.domain.ids import RequestId
from skulk.core.domain.requests import GenerationRequest
from skulk.core.domain.runners import Launch
from skulk.engines.batching import Batch
from skulk.engines.constraint import Grammars
from skulk.engines.engine import Emission, Job, LoadProgress, Prompt, WarmUpProgress
from skulk.engines.llama_cpp.decoder import SEQUENCES_MAX, Cache, LlamaDecoder
from skulk.engines.llama_cpp.loading import LibraryLog, LoadedModel, load_model, prepare_library
from skulk.engines.rendering import prompt_of
from skulk.engines.warming import generate_a_little

CPU = "llama_cpp-cpu"
"""The backend without a device."""
PREFILL_CHUNK_TOKENS = 512
"""The most that a cancel, and everybody's next token, waits for; larger chunks gain little speed on a GPU."""
PREFILL_CHUNK_TOKENS_CPU = 256
"""On a CPU a larger chunk reads no faster and holds up the others longer; but the last of many new requests waits for a
step of all others for every chunk that is read before (128 instead of 256: 7 % longer, 16 prompts of 64 tokens)."""


class LlamaCppEngine:
    """`Engine` for llama.cpp. Every call to the library happens in the thread that called `load`, except those of
    `render` to the tokeniser, which only reads the vocabulary."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._token_delimited = launch.reasoning_format == "token_delimited"
        self.slots = min(launch.concurrency, SEQUENCES_MAX)
        # A CPU needs as long for two prompts as for one after the other; the first would wait for nothing.
        self.reads_together = launch.backend != CPU
        self.version = ""
        self._messages: LibraryLog
        self._loaded: LoadedModel
        self._batch: Batch[Cache]
        self._grammars: Grammars
        self._piece_bytes_max = 0

    def load(self, progress: LoadProgress) -> None:
        launch = self._launch
        library, self.version = prepare_library()
        self._messages = LibraryLog(library)
        self._loaded = load_model(
            library, self._messages, launch.backend, Path(launch.model_dir), launch.gguf_file, progress
        )
        tokenizer = self._loaded.tokenizer
        chunk_tokens = PREFILL_CHUNK_TOKENS_CPU if launch.backend == CPU else PREFILL_CHUNK_TOKENS
        decoder = LlamaDecoder(
            library,
            self._loaded.model,
            self._messages,
            vocabulary=tokenizer.size,
            context_tokens=launch.context_tokens,
            slots=self.slots,
            chunk_tokens=chunk_tokens,
            cache_type=str(launch.options.get("kvCache", "f16")),
        )
        pieces = [tokenizer.data(token) for token in range(tokenizer.size)]
        self._piece_bytes_max = max(map(len, pieces))
        end_ids = self._loaded.eos_ids
        self._grammars = Grammars(pieces, tokenizer.special_ids(), sorted(end_ids), tokenizer.encode)
        self._batch = Batch(decoder, end_ids, pieces, chunk_tokens)

    def warm_up(self, progress: WarmUpProgress) -> None:
        generate_a_little(self, progress)
        self._batch.forget()

    def render(self, request: GenerationRequest) -> Prompt:
        return prompt_of(
            self._loaded.template,
            self._launch.model,
            request,
            self._loaded.tokenizer.encode,
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
        """Weights, cache and compute buffers, on whichever device they are, to about 0.01 MiB each."""
        return self._messages.buffer_bytes or None
