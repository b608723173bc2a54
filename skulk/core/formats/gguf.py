"""What a GGUF file says of itself: metadata and tensor descriptions, read with limits before any library sees it.

Model files come from outside, and a malformed header can crash the library that loads it. So the whole header is
walked here first, every count and length bounded, and every tensor's data must lie inside the file. Versions 2 and
3, little-endian; layout as the comment of ggml's `gguf.h` describes it. Tensor data is never read, and nothing here
judges whether an engine knows the architecture.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

MAGIC = b"GGUF"
VERSIONS = (2, 3)
METADATA_ENTRIES_MAX = 65_536
"""Published files have some dozens."""
TENSORS_MAX = 65_536
"""The largest published mixtures have a few thousand."""
KEY_BYTES_MAX = 65_535
"""The format's own limit for keys."""
STRING_BYTES_MAX = 16 * 1024**2
"""Chat templates and licence texts are strings; the longest have some hundred kilobytes."""
ARRAY_ITEMS_MAX = 16 * 1024**2
"""The largest arrays are a tokenizer's merges: half a million for the largest vocabularies."""
TENSOR_NAME_BYTES_MAX = 63
"""Longer ones do not fit the library's own field of 64."""
DIMENSIONS_MAX = 4
ELEMENTS_MAX = 2**48
"""Of one tensor: beyond every disk, and far from where 64-bit products of the library overflow."""
ALIGNMENT_DEFAULT = 32
ALIGNMENT_MAX = 1024**2
"""A page is 64 KiB at most; a larger alignment only wastes space."""

_STRING, _ARRAY = 8, 9
_SCALARS = {
    code: struct.Struct("<" + letter)
    for code, letter in enumerate(("B", "b", "H", "h", "I", "i", "f", "?", "", "", "Q", "q", "d"))
    if letter
}
"""Value type → layout; 8 is a string, 9 an array."""
_TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}  # fmt: skip
"""ggml's number → (name, elements per block, bytes per block)."""


class GgufError(ValueError):
    """The file is no GGUF that may be loaded; the text says what is wrong and where."""


@dataclass(frozen=True, slots=True)
class GgufArray:
    """An array of the metadata, checked but not decoded: `gguf_items` does that."""

    item_type: int
    count: int
    start: int
    """Offset of the first item in the file."""


