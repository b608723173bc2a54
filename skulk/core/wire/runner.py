"""The protocol between a daemon and a runner on its Unix socket.

A message is a 4-byte big-endian length and that many bytes of UTF-8 JSON: an object whose `t` names the type.
Unknown fields are ignored and unknown types come out as `Unknown`, so that versions N and N-1 understand each
other; a hello with another PROTOCOL major means replacement instead of adoption.

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

import base64
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from skulk.core.domain.ids import BootId, NodeName, RequestId
from skulk.core.domain.requests import (
    Accepted,
    Finish,
    GenerationRequest,
    Message,
    Owner,
    RunnerRefusal,
    Sampling,
    Tokens,
)

PROTOCOL = 1
"""Raised when an older peer could misunderstand a message. The launch hash does not contain it."""
FRAME_BYTES_MAX = 64 * 1024 * 1024
"""A 10 MB prompt, escaped, with room. Beyond it the peer is broken: the connection is closed."""
_LENGTH = struct.Struct(">I")


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


@dataclass(frozen=True, slots=True)
class Step:
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
FromRunner = Hello | Report | Heartbeat | AcceptedFrame | RefusedFrame | Step | Flight | Unknown
AnyMessage = ToRunner | FromRunner


def encode(message: AnyMessage) -> bytes:
    """One message as bytes. Raises WireError above FRAME_BYTES_MAX."""
    body = json.dumps(_to_json(message), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # A lone surrogate cannot be UTF-8; it is escaped by the dialect long before, but must never break framing.
    data = body.encode("utf-8", "surrogatepass")
    if len(data) > FRAME_BYTES_MAX:
        raise WireError(f"a message of {len(data)} bytes is above the limit of {FRAME_BYTES_MAX}")
    return _LENGTH.pack(len(data)) + data


class Decoder:
    """Bytes in any pieces → whole messages. Raises WireError on garbage; then the connection is unusable."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[AnyMessage]:
        self._buffer += data
        messages: list[AnyMessage] = []
        offset = 0
        while len(self._buffer) - offset >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, offset)
            if length > FRAME_BYTES_MAX:
                raise WireError(f"a message of {length} bytes is above the limit of {FRAME_BYTES_MAX}")
            end = offset + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(decode(bytes(self._buffer[offset + _LENGTH.size : end])))
            offset = end
        del self._buffer[:offset]
        return messages


def decode(data: bytes) -> AnyMessage:
    """The body of one message. Raises WireError."""
    try:
        obj = json.loads(data.decode("utf-8", "surrogatepass"))
        return _from_json(obj)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WireError(f"not a message: {error}") from error


# --- JSON shapes --------------------------------------------------------------------------------------------


def _to_json(message: AnyMessage) -> dict[str, object]:
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
                "request": _request_to(message.request),
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
            return {"t": "accepted", "request": message.request, **_accepted_to(message.accepted)}
        case RefusedFrame():
            r = message.refusal
            return {
                "t": "refused",
                "request": message.request,
                "code": r.code,
                "message": r.message,
                "status": r.status,
                "retriable": r.retriable,
            }
        case Step():
            return {"t": "step", "entries": [[rid, _tokens_to(tokens)] for rid, tokens in message.entries]}
        case Flight():
            return {
                "t": "flight",
                "records": [[r.at, r.phase, r.detail, r.request] for r in message.records],
            }
        case Unknown():
            return {"t": message.type}


def _from_json(obj: dict[str, object]) -> AnyMessage:
    kind = str(obj["t"])
    parse = _PARSERS.get(kind)
    return Unknown(kind) if parse is None else parse(_Fields(obj))


class _Fields:
    """Typed reading of a JSON object; a wrong type is a TypeError, a missing required key a KeyError."""

    def __init__(self, obj: object) -> None:
        if not isinstance(obj, dict):
            raise TypeError("an object is expected")
        self._obj = obj

    def text(self, key: str, default: str | None = None) -> str:
        value = self._obj[key] if default is None else self._obj.get(key, default)
        if not isinstance(value, str):
            raise TypeError(f"{key} is not a string")
        return value

    def text_or_none(self, key: str) -> str | None:
        value = self._obj.get(key)
        return None if value is None else self.text(key)

    def whole(self, key: str, default: int | None = None) -> int:
        value = self._obj[key] if default is None else self._obj.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{key} is not an integer")
        return value

    def whole_or_none(self, key: str) -> int | None:
        return None if self._obj.get(key) is None else self.whole(key)

    def number(self, key: str, default: float) -> float:
        value = self._obj.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise TypeError(f"{key} is not a number")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self._obj.get(key, default)
        if not isinstance(value, bool):
            raise TypeError(f"{key} is not a boolean")
        return value

    def items(self, key: str) -> list[object]:
        value = self._obj.get(key, [])
        if not isinstance(value, list):
            raise TypeError(f"{key} is not a list")
        return value

    def mapping(self, key: str) -> dict[str, object]:
        value = self._obj.get(key, {})
        if not isinstance(value, dict):
            raise TypeError(f"{key} is not an object")
        return value

    def counters(self, key: str) -> dict[str, int]:
        fields = _Fields(self.mapping(key))
        return {name: fields.whole(name) for name in fields._obj}

    def inner(self, key: str) -> _Fields:
        return _Fields(self._obj[key])


