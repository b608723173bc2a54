"""Which tokens a client sees the log-probabilities of: those whose text it sees as content, when it sees it.

Text is held back, cut and dropped on its way (`skulk.core.dialects.text`), and tokens end inside characters. So tokens
and shown text are matched by their places, counted in characters of all decoded text.
"""

from __future__ import annotations

import codecs
from collections import deque
from dataclasses import dataclass

from skulk.core.domain import TokenLogprob, Tokens


@dataclass(frozen=True, slots=True)
class _Token:
    start: int
    end: int
    """Beyond the character that the token begins, even if it does not complete it."""
    entry: TokenLogprob


class ContentLogprobs:
    """Tokens that wait until their text is shown, in order."""

    def __init__(self) -> None:
        self._waiting: deque[_Token] = deque()
        self._fed: deque[tuple[int, int]] = deque()
        """(place, length) of content that the search for stop strings has, but has not shown."""

    def decode(self, tokens: Tokens, decoder: codecs.IncrementalDecoder, at: int) -> str:
        """The text of a frame that begins at `at`; its tokens wait from now on."""
        if b"".join(entry.data for entry in tokens.logprobs) != tokens.data:
            # Not known which token wrote what: each stands for the whole frame.
            text = decoder.decode(tokens.data)
            end = at + len(text) + _begun(decoder)
            self._waiting.extend(_Token(at, end, entry) for entry in tokens.logprobs)
            return text
        texts: list[str] = []
        for entry in tokens.logprobs:
            texts.append(decoder.decode(entry.data))
            end = at + len(texts[-1])
            self._waiting.append(_Token(at, end + _begun(decoder), entry))
            at = end
        return "".join(texts)

    def forget(self) -> None:
        """All that came so far is no content."""
        self._waiting.clear()

    def fed(self, at: int, chars: int) -> None:
        if chars:
            self._fed.append((at, chars))

    def shown(self, chars: int) -> tuple[TokenLogprob, ...]:
        """The next `chars` characters of what was fed are shown: the tokens that wrote them."""
        entries: list[TokenLogprob] = []
        while chars:
            at, length = self._fed.popleft()
            taken = min(chars, length)
            if taken < length:
                self._fed.appendleft((at + taken, length - taken))
            entries += self._between(at, at + taken)
            chars -= taken
        return tuple(entries)

    def _between(self, start: int, end: int) -> list[TokenLogprob]:
        entries: list[TokenLogprob] = []
        while self._waiting and self._waiting[0].start < end:
            token = self._waiting.popleft()
            if token.end > max(token.start, start):
                entries.append(token.entry)
        return entries


def _begun(decoder: codecs.IncrementalDecoder) -> int:
    """1 when the decoder holds the beginning of a character."""
    return 1 if decoder.getstate()[0] else 0
