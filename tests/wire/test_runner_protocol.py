"""Frames between daemon and runner: any message, in any pieces, and what is no message."""

from __future__ import annotations

import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skulk.core.domain import (
    Accepted,
    BootId,
    Finish,
    GenerationRequest,
    Message,
    NodeName,
    Owner,
    RequestId,
    RunnerRefusal,
    Sampling,
    TokenLogprob,
    Tokens,
)
from skulk.core.wire.runner import (
    FRAME_BYTES_MAX,
    AcceptedFrame,
    Ack,
    Attach,
    Cancel,
    Decoder,
    Describe,
    Drain,
    Flight,
    FlightRecord,
    Generate,
    Heartbeat,
    Hello,
    RefusedFrame,
    Report,
    Step,
    Stop,
    Unknown,
    WireError,
    decode,
    encode,
)

texts = st.text(st.characters(codec="utf-8"), max_size=20)
names = texts.filter(bool)
counts = st.integers(0, 2**40)
numbers = st.floats(0, 1e9, allow_nan=False)
ids = st.lists(st.integers(0, 300_000), max_size=8).map(tuple)
counters = st.dictionaries(names, counts, max_size=3)
json_values = st.recursive(
    st.none() | st.booleans() | counts | texts,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(texts, v),
    max_leaves=5,
)
objects = st.dictionaries(texts, json_values, max_size=3)
requests = st.builds(
    GenerationRequest,
    id=names.map(RequestId),
    model=texts,
    messages=st.lists(st.builds(Message, texts, texts, objects), max_size=3).map(tuple),
    sampling=st.builds(Sampling, st.integers(0, 2**64 - 1), numbers, numbers, st.integers(0, 99), numbers),
    max_tokens=st.none() | counts,
    stop=st.lists(texts, max_size=3).map(tuple),
    template=objects,
    now=numbers,
    deadline_seconds=numbers,
)
logprobs = st.builds(
    TokenLogprob,
    st.binary(max_size=4),
    numbers,
    st.lists(st.tuples(st.binary(max_size=4), numbers), max_size=2).map(tuple),
)
tokens = st.builds(
    Tokens,
    counts,
    ids,
    st.binary(max_size=20),
    st.none() | st.sampled_from(Finish),
    st.none() | texts,
    st.lists(logprobs, max_size=2).map(tuple),
    numbers,
)
owners = st.builds(Owner, names.map(NodeName), names.map(BootId))
messages = st.one_of(
    st.builds(Attach, names.map(NodeName), names.map(BootId), counts, counters),
    st.builds(Generate, requests, owners),
    st.builds(Cancel, names.map(RequestId), texts),
    st.builds(Ack, counters),
    st.just(Drain()),
    st.just(Stop()),
    st.just(Describe()),
    st.builds(Hello, texts, texts, counts, texts, counts, texts, texts, counters),
    st.builds(Report, texts, texts, numbers, st.none() | texts),
    st.builds(Heartbeat, texts, counts, counts, counts, st.none() | counts),
    st.builds(AcceptedFrame, names.map(RequestId), st.builds(Accepted, ids, counts, counts, st.booleans(), counts)),
    st.builds(RefusedFrame, names.map(RequestId), st.builds(RunnerRefusal, texts, texts, counts, st.booleans())),
    st.builds(Step, st.lists(st.tuples(names.map(RequestId), tokens), max_size=3).map(tuple)),
    st.builds(Flight, st.lists(st.builds(FlightRecord, numbers, texts, texts, st.none() | texts)).map(tuple)),
)


def entry(name: bytes = b"r", ids: int = 0, rest: bytes = b"") -> bytes:
    """The body of a step with one request, by hand. `ids`: how many the header says that there are."""
    return b"\x01" + struct.pack(">HQdIII", len(name), 1, 0.5, ids, 2, len(rest)) + name + b"hi" + rest


