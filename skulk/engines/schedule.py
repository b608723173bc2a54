"""What one step works on: pure. Every sequence that generates gets its token, prompts share what is left of the step.

The step is bounded (`budget` tokens of prompts), so that a long prompt never holds up those who are reading an
answer. Of the prompts, the oldest gets half of the budget, which keeps it from starving; the other half goes to the
ones with the least left, which keeps a short question from waiting for a long document.
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


def prompt_shares(prompts: Sequence[Unread], budget: int) -> dict[RequestId, int]:
    """Prompt tokens to read in this step per sequence, in total at most `budget`; oldest first in `prompts`.

    Sequences that get nothing are left out.
    """
    if not prompts or budget < 1:
        return {}
    oldest, *others = prompts
    reserved = min(oldest.tokens, budget if not others else -(-budget // 2))
    shares = {oldest.request: reserved}
    left = budget - reserved
    for prompt in sorted(others, key=lambda unread: unread.tokens):
        if left == 0:
            break
        shares[prompt.request] = min(prompt.tokens, left)
        left -= shares[prompt.request]
    shares[oldest.request] += min(left, oldest.tokens - reserved)
    return shares
