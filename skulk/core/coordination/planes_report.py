"""A member's report, its announcement of a document, and questions of one member to another, as bytes and back.
Canonical, camelCase JSON.

The bytes come from another node: every key is read with its type and bounds, and whatever is wrong is a MessageError.
A report speaks for its author alone, so placements and refusals carry no node on the wire: they are the author's.
Readers ignore keys that they do not know. Who signed the bytes is checked by whoever received them.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from skulk.core.coordination.document import Version
from skulk.core.coordination.facts import Invalid, Report
from skulk.core.coordination.limits import EPOCH_MAX
from skulk.core.domain import (
    BootId,
    CardName,
    CommitId,
    ContentHash,
    DeploymentName,
    LaunchHash,
    NodeName,
    PlacementUid,
    Reason,
    Refusal,
    RunningPlacement,
)
from skulk.core.wire.fields import Fields, dump, parse
from skulk.core.wire.planes_documents import member_from_json, member_to_json
from skulk.core.wire.planes_messages import MessageError

REPORT_BYTES_MAX = 4 * 1024 * 1024
"""A placement takes about 400 bytes, a model file 67: thousands of each fit, and no node has so many."""
ANNOUNCEMENT_BYTES_MAX = 4 * 1024
"""Two numbers, a name, a commit and a digest."""
QUESTION_BYTES_MAX = 16 * 1024
"""A commit, and the ones that are there already."""
_REASONS = {reason.value: reason for reason in Reason}
_DIGEST = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Told:
    """A report as it is published, and as it answers a question."""

    number: int
    """Grows with every change of the report while the daemon lives."""
    proof: bytes
    """The signed announcement of the document that the report names as accepted: its author may be silent by now,
    and nobody has to believe the node that reports it."""
    report: Report


@dataclass(frozen=True, slots=True)
class Question:
    """For the report; or, when `commit` is set, for its objects beyond those of `have`; or, when `reset` is set, to
    clear what is stuck of that deployment or placement."""

    commit: CommitId | None = None
    have: frozenset[CommitId] = frozenset()
    reset: str | None = None


def encode_report(report: Report) -> bytes:
    """Equal reports give equal bytes. Half a character in a message becomes `?`."""
    return dump(_report_to(report))


def _report_to(report: Report) -> dict[str, object]:
    return {
        "node": report.node,
        "boot": report.boot,
        "promised": report.promised,
        "accepted": None if report.accepted is None else _version_to(report.accepted),
        "validated": sorted(report.validated),
        "invalid": [{"commit": i.commit, "message": i.message} for i in report.invalid],
        "member": member_to_json(report.member),
        "running": [_running_to(r) for r in report.running],
        "refusals": [
            {"deployment": r.deployment, "launchHash": r.launch_hash, "reason": r.reason, "message": r.message}
            for r in report.refusals
        ],
        "stockTaken": report.stock_taken,
        "graced": report.graced,
        "live": sorted(report.live),
    }


def decode_report(data: bytes, author: NodeName) -> Report:
    """The report of `author`. Raises MessageError for anything else, also for another node's report."""
    return _read(data, REPORT_BYTES_MAX, lambda f: _report(f, author))


def encode_told(told: Told) -> bytes:
    """Equal values give equal bytes."""
    proof = base64.b64encode(told.proof).decode()
    return dump({"number": told.number, "proof": proof, "report": _report_to(told.report)})


def decode_told(data: bytes, author: NodeName) -> Told:
    """What `author` told. Raises MessageError for anything else, also for another node's report."""

    def read(f: Fields) -> Told:
        proof = base64.b64decode(f.text("proof"), validate=True)
        return Told(f.count("number"), proof, _report(f.inner("report"), author))

    return _read(data, REPORT_BYTES_MAX, read)


def encode_announcement(version: Version) -> bytes:
    """What the author of a document announces: its number, its commit and the sha256 of its bytes."""
    return dump(_version_to(version))


def decode_announcement(data: bytes) -> Version:
    """Raises MessageError."""
    return _read(data, ANNOUNCEMENT_BYTES_MAX, _version)


