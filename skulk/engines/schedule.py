"""What one step works on: pure. Every sequence that generates gets its token, prompts share what is left of the step.

The step is bounded (`budget` tokens of prompts, or a little more), so that a long prompt never holds up those who are
reading an answer. Of the prompts, the oldest gets half of the budget, which keeps it from starving; the other half goes
to the ones with the least left, which keeps a short question from waiting for a long document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skulk.core.domain.ids import RequestId


@dataclass(frozen=True, slots=True)
class Unread:
    """A sequence whose prompt is not read to the end: `tokens` (≥ 1) are left."""

    request: RequestId
    tokens: int


def tokens_max(budget: int) -> int:
    """The most that `prompt_shares` gives out."""
    return budget + budget // 4


def prompt_shares(prompts: Sequence[Unread], budget: int) -> dict[RequestId, int]:
    """Prompt tokens to read in this step per sequence, in total `budget`; oldest first in `prompts`.

    Up to a quarter more is given where a prompt ends with it: a rest of a few tokens costs a pass over the weights of
    its own, and its first token a step. Sequences that get nothing are left out.
    """
    if not prompts or budget < 1:
        return {}
    oldest, *others = prompts
    left, spare = budget, tokens_max(budget) - budget
    reserved = min(oldest.tokens, -(-budget // 2) if others else budget)
    shares = {oldest.request: reserved}
    left -= reserved
    rest = Unread(oldest.request, oldest.tokens - reserved)
    for prompt in (*sorted(others, key=lambda unread: unread.tokens), rest):
        share = prompt.tokens if prompt.tokens <= left + spare else left
        if share:
            shares[prompt.request] = shares.get(prompt.request, 0) + share
        spare -= max(0, share - left)
        left = max(0, left - share)
    return shares
