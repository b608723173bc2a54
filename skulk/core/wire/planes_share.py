"""A node's share of the picture as bytes and back: canonical JSON, one table of fields per kind of resource.

The tables are the format: what is not in them is neither written nor read, so whatever another node sends, a reader
gets values of known types only. A share speaks for its author alone: placements, runners and routes carry no node on
the wire, they are the author's. Everything that is wrong is a MessageError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from skulk.core.domain.conditions import Condition, ConditionType, Reason, Status, Waiting
from skulk.core.domain.ids import CardName, CommitId, ContentHash, DeploymentName, NodeName, PlacementUid
from skulk.core.domain.share import Fetching, Share
from skulk.core.domain.view import Resource, Route
from skulk.core.wire.fields import COUNT_MAX, Fields, dump, parse
from skulk.core.wire.planes_messages import MessageError

SHARE_BYTES_MAX = 4 * 1024 * 1024
"""A placement with its runner takes about 2 kB, a model file 67: thousands fit, and no node has so many."""

Table = Mapping[str, Callable[[Fields, str], object]]


def _list(f: Fields, key: str) -> list[str]:
    return list(f.texts(key))


def _seconds(f: Fields, key: str) -> float:
    f.require(key)
    return f.number(key, 0.0)


def _seconds_or_none(f: Fields, key: str) -> float | None:
    return None if f.absent(key) else f.number(key, 0.0)


def _builds(f: Fields, key: str) -> list[dict[str, object]]:
    return [_row(item, _BUILD) for item in f.each(key, _same)]


_BUILD: Table = {
    "backend": Fields.text,
    "engine": Fields.text,
    "version": Fields.text,
    "digest": Fields.text,
    "device": Fields.text,
    "unified": Fields.flag,
    "deviceMemoryBytes": Fields.count_or_none,
}
_MACHINE: Table = {
    "backends": _list,
    "engines": _list,
    "builds": _builds,
    "memoryBytes": Fields.count,
    "diskBytes": Fields.count_or_none,
    "files": _list,
    "placedBytes": Fields.count,
    "os": Fields.text,
    "arch": Fields.text,
    "problems": _list,
}
_PLACEMENT: Table = {
    "deployment": Fields.text_or_none,
    "replica": Fields.count_or_none,
    "model": Fields.text_or_none,
    "backend": Fields.text_or_none,
    "contextTokens": Fields.count_or_none,
    "concurrency": Fields.count_or_none,
    "phase": Fields.text,
    "since": _seconds_or_none,
    "memoryBytes": Fields.count_or_none,
    "failures": Fields.count,
    "message": Fields.text,
    "retiring": Fields.flag,
}
_PLACEMENT_SPEC: Table = {"launchHash": Fields.text_or_none, "contentHash": Fields.text_or_none}
"""What its spec has beyond what its status repeats."""
PLACEMENT_BOTH = ("deployment", "replica", "model", "backend", "contextTokens", "concurrency")
"""Keys that a placement's spec and status share."""
_RUNNER: Table = {
    "deployment": Fields.text,
    "pid": Fields.count_or_none,
    "phase": Fields.text,
    "link": Fields.text,
    "adopted": Fields.flag,
    "running": Fields.count,
    "waiting": Fields.count,
    "steps": Fields.count,
    "residentBytes": Fields.count_or_none,
    "startedAt": _seconds,
    "loadShare": _seconds,
    "lastWords": Fields.text_or_none,
}
_RUNNER_SPEC: Table = {
    "engine": Fields.text,
    "backend": Fields.text,
    "model": Fields.text,
    "contextTokens": Fields.count,
}


def encode_share(share: Share) -> bytes:
    """Equal shares give equal bytes. Raises KeyError when a resource lacks a key of its table."""
    return dump(
        {
            "node": share.node,
            "version": share.version,
            "attempted": share.attempted,
            "accepted": share.accepted,
            "machine": _written(share.machine, _MACHINE, {}),
            "placements": [_written(item, _PLACEMENT, _PLACEMENT_SPEC) for item in share.placements],
            "runners": [_written(item, _RUNNER, _RUNNER_SPEC) for item in share.runners],
            "routes": [_route_written(route) for route in share.routes],
            "fetching": {key: [f.done_bytes, f.total_bytes] for key, f in share.fetching.items()},
            "present": sorted(share.present),
            "closing": share.closing,
        }
    )


def decode_share(data: bytes, author: NodeName) -> Share:
    """The share of `author`. Raises MessageError for anything else, also for another node's share."""
    try:
        f = parse(data, SHARE_BYTES_MAX)
        if f.text("node") != author:
            raise ValueError("it is about another node than its author")
        return _share(f, author)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MessageError(f"no share: {error}") from error


