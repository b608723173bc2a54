"""How often the source is asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skulk.core.reconcile.polling import BACKOFF_SECONDS_MAX, is_stale, next_poll


@pytest.mark.parametrize(
    ("interval", "failures", "seconds"),
    [(30, 0, 30), (30, 1, 60), (30, 2, 120), (30, 4, 480), (30, 5, 900), (30, 1000, 900), (3600, 3, 3600)],
)
def test_the_interval_doubles_with_failures_up_to_a_quarter_of_an_hour(interval, failures, seconds):
    assert next_poll(interval, failures, 0.5) == seconds


@given(st.floats(1, 3600), st.integers(0, 10_000), st.floats(0, 1))
def test_jitter_stays_within_a_tenth_and_the_wait_is_bounded(interval, failures, jitter):
    base = next_poll(interval, failures, 0.5)
    assert base * 0.9 - 1e-6 <= next_poll(interval, failures, jitter) <= base * 1.1 + 1e-6
    assert interval <= base <= max(interval, BACKOFF_SECONDS_MAX)


def test_jitter_spreads_both_ways():
    assert next_poll(100, 0, 0.0) == pytest.approx(90)
    assert next_poll(100, 0, 1.0) == pytest.approx(110)


@pytest.mark.parametrize(("failures", "stale"), [(0, False), (2, False), (3, True), (9, True)])
def test_three_misses_make_the_source_stale(failures, stale):
    assert is_stale(failures) is stale
