"""The protocol between a daemon and a runner on its Unix socket.

A message is a 4-byte big-endian length and that many bytes of UTF-8 JSON: an object whose `t` names the type.
Unknown fields are ignored and unknown types come out as `Unknown`, so that versions N and N-1 understand each
other; a hello with another PROTOCOL major means replacement instead of adoption. The one message that is no JSON is a
`Step`: the byte 1, and what `skulk.core.wire.steps` says.

    daemon                                runner
      │ ── Attach ───────────────────────▶ │   newest connection wins
      │ ◀─────────────────────── Hello ─── │   who it is, phase, open requests
      │ ◀── Report, Heartbeat (every 2 s) ─ │
      │ ── Generate ─────────────────────▶ │
      │ ◀────────── AcceptedFrame | RefusedFrame │
      │ ◀──── Step: one entry per request ─ │   numbered from 1 per request
      │ ── Ack (every second, and the last) ▶│   until the last is acknowledged the runner keeps the ids
      │ ── Cancel, Drain, Stop, Describe ─▶ │
      │ ◀─────────────────────── Flight ─── │

This module does no I/O; engine processes import it, so it needs the standard library only.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from skulk.core.domain.ids import BootId, NodeName, RequestId
from skulk.core.domain.requests import Accepted, GenerationRequest, Owner, RunnerRefusal, Tokens
from skulk.core.wire.fields import Fields, compact, peers_json
from skulk.core.wire.requests import (
    accepted_from_json,
    accepted_to_json,
    request_from_json,
    request_to_json,
)
from skulk.core.wire.steps import pack, unpack

PROTOCOL = 3
"""Raised when an older peer could misunderstand a message. The launch hash does not contain it."""
FRAME_BYTES_MAX = 64 * 1024 * 1024
"""A 10 MB prompt, escaped, with room. Beyond it the peer is broken: the connection is closed."""
_LENGTH = struct.Struct(">I")
_STEP = b"\x01"
"""First byte of a packed step. No JSON begins with it."""


class WireError(ValueError):
    """The peer sent bytes that are no message; the connection cannot be used any longer."""


@dataclass(frozen=True, slots=True)
class Attach:
    """First message of a daemon. `resume`: request → highest number it has, to be replayed from the next."""

    node: NodeName
    boot: BootId
    protocol: int = PROTOCOL
    resume: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Generate:
    request: GenerationRequest
    owner: Owner


@dataclass(frozen=True, slots=True)
class Cancel:
    request: RequestId
    reason: str


@dataclass(frozen=True, slots=True)
class Ack:
    """Request → highest number received. Acknowledging the frame with `finish` frees the request's record."""

    numbers: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Drain:
    """Refuse what is queued (retriable) and new; finish what runs."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End now: cancel what runs, free the memory, exit 0."""


@dataclass(frozen=True, slots=True)
class Describe:
    """Ask for the flight recorder."""


@dataclass(frozen=True, slots=True)
class Hello:
    uid: str
    launch_hash: str
    pid: int
    phase: str
    protocol: int = PROTOCOL
    engine_version: str = ""
    skulk_version: str = ""
    open: Mapping[str, int] = field(default_factory=dict)
    """Requests the runner still holds → highest number sent."""


