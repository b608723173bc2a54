"""The tokens of one engine step, packed: what is sent for every token, so what costs most.

Reading and writing are a few calls of `struct` for each entry. Between two tokens a daemon sleeps, and what it does for
one costs several times what it costs in a loop: a frame in JSON took 0.13 ms to read, a packed one takes 0.05.

An entry is a header, big-endian and without padding, and five parts of the lengths that it names:

| header | |
|---|---|
| 16 bits | length of the request's id |
| 64 bits | number of the frame |
| float, 64 bits | seconds since the acceptance |
| 32 bits | how many token ids |
| 32 bits | length of their bytes |
| 32 bits | length of the rest; 0 for most |

The parts: request id (UTF-8), token ids (32 bits each), their bytes, and the rest, a JSON object with `finish`, `error`
and `logprobs`, where there is any.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable

from skulk.core.domain.ids import RequestId
from skulk.core.domain.requests import Tokens
from skulk.core.wire.fields import compact, peers_json
from skulk.core.wire.requests import rest_from_json, rest_to_json

_HEADER = struct.Struct(">HQdIII")


def pack(entries: Iterable[tuple[RequestId, Tokens]]) -> bytes:
    """Raises ValueError for log-probabilities that are no numbers, struct.error for what does not fit its field."""
    parts: list[bytes] = []
    for request, tokens in entries:
        name, count = request.encode("utf-8", "surrogatepass"), len(tokens.ids)
        rest = compact(more) if (more := rest_to_json(tokens)) else b""
        header = _HEADER.pack(len(name), tokens.number, tokens.seconds, count, len(tokens.data), len(rest))
        parts += (header, name, _ids(count).pack(*tokens.ids), tokens.data, rest)
    return b"".join(parts)


def unpack(data: bytes, at: int) -> tuple[tuple[RequestId, Tokens], ...]:
    """The entries from `at` to the end of `data`. Raises ValueError, KeyError, TypeError or struct.error for anything
    else than such entries."""
    entries: list[tuple[RequestId, Tokens]] = []
    while at < len(data):
        name_bytes, number, seconds, count, data_bytes, rest_bytes = _HEADER.unpack_from(data, at)
        name_at = at + _HEADER.size
        ids_at = name_at + name_bytes
        data_at = ids_at + 4 * count
        rest_at = data_at + data_bytes
        at = rest_at + rest_bytes
        if at > len(data):
            raise ValueError("an entry is cut off")
        request = RequestId(data[name_at:ids_at].decode("utf-8", "surrogatepass"))
        ids: tuple[int, ...] = _ids(count).unpack_from(data, ids_at)
        rest = rest_from_json(peers_json(data[rest_at:at])) if rest_bytes else (None, None, ())
        entries.append((request, Tokens(number, ids, data[data_at:rest_at], *rest, seconds)))
    return tuple(entries)


@functools.lru_cache(64)
def _ids(count: int) -> struct.Struct:
    return struct.Struct(f">{count}I")
