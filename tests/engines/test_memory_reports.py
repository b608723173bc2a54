"""What an engine's library says of a failure decides whether memory is to blame: code SK-RUN-007, or the model's."""

from __future__ import annotations

import queue
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from skulk.core.domain.requests import GenerationRequest
from skulk.engines.engine import EngineFailure, Job
from skulk.engines.flight import FlightRecorder
from skulk.engines.llama_cpp.decoder import LlamaDecoder
from skulk.engines.llama_cpp.loading import LibraryLog, _weights
from skulk.engines.mlx.loading import _blamed
from skulk.engines.preparing import Begin
from skulk.engines.scripted import ScriptedEngine
from skulk.engines.watchdog import Pulse
from skulk.engines.worker import Broken, Declined, PhaseChanged, Worker

ERROR = 4
"""`GGML_LOG_LEVEL_ERROR`."""
NO_MEMORY = [
    "ggml_aligned_malloc: insufficient memory (attempted to allocate 2048.00 MB)\n",
    "alloc_tensor_range: failed to allocate CPU buffer of size 2147483648\n",
]
NO_FLASH = ["llama_init_from_model: failed to initialize the context: quantized V cache requires Flash Attention\n"]
NO_TENSOR = ["llama_model_load: error loading model: missing tensor 'blk.3.attn_q.weight'\n"]


class Library:
    """As much of llama_cpp as fails: loading and contexts give NULL, after `complaints`."""

    def __init__(self, complaints: list[str]) -> None:
        self._complaints = complaints

    def __getattr__(self, name: str) -> Any:
        return lambda *_: 0

    def llama_log_callback(self, take: Any) -> Any:
        self.tell = take
        return take

    def llama_context_default_params(self) -> SimpleNamespace:
        return SimpleNamespace()

    llama_model_default_params = llama_context_default_params

    def llama_progress_callback(self, told: Any) -> Any:
        return told

    def llama_init_from_model(self, *_: object) -> None:
        for line in self._complaints:
            self.tell(ERROR, line.encode(), None)

    llama_model_load_from_file = llama_init_from_model


def make_context(complaints: list[str]) -> None:
    library = Library(complaints)
    messages = LibraryLog(library)
    # Of a failure that was survived: not what this one is about.
    library.tell(ERROR, b"ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory", None)
    LlamaDecoder(
        library,
        object(),
        messages,
        vocabulary=8,
        context_tokens=64,
        slots=1,
        chunk_tokens=16,
        cache_type="q8_0",
    )


def load_weights(complaints: list[str]) -> None:
    library = Library(complaints)
    _weights(library, LibraryLog(library), "llama_cpp-cpu", Path("fox.gguf"), lambda share: None)


def test_a_context_without_memory() -> None:
    with pytest.raises(MemoryError, match=r"a context of 64 tokens: .*failed to allocate CPU buffer"):
        make_context(NO_MEMORY)


def test_a_context_without_a_reason_is_said_to_be_likely_for_memory() -> None:
    with pytest.raises(MemoryError, match="it gave no reason"):
        make_context([])


def test_a_context_that_the_library_refuses() -> None:
    with pytest.raises(EngineFailure, match="quantized V cache") as caught:
        make_context(NO_FLASH)
    assert caught.value.code.id == "SK-ENG-003"


def test_weights_without_memory() -> None:
    with pytest.raises(MemoryError, match=r"cannot load fox\.gguf: .*failed to allocate CPU buffer"):
        load_weights(NO_MEMORY)


@pytest.mark.parametrize("complaints", [NO_TENSOR, []])
def test_weights_that_the_library_refuses(complaints: list[str]) -> None:
    with pytest.raises(EngineFailure, match=r"cannot load fox\.gguf") as caught:
        load_weights(complaints)
    assert caught.value.code.id == "SK-ENG-003"


@pytest.mark.parametrize("error", [RuntimeError("[malloc] Unable to allocate 4096 bytes."), MemoryError()])
def test_what_mlx_says_of_memory(error: Exception) -> None:
    with pytest.raises(MemoryError, match="mlx cannot read fox: "), _blamed("mlx cannot read fox"):
        raise error


def test_what_mlx_says_of_a_file() -> None:
    with (
        pytest.raises(EngineFailure, match=r"mlx cannot read fox: \[read\] Unable") as caught,
        _blamed("mlx cannot read fox"),
    ):
        raise RuntimeError("[read] Unable to read 7 bytes from file.")
    assert caught.value.code.id == "SK-ENG-003"


class Failing(ScriptedEngine):
    """Starting a request fails."""

    error: Exception

    def start(self, job: Job) -> int:
        raise self.error


def outcome_of_a_start(error: Exception, launch: Any, request: GenerationRequest) -> object:
    """The first event after the request was ordered."""
    engine = Failing(replace(launch, options={}))
    engine.error = error
    events: queue.SimpleQueue[object] = queue.SimpleQueue()
    worker = Worker(engine, 4096, Pulse(), Pulse(), FlightRecorder(), events.put, 16)
    worker.start()
    worker.order(Begin(request))
    while isinstance(event := events.get(timeout=60), PhaseChanged):
        pass
    return event


@pytest.mark.parametrize("error", [RuntimeError("[malloc] Unable to allocate 4096 bytes."), MemoryError("none left")])
def test_memory_that_runs_out_at_a_start_ends_the_runner(error: Exception, launch: Any, ask: Any) -> None:
    event = outcome_of_a_start(error, launch, ask())
    assert isinstance(event, Broken)
    assert event.code.id == "SK-RUN-007"
    assert str(error) in event.message


def test_another_error_at_a_start_is_the_requests(launch: Any, ask: Any) -> None:
    event = outcome_of_a_start(RuntimeError("no such thing"), launch, ask())
    assert isinstance(event, Declined)
    assert event.refusal.status == 500
