"""Draw the next token: a pure function of (logits, ids so far, `Sampling`, position). No state: nothing has to travel.

Order: penalties and biases, the mask of a grammar, temperature, top_k, top_p, min_p, then one draw by inverting the
cumulative distribution *in vocabulary order*. Because the order of the walk never depends on the filters, a filter
that removes nothing changes nothing.

    penalties   repetition: over prompt and answer, as transformers and mlx-lm do (Keskar et al. 2019,
                arXiv:1909.05858); frequency and presence: c·frequency + (c > 0)·presence is subtracted, c how often
                the answer has the token (OpenAI's API reference)
    top_k       keeps the k most probable tokens (lowest index wins a tie)
    top_p       keeps the smallest set of the most probable remaining tokens whose share is at least p
                (nucleus sampling, Holtzman et al. 2020, arXiv:1904.09751)
    min_p       drops tokens less probable than min_p times the most probable one
                (Nguyen et al. 2024, arXiv:2407.01082)

The uniform number is counter-based: BLAKE2b (RFC 7693) of seed and position, 53 bits of it. Position is the index
in the whole sequence (prompt included), so a continuation from prompt + generated ids draws the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from skulk.core.domain.requests import Sampling, TokenLogprob

_UINT64 = 2**64 - 1
_PERSON = b"skulk-sampling-1"
"""Separates these numbers from every other use of the same hash; the digit changes when the scheme does."""

WEIGHTLESS = 746.0
"""exp(-746) is 0 in 64 bits."""
LOGIT_MIN = float(np.finfo(np.float32).min)
LOGPROB_MIN = -9999.0
"""Stands for a probability of zero, whose logarithm no JSON can hold; OpenAI's API uses the same number."""

# Numpy vectors of floats; Any, because the type checker's environment has no numpy.
Logits = Any
Weights = Any


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1), equal on every machine: blake2b(seed ‖ position, both 64-bit little-endian) / 2^53."""
    counter = (seed & _UINT64).to_bytes(8, "little") + position.to_bytes(8, "little")
    digest = hashlib.blake2b(counter, digest_size=8, person=_PERSON).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def is_adjusted(sampling: Sampling) -> bool:
    """Do penalties or biases change the logits at all?"""
    return bool(
        sampling.logit_bias
        or sampling.repetition_penalty != 1
        or sampling.frequency_penalty
        or sampling.presence_penalty
    )


def adjusted(logits: Logits, sampling: Sampling, prompt: Sequence[int], generated: Sequence[int]) -> Logits:
    """The logits with penalties and biases, as float32. The argument is left as it is."""
    result = np.array(logits, dtype=np.float32)
    if sampling.repetition_penalty != 1:
        window = sampling.repetition_context
        recent = [*prompt[-window:], *generated][-window:] if window else [*prompt, *generated]
        seen = np.unique(np.asarray(recent, dtype=np.int64))
        values = result[seen]
        result[seen] = np.where(values > 0, values / sampling.repetition_penalty, values * sampling.repetition_penalty)
    if (sampling.frequency_penalty or sampling.presence_penalty) and generated:
        ids, counts = np.unique(np.asarray(generated), return_counts=True)
        result[ids] -= counts * np.float32(sampling.frequency_penalty) + np.float32(sampling.presence_penalty)
    for token, bias in sampling.logit_bias:
        result[token] += np.float32(bias)
    return result


def masked(logits: Logits, allowed: bytes) -> Logits:
    """A copy with -inf for every token whose bit (little-endian within bytes) in `allowed` is 0."""
    bits = np.unpackbits(np.frombuffer(allowed, np.uint8), bitorder="little")
    result = np.full(logits.size, -np.inf, dtype=np.float32)
    kept = np.flatnonzero(bits[: logits.size])
    result[kept] = logits[kept]
    return result


def logprobs_of(logits: Logits, token: int, alternatives: int, data: Callable[[int], bytes]) -> TokenLogprob:
    """The log-probability of `token` by the model's own logits, and of the most probable ones. `data`: id → bytes."""
    values = np.asarray(logits, dtype=np.float64)
    peak = values.max()
    total = peak + np.log(np.exp(values - peak).sum())
    count = min(alternatives, values.size)
    top: list[int] = []
    if count:
        candidates = np.argpartition(-values, count - 1)[:count]
        top = [int(i) for i in candidates[np.lexsort((candidates, -values[candidates]))]]

    def logprob(index: int) -> float:
        return max(LOGPROB_MIN, float(values[index] - total))

    return TokenLogprob(data(token), logprob(token), tuple((data(i), logprob(i)) for i in top))


def most_probable(logits: Logits) -> int:
    """The index of the highest logit, the lowest one of several. Raises ValueError as `sample`."""
    token = int(np.argmax(logits))  # the first NaN, when there is one
    peak = float(logits[token])
    if not np.isfinite(peak):
        raise ValueError(f"the highest of the {logits.size} logits is {peak}: the model's output is unusable")
    return token


def sample(logits: Logits, sampling: Sampling, position: int) -> int:
    """The index of the next token. `logits`: shape [vocabulary], unnormalised; -inf means never.

    Raises ValueError when the logits allow no token (NaN or +inf among them, or all -inf).
    """
    token = most_probable(logits)
    if sampling.temperature <= 0:
        return token
    peak = float(logits[token])
    # What has no weight takes no part: a grammar leaves a handful of a vocabulary of 150,000.
    possible = np.flatnonzero(logits >= max(peak - WEIGHTLESS * sampling.temperature, LOGIT_MIN))
    with np.errstate(over="ignore"):  # a tiny temperature sends the rest to -inf, which is what it means
        weights = np.exp((logits[possible].astype(np.float64) - peak) / sampling.temperature)
    if 0 < sampling.top_k < weights.size:
        weights = _top_k(weights, sampling.top_k)
    if sampling.top_p < 1:
        weights = _top_p(weights, sampling.top_p)
    if sampling.min_p > 0:
        weights = np.where(weights >= min(sampling.min_p, 1.0) * weights.max(), weights, 0.0)
    return int(possible[_draw(weights, uniform(sampling.seed, position))])


def _top_k(weights: Weights, k: int) -> Weights:
    lowest = np.partition(weights, weights.size - k)[weights.size - k]
    kept = weights > lowest
    ties = np.flatnonzero(weights == lowest)[: k - int(kept.sum())]
    kept[ties] = True
    return np.where(kept, weights, 0.0)


def _top_p(weights: Weights, p: float) -> Weights:
    total = float(weights.sum())
    # Sorting a vocabulary of 150,000 for every token costs more than the model's own work on small models. Tokens
    # below (1 - p) / size of the mass weigh less than 1 - p together, so none of them is in the nucleus.
    candidates = np.flatnonzero(weights >= max(0.0, 1.0 - p) * total / weights.size)
    order = candidates[np.argsort(-weights[candidates], kind="stable")]
    before = np.cumsum(weights[order]) - weights[order]
    nucleus = order[before < p * total]
    if nucleus.size == 0:  # p is 0: the most probable token alone
        nucleus = order[:1]
    kept = np.zeros_like(weights)
    kept[nucleus] = weights[nucleus]
    return kept


def _draw(weights: Weights, u: float) -> int:
    mass = np.cumsum(weights)
    index = int(np.searchsorted(mass, u * mass[-1], side="right"))
    # Rounding may put u * mass on the total itself; then it is the last token with any weight. A weightless index
    # cannot come out otherwise: side="right" steps over equal sums.
    return index if index < weights.size else int(np.flatnonzero(weights)[-1])
