"""Pieces, usage and errors → the JSON and the server-sent events that OpenAI's clients read.

Keys that are null are written out: older clients of this API index them without asking. The comment lines
(`: command_id …`, `: keep-alive`) are for clients that want to cancel or to see that the connection lives;
readers of server-sent events skip them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from skulk.core.dialects.text import Channel, Piece
from skulk.core.domain import Finish
from skulk.core.errors import RequestError

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

_HOLE = "text"
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))

# RequestError code → the `code` that OpenAI's clients match on, where the error itself names none.
_SLUGS: Mapping[str, str] = {
    "SK-REQ-001": "invalid_request",
    "SK-REQ-002": "unsupported_parameter",
    "SK-REQ-003": "model_not_found",
    "SK-REQ-004": "model_not_ready",
    "SK-REQ-005": "context_length_exceeded",
    "SK-REQ-006": "queue_full",
    "SK-REQ-007": "deadline_exceeded",
    "SK-REQ-008": "request_too_large",
    "SK-REQ-009": "invalid_api_key",
    "SK-REQ-010": "insufficient_scope",
    "SK-REQ-011": "node_restarting",
    "SK-REQ-012": "slow_client",
    "SK-REQ-013": "not_found",
    "SK-REQ-014": "internal_error",
    "SK-REQ-015": "replica_draining",
    "SK-REQ-016": "request_cancelled",
    "SK-REQ-017": "origin_refused",
    "SK-RUN-008": "runner_lost",
    "SK-ENG-004": "generation_failed",
}


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one answer. `cached` is part of `prompt`, `reasoning` part of `completion`."""

    prompt: int
    cached: int
    completion: int
    reasoning: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What all chunks of one answer have in common. `created` is whole seconds of the epoch."""

    id: str
    created: int
    model: str

    def chunk(self, piece: Piece | None = None, finish: Finish | None = None) -> dict[str, object]:
        """One `chat.completion.chunk` with a piece of text, or the last one with the finish reason."""
        delta = _message(
            content=piece.text if piece is not None and piece.channel is Channel.CONTENT else None,
            reasoning=piece.text if piece is not None and piece.channel is Channel.REASONING else None,
        )
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason(finish)}
        return self._envelope("chat.completion.chunk", [choice], None)

    def usage_chunk(self, usage: Usage) -> dict[str, object]:
        """The chunk without choices that `stream_options.include_usage` asks for."""
        return self._envelope("chat.completion.chunk", [], usage)

    def complete(self, content: str, reasoning: str, finish: Finish, usage: Usage) -> dict[str, object]:
        """The whole answer in one `chat.completion`."""
        message = _message(content=content, reasoning=reasoning or None)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(finish)}
        return self._envelope("chat.completion", [choice], usage)

    def _envelope(self, kind: str, choices: list[object], usage: Usage | None) -> dict[str, object]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "usage": None if usage is None else usage_json(usage),
            "service_tier": None,
            "system_fingerprint": None,
        }


class PieceEvents:
    """The events of one answer's pieces. They differ in the text alone, so the rest is encoded once: a gateway spends
    much of its time on these."""

    def __init__(self, answer: Answer) -> None:
        self._around = {channel: _around(answer, channel) for channel in Channel}

    def event(self, piece: Piece) -> bytes:
        """Equal to `event(answer.chunk(piece))`."""
        before, after = self._around[piece.channel]
        return before + json_bytes(piece.text) + after


def _around(answer: Answer, channel: Channel) -> tuple[bytes, bytes]:
    """What stands before and after the text. Only constants follow it: its last occurrence is the text's own, whatever
    name a client gave to the model."""
    before, _, after = event(answer.chunk(Piece(channel, _HOLE))).rpartition(json_bytes(_HOLE))
    return before, after


def _message(*, content: str | None, reasoning: str | None) -> dict[str, object]:
    return {
        "role": "assistant",
        "content": content,
        "reasoning_content": reasoning,
        "refusal": None,
        "name": None,
        "tool_calls": None,
        "tool_call_id": None,
        "function_call": None,
    }


def finish_reason(finish: Finish | None) -> str | None:
    """OpenAI's word for the end. CANCELLED and ERROR have none: they are sent as errors."""
    if finish in (Finish.CANCELLED, Finish.ERROR):
        raise ValueError(f"{finish} is an error, not a finish reason")
    return None if finish is None else finish.value


def usage_json(usage: Usage) -> dict[str, object]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def error_json(error: RequestError, request_id: str) -> dict[str, object]:
    """The error envelope: `error` for OpenAI's clients, `detail` for those that show only that."""
    message = str(error)
    return {
        "error": {
            "message": message,
            "type": error.kind,
            "param": error.param,
            "code": error.slug or _SLUGS.get(error.code.id, "error"),
            "skulk_code": error.code.id,
            "hint": error.fix,
            "request_id": request_id,
        },
        "detail": message,
    }


def json_bytes(value: object) -> bytes:
    """Compact UTF-8 JSON. Raises ValueError for NaN; a stray surrogate becomes `?`, never a crash."""
    return _JSON.encode(value).encode("utf-8", "replace")


def event(value: object) -> bytes:
    """One server-sent event with JSON data. JSON escapes line ends, so one line is enough."""
    return b"data: " + json_bytes(value) + b"\n\n"


def command_id_comment(command_id: str) -> bytes:
    return f": command_id {command_id}\n\n".encode()
