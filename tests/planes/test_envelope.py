"""Signed envelopes: only what the author wrote, for this fleet, purpose and reader, and each call once."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skulk.core.domain import BootId, Life, NodeName
from skulk.core.wire.envelope import (
    REPLAY_CALLS,
    Envelope,
    EnvelopeError,
    ReplayWindow,
    recipient,
    seal,
    unseal,
)

ME = Life(NodeName("a"), BootId("boot"), 7)
ENVELOPE = Envelope("skulk/f", "doc/status", ME, 3, b"body \x00 with anything", to="", re=0)


def sign(data: bytes) -> bytes:
    return hashlib.sha256(b"key of a" + data).digest()


def verify(author: NodeName, data: bytes, signature: bytes) -> bool:
    return author == "a" and signature == sign(data)


def read(data: bytes, **other: str) -> Envelope:
    return unseal(data, **{"fleet": "skulk/f", "purpose": "doc/status", "to": "", **other}, verify=verify)  # type: ignore[arg-type]


def test_what_was_sealed_comes_out():
    assert read(seal(ENVELOPE, sign)) == ENVELOPE
    to_me = replace(ENVELOPE, to=recipient(ME), re=9)
    assert read(seal(to_me, sign), to="a/boot") == to_me


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"fleet": "skulk/g"}, "another fleet's"),
        ({"purpose": "doc/member"}, "meant for something else"),
        ({"to": "a/boot"}, "meant for another reader"),
    ],
)
def test_it_means_nothing_elsewhere(other: dict[str, str], reason: str):
    with pytest.raises(EnvelopeError, match=reason):
        read(seal(ENVELOPE, sign), **other)


def test_another_author_cannot_be_claimed():
    with pytest.raises(EnvelopeError, match="not signed"):
        read(seal(replace(ENVELOPE, author=replace(ME, node=NodeName("b"))), sign))
    with pytest.raises(EnvelopeError, match="not signed"):
        read(seal(ENVELOPE, lambda data: b""))


def test_no_byte_can_be_changed():
    sealed = seal(ENVELOPE, sign)
    for at in range(len(sealed)):
        changed = sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :]
        with pytest.raises(EnvelopeError):
            read(changed)
        with pytest.raises(EnvelopeError):
            read(sealed[:at])
    with pytest.raises(EnvelopeError):
        read(sealed + b"x")


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_nothing_else_happens(data: bytes):
    for garbage in (data, b"SKE1" + data, b"SKE1\0\0\0\x02{}" + data):
        with pytest.raises(EnvelopeError):
            read(garbage)


def test_versions_grow_across_restarts():
    later = replace(ENVELOPE, author=replace(ME, number=8), seq=1)
    assert later.version > ENVELOPE.version < replace(ENVELOPE, seq=4).version


@given(st.permutations(range(1, 30)))
def test_every_call_is_new_once_in_any_order(order: list[int]):
    window = ReplayWindow()
    assert all(window.is_new((1, seq)) for seq in order)
    assert not any(window.is_new((1, seq)) for seq in order)


def test_a_new_life_ends_the_old_ones_calls():
    window = ReplayWindow()
    assert window.is_new((1, 5))
    assert window.is_new((2, 5))
    assert not window.is_new((1, 6))
    assert window.is_new((2, 5 + REPLAY_CALLS))
    assert not window.is_new((2, 4)), "too old to tell"
