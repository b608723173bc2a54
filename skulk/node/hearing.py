"""What the others say over the control plane, as coordination reads it: reports, announcements, fetched documents.

Every document is read once. A blueprint document counts only with its author's signed announcement, which whoever
holds the document passes on: no member can put one into another's mouth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from skulk.core.coordination import Document, DocumentError, Version, read
from skulk.core.coordination.planes_report import Told, decode_announcement, decode_told
from skulk.core.domain import NodeName, PlanesView, Topic
from skulk.core.ports import ControlPlane
from skulk.core.wire.planes_messages import MessageError

_log = structlog.get_logger(component="coordination")

# Fetched documents that are kept: two sides of a partition, and the ones before.
BODIES_MAX = 8
# Signed announcements; those that nobody names any more go.
PROOFS_MAX = 256


class Hearing:
    """What reached this node from the others since its daemon began."""

    def __init__(self, node: NodeName, wake: Callable[[], None]) -> None:
        self._node = node
        self._wake = wake
        self._read_from: dict[tuple[Topic, NodeName], bytes] = {}
        self._told: dict[NodeName, tuple[Told, int]] = {}
        self.announced: dict[NodeName, Version] = {}
        """The newest announcement of each author."""
        self.proofs: dict[str, bytes] = {}
        """Digest of a document → its author's signed announcement."""
        self.bodies: dict[str, Document] = {}
        """Digest → document that was fetched."""

    @property
    def told(self) -> Mapping[NodeName, tuple[Told, int]]:
        """The newest report of every other node, and the greatest of this node's questions that it has answered."""
        return self._told

    def take_in(self, view: PlanesView, control: ControlPlane) -> None:
        """Read every document that is new."""
        for topic in (Topic.ANNOUNCEMENT, Topic.STATUS):
            for author, document in view.documents.get(topic, {}).items():
                if author == self._node or self._read_from.get((topic, author)) == document.sealed:
                    continue
                self._read_from[topic, author] = document.sealed
                try:
                    if topic is Topic.ANNOUNCEMENT:
                        self._read_announcement(author, document.body, document.sealed)
                    else:
                        self.hear(author, decode_told(document.body, author), 0, control)
                except MessageError as error:
                    _log.warning("document_unreadable", topic=topic.value, author=author, error=str(error))

    def hear(self, node: NodeName, told: Told, question: int, control: ControlPlane) -> None:
        """A report, published or given as the answer to `question`. An older one of the same daemon changes nothing."""
        known = self._told.get(node)
        if known is not None and known[0].report.boot == told.report.boot:
            older = told.number < known[0].number
            told, question = (known[0] if older else told), max(question, known[1])
        self._told[node] = told, question
        self._learn_proof(told, control)
        self._wake()

    def keep(self, version: Version, body: bytes) -> None:
        """A fetched document. Raises MessageError when the bytes are not that version."""
        try:
            document = read(body)
        except DocumentError as error:
            raise MessageError(str(error)) from error
        if document.version != version:
            raise MessageError(f"the body says {document.version.key} of {document.version.author}")
        self.bodies[version.digest] = document
        for digest in sorted(self.bodies, key=lambda d: self.bodies[d].key)[:-BODIES_MAX]:
            del self.bodies[digest]
        self._wake()

    def forget_proofs(self, held: Document | None) -> None:
        """Keep those of documents that somebody still names, or that this node holds."""
        if len(self.proofs) <= PROOFS_MAX:
            return
        named = {v.digest for v in self.announced.values()} | ({held.version.digest} if held is not None else set())
        named |= {t.report.accepted.digest for t, _ in self._told.values() if t.report.accepted is not None}
        self.proofs = {digest: proof for digest, proof in self.proofs.items() if digest in named}

    def _read_announcement(self, author: NodeName, body: bytes, sealed: bytes) -> None:
        version = decode_announcement(body)
        if version.author != author:
            raise MessageError(f"it announces a document of {version.author}")
        self.announced[author] = version
        self.proofs[version.digest] = sealed

    def _learn_proof(self, told: Told, control: ControlPlane) -> None:
        """A document that its author does not announce any more can still be checked: who holds it passes the
        announcement on."""
        version = told.report.accepted
        if version is None or version.digest in self.proofs:
            return
        document = control.believed(Topic.ANNOUNCEMENT, version.author, told.proof)
        if document is None:
            return
        try:
            if decode_announcement(document.body) == version:
                self.proofs[version.digest] = told.proof
        except MessageError:
            return
