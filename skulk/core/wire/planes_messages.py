"""What travels on the planes besides documents: calls, token entries, acknowledgements, readings.

UTF-8 JSON with short keys; unknown keys are ignored, so that versions N and N-1 understand each other. Decoders
raise MessageError, whatever they were given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from skulk.core.domain.ids import BootId, PlacementUid
from skulk.core.domain.planes import Life
from skulk.core.domain.requests import Accepted, GenerationRequest, Tokens
from skulk.core.errors import CODES, REQ_INTERNAL, RequestError, RetriableRefusal
from skulk.core.wire.fields import Fields, peers_json
from skulk.core.wire.requests import (
    accepted_from_json,
    accepted_to_json,
    request_from_json,
    request_to_json,
    tokens_from_json,
    tokens_to_json,
)

T = TypeVar("T")


class MessageError(ValueError):
    """The bytes are no such message."""


@dataclass(frozen=True, slots=True)
class Submit:
    """A request for a placement. `stream` is a secret that the owner drew for it: entries, acknowledgements and
    cancels name the request only by it, so that nobody else can add to a stream."""

    placement: PlacementUid
    stream: str
    request: GenerationRequest


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The owner wants no more of a stream."""

    stream: str
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The request ended with this error, before or after it was accepted."""

    code: str
    message: str
    status: int
    kind: str
    slug: str | None = None
    param: str | None = None
    retry_after_seconds: int | None = None
    retriable: bool = False


Entry = Accepted | Failed | Tokens
"""One entry of a stream: the verdict, then tokens."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """An entry of the stream with that secret."""

    stream: str
    number: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class Receipt:
    """How far the owner has a stream; `again` asks for what follows once more. `number` may be FORGET."""

    stream: str
    number: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """A reading on the wire. `taken_at` is the sender's monotonic clock in seconds."""

    boot: BootId
    life: int
    seq: int
    taken_at: float
    values: Mapping[str, object]


def failed_of(error: RequestError) -> Failed:
    return Failed(
        error.code.id,
        error.message,
        error.status,
        error.kind,
        error.slug,
        error.param,
        error.retry_after_seconds,
        isinstance(error, RetriableRefusal),
    )


def error_of(failed: Failed) -> RequestError:
    """The error at the owner, equal to the one at the serving node. An unknown code becomes REQ_INTERNAL."""
    make = RetriableRefusal if failed.retriable else RequestError
    return make(
        CODES.get(failed.code, REQ_INTERNAL),
        failed.message,
        status=failed.status if 400 <= failed.status < 600 else 502,
        kind=failed.kind,
        slug=failed.slug,
        param=failed.param,
        retry_after_seconds=failed.retry_after_seconds,
    )


def encode_submit(message: Submit) -> bytes:
    return _dump(
        {"placement": message.placement, "stream": message.stream, "request": request_to_json(message.request)}
    )


def decode_submit(data: bytes) -> Submit:
    return _read(
        data,
        lambda f: Submit(PlacementUid(f.text("placement")), f.text("stream"), request_from_json(f.inner("request"))),
    )


def encode_withdraw(message: Withdraw) -> bytes:
    return _dump({"stream": message.stream, "reason": message.reason})


def decode_withdraw(data: bytes) -> Withdraw:
    return _read(data, lambda f: Withdraw(f.text("stream"), f.text("reason")))


def encode_frames(entries: Iterable[Numbered]) -> bytes:
    """One message of the data plane: what one engine step (and what is sent again) has for one owner."""
    return _dump({"e": [{"s": e.stream, "#": e.number, **_entry_to_json(e.entry)} for e in entries]})


def decode_frames(data: bytes) -> tuple[Numbered, ...]:
    return _read(data, lambda f: tuple(_numbered(Fields(item)) for item in f.items("e")))


def encode_receipts(receipts: Iterable[Receipt]) -> bytes:
    return _dump({"a": [{"s": r.stream, "#": r.number, "again": r.again} for r in receipts]})


def decode_receipts(data: bytes) -> tuple[Receipt, ...]:
    def read(f: Fields) -> tuple[Receipt, ...]:
        items = (Fields(item) for item in f.items("a"))
        return tuple(Receipt(i.text("s"), i.whole("#"), i.flag("again")) for i in items)

    return _read(data, read)


def encode_gone(streams: Iterable[str]) -> bytes:
    return _dump({"gone": list(streams)})


def decode_gone(data: bytes) -> tuple[str, ...]:
    return _read(data, lambda f: tuple(str(item) for item in f.items("gone")))


def encode_reading(me: Life, seq: int, taken_at: float, values: Mapping[str, object]) -> bytes:
    return _dump({"boot": me.boot, "life": me.number, "seq": seq, "at": taken_at, "values": dict(values)})


def decode_reading(data: bytes) -> Measured:
    def read(f: Fields) -> Measured:
        return Measured(
            BootId(f.text("boot")), f.whole("life"), f.whole("seq"), f.number("at", 0.0), f.mapping("values")
        )

    return _read(data, read)


def _entry_to_json(entry: Entry) -> dict[str, object]:
    match entry:
        case Tokens():
            return {"t": tokens_to_json(entry)}
        case Accepted():
            return {"ok": accepted_to_json(entry)}
        case Failed():
            return {"no": failed_to_json(entry)}


def failed_to_json(failed: Failed) -> dict[str, object]:
    return {
        "code": failed.code,
        "message": failed.message,
        "status": failed.status,
        "kind": failed.kind,
        "slug": failed.slug,
        "param": failed.param,
        "retryAfter": failed.retry_after_seconds,
        "retriable": failed.retriable,
    }


def failed_from_json(f: Fields) -> Failed:
    return Failed(
        f.text("code"),
        f.text("message"),
        f.whole("status"),
        f.text("kind"),
        f.text_or_none("slug"),
        f.text_or_none("param"),
        f.whole_or_none("retryAfter"),
        f.flag("retriable"),
    )


def encode_failed(failed: Failed) -> bytes:
    return _dump(failed_to_json(failed))


def decode_failed(data: bytes) -> Failed:
    return _read(data, failed_from_json)


def _numbered(f: Fields) -> Numbered:
    for key, read in _ENTRIES.items():
        try:
            inner = f.inner(key)
        except KeyError:
            continue
        return Numbered(f.text("s"), f.whole("#"), read(inner))
    raise KeyError("t, ok or no")


_ENTRIES: dict[str, Callable[[Fields], Entry]] = {
    "t": tokens_from_json,
    "ok": accepted_from_json,
    "no": failed_from_json,
}


def _dump(obj: object) -> bytes:
    return json.dumps(obj, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def _read(data: bytes, read: Callable[[Fields], T]) -> T:
    try:
        return read(peers_json(data))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MessageError(f"not a message of the planes: {error}") from error
