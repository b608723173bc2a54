"""The newest document of every author on every topic, and what the common documents say.

Pure: signatures are checked by a function that is passed in. A document counts only on its author's own key, and
only if its (life, seq) is above what is known: an old one that somebody repeats changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping

from skulk.core.domain.blueprint import EngineBuild, Member
from skulk.core.domain.ids import BootId, CommitId, NodeName
from skulk.core.domain.planes import Document, Life, Topic
from skulk.core.wire import planes_keys as keys
from skulk.core.wire.envelope import Envelope, EnvelopeError, Verify, unseal
from skulk.core.wire.fields import Fields

UNSIGNED_MAX = 256
"""Keys whose unbelieved document is kept for another look: a few per node that is about to be added."""
GOODBYE = "bye"
"""Purpose of the last envelope of a life."""


class Documents:
    """What was believed, by topic and author; what was not, by reason."""

    def __init__(self, fleet: str) -> None:
        self.refused: Counter[str] = Counter()
        self._fleet = fleet
        self._newest: dict[Topic, dict[NodeName, Document]] = {topic: {} for topic in Topic}
        self._view: Mapping[Topic, Mapping[NodeName, Document]] | None = None
        self._unsigned: dict[str, bytes] = {}
        """The last one per key that no trusted key had signed: its author may be named by the next commit."""

    def take(self, key: str, data: bytes, verify: Verify) -> Document | None:
        """The document, when it is believed and new; else None."""
        place = keys.document_of(key)
        if place is None:
            return None
        topic, node = place
        envelope = self.believed(data, key=document_purpose(topic), node=node, verify=verify)
        if envelope is None:
            if key in self._unsigned or len(self._unsigned) < UNSIGNED_MAX:
                self._unsigned[key] = data
            return None
        self._unsigned.pop(key, None)
        known = self._newest[topic].get(node)
        if known is not None and envelope.version <= (known.author.number, known.seq):
            if envelope.version < (known.author.number, known.seq):
                self.refused["older than what is known"] += 1
            return None
        document = Document(topic, envelope.author, envelope.seq, envelope.body, data)
        self._newest[topic][node] = document
        self._view = None
        return document

    def believed(self, data: bytes, *, key: str, node: NodeName, verify: Verify) -> Envelope | None:
        """An envelope for everybody by that node, or None and a count of the reason."""
        try:
            envelope = unseal(data, fleet=self._fleet, purpose=key, verify=verify)
            if envelope.author.node != node:
                raise EnvelopeError("on another author's key")
        except EnvelopeError as error:
            self.refused[str(error)] += 1
            return None
        return envelope

    def judge_again(self, trusted: Container[NodeName], verify: Verify) -> bool:
        """Other keys are trusted now: drop the documents of nodes without one, and look again at what had no valid
        signature. Whether anything changed."""
        lost = [(topic, node) for topic, by in self._newest.items() for node in by if node not in trusted]
        for topic, node in lost:
            del self._newest[topic][node]
            self._view = None
        waiting, self._unsigned = self._unsigned, {}
        taken = [key for key, data in waiting.items() if self.take(key, data, verify) is not None]
        return bool(lost or taken)

    def view(self) -> Mapping[Topic, Mapping[NodeName, Document]]:
        """An immutable copy, made once per change."""
        if self._view is None:
            self._view = {topic: dict(sorted(by.items())) for topic, by in self._newest.items()}
        return self._view


def document_purpose(topic: Topic) -> str:
    return f"doc/{topic.value}"


def document_envelope(fleet: str, topic: Topic, me: Life, seq: int, body: bytes) -> Envelope:
    return Envelope(fleet, document_purpose(topic), me, seq, body)


def member_to_json(m: Member) -> dict[str, object]:
    """Byte counts, sorted digests of files."""
    builds = [
        {
            "backend": b.backend,
            "engine": b.engine,
            "version": b.version,
            "digest": b.digest,
            "device": b.device,
            "unified": b.unified,
            "deviceMemoryBytes": b.device_memory_bytes,
        }
        for b in m.builds
    ]
    return {
        "node": m.node,
        "boot": m.boot,
        "memoryBytes": m.memory_bytes,
        "builds": builds,
        "files": sorted(m.files),
        "os": m.os,
        "arch": m.arch,
        "version": m.skulk_version,
        "validated": m.validated,
        "diskBytes": m.disk_bytes,
    }


def member_from_json(f: Fields) -> Member:
    """Raises KeyError, TypeError or ValueError. Name and boot are what it says itself."""
    validated = f.text_or_none("validated")
    return Member(
        node=NodeName(f.text("node")),
        boot=BootId(f.text("boot")),
        memory_bytes=f.count("memoryBytes"),
        builds=f.each("builds", build_from_json),
        files=frozenset(f.texts("files")),
        os=f.text("os", ""),
        arch=f.text("arch", ""),
        skulk_version=f.text("version", ""),
        validated=None if validated is None else CommitId(validated),
        disk_bytes=f.count_or_none("diskBytes"),
    )


def build_from_json(f: Fields) -> EngineBuild:
    return EngineBuild(
        backend=f.text("backend"),
        engine=f.text("engine"),
        version=f.text("version"),
        digest=f.text("digest"),
        device=f.text("device", ""),
        unified=f.flag("unified", True),
        device_memory_bytes=f.count_or_none("deviceMemoryBytes"),
    )
