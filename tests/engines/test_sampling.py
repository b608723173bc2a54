"""The next token as a pure function: golden numbers, invariances, distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from skulk.core.domain import Sampling
from skulk.engines.sampling import adjusted, logprobs_of, masked, sample, uniform

LOGITS = np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.05], dtype=np.float32))
DRAWS = 20_000
GOLDEN_UNIFORM = [0.5430386757554204, 0.811565940944875, 0.39890228598395805, 0.9488447005689501]
GOLDEN_DRAWS = [3, 3, 0, 1, 2, 3, 1, 0, 0, 0, 0, 4, 0, 2, 1, 1, 1, 0, 2, 0]


def shares(logits=LOGITS, draws=DRAWS, **settings):
    sampling = Sampling(seed=7, **settings)
    counts = np.bincount([sample(logits, sampling, n) for n in range(draws)], minlength=logits.size)
    return counts / draws


def agrees(observed, expected, draws=DRAWS):
    """Pearson's chi-square below the 99.99 % quantile for up to 4 degrees of freedom (23.5); seeds are fixed."""
    expected = np.array(expected)
    assert not observed[expected == 0].any()
    kept = expected > 0
    return draws * float((((observed - expected) ** 2)[kept] / expected[kept]).sum()) < 23.5


def test_golden_numbers():
    # Written down once: a change here changes every seeded answer in the world.
    assert [uniform(0, 0), uniform(1, 0), uniform(0, 1), uniform(2**64 - 1, 10**6)] == GOLDEN_UNIFORM
    draws = [sample(LOGITS, Sampling(seed=42), n) for n in range(20)]
    assert draws == GOLDEN_DRAWS


def test_seed_and_position_alone_decide():
    assert uniform(3, 5) == uniform(3, 5)
    assert len({uniform(s, p) for s in range(50) for p in range(50)}) == 2500
    assert uniform(2**64 + 3, 5) == uniform(3, 5)
    assert all(0.0 <= uniform(0, p) < 1.0 for p in range(1000))


def test_greedy_takes_the_lowest_index_of_the_highest():
    assert sample(np.array([0.0, 3.0, 3.0, 1.0]), Sampling(seed=1, temperature=0.0), 0) == 1


def test_the_distribution_is_the_softmax():
    assert agrees(shares(), [0.4, 0.3, 0.15, 0.1, 0.05])


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_sharpens_and_flattens(temperature):
    weights = np.array([0.4, 0.3, 0.15, 0.1, 0.05]) ** (1 / temperature)
    assert agrees(shares(temperature=temperature), weights / weights.sum())


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"top_k": 2}, [0.4, 0.3, 0, 0, 0]),
        ({"top_k": 1}, [1, 0, 0, 0, 0]),
        ({"top_p": 0.69}, [0.4, 0.3, 0, 0, 0]),
        ({"top_p": 0.71}, [0.4, 0.3, 0.15, 0, 0]),
        ({"top_p": 0.0}, [1, 0, 0, 0, 0]),
        ({"min_p": 0.3}, [0.4, 0.3, 0.15, 0, 0]),
        ({"min_p": 1.0}, [1, 0, 0, 0, 0]),
        # top_p works on what top_k left, renormalised: 0.4/0.7 < 0.58
        ({"top_k": 2, "top_p": 0.58}, [0.4, 0.3, 0, 0, 0]),
        ({"top_k": 2, "top_p": 0.57}, [1, 0, 0, 0, 0]),
    ],
)
def test_filters_keep_what_they_should_and_renormalise(settings, kept):
    kept = np.array(kept, dtype=float)
    assert agrees(shares(**settings), kept / kept.sum())


def test_filters_that_remove_nothing_change_nothing():
    for position in range(300):
        plain = sample(LOGITS, Sampling(seed=9), position)
        off = Sampling(seed=9, top_k=5, top_p=1.0, min_p=1e-9)
        assert sample(LOGITS, off, position) == plain
        assert sample(LOGITS, Sampling(seed=9, top_k=99), position) == plain


def test_a_constant_added_to_all_logits_changes_nothing():
    # Exactly representable, so that float32 rounding has no part in it.
    logits = np.array([1.5, 0.25, -2.0, 3.0], dtype=np.float32)
    for position in range(300):
        settings = Sampling(seed=4, top_p=0.9)
        assert sample(logits, settings, position) == sample(logits + np.float32(16), settings, position)


def test_the_nucleus_of_a_large_vocabulary_is_the_one_that_sorting_everything_finds():
    logits = np.random.default_rng(5).normal(0, 3, 50_000).astype(np.float32)
    weights = np.exp(logits.astype(np.float64) - logits.max())
    order = np.argsort(-weights, kind="stable")
    before = np.cumsum(weights[order]) - weights[order]
    for top_p in (0.05, 0.5, 0.95, 0.999):
        nucleus = set(order[before < top_p * weights.sum()].tolist())
        drawn = {sample(logits, Sampling(seed=1, top_p=top_p), n) for n in range(400)}
        assert drawn <= nucleus
        only = np.full_like(logits, -np.inf)
        only[list(nucleus)] = logits[list(nucleus)]
        for n in range(50):
            assert sample(logits, Sampling(seed=2, top_p=top_p), n) == sample(only, Sampling(seed=2), n)


