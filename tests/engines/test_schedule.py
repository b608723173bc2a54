"""How a step's budget is shared among prompts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skulk.engines.schedule import Unread, prompt_shares, tokens_max


def shares(*left, budget):
    return list(prompt_shares([Unread(str(i), n) for i, n in enumerate(left)], budget).items())


def test_a_prompt_alone_has_the_whole_budget():
    assert shares(1000, budget=128) == [("0", 128)]
    assert shares(5, budget=128) == [("0", 5)]


def test_a_short_question_does_not_wait_for_a_long_document():
    assert dict(shares(30_000, 20, budget=128)) == {"0": 108, "1": 20}


def test_the_oldest_is_never_starved_by_short_ones():
    assert dict(shares(30_000, 40, 40, 40, 40, budget=100)) == {"0": 50, "1": 40, "2": 10}


def test_a_quarter_more_is_read_where_a_prompt_ends_with_it():
    assert shares(160, budget=128) == [("0", 160)]
    assert shares(161, budget=128) == [("0", 128)]
    assert dict(shares(70, 70, 70, 70, 70, budget=256)) == {"0": 70, "1": 70, "2": 70, "3": 70}
    assert dict(shares(70, 90, 500, budget=100)) == {"0": 70, "1": 50}


def test_nothing_to_read_and_no_budget():
    assert shares(budget=128) == []
    assert shares(3, budget=0) == []


@given(st.lists(st.integers(1, 400), max_size=20), st.integers(1, 300))
def test_the_budget_is_used_up_and_exceeded_only_where_a_prompt_ends(left, budget):
    got = prompt_shares([Unread(str(i), n) for i, n in enumerate(left)], budget)
    assert min(budget, sum(left)) <= sum(got.values()) <= min(tokens_max(budget), sum(left))
    assert all(0 < got[name] <= left[int(name)] for name in got)
    if sum(got.values()) > budget:
        assert any(got[name] == left[int(name)] for name in got)
    if left:
        assert got["0"] >= min(left[0], -(-budget // 2)), "the oldest has at least half"
