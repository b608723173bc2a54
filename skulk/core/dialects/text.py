"""Owner-side assembly: frames of token bytes → reasoning and content text, and the reason of the end.

    bytes ─► UTF-8 ─► reasoning | content ─► tool calls | text ─► stop strings (text only) ─► pieces and calls

Every stage is a state machine whose result does not depend on how the bytes were cut: what could still become
something else is held back, and released at the end. Stop strings are searched in the text alone, because a client
cannot know what a model writes while it reasons or calls. What a tool call looks like is in `…dialects.tools`, what
the client reads in `…dialects.openai_encode`.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import NamedTuple

from skulk.core.dialects.logprobs import ContentLogprobs
from skulk.core.dialects.tools import Called, CallSplitter, Text
from skulk.core.domain import Finish, TokenLogprob, Tokens
from skulk.core.errors import RUN_LOST, RequestError

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
LEADING_CHARS_MAX = 4096
"""White space held back while it is open whether a marker follows; more than this is text like any other."""


class Channel(StrEnum):
    """Where a piece of text belongs."""

    REASONING = "reasoning"
    CONTENT = "content"


class Piece(NamedTuple):
    """Text to show now."""

    channel: Channel
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens whose text becomes visible with this piece."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A complete call of a tool. `arguments` is a JSON object as text; `index` counts the calls of one answer."""

    index: int
    id: str
    name: str
    arguments: str


Shown = Piece | ToolCall


class Utf8Text:
    """Bytes in any pieces → text. A cut character waits for its rest; what never completes becomes U+FFFD."""

    def __init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> str:
        return self.decoder.decode(data)

    def end(self) -> str:
        return self.decoder.decode(b"", final=True)


def held_chars(text: str, patterns: Sequence[str]) -> int:
    """Length of the longest suffix of `text` that is the beginning, but not the whole, of a pattern."""
    longest = 0
    for pattern in patterns:
        start = text.find(pattern[0], max(0, len(text) - len(pattern) + 1))
        while start != -1 and len(text) - start > longest:
            if pattern.startswith(text[start:]):
                longest = len(text) - start
                break
            start = text.find(pattern[0], start + 1)
    return longest