GgufValue = int | float | bool | str | GgufArray


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor: name, type (`Q8_0`), sizes (the fastest first), where its data is relative to `data_start`."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    version: int
    metadata: Mapping[str, GgufValue]
    tensors: tuple[GgufTensor, ...]
    alignment: int
    data_start: int
    """Where tensor data begins in the file."""

    def text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def number(self, key: str) -> int | None:
        """A whole number of the metadata; None when it is missing or something else."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


Buffer = bytes | bytearray | memoryview


def read_gguf(data: Buffer, file_bytes: int | None = None) -> GgufHeader:
    """Read and check the header. `data`: the file's content from its beginning, at least the whole header (a mapped
    file is fine, only the header is touched); `file_bytes`: the file's size when `data` is not all of it.

    Raises GgufError, whatever the bytes are, and nothing else.
    """
    # Let go of the data even when an error keeps this frame: a mapped file could not be closed otherwise.
    with memoryview(data) as view:
        return _Reader(view, len(view) if file_bytes is None else file_bytes).header()


def gguf_items(data: Buffer, array: GgufArray) -> tuple[int | float | bool | str, ...]:
    """The items of an array that `read_gguf` found in the same data."""
    with memoryview(data) as view:
        reader = _Reader(view, len(view))
        reader.at = array.start
        return tuple(reader.scalar(array.item_type, "an item") for _ in range(array.count))


class _Reader:
    def __init__(self, data: memoryview, file_bytes: int) -> None:
        self._data = data
        self._file_bytes = file_bytes
        self.at = 0

    def header(self) -> GgufHeader:
        version = self._start()
        tensor_count = self._count("tensors", TENSORS_MAX)
        entry_count = self._count("metadata entries", METADATA_ENTRIES_MAX)
        metadata: dict[str, GgufValue] = {}
        for _ in range(entry_count):
            key = self._key()
            if key in metadata:
                raise GgufError(f"metadata {key!r} is there twice")
            metadata[key] = self._value(key)
        alignment = _alignment(metadata)
        names: set[str] = set()
        tensors = tuple(self._tensor(names, alignment) for _ in range(tensor_count))
        data_start = -(-self.at // alignment) * alignment
        for tensor in tensors:
            end = data_start + tensor.offset + tensor.bytes
            if end > self._file_bytes:
                raise GgufError(
                    f"the file is cut off: tensor {tensor.name!r} ends at byte {end}, the file has {self._file_bytes}"
                )
        _refuse_overlap(tensors)
        return GgufHeader(version, metadata, tensors, alignment, data_start)

    def _start(self) -> int:
        magic = bytes(self._data[:4])
        if magic != MAGIC:
            raise GgufError(f"it does not begin with {MAGIC.decode()} but with {magic!r}: no GGUF file")
        self.at = 4
        version = int(self.scalar(4, "the version"))
        if version in VERSIONS:
            return version
        if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
            raise GgufError("it is big-endian, which is not supported")
        raise GgufError(f"version {version} is not supported, {' and '.join(map(str, VERSIONS))} are")

    def _count(self, what: str, maximum: int) -> int:
        count = int(self.scalar(10, f"the number of {what}"))
        if count > maximum:
            raise GgufError(f"it claims {count} {what}, at most {maximum} are accepted")
        return count

    def _key(self) -> str:
        raw = self._bytes("a metadata key", KEY_BYTES_MAX)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise GgufError(f"metadata key {raw[:80]!r} is no UTF-8") from error

    def _value(self, key: str) -> GgufValue:
        value_type = self._code(f"the type of {key!r}")
        return self._array(key) if value_type == _ARRAY else self.scalar(value_type, repr(key))

    def _array(self, key: str) -> GgufArray:
        item_type = self._code(f"the type of the items of {key!r}")
        count = self._count(f"items of {key!r}", ARRAY_ITEMS_MAX)
        start = self.at
        if item_type == _STRING:
            for _ in range(count):
                self._skip_string(key)
        elif item_type in _SCALARS:
            self._take(count * _SCALARS[item_type].size, f"the items of {key!r}")
        else:
            raise GgufError(f"metadata {key!r} is an array of unknown type {item_type}")
        return GgufArray(item_type, count, start)

    def _tensor(self, names: set[str], alignment: int) -> GgufTensor:
        raw = self._bytes("a tensor's name", TENSOR_NAME_BYTES_MAX)
        name = raw.decode("utf-8", "replace")
        if name in names:
            raise GgufError(f"tensor {name!r} is there twice")
        names.add(name)
        dimensions = self._code(f"the dimensions of tensor {name!r}")
        if not 0 <= dimensions <= DIMENSIONS_MAX:
            raise GgufError(f"tensor {name!r} has {dimensions} dimensions, at most {DIMENSIONS_MAX} are possible")
        shape = tuple(int(self.scalar(10, f"the shape of tensor {name!r}")) for _ in range(dimensions))
        elements = math.prod(shape)
        if elements > ELEMENTS_MAX or max(shape, default=1) > ELEMENTS_MAX:
            raise GgufError(f"tensor {name!r} has the absurd shape {' × '.join(map(str, shape))}")
        type_name, block, block_bytes = self._tensor_type(name)
        if (shape[0] if shape else 1) % block:
            raise GgufError(f"rows of tensor {name!r} are no multiple of the {block} elements of a {type_name} block")
        offset = int(self.scalar(10, f"the offset of tensor {name!r}"))
        if offset % alignment:
            raise GgufError(f"tensor {name!r} is at offset {offset}, which is not aligned to {alignment}")
        return GgufTensor(name, type_name, shape, offset, elements // block * block_bytes)

    def _tensor_type(self, name: str) -> tuple[str, int, int]:
        number = self._code(f"the type of tensor {name!r}")
        if number not in _TENSOR_TYPES:
            raise GgufError(f"tensor {name!r} has the unknown type {number}")
        return _TENSOR_TYPES[number]

    def scalar(self, value_type: int, what: str) -> int | float | bool | str:
        """A string or a number at the current place."""
        if value_type == _STRING:
            return self._bytes(what, STRING_BYTES_MAX).decode("utf-8", "replace")
        layout = _SCALARS.get(value_type)
        if layout is None:
            raise GgufError(f"{what} has the unknown type {value_type}")
        at = self._take(layout.size, what)
        value: int | float | bool = layout.unpack_from(self._data, at)[0]
        return value

    def _code(self, what: str) -> int:
        return int(self.scalar(5, what))

    def _bytes(self, what: str, maximum: int) -> bytes:
        length = int(self.scalar(10, f"the length of {what}"))
        if length > maximum:
            raise GgufError(f"{what} claims {length} bytes, at most {maximum} are accepted")
        at = self._take(length, what)
        return bytes(self._data[at : at + length])

    def _skip_string(self, key: str) -> None:
        # The same as reading it, without making the text: a vocabulary has some hundred thousand.
        at = self._take(8, f"the items of {key!r}")
        length = int.from_bytes(self._data[at : at + 8], "little")
        if length > STRING_BYTES_MAX:
            raise GgufError(
                f"an item of {key!r} claims to have {length} bytes, at most {STRING_BYTES_MAX} are accepted"
            )
        self._take(length, f"the items of {key!r}")

    def _take(self, count: int, what: str) -> int:
        """Go over `count` bytes and return where they begin."""
        at = self.at
        if at + count > len(self._data):
            raise GgufError(f"the file is cut off: {what} would end at byte {at + count} of {len(self._data)}")
        self.at = at + count
        return at


def _alignment(metadata: Mapping[str, GgufValue]) -> int:
    value = metadata.get("general.alignment", ALIGNMENT_DEFAULT)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= ALIGNMENT_MAX and value.bit_count() == 1:
        return value
    raise GgufError(f"general.alignment is {value}, a power of two up to {ALIGNMENT_MAX} is expected")


def _refuse_overlap(tensors: tuple[GgufTensor, ...]) -> None:
    ordered = sorted(tensors, key=lambda tensor: (tensor.offset, tensor.bytes))
    for one, other in itertools.pairwise(ordered):
        if one.offset + one.bytes > other.offset:
            raise GgufError(f"tensors {one.name!r} and {other.name!r} overlap")