@given(st.lists(messages, max_size=4), st.integers(1, 50))
def test_every_message_survives_in_any_pieces(sent, piece):
    stream = b"".join(encode(m) for m in sent)
    decoder, received = Decoder(), []
    for start in range(0, len(stream), piece):
        received += decoder.feed(stream[start : start + piece])
    assert received == sent


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def test_a_lone_surrogate_in_a_message_does_not_break_the_framing():
    request = GenerationRequest(RequestId("r"), "m", (Message("user", "\ud800"),), Sampling(1))
    sent = Generate(request, Owner(NodeName("n"), BootId("b")))
    assert Decoder().feed(encode(sent)) == [sent]


def test_unknown_types_and_fields_of_a_newer_version_are_no_error():
    assert decode(b'{"t": "sing", "song": 1}') == Unknown("sing")
    assert decode(b'{"t": "drain", "gently": true}') == Drain()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"t": 5}',
        b'{"t": "cancel"}',
        b'{"t": "cancel", "request": 5}',
        b'{"t": "ack", "numbers": {"r": "1"}}',
        b'{"t": "ack", "numbers": {"r": true}}',
        b'{"t": "flight", "records": [[1' + b"0" * 400 + b', "idle", "", null]]}',
        b"[" * 100_000,
        entry(name=b"\xff"),
        entry(rest=b"{"),
        entry(rest=b"[]"),
        entry(rest=b'{"finish": "tired"}'),
        entry(rest=b'{"error": 5}'),
        entry(rest=b'{"logprobs": [["?", 0.0, []]]}'),
        entry() + b"\0",
        entry(ids=2**32 - 1),
    ],
)
def test_what_is_no_message_is_a_wire_error(body):
    with pytest.raises(WireError):
        Decoder().feed(framed(body))


def test_a_step_is_what_its_module_says():
    assert decode(entry()) == Step(((RequestId("r"), Tokens(1, (), b"hi", seconds=0.5)),))
    ended = Tokens(1, (), b"hi", Finish.ERROR, "no", (TokenLogprob(b"h", -0.5, ((b"g", -1.5),)),), 0.5)
    rest = b'{"finish":"error","error":"no","logprobs":[["aA==",-0.5,[["Zw==",-1.5]]]]}'
    assert decode(entry(rest=rest)) == Step(((RequestId("r"), ended),))
    assert decode(b"\x01") == Step(())


@given(tokens, st.data())
def test_a_step_that_is_cut_anywhere_is_no_message(sent, data):
    body = encode(Step(((RequestId("r"), sent),)))[4:]
    with pytest.raises(WireError):
        decode(body[: data.draw(st.integers(2, len(body) - 1))])


@pytest.mark.parametrize(
    "sent",
    [
        Tokens(1, (-1,), b""),
        Tokens(1, (2**32,), b""),
        Tokens(1, (1,), b"", logprobs=(TokenLogprob(b"", math.nan, ()),)),
    ],
)
def test_tokens_that_no_frame_can_hold_are_a_wire_error_at_the_sender(sent):
    with pytest.raises(WireError):
        encode(Step(((RequestId("r"), sent),)))


def test_a_length_beyond_the_limit_is_refused_before_anything_is_kept():
    with pytest.raises(WireError, match="limit"):
        Decoder().feed(struct.pack(">I", FRAME_BYTES_MAX + 1))


def test_values_that_are_no_json_are_a_wire_error_at_the_sender():
    with pytest.raises(WireError):
        encode(Report("loading", share=math.nan))
    request = GenerationRequest(RequestId("r"), "m", (), Sampling(1), template={"x": object()})
    with pytest.raises(WireError):
        encode(Generate(request, Owner(NodeName("n"), BootId("b"))))


def test_seeds_of_64_bits_travel_as_text():
    request = GenerationRequest(RequestId("r"), "m", (), Sampling(2**64 - 1))
    body = json.loads(encode(Generate(request, Owner(NodeName("n"), BootId("b"))))[4:])
    assert body["request"]["sampling"]["seed"] == "18446744073709551615"
