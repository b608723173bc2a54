"""Looks through a git pack from an untrusted sender before git does: is it a pack, and how large does it become?

git bounds what it reads, not what that unpacks to: 32 MiB can hold objects of many gigabytes, by compression or by
deltas that copy the same bytes over and over, and git would fill memory and disk with them. Here every object is
inflated once, piece by piece, and what deltas announce is added up. Does not apply deltas, compute ids or keep
anything. Format: gitformat-pack(5).
"""

from __future__ import annotations

import zlib

# All objects of a commit that a node asks for, unpacked: 64 MiB of manifests, their history, and other files.
UNPACKED_BYTES_MAX = 256 * 1024 * 1024
# git holds a whole object in memory, several at a time.
OBJECT_BYTES_MAX = 64 * 1024 * 1024
# git needs about 100 bytes of memory for each.
OBJECTS_MAX = 200_000

_HEADER_BYTES = 12
_TRAILER_BYTES = 20
_OFFSET_DELTA = 6
_REFERENCE_DELTA = 7
# Small, because most objects are: what is read beyond an object's end is read again.
_PIECE_BYTES = 4 * 1024
_INFLATE_BYTES = 1024 * 1024
# A number of up to 64 bits takes ten bytes, and a delta begins with two.
_DELTA_HEAD_BYTES = 20


class BadPack(ValueError):
    """Not a pack, or a broken one."""


class LargePack(ValueError):
    """It would become larger than the limits."""


def check_pack(pack: bytes) -> int:
    """Return the number of objects. Raises BadPack, LargePack."""
    end = len(pack) - _TRAILER_BYTES
    if end < _HEADER_BYTES or pack[:4] != b"PACK" or int.from_bytes(pack[4:8], "big") != 2:
        raise BadPack("there is no pack of version 2")
    count = int.from_bytes(pack[8:12], "big")
    if count > OBJECTS_MAX:
        raise LargePack(f"the pack has {count} objects; at most {OBJECTS_MAX} are taken")
    at, total = _HEADER_BYTES, 0
    for _ in range(count):
        at, size = _object(pack, at, end)
        total += size
        if total > UNPACKED_BYTES_MAX:
            raise LargePack(f"the pack unpacks to more than {UNPACKED_BYTES_MAX} bytes")
    if at != end:
        raise BadPack("the pack does not end where it should")
    return count


def _object(pack: bytes, at: int, end: int) -> tuple[int, int]:
    """Go over one object; return where the next one begins, and how many bytes it needs unpacked."""
    first = _byte(pack, at, end)
    kind, size, shift = first >> 4 & 7, first & 15, 4
    at += 1
    more = first & 128
    while more:
        byte = _byte(pack, at, end)
        size |= (byte & 127) << shift
        shift, more, at = shift + 7, byte & 128, at + 1
        if shift > 64:
            raise BadPack("an object's size is no number")
    if kind in (0, 5):
        raise BadPack(f"there is no object type {kind}")
    _check_size(size)
    if kind == _REFERENCE_DELTA:
        at += 20
    elif kind == _OFFSET_DELTA:
        while _byte(pack, at, end) & 128:
            at += 1
        at += 1
    head, at = _inflate(pack, at, end, size)
    if kind not in (_OFFSET_DELTA, _REFERENCE_DELTA):
        return at, size
    _, after = _delta_number(head, 0)
    result, _ = _delta_number(head, after)
    _check_size(result)
    return at, size + result


def _inflate(pack: bytes, at: int, end: int, size: int) -> tuple[bytes, int]:
    """Inflate one object that must have `size` bytes; return its first bytes and where the next one begins."""
    stream = zlib.decompressobj()
    produced, head = 0, b""
    while not stream.eof:
        piece = pack[at : min(at + _PIECE_BYTES, end)]
        try:
            data = stream.decompress(piece, min(size - produced + 1, _INFLATE_BYTES))
        except zlib.error as error:
            raise BadPack(f"an object cannot be inflated: {error}") from None
        produced += len(data)
        if len(head) < _DELTA_HEAD_BYTES:
            head += data[:_DELTA_HEAD_BYTES]
        taken = len(piece) - len(stream.unused_data) - len(stream.unconsumed_tail)
        at += taken
        if produced > size or not (taken or data or stream.eof):
            raise BadPack("an object has another size than it says")
    if produced != size:
        raise BadPack("an object has another size than it says")
    return head, at


def _delta_number(data: bytes, at: int) -> tuple[int, int]:
    """A little-endian number of seven bits per byte, and where it ends."""
    value = shift = 0
    while True:
        byte = _byte(data, at, len(data))
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if not byte & 128:
            return value, at
        if shift > 64:
            raise BadPack("a delta's size is no number")


def _byte(data: bytes, at: int, end: int) -> int:
    if at >= end:
        raise BadPack("the pack ends too early")
    return data[at]


def _check_size(size: int) -> None:
    if size > OBJECT_BYTES_MAX:
        raise LargePack(f"an object has {size} bytes; at most {OBJECT_BYTES_MAX} are taken")
