"""Grammars: which tokens may come next, per sequence, with llguidance.

A grammar comes as Lark text that refers to a few rules by name (the markers of reasoning and tool calls); only here
is it known how this model's tokenizer writes them. The state of a grammar lives in the sequence that has it and dies
with it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from skulk.core.errors import REQ_INVALID, RequestError
from skulk.core.formats.grammar_rules import MARKERS, blamed_field, runner_rules


class GrammarBroke(Exception):
    """The grammar cannot go on with this sequence: too complex, or the tokenizer does not fit it."""


class Grammars:
    """The grammars of one model. `pieces[id]` are the raw bytes of a token, `specials` ids that are no text."""

    def __init__(
        self,
        pieces: Sequence[bytes],
        specials: Sequence[int],
        eos_ids: Sequence[int],
        encode: Callable[[str], tuple[int, ...]],
    ) -> None:
        self._library = importlib.import_module("llguidance")
        self._specials = {pieces[token] for token in specials}
        wrapper = self._library.TokenizerWrapper(_Tokenizer(pieces, specials, min(eos_ids), encode))
        # All of a model's ends are an end of the grammar too.
        self._tokenizer = self._library.LLTokenizer(wrapper, n_vocab=len(pieces), eos_token=list(eos_ids))

    def start(self, grammar: str, reasoning: str) -> Constraint:
        """A sequence's own state; `reasoning` as in `Prompt`. Raises RequestError 400 with llguidance's objection."""
        markers = {name: self._terminal(text) for name, text in MARKERS.items()}
        text = grammar + runner_rules(markers=markers, reasoning=reasoning)
        compiled = self._library.LLMatcher.grammar_from_lark(text)
        matcher = self._library.LLMatcher(self._tokenizer, compiled, log_level=0)
        if matcher.is_error():
            error = matcher.get_error()
            raise RequestError(
                REQ_INVALID,
                f"no answer can be held to this: {_objection(error)}",
                status=400,
                param=blamed_field(grammar, error),
                slug="invalid_value",
            )
        return Constraint(matcher)

    def _terminal(self, marker: str) -> str:
        """A special token is named, text is quoted: what a grammar means by "text" is never a special token."""
        return marker if marker.encode() in self._specials else f'"{marker}"'


class Constraint:
    """What one sequence may still become."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed(self) -> bytes:
        """A bit per token. Raises GrammarBroke."""
        mask = self._matcher.compute_bitmask()
        self._check()
        return bytes(mask)

    def accept(self, token: int) -> bool:
        """Go on with a token; True when nothing may follow it. Raises GrammarBroke."""
        self._matcher.consume_token(token)
        self._check()
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarBroke(f"the grammar cannot go on: {_objection(self._matcher.get_error())}")


@dataclass(frozen=True, slots=True)
class _Tokenizer:
    """What llguidance asks of a tokenizer, by its names."""

    tokens: Sequence[bytes]
    special_token_ids: Sequence[int]
    eos_token_id: int
    encode: Callable[[str], tuple[int, ...]]
    bos_token_id: int | None = None

    def __call__(self, text: str | bytes) -> list[int]:
        return list(self.encode(text.decode("utf-8", "replace") if isinstance(text, bytes) else text))


def _objection(error: str) -> str:
    """The first line without its place: both speak of the grammar, which is ours and not the client's."""
    lines = error.strip().splitlines() or ["no reason given"]
    return re.sub(r"^at \d+\(\d+\): ", "", lines[0])
