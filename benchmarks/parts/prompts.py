"""Prompts of a known length that no server has seen before.

Made of words that are one token each, in an order that a seed decides. The first words differ, so that a server which
keeps what it has read finds nothing in common but the template's first tokens.
"""

from __future__ import annotations

import random

from parts.models import SMALL, Vocabulary

TEMPLATE_TOKENS = 8
"""About what the chat template adds."""
_WORDS = Vocabulary.grown(SMALL.vocabulary).words


def words(count: int, seed: object) -> str:
    """A text of `count` tokens, give or take the first word's."""
    return " ".join(random.Random(str(seed)).choices(_WORDS, k=count))


def prompt(tokens: int, seed: object) -> str:
    """A message that makes a rendered prompt of about so many tokens."""
    return words(tokens - TEMPLATE_TOKENS, seed)
