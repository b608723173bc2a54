"""An engine without a model, for failure paths: it does what the launch's options say, and always the same.

Its vocabulary is the 256 bytes and an end, so every multi-byte character comes in pieces. It needs nothing but the
standard library and is never a stand-in for a real engine where behaviour of a model is the question.

| option | effect | default |
|---|---|---|
| `echo` | the text to answer with | a fixed sentence |
| `tokens` | how many bytes to answer with, the text repeated or cut | the text once |
| `concurrency` | sequences at once, at most what the launch allows | what the launch allows |
| `load_seconds`, `warmup_seconds` | how long these take, with progress ten times | 0 |
| `step_seconds` | how long one step takes | 0 |
| `fail_load` | message of a failed load | |
| `memory_error` | `load` or `step`: out of memory there | |
| `fail_step_every` | every n-th step fails | |
| `crash_after` | the process is killed after that many steps | |
| `wedge` | `warmup` or `step`: never returns from there | |

A request whose template variable `wedge` is true is never rendered; `render_seconds` is how long that takes.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass, field

from skulk.core.domain.ids import RequestId
from skulk.core.domain.requests import Finish, GenerationRequest
from skulk.core.domain.runners import Launch
from skulk.core.errors import ENG_MODEL
from skulk.engines.engine import Emission, EngineFailure, Job, LoadProgress, Prompt, WarmUpProgress
from skulk.engines.rendering import ends_in_reasoning

SENTENCE = "The quick brown fox jumps over the lazy dog. Größe, 東京, 🦊."
PROGRESS_STEPS = 10


@dataclass(slots=True)
class _Sequence:
    job: Job
    answer: bytes
    done: int = field(default=0)


class ScriptedEngine:
    """See the table above; unknown options are ignored, so that a manifest may carry more."""

    def __init__(self, launch: Launch) -> None:
        self._options = launch.options
        self._token_delimited = launch.reasoning_format == "token_delimited"
        self.slots = min(launch.concurrency, int(self._number("concurrency", launch.concurrency)))
        self.reads_together = False
        self.version = "1"
        self._running: dict[RequestId, _Sequence] = {}
        self._steps = 0

    def load(self, progress: LoadProgress) -> None:
        for step in range(PROGRESS_STEPS):
            progress(step / PROGRESS_STEPS)
            time.sleep(self._number("load_seconds", 0.0) / PROGRESS_STEPS)
        if self._options.get("memory_error") == "load":
            raise MemoryError("as scripted")
        if "fail_load" in self._options:
            raise EngineFailure(ENG_MODEL, str(self._options["fail_load"]))
        progress(1.0)

    def warm_up(self, progress: WarmUpProgress) -> None:
        for _ in range(PROGRESS_STEPS):
            progress()
            self._hang_at("warmup")
            time.sleep(self._number("warmup_seconds", 0.0) / PROGRESS_STEPS)

    def render(self, request: GenerationRequest) -> Prompt:
        """Bytes of `role: content` lines; the template variable `prefill` is put at the end."""
        if request.template.get("wedge"):
            threading.Event().wait()
        seconds = request.template.get("render_seconds", 0)
        time.sleep(seconds if isinstance(seconds, int | float) else 0)
        lines = [f"{m.role}: {m.content}\n" for m in request.messages]
        prefill = str(request.template.get("prefill", ""))
        text = "".join(lines) + "assistant: " + prefill
        inside = self._token_delimited and ends_in_reasoning("assistant: " + prefill)
        return Prompt(tuple(text.encode("utf-8", "replace")), "open" if inside else "none")

    def start(self, job: Job) -> int:
        text = str(self._options.get("echo", SENTENCE)).encode("utf-8", "replace")
        length = int(self._number("tokens", len(text)))
        repeated = text * (length // max(1, len(text)) + 1)
        self._running[job.request] = _Sequence(job, repeated[:length])
        return 0

    def step(self) -> tuple[Emission, ...]:
        time.sleep(self._number("step_seconds", 0.0))
        self._steps += 1
        self._fail_as_scripted()
        emissions = tuple(_advance(request, s) for request, s in self._running.items())
        for emission in emissions:
            if emission.finish is not None:
                del self._running[emission.request]
        return emissions

    def cancel(self, request: RequestId) -> None:
        self._running.pop(request, None)

    def memory_bytes(self) -> int | None:
        return None

    def _fail_as_scripted(self) -> None:
        self._hang_at("step")
        if self._options.get("memory_error") == "step":
            raise MemoryError("as scripted")
        every = int(self._number("fail_step_every", 0))
        if every and self._steps % every == 0:
            raise RuntimeError("a step fails as scripted")
        crash_after = int(self._number("crash_after", 0))
        if crash_after and self._steps > crash_after:
            os.kill(os.getpid(), signal.SIGKILL)

    def _hang_at(self, where: str) -> None:
        if self._options.get("wedge") == where:
            threading.Event().wait()

    def _number(self, name: str, default: float) -> float:
        value = self._options.get(name, default)
        return value if isinstance(value, int | float) else default


def _advance(request: RequestId, sequence: _Sequence) -> Emission:
    if sequence.done >= len(sequence.answer):
        return Emission(request, (), b"", Finish.STOP)
    byte = sequence.answer[sequence.done]
    sequence.done += 1
    full = sequence.done >= sequence.job.max_tokens
    return Emission(request, (byte,), bytes([byte]), Finish.LENGTH if full else None)
