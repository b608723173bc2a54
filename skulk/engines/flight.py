"""The flight recorder: the last phases that the runner went through, for whoever asks after the fact.

Both threads write; it never blocks and never holds text of a request, only ids, counts and codes.
"""

from __future__ import annotations

import time
from collections import deque
from enum import StrEnum

from skulk.core.domain.ids import RequestId
from skulk.core.wire.runner import FlightRecord

RECORDS_MAX = 128
"""Some ten requests: enough to see how it came to the end, small enough for one frame."""


class Phase(StrEnum):
    """What a record says the runner was doing."""

    CREATED = "created"
    IDLE = "idle"
    LOAD_MODEL = "load_model"
    WARMUP = "warmup"
    TASK_SUBMISSION = "task_submission"
    PROMPT_BUILD = "prompt_build"
    PREFILL_STREAM = "prefill_stream"
    DECODE_STREAM = "decode_stream"
    CANCEL_REQUESTED = "cancel_requested"
    CANCEL_OBSERVED = "cancel_observed"
    COMPLETION = "completion"
    ERROR = "error"
    SHUTDOWN_CLEANUP = "shutdown_cleanup"


class FlightRecorder:
    def __init__(self) -> None:
        self._records: deque[FlightRecord] = deque(maxlen=RECORDS_MAX)

    def note(self, phase: Phase, detail: str = "", request: RequestId | None = None) -> None:
        self._records.append(FlightRecord(time.time(), phase.value, detail, request))

    def records(self) -> tuple[FlightRecord, ...]:
        """Oldest first."""
        return tuple(self._records.copy())
