"""Pieces, usage and errors → the JSON and the server-sent events that OpenAI's clients read.

Keys that are null are written out: older clients of this API index them without asking. The comment lines
(`: command_id …`, `: keep-alive`, `: generation_stats …`) are for clients that want to cancel, to see that the
connection lives, or to know how fast it was; readers of server-sent events skip them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from skulk.core.dialects.text import Channel, Piece, Shown, ToolCall
from skulk.core.domain import Finish, TokenLogprob
from skulk.core.errors import RequestError

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

LOGPROB_MIN = -9999.0

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


class Stats(NamedTuple):
    """How fast an answer came; None: not measurable. For several choices: of all together, the prompt once."""

    prompt_tps: float | None
    """Prompt tokens that were computed (not cached) per second, from the acceptance to the first token."""
    generation_tps: float | None
    """Tokens per second after the first one."""
    prompt_tokens: int
    generation_tokens: int
    time_to_first_token_seconds: float | None
    """From the arrival of the request."""
    queue_seconds: float
    """How long it waited for a free slot."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One whole answer of a request."""

    index: int
    shown: Sequence[Shown]
    finish: Finish

    def message(self) -> dict[str, object]:
        pieces = [item for item in self.shown if isinstance(item, Piece)]
        calls = [call_json(item) for item in self.shown if isinstance(item, ToolCall)]
        content = "".join(piece.text for piece in pieces if piece.channel is Channel.CONTENT)
        reasoning = "".join(piece.text for piece in pieces if piece.channel is Channel.REASONING)
        # An answer that is calls alone has no content, as with OpenAI.
        return _message(content=content or (None if calls else ""), reasoning=reasoning or None, calls=calls or None)


@dataclass(frozen=True, slots=True)
class Answer:
    """What all chunks of one answer have in common. `created` is whole seconds of the epoch."""

    id: str
    created: int
    model: str
    logprobs: bool = False
    """The client asked for log-probabilities."""

    def chunk(
        self, item: Shown | None = None, finish: Finish | None = None, *, index: int = 0, called: bool = False
    ) -> dict[str, object]:
        """One `chat.completion.chunk` with a piece of text or a call, or the last one of a choice with the finish
        reason. `called`: the choice has called tools."""
        piece = item if isinstance(item, Piece) else None
        delta = _message(
            content=piece.text if piece is not None and piece.channel is Channel.CONTENT else None,
            reasoning=piece.text if piece is not None and piece.channel is Channel.REASONING else None,
            calls=[call_json(item)] if isinstance(item, ToolCall) else None,
        )
        logprobs = logprobs_json(piece.logprobs) if piece is not None and piece.logprobs else None
        reason = finish_reason(finish, called=called)
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self._envelope("chat.completion.chunk", [choice], None)

    def usage_chunk(self, usage: Usage) -> dict[str, object]:
        """The chunk without choices that `stream_options.include_usage` asks for."""
        return self._envelope("chat.completion.chunk", [], usage)

    def complete(self, choices: Sequence[Choice], usage: Usage, stats: Stats) -> dict[str, object]:
        """The whole answer in one `chat.completion`."""
        whole = self._envelope("chat.completion", [self._choice(choice) for choice in choices], usage)
        return {**whole, "generation_stats": stats._asdict()}

    def _choice(self, choice: Choice) -> dict[str, object]:
        called = any(isinstance(item, ToolCall) for item in choice.shown)
        entries = [entry for item in choice.shown if isinstance(item, Piece) for entry in item.logprobs]
        return {
            "index": choice.index,
            "message": choice.message(),
            "logprobs": logprobs_json(entries) if self.logprobs else None,
            "finish_reason": finish_reason(choice.finish, called=called),
        }

    def _envelope(self, kind: str, choices: Sequence[object], usage: Usage | None) -> dict[str, object]:
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
    """The events of one choice's pieces. Those of bare text differ in the text alone, so the rest is encoded once: a
    gateway spends much of its time on these."""

    def __init__(self, answer: Answer, index: int = 0) -> None:
        self._answer = answer
        self._index = index
        self._around = {channel: _around(answer, index, channel) for channel in Channel}

    def event(self, item: Shown) -> bytes:
        """Equal to `event(answer.chunk(item, index=index))`."""
        if isinstance(item, ToolCall) or item.logprobs:
            return event(self._answer.chunk(item, index=self._index))
        before, after = self._around[item.channel]
        return before + json_bytes(item.text) + after


def _around(answer: Answer, index: int, channel: Channel) -> tuple[bytes, bytes]:
    """What stands before and after the text. Only constants follow it: its last occurrence is the text's own, whatever
    name a client gave to the model."""
    whole = event(answer.chunk(Piece(channel, _HOLE), index=index))
    before, _, after = whole.rpartition(json_bytes(_HOLE))
    return before, after


def _message(*, content: str | None, reasoning: str | None, calls: list[dict[str, object]] | None) -> dict[str, object]:
    return {
        "role": "assistant",
        "content": content,
        "reasoning_content": reasoning,
        "refusal": None,
        "name": None,
        "tool_calls": calls,
        "tool_call_id": None,
        "function_call": None,
    }


def call_json(call: ToolCall) -> dict[str, object]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "index": call.index, "type": "function", "function": function}


def logprobs_json(entries: Sequence[TokenLogprob]) -> dict[str, object]:
    """`bytes` is exact where `token` is not: a token may be a part of a character."""
    content = [
        {**_logprob(entry.data, entry.logprob), "top_logprobs": [_logprob(*other) for other in entry.top]}
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def _logprob(data: bytes, logprob: float) -> dict[str, object]:
    # JSON has no infinity; -9999 is what OpenAI writes for a token that cannot come.
    return {"token": data.decode("utf-8", "replace"), "logprob": max(logprob, LOGPROB_MIN), "bytes": list(data)}


def finish_reason(finish: Finish | None, *, called: bool = False) -> str | None:
    """OpenAI's word for the end. CANCELLED and ERROR have none: they are sent as errors. An answer that was cut short
    says so, even if it has called tools."""
    if finish is Finish.STOP and called:
        return "tool_calls"
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


def stats_comment(stats: Stats) -> bytes:
    return b": generation_stats " + json_bytes(stats._asdict()) + b"\n\n"


def command_id_comment(command_id: str) -> bytes:
    return f": command_id {command_id}\n\n".encode()
