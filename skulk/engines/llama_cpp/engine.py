"""Generation with llama.cpp: one sequence at a time, its prompt in chunks, a token per step.

Sampling is `skulk.engines.sampling` on the model's raw logits, never the library's samplers: the next token is a
function of seed and position. The batch carries sequence ids, so that several sequences are a matter of this file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from skulk.core.domain.ids import RequestId
from skulk.core.domain.requests import Finish, GenerationRequest
from skulk.core.domain.runners import Launch
from skulk.engines.engine import Emission, Job, LoadProgress, Prompt, WarmUpProgress
from skulk.engines.llama_cpp.loading import LibraryLog, LoadedModel, load_model, prepare_library, threads
from skulk.engines.rendering import prompt_of
from skulk.engines.sampling import sample
from skulk.engines.warming import generate_a_little

PREFILL_CHUNK_TOKENS = 512
"""The most that a cancel waits for while a prompt is read; larger chunks gain little speed on a GPU."""
PREFILL_CHUNK_TOKENS_CPU = 128
"""On a CPU larger chunks gain nothing, and the compute buffer grows with them (a quarter of 512's)."""
FLASH_ATTENTION_WHERE_SUPPORTED = -1
"""`LLAMA_FLASH_ATTN_TYPE_AUTO`: without it the compute buffer grows with heads × context."""
_NO_ROOM = 1
"""What `llama_decode` answers when the KV cache has no place for the tokens."""


@dataclass(slots=True)
class _Sequence:
    job: Job
    read: int = 0
    """Prompt tokens that are in the cache."""
    generated: list[int] = field(default_factory=list)


class LlamaCppEngine:
    """`Engine` for llama.cpp. Every call to the library happens in the thread that called `load`."""

    slots = 1

    def __init__(self, launch: Launch) -> None:
        self._backend = launch.backend
        self._model_dir = Path(launch.model_dir)
        self._gguf_file = launch.gguf_file
        self._model_name = launch.model
        self._context_tokens = launch.context_tokens
        self._token_delimited = launch.reasoning_format == "token_delimited"
        self._chunk_tokens = PREFILL_CHUNK_TOKENS_CPU if launch.backend == "llama_cpp-cpu" else PREFILL_CHUNK_TOKENS
        self.version = ""
        self._library: Any = None
        self._messages: LibraryLog
        self._loaded: LoadedModel
        self._context: Any = None
        self._memory: Any = None
        self._batch: Any = None
        self._sequence: _Sequence | None = None

    def load(self, progress: LoadProgress) -> None:
        self._library, self.version = prepare_library()
        self._messages = LibraryLog(self._library)
        self._loaded = load_model(
            self._library, self._messages, self._backend, self._model_dir, self._gguf_file, progress
        )
        self._open_context()

    def warm_up(self, progress: WarmUpProgress) -> None:
        generate_a_little(self, progress)

    def render(self, request: GenerationRequest) -> Prompt:
        ids = self._loaded.tokenizer.encode
        return prompt_of(self._loaded.template, self._model_name, request, ids, token_delimited=self._token_delimited)

    def start(self, job: Job) -> None:
        assert self._sequence is None, "llama_cpp runs one sequence at a time"
        self._sequence = _Sequence(job)

    def step(self) -> tuple[Emission, ...]:
        sequence = self._sequence
        if sequence is None:
            return ()
        prompt = sequence.job.prompt
        if sequence.read < len(prompt):
            chunk = prompt[sequence.read : sequence.read + self._chunk_tokens]
            whole = sequence.read + len(chunk) == len(prompt)
            self._decode(chunk, sequence.read, wants_logits=whole)
            sequence.read += len(chunk)
            if not whole:
                return ()
        else:
            self._decode((sequence.generated[-1],), len(prompt) + len(sequence.generated) - 1, wants_logits=True)
        emission = self._next(sequence)
        if emission.finish is not None:
            self.cancel(sequence.job.request)
        return (emission,)

    def cancel(self, request: RequestId) -> None:
        if self._sequence is not None and self._sequence.job.request == request:
            self._sequence = None
            self._library.llama_memory_seq_rm(self._memory, 0, -1, -1)

    def memory_bytes(self) -> int | None:
        """Weights, cache and compute buffers, on whichever device they are, to about 0.01 MiB each."""
        return self._messages.buffer_bytes or None

    def _open_context(self) -> None:
        library = self._library
        settings = library.llama_context_default_params()
        settings.n_ctx = self._context_tokens
        settings.n_batch = settings.n_ubatch = self._chunk_tokens
        settings.n_seq_max = self.slots
        # Logits are wanted of one token per sequence; by default there would be room for those of a whole batch.
        settings.n_outputs_max = self.slots
        settings.n_threads = settings.n_threads_batch = threads()
        settings.flash_attn_type = FLASH_ATTENTION_WHERE_SUPPORTED
        settings.no_perf = True
        self._context = library.llama_init_from_model(self._loaded.model, settings)
        if not self._context:
            reason = self._messages.complaints() or "it gave no reason"
            raise MemoryError(f"llama.cpp cannot make a context of {self._context_tokens} tokens: {reason}")
        self._memory = library.llama_get_memory(self._context)
        self._batch = library.llama_batch_init(self._chunk_tokens, 0, 1)

    def _decode(self, tokens: tuple[int, ...], position: int, *, wants_logits: bool) -> None:
        """Put tokens into the cache at `position`, …; logits are kept of the last one only."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = position + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = 0
        batch.logits[len(tokens) - 1] = wants_logits
        answer = self._library.llama_decode(self._context, batch)
        if answer == _NO_ROOM:
            raise RuntimeError(f"the KV cache of {self._context_tokens} tokens has no room for {len(tokens)} more")
        if answer != 0:
            raise RuntimeError(f"llama_decode failed with {answer}: {self._messages.complaints() or 'no reason given'}")

    def _next(self, sequence: _Sequence) -> Emission:
        job = sequence.job
        pointer = self._library.llama_get_logits_ith(self._context, -1)
        logits = np.ctypeslib.as_array(pointer, (self._loaded.tokenizer.size,))
        token = sample(logits, job.sampling, len(job.prompt) + len(sequence.generated))
        if token in self._loaded.eos_ids:
            return Emission(job.request, (), b"", Finish.STOP)
        sequence.generated.append(token)
        full = len(sequence.generated) >= job.max_tokens
        return Emission(job.request, (token,), self._loaded.tokenizer.data(token), Finish.LENGTH if full else None)
