"""Draw the next token: a pure function of (logits, ids so far, `Sampling`, position). No state: nothing has to travel.

Order: penalties and biases, the mask of a grammar, temperature, top_k, top_p, min_p, then one draw by inverting the
cumulative distribution *in vocabulary order*. Because the order of the walk never depends on the filters, a filter
that removes nothing changes nothing. Weights have 32 bits, as logits have, and are added up in 64. Nothing walks a
vocabulary of 150,000 tokens one by one, or computes all of it in 64 bits: a draw would take milliseconds.

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
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from skulk.core.domain.requests import Sampling, TokenLogprob

_UINT64 = 2**64 - 1
_PERSON = b"skulk-sampling-1"
"""Separates these numbers from every other use of the same hash; the digit changes when the scheme does."""

TEMPERATURE_MIN, TEMPERATURE_MAX = 1e-30, 1e30
"""Below, all weight is on one token; above, all tokens weigh the same. Within, 32 bits are enough."""
BLOCK = 1024
"""So many neighbours are added up before it is looked for one of them."""
GROUP = 64
"""Of so many tokens each the highest is found first: a bound below which none of the k highest can be."""
LOGPROB_MIN = -9999.0
"""Stands for a probability of zero, whose logarithm no JSON can hold; OpenAI's API uses the same number."""

# Numpy vectors of floats; Any, because the type checker's environment has no numpy.
Logits = Any
Weights = Any
Indices = Any


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
    bits = np.unpackbits(np.frombuffer(allowed, np.uint8), count=logits.size, bitorder="little")
    return np.where(bits.view(np.bool_), np.asarray(logits, dtype=np.float32), np.float32(-np.inf))


def logprobs_of(logits: Logits, token: int, alternatives: int, data: Callable[[int], bytes]) -> TokenLogprob:
    """The log-probability of `token` by the model's own logits, and of the most probable ones. `data`: id → bytes."""
    values = np.asarray(logits, dtype=np.float32)
    peak = values.max()
    total = float(peak) + math.log(np.exp(values - peak).sum(dtype=np.float64))
    top: list[int] = []
    if alternatives:
        highest = _highest(values, min(alternatives, values.size))
        top = [int(i) for i in highest[np.argsort(-values[highest], kind="stable")]]

    def logprob(index: int) -> float:
        return max(LOGPROB_MIN, float(values[index]) - total)

    return TokenLogprob(data(token), logprob(token), tuple((data(i), logprob(i)) for i in top))


def most_probable(logits: Logits) -> int:
    """The index of the highest logit, the lowest one of several. Raises ValueError as `sample`."""
    token = int(logits.argmax())  # the first NaN, when there is one
    peak = float(logits[token])
    if not math.isfinite(peak):
        raise ValueError(f"the highest of the {logits.size} logits is {peak}: the model's output is unusable")
    return token


def sample(logits: Logits, sampling: Sampling, position: int) -> int:
    """The index of the next token. `logits`: shape [vocabulary], unnormalised; -inf means never.

    Raises ValueError when the logits allow no token (NaN or +inf among them, or all -inf).
    """
    token = most_probable(logits)
    if sampling.temperature <= 0:
        return token
    values = np.asarray(logits, dtype=np.float32)
    ids: Indices | None = None  # of those that are left, in vocabulary order; None stands for all
    if 0 < sampling.top_k < values.size:
        ids = _highest(values, sampling.top_k)
    weights = _weights(values if ids is None else values[ids], values[token], sampling.temperature)
    if sampling.top_p < 1:
        kept = _nucleus(weights, sampling.top_p)
        ids, weights = kept if ids is None else ids[kept], weights[kept]
    if sampling.min_p > 0:  # the most probable token weighs 1
        weights[weights < min(sampling.min_p, 1.0)] = 0
    drawn = _draw(weights, uniform(sampling.seed, position))
    return drawn if ids is None else int(ids[drawn])


def _weights(values: Logits, peak: Any, temperature: float) -> Weights:
    """Probabilities before they are divided by their sum; that of a token with the highest logit is 1."""
    # In one array: memory of this size may go back to the system, and faulting it in again takes longer than this.
    with np.errstate(over="ignore"):  # a tiny temperature sends the rest to -inf, which is what it means
        weights = values - peak
        weights /= np.float32(min(max(temperature, TEMPERATURE_MIN), TEMPERATURE_MAX))
    return np.exp(weights, out=weights)


def _highest(values: Logits, k: int) -> Indices:
    """The indices of the k highest (1 ≤ k ≤ size) in ascending order; of equal ones the first are taken."""
    groups = values.size // GROUP
    candidates = np.arange(values.size)
    if k <= groups:
        maxima = values[: groups * GROUP].reshape(GROUP, groups).max(axis=0)
        candidates = np.flatnonzero(values >= np.partition(maxima, groups - k)[groups - k])
    found = values[candidates]
    lowest = np.partition(found, found.size - k)[found.size - k]
    above, equal = candidates[found > lowest], candidates[found == lowest]
    return np.sort(np.concatenate([above, equal[: k - above.size]]))


def _nucleus(weights: Weights, p: float) -> Indices:
    """The smallest set of the heaviest tokens whose share is at least p; at least one."""
    total = float(weights.sum(dtype=np.float64))
    # Tokens below (1 - p) / size of the mass weigh less than 1 - p together: none of them is needed, and few are left
    # to be sorted. Numbers alone are sorted several times as fast as their indices by them.
    falling = np.sort(weights[weights >= max(0.0, 1.0 - p) * total / weights.size])[::-1]
    before = np.cumsum(falling, dtype=np.float64) - falling
    return _highest(weights, max(1, int(np.searchsorted(before, p * total))))


def _draw(weights: Weights, u: float) -> int:
    """The first index at which the sum of the weights exceeds `u` times the sum of all."""
    starts = np.arange(0, weights.size, BLOCK)
    mass = np.cumsum(np.add.reduceat(weights, starts, dtype=np.float64))
    block = _first_beyond(mass, u * float(mass[-1]))
    start = block * BLOCK
    rest = u * float(mass[-1]) - (float(mass[block - 1]) if block else 0.0)
    return start + _first_beyond(np.cumsum(weights[start : start + BLOCK], dtype=np.float64), rest)


def _first_beyond(mass: Weights, target: float) -> int:
    """The first index of ascending sums that is above `target`, or, where rounding put the target on the last sum or
    above it, the last one at which the sums grow: what weighs nothing is never drawn."""
    index = int(np.searchsorted(mass, target, side="right"))
    return index if index < mass.size else int(np.searchsorted(mass, mass[-1]))