def _share(f: Fields, author: NodeName) -> Share:
    attempted, accepted = f.text_or_none("attempted"), f.text_or_none("accepted")
    version = f.text("version")
    f.require("placements", "runners", "routes")
    return Share(
        node=author,
        version=version,
        attempted=None if attempted is None else CommitId(attempted),
        accepted=None if accepted is None else CommitId(accepted),
        machine=_machine(f.inner("machine"), author, accepted, version),
        placements=_distinct(f.each("placements", lambda item: _placement(item, author))),
        runners=_distinct(f.each("runners", lambda item: _runner(item, author))),
        routes=f.each("routes", lambda item: _route(item, author)),
        fetching={key: _fetching(f.inner("fetching"), key) for key in f.mapping("fetching")},
        present=frozenset(f.texts("present")),
        closing=f.flag("closing"),
    )


def _row(f: Fields, table: Table) -> dict[str, object]:
    return {key: read(f, key) for key, read in table.items()}


def _same(f: Fields) -> Fields:
    return f


def _written(resource: Resource, status: Table, spec: Table) -> dict[str, object]:
    return {
        "name": resource.name,
        **{key: resource.status[key] for key in status},
        **{key: resource.spec[key] for key in spec},
        "conditions": [_condition_written(condition) for condition in resource.conditions],
        "waits": [
            {"subject": w.subject, "on": w.on, "reason": w.reason, "message": w.message} for w in resource.waiting
        ],
    }


def _machine(f: Fields, author: NodeName, accepted: str | None, version: str) -> Resource:
    status = {**_row(f, _MACHINE), "accepted": accepted, "version": version}
    return Resource("Node", author, {}, status, _conditions(f))


def _placement(f: Fields, author: NodeName) -> Resource:
    status = _row(f, _PLACEMENT)
    both = {key: status[key] for key in PLACEMENT_BOTH}
    spec = {**both, "nodes": [author], **_row(f, _PLACEMENT_SPEC)}
    waits = f.each("waits", _waiting)
    return Resource("Placement", f.text("name"), spec, {**status, "node": author}, _conditions(f), waits)


def _runner(f: Fields, author: NodeName) -> Resource:
    name = f.text("name")
    spec = {"placement": name, **_row(f, _RUNNER_SPEC)}
    status = {"placement": name, **_row(f, _RUNNER), "node": author}
    return Resource("Runner", name, spec, status)


def _distinct(resources: tuple[Resource, ...]) -> tuple[Resource, ...]:
    if len({resource.name for resource in resources}) < len(resources):
        raise ValueError("one name stands for two things")
    return resources


def _route_written(route: Route) -> dict[str, object]:
    return {
        "uid": route.uid,
        "deployment": route.deployment,
        "model": route.model,
        "ready": route.ready,
        "running": route.running,
        "waiting": route.waiting,
        "concurrency": route.concurrency,
        "contextTokens": route.context_tokens,
        "contentHash": route.content_hash,
        "queueMax": route.queue_max,
    }


def _route(f: Fields, author: NodeName) -> Route:
    return Route(
        uid=PlacementUid(f.text("uid")),
        deployment=DeploymentName(f.text("deployment")),
        node=author,
        ready=f.flag("ready"),
        running=f.count("running"),
        waiting=f.count("waiting"),
        concurrency=f.count("concurrency"),
        context_tokens=f.count("contextTokens"),
        content_hash=ContentHash(f.text("contentHash")),
        queue_max=f.count("queueMax"),
        model=CardName(f.text("model")),
    )


def _fetching(f: Fields, key: str) -> Fetching:
    values: Sequence[int] = f.ids(key)
    if len(values) != 2 or not 0 <= min(values) <= max(values) <= COUNT_MAX:
        raise ValueError("fetching is not a pair of byte counts")
    return Fetching(*values)


def _condition_written(condition: Condition) -> dict[str, object]:
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "commit": condition.commit,
        "since": condition.since,
    }


def _conditions(f: Fields) -> tuple[Condition, ...]:
    return f.each("conditions", _condition)


def _condition(f: Fields) -> Condition:
    commit = f.text_or_none("commit")
    return Condition(
        ConditionType(f.text("type")),
        Status(f.text("status")),
        _reason(f),
        f.text("message"),
        None if commit is None else CommitId(commit),
        _seconds(f, "since"),
    )


def _waiting(f: Fields) -> Waiting:
    return Waiting(f.text("subject"), f.text("on"), _reason(f), f.text("message"))


_REASONS = {reason.value: reason for reason in Reason}


def _reason(f: Fields) -> Reason:
    return _REASONS.get(f.text("reason"), Reason.NEWER_VERSION)
