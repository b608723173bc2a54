"""What is kept of finished sequences, and what is found in it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skulk.engines.prefixes import Prefixes, common_length

ids = st.lists(st.integers(0, 2), max_size=40).map(tuple)


@given(ids, ids)
def test_the_common_beginning_is_counted_to_the_id(a, b):
    expected = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert common_length(a, b) == expected


def test_the_longest_beginning_in_common_is_found():
    kept = Prefixes(4)
    kept.keep((1, 2, 3), "short")
    kept.keep((1, 2, 9, 9), "other")
    found, length = kept.find((1, 2, 9, 5))
    assert (found.handle, length) == ("other", 3)
    assert kept.find((7,)) == (None, 0)


def test_a_continuation_takes_the_place_of_what_it_continues():
    kept = Prefixes(4)
    assert kept.keep((1, 2), "turn 1") == []
    assert kept.keep((1, 2, 3, 4), "turn 2") == ["turn 1"]
    assert kept.keep((1, 2, 3), "a part of it") == ["a part of it"]
    assert len(kept) == 1


def test_the_least_recently_used_goes_first():
    kept = Prefixes(2)
    kept.keep((1,), "a")
    kept.keep((2,), "b")
    kept.find((1, 5))
    assert kept.keep((3,), "c") == ["b"]
    assert [kept.oldest(), kept.oldest(), kept.oldest()] == ["a", "c", None]


def test_nothing_is_kept_where_nothing_can_be_reused():
    assert Prefixes(0).keep((1, 2), "a") == ["a"]
