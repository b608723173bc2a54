"""Numbers, acknowledgement, resend: whatever the network does, every entry arrives once and in order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skulk.core.wire.planes_streams import (
    ACK_SECONDS,
    AGAIN_SECONDS,
    BURST_ENTRIES_MAX,
    ENTRIES_MAX,
    RESEND_SECONDS,
    Incoming,
    Outgoing,
)


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.floats(0, 0.7), st.floats(0, 0.5), st.integers(1, 60))
def test_every_entry_arrives_once_in_order_through_loss_and_duplicates(
    seed: int, loss: float, duplicates: float, count: int
):
    chance = random.Random(seed)
    outgoing, incoming = Outgoing[int](0.0), Incoming()
    got: list[int] = []
    now, appended, ack_at = 0.0, 0, 0.0
    while not outgoing.finished:
        now += 0.05
        assert now < 3000, "no progress"
        if appended < count:
            appended += 1
            outgoing.append(appended, last=appended == count)
        outgoing.tick(now)
        for number, entry in outgoing.due(now):
            if chance.random() < loss:
                continue
            for _ in range(1 + (chance.random() < duplicates)):
                if incoming.take(number):
                    got.append(entry)
                elif incoming.ask_again(now) and chance.random() >= loss:
                    outgoing.acknowledge(incoming.received, now, again=True)
        if now >= ack_at:
            ack_at = now + ACK_SECONDS
            if chance.random() >= loss:
                outgoing.acknowledge(incoming.received, now, again=False)
    assert got == list(range(1, count + 1))


def test_a_gap_is_filled_from_the_first_missing_entry():
    outgoing, incoming = Outgoing[str](0.0), Incoming()
    for entry in "abcd":
        outgoing.append(entry)
    sent = outgoing.due(0.0)
    assert [incoming.take(n) for n, _ in (sent[0], sent[2], sent[3])] == [True, False, False]
    assert incoming.ask_again(1.0)
    assert not incoming.ask_again(1.0 + AGAIN_SECONDS / 2), "reported once per round trip"
    outgoing.acknowledge(1, 1.0, again=True)
    assert outgoing.due(1.0) == [(2, "b"), (3, "c"), (4, "d")]
    assert all(incoming.take(n) for n in (2, 3, 4))
    assert not incoming.ask_again(9.0)


def test_a_lost_tail_is_sent_again_when_nothing_moves():
    outgoing = Outgoing[str](0.0)
    outgoing.append("a", last=True)
    assert outgoing.due(0.0) == [(1, "a")]
    outgoing.tick(RESEND_SECONDS / 2)
    assert outgoing.due(RESEND_SECONDS / 2) == []
    outgoing.tick(RESEND_SECONDS)
    assert outgoing.due(RESEND_SECONDS) == [(1, "a")]
    outgoing.acknowledge(1, 9.0, again=False)
    assert outgoing.finished


def test_acknowledgements_of_the_future_and_of_the_past_change_nothing():
    outgoing = Outgoing[str](0.0)
    outgoing.append("a")
    outgoing.acknowledge(5, 0.0, again=False)
    assert outgoing.due(0.0) == [(1, "a")]
    outgoing.append("b")
    outgoing.acknowledge(1, 0.0, again=False)
    outgoing.acknowledge(0, 0.0, again=False)
    assert outgoing.due(0.0) == [(2, "b")]


def test_what_is_kept_is_bounded_and_a_long_replay_goes_in_bursts():
    outgoing = Outgoing[int](0.0)
    for number in range(ENTRIES_MAX):
        outgoing.append(number)
    assert not outgoing.overfull
    outgoing.append(0)
    assert outgoing.overfull
    assert len(outgoing.due(0.0)) == BURST_ENTRIES_MAX
    assert outgoing.waiting


def test_nothing_follows_the_end():
    outgoing = Outgoing[str](0.0)
    outgoing.append("a", last=True)
    with pytest.raises(ValueError, match="ended"):
        outgoing.append("b")
