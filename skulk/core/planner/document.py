"""The blueprint as bytes and back: what is announced, stored and compared. Canonical, camelCase JSON.

Readers ignore keys that they do not know and fill in those that are missing and have a default, so that daemons
of neighbouring versions understand each other. Signatures and digests are made over the bytes, elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TypeVar

from skulk.core.domain import (
    Blueprint,
    CardName,
    CommitId,
    ContentHash,
    DeploymentName,
    LaunchHash,
    NodeName,
    Outage,
    Placement,
    PlacementUid,
    Rank,
    Reason,
    Retiring,
    Unplaced,
)
from skulk.core.planner.digests import canonical

DOCUMENT_BYTES_MAX = 16 * 1024 * 1024
"""1,000 deployments with several replicas are about 2 MB; more than this is no blueprint."""

_T = TypeVar("_T")


class DocumentError(ValueError):
    """The bytes are no blueprint document."""


def to_json(blueprint: Blueprint) -> bytes:
    """Canonical UTF-8 JSON: equal blueprints give equal bytes."""
    return canonical(
        {
            "commit": blueprint.commit,
            "epoch": blueprint.epoch,
            "seq": blueprint.seq,
            "inputs": blueprint.inputs,
            "placements": [_placement_to(p) for p in blueprint.placements],
            "retiring": [
                {
                    "uid": r.uid,
                    "deployment": r.deployment,
                    "node": r.node,
                    "reason": r.reason,
                    "message": r.message,
                    "until": r.until,
                    "keep": r.keep,
                    "backend": r.backend,
                    "memoryBytes": r.memory_bytes,
                }
                for r in blueprint.retiring
            ],
            "unplaced": [
                {"deployment": u.deployment, "replica": u.replica, "reason": u.reason, "message": u.message}
                for u in blueprint.unplaced
            ],
            "outages": [{"deployment": o.deployment, "message": o.message} for o in blueprint.outages],
        }
    )


def from_json(data: bytes) -> Blueprint:
    """The blueprint that `to_json` wrote. Raises DocumentError for anything else."""
    if len(data) > DOCUMENT_BYTES_MAX:
        raise DocumentError(f"{len(data)} bytes are more than a blueprint may have ({DOCUMENT_BYTES_MAX})")
    try:
        top = _Reader(json.loads(data), "blueprint")
        return Blueprint(
            commit=CommitId(top.text("commit")),
            placements=top.each("placements", _placement_from),
            retiring=top.each("retiring", _retiring_from),
            unplaced=top.each("unplaced", _unplaced_from),
            outages=top.each("outages", lambda r: Outage(DeploymentName(r.text("deployment")), r.text("message"))),
            inputs=top.texts("inputs"),
            epoch=top.whole("epoch"),
            seq=top.whole("seq"),
        )
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DocumentError(f"not a JSON document: {error}") from None


def _placement_to(p: Placement) -> dict[str, object]:
    return {
        "uid": p.uid,
        "deployment": p.deployment,
        "replica": p.replica,
        "model": p.model,
        "commit": p.commit,
        "backend": p.backend,
        "engineVersion": p.engine_version,
        "engineDigest": p.engine_digest,
        "ranks": [{"node": r.node, "rank": r.rank, "port": r.port, "memoryBytes": r.memory_bytes} for r in p.ranks],
        "contextTokens": p.context_tokens,
        "concurrency": p.concurrency,
        "launchHash": p.launch_hash,
        "contentHash": p.content_hash,
        "replaces": p.replaces,
        "after": p.after,
    }


class _Reader:
    """Typed reading of one JSON object; what is wrong is a DocumentError that names the place."""

    def __init__(self, obj: object, place: str) -> None:
        if not isinstance(obj, dict):
            raise DocumentError(f"{place} is not an object")
        self._obj: dict[str, object] = obj
        self._place = place

    def _take(self, key: str, kind: type[_T], default: _T | None) -> _T:
        value = self._obj.get(key, default)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise DocumentError(f"{self._place}.{key} is not a {kind.__name__}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        return self._take(key, str, default)

    def text_or_none(self, key: str) -> str | None:
        return None if self._obj.get(key) is None else self.text(key)

    def whole(self, key: str, default: int | None = None) -> int:
        return self._take(key, int, default)

    def whole_or_none(self, key: str) -> int | None:
        return None if self._obj.get(key) is None else self.whole(key)

    def flag(self, key: str) -> bool:
        return self._take(key, bool, False)

    def uid_or_none(self, key: str) -> PlacementUid | None:
        value = self.text_or_none(key)
        return None if value is None else PlacementUid(value)

    def reason(self, key: str) -> Reason:
        try:
            return Reason(self.text(key))
        except ValueError:
            raise DocumentError(f"{self._place}.{key} is no known reason") from None

    def each(self, key: str, make: Callable[[_Reader], _T]) -> tuple[_T, ...]:
        items = self._take(key, list, [])
        return tuple(make(_Reader(item, f"{self._place}.{key}[{i}]")) for i, item in enumerate(items))

    def texts(self, key: str) -> Mapping[str, str]:
        inner = _Reader(self._obj.get(key, {}), f"{self._place}.{key}")
        return {name: inner.text(name) for name in inner._obj}


def _placement_from(r: _Reader) -> Placement:
    return Placement(
        uid=PlacementUid(r.text("uid")),
        deployment=DeploymentName(r.text("deployment")),
        replica=r.whole("replica"),
        model=CardName(r.text("model")),
        commit=CommitId(r.text("commit")),
        backend=r.text("backend"),
        engine_version=r.text("engineVersion"),
        ranks=r.each(
            "ranks",
            lambda i: Rank(
                NodeName(i.text("node")), i.whole("rank", 0), i.whole_or_none("port"), i.whole("memoryBytes", 0)
            ),
        ),
        context_tokens=r.whole("contextTokens"),
        concurrency=r.whole("concurrency"),
        launch_hash=LaunchHash(r.text("launchHash")),
        content_hash=ContentHash(r.text("contentHash")),
        replaces=r.uid_or_none("replaces"),
        after=r.uid_or_none("after"),
        engine_digest=r.text("engineDigest", ""),
    )


def _retiring_from(r: _Reader) -> Retiring:
    return Retiring(
        uid=PlacementUid(r.text("uid")),
        deployment=DeploymentName(r.text("deployment")),
        node=NodeName(r.text("node")),
        reason=r.reason("reason"),
        message=r.text("message"),
        until=r.uid_or_none("until"),
        keep=r.flag("keep"),
        backend=r.text("backend", ""),
        memory_bytes=r.whole("memoryBytes", 0),
    )


def _unplaced_from(r: _Reader) -> Unplaced:
    return Unplaced(DeploymentName(r.text("deployment")), r.whole("replica"), r.reason("reason"), r.text("message"))