class StopStrings:
    """Text up to the first stop string that completes; of two that complete together the longer one.

    `matched` is the stop string, or None. Text that could be the beginning of one is held back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if not all(stops):
            raise ValueError("a stop string is not empty")
        self._stops = tuple(stops)
        self._held = ""
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        if self.matched is not None:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) != -1]
        if found:
            _, at, self.matched = min(found)
            self._held = ""
            return text[:at]
        keep = len(text) - held_chars(text, self._stops)
        self._held = text[keep:]
        return text[:keep]

    def end(self) -> str:
        held, self._held = self._held, ""
        return held


class _Stage(Enum):
    OPENING = "opening"
    """Nothing visible yet (or since the last block): a block may open."""
    REASONING = "reasoning"
    CONTENT = "content"


class ReasoningSplitter:
    """Text with `<think>…</think>` before the answer → pieces without the markers.

    A block opens only where nothing but white space came before it, so that an answer may speak of the markers.
    Blank lines after either marker are dropped. `in_reasoning`: the rendered prompt has opened the block already.
    """

    def __init__(self, *, in_reasoning: bool = False) -> None:
        self._stage = _Stage.REASONING if in_reasoning else _Stage.OPENING
        self._after_marker = in_reasoning
        """The white space at the beginning of the buffer follows a marker."""
        self._buffer = ""

    @property
    def in_reasoning(self) -> bool:
        return self._stage is _Stage.REASONING

    @property
    def passes(self) -> bool:
        """The content has begun: from now on text comes out as it goes in."""
        return self._stage is _Stage.CONTENT

    def feed(self, text: str) -> list[Piece]:
        self._buffer += text
        pieces: list[Piece] = []
        while self._buffer and self._advance(pieces):
            pass
        return pieces

    def end(self) -> list[Piece]:
        """What was held back: a marker that stayed incomplete is text, trailing blank lines are dropped."""
        text, self._buffer = self._buffer, ""
        if self._after_marker:
            text = _without_blank_lines(text) if text.strip() else ""
        channel = Channel.REASONING if self.in_reasoning else Channel.CONTENT
        return [Piece(channel, text)] if text else []

    def _advance(self, pieces: list[Piece]) -> bool:
        """Take one step on the buffer; False when it has to wait for more."""
        if self._stage is _Stage.CONTENT:
            pieces.append(Piece(Channel.CONTENT, self._buffer))
            self._buffer = ""
            return False
        if self._stage is _Stage.OPENING or self._after_marker:
            return self._at_beginning()
        return self._inside(pieces)

    def _at_beginning(self) -> bool:
        marker = THINK_CLOSE if self.in_reasoning else THINK_OPEN
        rest = self._buffer.lstrip()
        blank_chars = len(self._buffer) - len(rest)
        if blank_chars <= LEADING_CHARS_MAX:
            if rest.startswith(marker):
                self._cross(rest[len(marker) :])
                return True
            if marker.startswith(rest):
                return False
            if self._after_marker:
                self._buffer = _without_blank_lines(self._buffer)
        self._after_marker = False
        if self._stage is _Stage.OPENING:
            self._stage = _Stage.CONTENT
        return True

    def _inside(self, pieces: list[Piece]) -> bool:
        at = self._buffer.find(THINK_CLOSE)
        keep = at if at != -1 else len(self._buffer) - held_chars(self._buffer, (THINK_CLOSE,))
        if keep:
            pieces.append(Piece(Channel.REASONING, self._buffer[:keep]))
        if at == -1:
            self._buffer = self._buffer[keep:]
            return False
        self._cross(self._buffer[at + len(THINK_CLOSE) :])
        return True

    def _cross(self, rest: str) -> None:
        self._stage = _Stage.OPENING if self.in_reasoning else _Stage.REASONING
        self._after_marker = True
        self._buffer = rest


def _without_blank_lines(text: str) -> str:
    """Drop leading lines that are blank; the indent of the first other line stays."""
    blank = text[: len(text) - len(text.lstrip())]
    return text[blank.rfind("\n") + 1 :]


class TextAssembly:
    """Everything between the frames of one request and its dialect.

    `finish` is set once; frames after it change nothing, so tokens beyond a stop string are neither shown nor
    counted (a frame is the unit: when it carries several tokens, all of the frame that completes the stop string
    count). `error` is what the runner said with ERROR or CANCELLED.

    `tools`: names of the tools that may be called; without any, what looks like a call is text. `one_call`: the answer
    ends after the first. The ids of calls are `call_<request_id>_<index>`.
    """

    def __init__(
        self,
        *,
        reasoning_format: str,
        in_reasoning: bool,
        stop: Sequence[str],
        tools: frozenset[str] = frozenset(),
        one_call: bool = False,
        request_id: str = "",
        logprobs: bool = False,
    ) -> None:
        self._utf8 = Utf8Text()
        self._splitter = ReasoningSplitter(in_reasoning=in_reasoning) if reasoning_format == "token_delimited" else None
        self._calls = CallSplitter(tools) if tools else None
        self._stops = StopStrings(stop)
        self._logprobs = ContentLogprobs() if logprobs else None
        self._plain = not (tools or stop or logprobs)
        """In the content nothing is looked for, and nobody asks where it stands."""
        self._one_call = one_call
        self._request_id = request_id
        self._number = 0
        self._decoded_chars = 0
        self._content_at: int | None = None
        """Where the content begins in the decoded text; it goes on to the end."""
        self.calls = 0
        """How many tools were called."""
        self.finish: Finish | None = None
        self.error: str | None = None
        self.completion_tokens = 0
        self.reasoning_tokens = 0
        """Included in completion_tokens; markers count as reasoning."""

    @property
    def matched_stop(self) -> str | None:
        return self._stops.matched

    @property
    def early_end(self) -> str:
        """Why the answer is whole although the runner would go on; empty while it is not."""
        if self.matched_stop is not None:
            return "a stop string was found"
        return "its one tool call is complete" if self._ended_early else ""

    def feed(self, tokens: Tokens) -> tuple[Shown, ...]:
        """What one frame makes visible. A repeated frame is ignored. Raises RequestError for a gap."""
        if self.finish is not None or tokens.number <= self._number:
            return ()
        if tokens.number != self._number + 1:
            raise RequestError(
                RUN_LOST,
                f"frame {self._number + 1} of the answer was lost: {tokens.number} came instead",
                status=502,
                kind="server_error",
            )
        self._number = tokens.number
        splitter = self._splitter
        if self._plain and tokens.finish is None and (splitter is None or splitter.passes):
            # Most tokens of most answers: nothing is looked for in the text any more.
            self.completion_tokens += len(tokens.ids)
            text = self._utf8.feed(tokens.data)
            return (Piece(Channel.CONTENT, text),) if text else ()
        reasoned = splitter is not None and splitter.in_reasoning
        shown: list[Shown] = []
        for piece in self._split(tokens):
            if piece.channel is Channel.REASONING:
                shown.append(piece)
            else:
                self._content(piece, shown)
        self.completion_tokens += len(tokens.ids)
        if reasoned or (splitter is not None and splitter.in_reasoning):
            self.reasoning_tokens += len(tokens.ids)
        if tokens.finish is not None and not self._ended_early:
            self._end_content(shown)
        if self._ended_early:
            self.finish = Finish.STOP
        elif tokens.finish is not None:
            self.finish, self.error = tokens.finish, tokens.error
        return tuple(shown)

    @property
    def _ended_early(self) -> bool:
        return self._stops.matched is not None or (self._one_call and self.calls > 0)

    def _split(self, tokens: Tokens) -> list[Piece]:
        if self._logprobs is None:
            text = self._utf8.feed(tokens.data)
        else:
            text = self._logprobs.decode(tokens, self._utf8.decoder, self._decoded_chars)
        if tokens.finish is not None:
            text += self._utf8.end()
        self._decoded_chars += len(text)
        if self._splitter is None:
            return [Piece(Channel.CONTENT, text)] if text else []
        pieces = self._splitter.feed(text)
        if self._splitter.in_reasoning and self._logprobs is not None:
            self._logprobs.forget()
        return pieces + self._splitter.end() if tokens.finish is not None else pieces

    def _content(self, piece: Piece, shown: list[Shown]) -> None:
        text = piece.text
        at = self._decoded_chars - len(text)
        if self._content_at is None:
            # The splitter holds nothing back once the content has begun.
            self._content_at = at
        if self._calls is None:
            self._text(text, at, shown)
            return
        for part in self._calls.feed(text):
            self._part(part, shown)

    def _end_content(self, shown: list[Shown]) -> None:
        for part in self._calls.end() if self._calls is not None else ():
            self._part(part, shown)
        if not self._ended_early:
            self._show(self._stops.end(), shown)

    def _part(self, part: Text | Called, shown: list[Shown]) -> None:
        if self._ended_early:
            return
        if isinstance(part, Text):
            self._text(part.text, (self._content_at or 0) + part.at, shown)
            return
        # A stop string does not go on behind a call.
        self._show(self._stops.end(), shown)
        shown.append(ToolCall(self.calls, f"call_{self._request_id}_{self.calls}", part.name, part.arguments))
        self.calls += 1

    def _text(self, text: str, at: int, shown: list[Shown]) -> None:
        if self._logprobs is not None:
            self._logprobs.fed(at, len(text))
        self._show(self._stops.feed(text), shown)

    def _show(self, text: str, shown: list[Shown]) -> None:
        if text:
            logprobs = self._logprobs.shown(len(text)) if self._logprobs is not None else ()
            shown.append(Piece(Channel.CONTENT, text, logprobs))