def _request_to(r: GenerationRequest) -> dict[str, object]:
    return {
        "id": r.id,
        "model": r.model,
        "messages": [{"role": m.role, "content": m.content, "extra": dict(m.extra)} for m in r.messages],
        "sampling": {
            # 64-bit seeds exceed what JSON readers in other languages keep: sent as text.
            "seed": str(r.sampling.seed),
            "temperature": r.sampling.temperature,
            "topP": r.sampling.top_p,
            "topK": r.sampling.top_k,
            "minP": r.sampling.min_p,
        },
        "maxTokens": r.max_tokens,
        "stop": list(r.stop),
        "template": dict(r.template),
        "now": r.now,
        "deadlineSeconds": r.deadline_seconds,
    }


def _request_from(f: _Fields) -> GenerationRequest:
    messages = tuple(
        Message(m.text("role"), m.text("content"), m.mapping("extra"))
        for m in (_Fields(item) for item in f.items("messages"))
    )
    s = f.inner("sampling")
    return GenerationRequest(
        id=RequestId(f.text("id")),
        model=f.text("model"),
        messages=messages,
        sampling=Sampling(
            seed=int(s.text("seed")),
            temperature=s.number("temperature", 1.0),
            top_p=s.number("topP", 1.0),
            top_k=s.whole("topK", 0),
            min_p=s.number("minP", 0.0),
        ),
        max_tokens=f.whole_or_none("maxTokens"),
        stop=tuple(str(item) for item in f.items("stop")),
        template=f.mapping("template"),
        now=f.number("now", 0.0),
        deadline_seconds=f.number("deadlineSeconds", 600.0),
    )


def _accepted_to(a: Accepted) -> dict[str, object]:
    return {
        "promptIds": list(a.prompt_ids),
        "promptTokens": a.prompt_tokens,
        "cachedTokens": a.cached_tokens,
        "inReasoning": a.in_reasoning,
        "contextLeft": a.context_left,
    }


def _tokens_to(t: Tokens) -> dict[str, object]:
    obj: dict[str, object] = {"n": t.number, "ids": list(t.ids), "data": base64.b64encode(t.data).decode()}
    if t.finish is not None:
        obj["finish"] = t.finish.value
    if t.error is not None:
        obj["error"] = t.error
    return obj


def _ids(values: list[object]) -> tuple[int, ...]:
    for value in values:
        if not isinstance(value, int):
            raise TypeError("token ids are integers")
    return tuple(values)  # type: ignore[arg-type]  # checked just above


def _tokens_from(f: _Fields) -> Tokens:
    finish = f.text_or_none("finish")
    return Tokens(
        number=f.whole("n"),
        ids=_ids(f.items("ids")),
        data=base64.b64decode(f.text("data", "")),
        finish=None if finish is None else Finish(finish),
        error=f.text_or_none("error"),
    )


def _step_from(f: _Fields) -> Step:
    entries: list[tuple[RequestId, Tokens]] = []
    for item in f.items("entries"):
        if not isinstance(item, list) or len(item) != 2:
            raise TypeError("an entry is [request, tokens]")
        entries.append((RequestId(str(item[0])), _tokens_from(_Fields(item[1]))))
    return Step(tuple(entries))


def _record_from(item: object) -> FlightRecord:
    if not isinstance(item, list) or len(item) != 4:
        raise TypeError("a flight record is [at, phase, detail, request]")
    at, phase, detail, request = item
    return FlightRecord(float(at), str(phase), str(detail), None if request is None else str(request))


_PARSERS: dict[str, Callable[[_Fields], AnyMessage]] = {
    "attach": lambda f: Attach(
        NodeName(f.text("node")), BootId(f.text("boot")), f.whole("protocol"), f.counters("resume")
    ),
    "generate": lambda f: Generate(
        _request_from(f.inner("request")),
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
    "report": lambda f: Report(
        f.text("phase"), f.text("detail", ""), f.number("share", 0.0), f.text_or_none("code")
    ),
    "heartbeat": lambda f: Heartbeat(
        f.text("phase"),
        f.whole("progress"),
        f.whole("running"),
        f.whole("waiting"),
        f.whole_or_none("residentBytes"),
    ),
    "accepted": lambda f: AcceptedFrame(
        RequestId(f.text("request")),
        Accepted(
            _ids(f.items("promptIds")),
            f.whole("promptTokens"),
            f.whole("cachedTokens", 0),
            f.flag("inReasoning"),
            f.whole("contextLeft"),
        ),
    ),
    "refused": lambda f: RefusedFrame(
        RequestId(f.text("request")),
        RunnerRefusal(f.text("code"), f.text("message"), f.whole("status"), f.flag("retriable")),
    ),
    "step": _step_from,
    "flight": lambda f: Flight(tuple(_record_from(item) for item in f.items("records"))),
}