@dataclass(frozen=True, slots=True)
class Report:
    """The runner's phase (`RunnerReport` value) changed, or progress inside it."""

    phase: str
    detail: str = ""
    share: float = 0.0
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Sent by the I/O thread every 2 s whatever the engine does; `progress` counts steps and warm-up progress."""

    phase: str
    progress: int
    running: int
    waiting: int
    resident_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class AcceptedFrame:
    request: RequestId
    accepted: Accepted


@dataclass(frozen=True, slots=True)
class RefusedFrame:
    request: RequestId
    refusal: RunnerRefusal


class Step(NamedTuple):
    """One engine step: an entry per request that got tokens or ended in it."""

    entries: tuple[tuple[RequestId, Tokens], ...]


@dataclass(frozen=True, slots=True)
class FlightRecord:
    """`at` is seconds of the epoch; `phase` one of the names in docs/reference/runner-states.md."""

    at: float
    phase: str
    detail: str = ""
    request: str | None = None


@dataclass(frozen=True, slots=True)
class Flight:
    records: tuple[FlightRecord, ...]


@dataclass(frozen=True, slots=True)
class Unknown:
    """A message type this version does not know: ignored."""

    type: str


ToRunner = Attach | Generate | Cancel | Ack | Drain | Stop | Describe | Unknown
_InJson = Hello | Report | Heartbeat | AcceptedFrame | RefusedFrame | Flight | Unknown
FromRunner = _InJson | Step
AnyMessage = ToRunner | FromRunner


def encode(message: AnyMessage) -> bytes:
    """One message as bytes. Raises WireError above FRAME_BYTES_MAX, or for values that are no JSON (NaN)."""
    try:
        data = _STEP + pack(message.entries) if isinstance(message, Step) else compact(_to_json(message))
    except (ValueError, TypeError, RecursionError, struct.error) as error:
        raise WireError(f"a {type(message).__name__} cannot be written: {error}") from error
    if len(data) > FRAME_BYTES_MAX:
        raise WireError(f"a message of {len(data)} bytes is above the limit of {FRAME_BYTES_MAX}")
    return _LENGTH.pack(len(data)) + data


class Decoder:
    """Bytes in any pieces → whole messages. Raises WireError on garbage; then the connection is unusable."""

    def __init__(self) -> None:
        self._rest = bytearray()
        """The beginning of a message; empty nearly always, and then what comes is read where it lies."""

    def feed(self, data: bytes) -> list[AnyMessage]:
        rest = self._rest
        if rest:
            rest += data
        given = rest or data
        size = len(given)
        messages: list[AnyMessage] = []
        offset = 0
        while size - offset >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(given, offset)
            if length > FRAME_BYTES_MAX:
                raise WireError(f"a message of {length} bytes is above the limit of {FRAME_BYTES_MAX}")
            end = offset + _LENGTH.size + length
            if size < end:
                break
            messages.append(decode(bytes(given[offset + _LENGTH.size : end])))
            offset = end
        if rest:
            del rest[:offset]
        elif offset < size:
            rest += data[offset:]
        return messages


def decode(data: bytes) -> AnyMessage:
    """The body of one message. Raises WireError."""
    try:
        if data[:1] == _STEP:
            return Step(unpack(data, 1))
        return _from_json(peers_json(data))
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError, struct.error) as error:
        # RecursionError: a body of nothing but brackets; OverflowError: an integer too large for a float.
        raise WireError(f"not a message: {error}") from error


# --- JSON shapes --------------------------------------------------------------------------------------------


def _to_json(message: ToRunner | _InJson) -> dict[str, object]:
    match message:
        case Attach():
            return {
                "t": "attach",
                "node": message.node,
                "boot": message.boot,
                "protocol": message.protocol,
                "resume": dict(message.resume),
            }
        case Generate():
            return {
                "t": "generate",
                "request": request_to_json(message.request),
                "owner": {"node": message.owner.node, "boot": message.owner.boot},
            }
        case Cancel():
            return {"t": "cancel", "request": message.request, "reason": message.reason}
        case Ack():
            return {"t": "ack", "numbers": dict(message.numbers)}
        case Drain():
            return {"t": "drain"}
        case Stop():
            return {"t": "stop"}
        case Describe():
            return {"t": "describe"}
        case Hello():
            return {
                "t": "hello",
                "uid": message.uid,
                "launchHash": message.launch_hash,
                "pid": message.pid,
                "phase": message.phase,
                "protocol": message.protocol,
                "engineVersion": message.engine_version,
                "skulkVersion": message.skulk_version,
                "open": dict(message.open),
            }
        case Report():
            return {
                "t": "report",
                "phase": message.phase,
                "detail": message.detail,
                "share": message.share,
                "code": message.code,
            }
        case Heartbeat():
            return {
                "t": "heartbeat",
                "phase": message.phase,
                "progress": message.progress,
                "running": message.running,
                "waiting": message.waiting,
                "residentBytes": message.resident_bytes,
            }
        case AcceptedFrame():
            return {"t": "accepted", "request": message.request, **accepted_to_json(message.accepted)}
        case RefusedFrame():
            r = message.refusal
            return {
                "t": "refused",
                "request": message.request,
                "code": r.code,
                "message": r.message,
                "status": r.status,
                "retriable": r.retriable,
                "param": r.param,
            }
        case Flight():
            return {
                "t": "flight",
                "records": [[r.at, r.phase, r.detail, r.request] for r in message.records],
            }
        case Unknown():
            return {"t": message.type}


def _from_json(fields: Fields) -> AnyMessage:
    kind = fields.text("t")
    parse = _PARSERS.get(kind)
    return Unknown(kind) if parse is None else parse(fields)


def _record_from(item: object) -> FlightRecord:
    if not isinstance(item, list) or len(item) != 4:
        raise TypeError("a flight record is [at, phase, detail, request]")
    at, phase, detail, request = item
    return FlightRecord(float(at), str(phase), str(detail), None if request is None else str(request))


_PARSERS: dict[str, Callable[[Fields], AnyMessage]] = {
    "attach": lambda f: Attach(
        NodeName(f.text("node")), BootId(f.text("boot")), f.whole("protocol"), f.counters("resume")
    ),
    "generate": lambda f: Generate(
        request_from_json(f.inner("request")),
        Owner(NodeName(f.inner("owner").text("node")), BootId(f.inner("owner").text("boot"))),
    ),
    "cancel": lambda f: Cancel(RequestId(f.text("request")), f.text("reason", "")),
    "ack": lambda f: Ack(f.counters("numbers")),
    "drain": lambda _: Drain(),
    "stop": lambda _: Stop(),
    "describe": lambda _: Describe(),
    "hello": lambda f: Hello(
        uid=f.text("uid"),
        launch_hash=f.text("launchHash"),
        pid=f.whole("pid"),
        phase=f.text("phase"),
        protocol=f.whole("protocol"),
        engine_version=f.text("engineVersion", ""),
        skulk_version=f.text("skulkVersion", ""),
        open=f.counters("open"),
    ),
    "report": lambda f: Report(f.text("phase"), f.text("detail", ""), f.number("share", 0.0), f.text_or_none("code")),
    "heartbeat": lambda f: Heartbeat(
        f.text("phase"),
        f.whole("progress"),
        f.whole("running"),
        f.whole("waiting"),
        f.whole_or_none("residentBytes"),
    ),
    "accepted": lambda f: AcceptedFrame(RequestId(f.text("request")), accepted_from_json(f)),
    "refused": lambda f: RefusedFrame(
        RequestId(f.text("request")),
        RunnerRefusal(
            f.text("code"), f.text("message"), f.whole("status"), f.flag("retriable"), f.text_or_none("param")
        ),
    ),
    "flight": lambda f: Flight(tuple(_record_from(item) for item in f.items("records"))),
}