@pytest.mark.parametrize("top_k", [1, 20, 700, 900, 49_999])
def test_top_k_of_a_large_vocabulary_is_the_one_that_sorting_everything_finds(top_k):
    # Rounded, so that there are ties everywhere.
    logits = np.random.default_rng(6).normal(0, 3, 50_000).astype(np.float32).round(2)
    only = np.full_like(logits, -np.inf)
    highest = np.argsort(-logits, kind="stable")[:top_k]
    only[highest] = logits[highest]
    for n in range(100):
        assert sample(logits, Sampling(seed=2, top_k=top_k), n) == sample(only, Sampling(seed=2), n)


@pytest.mark.parametrize("size", [1023, 1024, 1025, 151_936])
def test_a_draw_from_a_large_vocabulary_inverts_its_distribution(size):
    logits = np.random.default_rng(7).normal(0, 2, size).astype(np.float32)
    logits[::3] = -np.inf
    mass = np.cumsum(np.exp(logits.astype(np.float64)))
    mass /= mass[-1]
    for n in range(500):
        token, u = sample(logits, Sampling(seed=3), n), uniform(3, n)
        assert logits[token] > -np.inf
        assert (mass[token - 1] if token else 0.0) - 1e-6 <= u <= mass[token] + 1e-6


def test_ties_at_the_edge_of_top_k_go_to_the_lowest_index():
    assert {sample(np.zeros(6), Sampling(seed=1, top_k=2), n) for n in range(200)} == {0, 1}


def test_a_nucleus_that_reaches_its_share_exactly_is_complete():
    assert {sample(np.zeros(4), Sampling(seed=1, top_p=0.5), n) for n in range(200)} == {0, 1}


def test_impossible_tokens_are_never_drawn():
    logits = np.array([-np.inf, 0.0, -np.inf, 0.0, -np.inf])
    assert {sample(logits, Sampling(seed=1), n) for n in range(300)} == {1, 3}


def test_extreme_temperatures_stay_sane():
    assert {sample(LOGITS, Sampling(seed=1, temperature=1e-300), n) for n in range(50)} == {0}
    assert len({sample(LOGITS, Sampling(seed=1, temperature=1e300), n) for n in range(300)}) == 5


@pytest.mark.parametrize("bad", [[math.nan, 1.0], [math.inf, 1.0], [-math.inf, -math.inf]])
def test_unusable_logits_are_an_error_not_a_token(bad):
    with pytest.raises(ValueError, match="unusable"):
        sample(np.array(bad), Sampling(seed=1), 0)


# --- penalties, biases, masks, log-probabilities ------------------------------------------------------------------


def changed(logits, prompt=(), generated=(), **settings):
    return list(adjusted(np.array(logits, np.float32), Sampling(seed=1, **settings), prompt, generated))


def test_repetition_makes_what_was_said_less_likely_whatever_its_sign():
    assert changed([2.0, -2.0, 2.0], prompt=[0], generated=[1], repetition_penalty=2.0) == [1.0, -4.0, 2.0]


def test_repetition_looks_back_over_the_answer_and_then_the_prompt():
    settings = {"repetition_penalty": 2.0, "repetition_context": 2}
    assert changed([2.0, 2.0, 2.0], prompt=[0, 1], generated=[2], **settings) == [2.0, 1.0, 1.0]
    assert changed([2.0, 2.0], prompt=[0], generated=[1], **{**settings, "repetition_context": 0}) == [1.0, 1.0]


def test_frequency_counts_presence_does_not_and_both_leave_the_prompt_out():
    assert changed([0.0, 0.0, 0.0], prompt=[2], generated=[0, 0, 1], frequency_penalty=0.5) == [-1.0, -0.5, 0.0]
    assert changed([0.0, 0.0, 0.0], prompt=[2], generated=[0, 0, 1], presence_penalty=0.5) == [-0.5, -0.5, 0.0]


def test_biases_are_added():
    assert changed([0.0, 1.0], logit_bias=((1, -3.0), (0, 5.0))) == [5.0, -2.0]


def test_the_models_own_logits_are_left_as_they_are():
    logits = np.ones(3, np.float32)
    adjusted(logits, Sampling(seed=1, repetition_penalty=2.0), [0], [1])
    assert list(logits) == [1, 1, 1]


def test_a_mask_leaves_only_the_tokens_whose_bit_is_set():
    logits = np.arange(11, dtype=np.float32)
    assert [i for i, x in enumerate(masked(logits, bytes([0b10000001, 0b00000100]))) if x > -np.inf] == [0, 7, 10]


def test_logprobs_are_the_logarithm_of_the_softmax():
    entry = logprobs_of(LOGITS, 2, 2, lambda i: bytes([i]))
    assert entry.data == b"\x02"
    assert math.isclose(entry.logprob, math.log(0.15), abs_tol=1e-6)
    assert [data for data, _ in entry.top] == [b"\x00", b"\x01"]
    assert math.isclose(entry.top[0][1], math.log(0.4), abs_tol=1e-6)


def test_an_impossible_token_has_a_number_that_json_can_hold():
    logits = np.array([0.0, -np.inf], np.float32)
    assert logprobs_of(logits, 1, 5, lambda i: b"").logprob == -9999.0
    assert len(logprobs_of(logits, 1, 5, lambda i: b"").top) == 2