def encode_question(question: Question) -> bytes:
    """What is asked of one member over the control plane."""
    bundle = None
    if question.commit is not None:
        bundle = {"commit": question.commit, "have": sorted(question.have)}
    return dump({"bundle": bundle, "reset": question.reset})


def decode_question(data: bytes) -> Question:
    """Raises MessageError."""

    def read(f: Fields) -> Question:
        f.require("bundle")
        bundle = f.mapping_or_none("bundle")
        if bundle is None:
            return Question(reset=f.text_or_none("reset"))
        inner = Fields(bundle)
        return Question(CommitId(inner.text("commit")), frozenset(CommitId(c) for c in inner.texts("have")))

    return _read(data, QUESTION_BYTES_MAX, read)


def _report(f: Fields, author: NodeName) -> Report:
    f.require("accepted", "validated", "running", "refusals", "stockTaken", "graced")
    boot, member, accepted = BootId(f.text("boot")), member_from_json(f.inner("member")), f.mapping_or_none("accepted")
    if f.text("node") != author or member.node != author:
        raise ValueError("it is about another node than its author")
    if member.boot != boot:
        raise ValueError("report and member record are of two different starts")
    return Report(
        node=author,
        boot=boot,
        promised=f.count("promised"),
        accepted=None if accepted is None else _version(Fields(accepted)),
        validated=frozenset(CommitId(commit) for commit in f.texts("validated")),
        invalid=f.each("invalid", lambda i: Invalid(CommitId(i.text("commit")), i.text("message"))),
        member=member,
        running=f.each("running", lambda r: _running(r, author)),
        refusals=f.each("refusals", lambda r: _refusal(r, author)),
        stock_taken=f.flag("stockTaken"),
        graced=f.flag("graced"),
        live=frozenset(NodeName(name) for name in f.texts("live")),
    )


def _version_to(version: Version) -> dict[str, object]:
    return {
        "epoch": version.epoch,
        "seq": version.seq,
        "author": version.author,
        "commit": version.commit,
        "digest": version.digest,
    }


def _version(f: Fields) -> Version:
    digest = f.text("digest")
    if not _DIGEST.fullmatch(digest):
        raise ValueError("digest is not 64 hex digits")
    epoch = f.count("epoch")
    if not 0 < epoch <= EPOCH_MAX:
        raise ValueError("epoch has no place in the order")
    return Version(epoch, f.count("seq"), NodeName(f.text("author")), CommitId(f.text("commit")), digest)


def _running_to(r: RunningPlacement) -> dict[str, object]:
    return {
        "uid": r.uid,
        "deployment": r.deployment,
        "replica": r.replica,
        "model": r.model,
        "backend": r.backend,
        "contextTokens": r.context_tokens,
        "concurrency": r.concurrency,
        "launchHash": r.launch_hash,
        "contentHash": r.content_hash,
        "memoryBytes": r.memory_bytes,
        "rank": r.rank,
        "port": r.port,
        "complete": r.complete,
        "draining": r.draining,
    }


def _running(f: Fields, author: NodeName) -> RunningPlacement:
    return RunningPlacement(
        uid=PlacementUid(f.text("uid")),
        deployment=DeploymentName(f.text("deployment")),
        replica=f.count("replica"),
        model=CardName(f.text("model")),
        node=author,
        backend=f.text("backend"),
        context_tokens=f.count("contextTokens"),
        concurrency=f.count("concurrency"),
        launch_hash=LaunchHash(f.text("launchHash")),
        content_hash=ContentHash(f.text("contentHash")),
        memory_bytes=f.count("memoryBytes"),
        rank=f.count("rank", 0),
        port=f.count_or_none("port"),
        complete=f.flag("complete"),
        draining=f.flag("draining"),
    )


def _refusal(f: Fields, author: NodeName) -> Refusal:
    # A newer version may have more reasons. A veto stays one, and its message says why.
    reason = _REASONS.get(f.text("reason"), Reason.NODE_REFUSED)
    return Refusal(
        author, DeploymentName(f.text("deployment")), LaunchHash(f.text("launchHash")), reason, f.text("message")
    )


def _read(data: bytes, bytes_max: int, read: Callable[[Fields], T]) -> T:
    try:
        return read(parse(data, bytes_max))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MessageError(f"no report or question: {error}") from error
