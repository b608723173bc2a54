"""One chat completion over a node's OpenAI-compatible API, as typed pieces.

The stream is checked here: an error event is raised, and an end without `[DONE]` is an error too, because an
answer that was cut off must not look complete. Printing is the verb's.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from skulk.cli.client import FleetClient
from skulk.cli.sse import frames
from skulk.core.errors import CLI_ANSWER, CLI_REQUEST, REQ_RESTARTING, RequestError, Transient

PATH = "/v1/chat/completions"
# The gateway answers by itself after its own deadline (600 s to the first token); this only ends a hang.
COMPLETION_SECONDS_MAX = 3600.0
# Until the first byte the gateway may queue and load without sending anything, not even keep-alives.
FIRST_BYTE_SECONDS_MAX = 660.0

Json = Mapping[str, Any]


class Channel(StrEnum):
    """What a piece of text is."""

    REASONING = "reasoning"
    CONTENT = "content"


@dataclass(frozen=True, slots=True)
class Piece:
    channel: Channel
    text: str


@dataclass(frozen=True, slots=True)
class Ending:
    """How the answer ended: the API's finish reason and token counts (empty when the node sent none)."""

    reason: str
    usage: Json


def request_body(
    model: str,
    messages: Sequence[Json],
    *,
    stream: bool,
    max_tokens: int | None,
    temperature: float | None,
    seed: int | None,
    thinking: bool | None,
) -> dict[str, Any]:
    """The JSON body. What is None is left out, so that the node's own defaults hold."""
    body: dict[str, Any] = {"model": model, "messages": list(messages), "stream": stream}
    if stream:
        body["stream_options"] = {"include_usage": True}
    given = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed, "enable_thinking": thinking}
    return body | {name: value for name, value in given.items() if value is not None}


def complete(client: FleetClient, body: Json) -> Json:
    """The whole answer at once, as the API gives it. Raises as FleetClient does."""
    return client.post(PATH, body, seconds=COMPLETION_SECONDS_MAX)


def pieces(client: FleetClient, body: Json) -> Generator[Piece | Ending]:
    """The answer as it comes; the last item is the Ending. Closing the iterator cancels the request.

    Raises RequestError for a refusal or an error event, Transient when the node is gone or breaks off.
    """
    reason = ""
    usage: Json = {}
    for data in _data(client, body):
        if data == "[DONE]":
            yield Ending(reason, usage)
            return
        chunk = _chunk(data)
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if text := delta.get("reasoning_content"):
                yield Piece(Channel.REASONING, str(text))
            if text := delta.get("content"):
                yield Piece(Channel.CONTENT, str(text))
            reason = choice.get("finish_reason") or reason
    raise RequestError(REQ_RESTARTING, "the answer broke off: the node closed the stream", status=502)


def _data(client: FleetClient, body: Json) -> Iterator[str]:
    with client.stream("POST", PATH, body=body, silence=FIRST_BYTE_SECONDS_MAX) as response:
        for frame in frames(response.iter_lines()):
            if frame.comment is None:
                yield frame.data


def _chunk(data: str) -> Json:
    try:
        chunk = json.loads(data)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise Transient(CLI_ANSWER, "the stream carried something other than JSON")
    if (error := chunk.get("error")) is not None:
        raise failure(error)
    return chunk


def failure(error: object) -> RequestError:
    """The error of an error event."""
    told = error if isinstance(error, dict) else {"message": str(error)}
    slug = told.get("code")
    return RequestError(
        CLI_REQUEST,
        str(told.get("message") or "the request failed"),
        status=500,
        kind=str(told.get("type") or ""),
        param=told.get("param"),
        slug=None if slug is None else str(slug),
    )
