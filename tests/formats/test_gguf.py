"""The reader of GGUF headers, against the reference reader and against bytes that nobody would write."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import skulk
from skulk.core.formats import gguf as own
from skulk.core.formats.gguf import GgufArray, GgufError, gguf_items, read_gguf

FILES = Path(skulk.__file__).parents[1] / "cards" / "fox-tiny-gguf" / "files"
MODEL = FILES / "fox-tiny-Q8_0.gguf"


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def entry(key: str, value_type: int, raw: bytes) -> bytes:
    return text(key) + struct.pack("<I", value_type) + raw


def tensor(name: str, shape: tuple[int, ...], number: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + sizes + struct.pack("<IQ", number, offset)


def file(entries: tuple[bytes, ...] = (), tensors: tuple[bytes, ...] = (), data: int = 0, version: int = 3) -> bytes:
    """A whole file with `data` bytes of tensor data after the padding."""
    head = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(entries)) + b"".join((*entries, *tensors))
    return head + bytes(-len(head) % 32) + bytes(data)


GOOD = file(
    (
        entry("general.architecture", 8, text("fox")),
        entry("fox.layers", 4, struct.pack("<I", 2)),
        entry("fox.scale", 6, struct.pack("<f", 0.5)),
        entry("fox.fast", 7, b"\1"),
        entry("tokens", 9, struct.pack("<IQ", 8, 3) + text("a") + text("") + text("ß")),
        entry("heads", 9, struct.pack("<IQ", 5, 2) + struct.pack("<ii", -1, 7)),
    ),
    (tensor("a", (8, 2)), tensor("b", (32,), 8, 64)),
    98,
)


def test_metadata_and_tensors_are_what_was_written() -> None:
    header = read_gguf(GOOD)
    assert (header.version, header.alignment) == (3, 32)
    assert header.text("general.architecture") == "fox"
    assert header.text("fox.layers") is None
    assert header.number("fox.layers") == 2
    assert header.number("fox.fast") is None
    assert header.metadata["fox.scale"] == 0.5
    tokens, heads = header.metadata["tokens"], header.metadata["heads"]
    assert isinstance(tokens, GgufArray)
    assert isinstance(heads, GgufArray)
    assert gguf_items(GOOD, tokens) == ("a", "", "ß")
    assert gguf_items(GOOD, heads) == (-1, 7)
    assert [(t.name, t.type, t.shape, t.offset, t.bytes) for t in header.tensors] == [
        ("a", "F32", (8, 2), 0, 64),
        ("b", "Q8_0", (32,), 64, 34),
    ]
    assert header.data_start + 98 == len(GOOD)


def test_version_2_and_another_alignment_are_read() -> None:
    header = read_gguf(file((entry("general.alignment", 4, struct.pack("<I", 64)),), version=2))
    assert (header.version, header.alignment, header.data_start % 64) == (2, 64, 0)


def test_the_header_alone_is_enough_when_the_size_is_known() -> None:
    start = read_gguf(GOOD).data_start
    assert read_gguf(GOOD[:start], len(GOOD)) == read_gguf(GOOD)
    with pytest.raises(GgufError, match="cut off"):
        read_gguf(GOOD[:start])


@pytest.mark.skipif(not MODEL.is_file(), reason="the model's file is not in this checkout")
def test_a_real_file_reads_as_the_reference_reader_reads_it() -> None:
    gguf = pytest.importorskip("gguf")
    theirs = gguf.GGUFReader(MODEL)
    data = MODEL.read_bytes()
    ours = read_gguf(data)
    assert ours.data_start == theirs.data_offset
    assert [(t.name, t.type, t.bytes, t.offset + ours.data_start) for t in ours.tensors] == [
        (t.name, t.tensor_type.name, t.n_bytes, t.data_offset) for t in theirs.tensors
    ]
    assert [t.shape for t in ours.tensors] == [tuple(int(n) for n in t.shape) for t in theirs.tensors]
    for key, value in ours.metadata.items():
        expected = theirs.fields[key].contents()
        assert (list(gguf_items(data, value)) if isinstance(value, GgufArray) else value) == expected, key


def test_block_sizes_are_those_of_the_reference() -> None:
    gguf = pytest.importorskip("gguf")
    for number, (name, block, block_bytes) in own._TENSOR_TYPES.items():
        if name in ("Q8_1", "Q1_0", "Q2_0"):  # never stored, or younger than the reference
            continue
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, *gguf.GGML_QUANT_SIZES[kind]) == (name, block, block_bytes)


HUGE = 2**62
BAD = [
    (b"", "no GGUF"),
    (b"PK\3\4" + GOOD[4:], "no GGUF"),
    (b"GGUF", "cut off"),
    (file(version=1), "version 1"),
    (b"GGUF" + struct.pack(">I", 3) + bytes(16), "big-endian"),
    (struct.pack("<4sIQQ", b"GGUF", 3, HUGE, 0), "claims"),
    (struct.pack("<4sIQQ", b"GGUF", 3, 0, HUGE), "claims"),
    (struct.pack("<4sIQQ", b"GGUF", 3, 0, 2**63), "claims"),
    (struct.pack("<4sIQQ", b"GGUF", 3, 0, 1), "cut off"),
    (file((struct.pack("<Q", HUGE),)), "claims"),
    (file((text(b"\xff\xfe") + struct.pack("<II", 4, 1),)), "UTF-8"),
    (file((entry("k", 13, b""),)), "unknown type 13"),
    (file((entry("k", 8, struct.pack("<Q", HUGE)),)), "claims"),
    (file((entry("k", 8, struct.pack("<Q", 1000)),)), "cut off"),
    (file((entry("k", 9, struct.pack("<IQ", 4, HUGE)),)), "claims"),
    (file((entry("k", 9, struct.pack("<IQ", 4, 1000)),)), "cut off"),
    (file((entry("k", 9, struct.pack("<IQ", 9, 1)),)), "array of unknown type 9"),
    (file((entry("k", 9, struct.pack("<IQQ", 8, 1, HUGE)),)), "claims"),
    (file((entry("k", 4, bytes(4)),) * 2), "twice"),
    (file((entry("general.alignment", 4, struct.pack("<I", 33)),)), "alignment is 33"),
    (file((entry("general.alignment", 4, bytes(4)),)), "alignment is 0"),
    (file((entry("general.alignment", 7, b"\1"),)), "alignment is True"),
    (file((entry("general.alignment", 8, text("32")),)), "alignment is 32"),
    (file((), (tensor("a", (8,)),) * 2, 64), "twice"),
    (file((), (tensor("a" * 64, (8,)),), 32), "claims 64 bytes"),
    (file((), (tensor("a", (8, 1, 1, 1, 1)),), 32), "5 dimensions"),
    (file((), (tensor("a", (2**33, 2**33)),), 32), "absurd shape"),
    (file((), (tensor("a", (2**63, 0)),), 32), "absurd shape"),
    (file((), (tensor("a", (8,), 4),), 32), "unknown type 4"),
    (file((), (tensor("a", (33,), 8),), 64), "multiple of the 32"),
    (file((), (tensor("a", (8,), 0, 8),), 64), "not aligned"),
    (file((), (tensor("a", (8,), 0, 2**62),), 64), "cut off"),
    (file((), (tensor("a", (9,)),), 32), "cut off"),
    (file((), (tensor("a", (16,)), tensor("b", (8,), 0, 32)), 64), "overlap"),
]


@pytest.mark.parametrize(("data", "says"), BAD, ids=range(len(BAD)))
def test_what_is_wrong_is_said(data: bytes, says: str) -> None:
    with pytest.raises(GgufError, match=says):
        read_gguf(data)


@given(st.integers(0, len(GOOD) - 1))
def test_a_file_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(GgufError):
        read_gguf(GOOD[:length])


def outcome(data: bytes) -> None:
    try:
        header = read_gguf(data)
    except GgufError:
        return
    for tensor in header.tensors:
        assert header.data_start + tensor.offset + tensor.bytes <= len(data)


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_garbage_is_refused_and_nothing_else_happens(data: bytes) -> None:
    outcome(data)
    outcome(b"GGUF" + struct.pack("<I", 3) + data)


@settings(max_examples=1000)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_header_is_refused_or_still_keeps_its_tensors_inside_the_file(changes) -> None:
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    outcome(bytes(data))


def test_a_claim_costs_nothing_before_it_is_checked() -> None:
    """Counts and lengths up to the limits, without the bytes behind them, end at once instead of taking memory."""
    claims = struct.pack("<IQ", 4, own.ARRAY_ITEMS_MAX)
    with pytest.raises(GgufError, match="cut off"):
        read_gguf(file((entry("k", 9, claims),)))
    with pytest.raises(GgufError, match="cut off"):
        read_gguf(struct.pack("<4sIQQ", b"GGUF", 3, own.TENSORS_MAX, own.METADATA_ENTRIES_MAX))
