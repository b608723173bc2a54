"""Key expressions of the planes, and who dials whom.

All keys live below a prefix made from the fleet's namespace, so that two fleets on one network neither see nor
reach each other. A part that comes from outside is checked: no wildcard, no slash.

    live/NODE/LIFE/BOOT              liveliness token of a daemon
    doc/TOPIC/NODE                   signed document, retained
    reading/NODE/KIND                measured values, retained, droppable
    bye/NODE                         signed goodbye
    body/NODE/DIGEST                 query: the bytes with that sha256, from that holder
    call/NODE/VERB                   query: signed call to a node
    frames/OWNER/BOOT/SERVER/PLACEMENT   generated tokens on their way to the owner
    ack/SERVER/OWNER/BOOT            how far the owner has them
    gone/OWNER/BOOT                  streams that the serving node does not know (any longer)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from skulk.core.domain.ids import BootId, NodeName, PlacementUid
from skulk.core.domain.planes import Life, Topic

ROOT = "skulk"
DIGEST_HEX = 16
"""64 bit of the namespace's digest: fleets of one network are few, and certificates part them as well."""
_TOPICS = frozenset(topic.value for topic in Topic)
_PART = re.compile(r"[A-Za-z0-9._-]{1,128}")


def fleet_prefix(namespace: str) -> str:
    """The prefix of all keys of a fleet. A digest, because a namespace may hold what a key may not."""
    return f"{ROOT}/{hashlib.sha256(namespace.encode()).hexdigest()[:DIGEST_HEX]}"


def join(*parts: str) -> str:
    """One key. Raises ValueError for a part that would be something else than one plain chunk."""
    for part in parts:
        if _PART.fullmatch(part) is None:
            raise ValueError(f"{part!r} cannot be part of a key")
    return "/".join(parts)


def split(key: str, first: str, count: int) -> tuple[str, ...] | None:
    """The chunks after `first` when there are exactly `count`, else None: somebody else's key."""
    chunks = tuple(key.split("/"))
    return chunks[1:] if chunks[0] == first and len(chunks) == count + 1 and all(chunks) else None


def live(life: Life) -> str:
    return join("live", life.node, str(life.number), life.boot)


def live_of(key: str) -> Life | None:
    """Whose token that is; None for a key that is none."""
    chunks = split(key, "live", 3)
    if chunks is None or not chunks[1].isascii() or not chunks[1].isdecimal():
        return None
    return Life(NodeName(chunks[0]), BootId(chunks[2]), int(chunks[1]))


def document(topic: Topic, node: NodeName) -> str:
    return join("doc", topic.value, node)


def document_of(key: str) -> tuple[Topic, NodeName] | None:
    chunks = split(key, "doc", 2)
    if chunks is None or chunks[0] not in _TOPICS:
        return None
    return Topic(chunks[0]), NodeName(chunks[1])


def reading(node: NodeName, kind: str) -> str:
    return join("reading", node, kind)


def bye(node: NodeName) -> str:
    return join("bye", node)


def body(node: NodeName, digest: str) -> str:
    return join("body", node, digest)


def call(node: NodeName, verb: str) -> str:
    return join("call", node, verb)


def frames(owner: Life, server: NodeName, placement: PlacementUid) -> str:
    return join("frames", owner.node, owner.boot, server, placement)


def ack(server: NodeName, owner: Life) -> str:
    return join("ack", server, owner.node, owner.boot)


def gone(owner: NodeName, boot: BootId) -> str:
    return join("gone", owner, boot)


@dataclass(frozen=True, slots=True)
class Dialable:
    """One node as the manifests declare it: its ordinal and where its planes listen (`tls/10.0.0.3:52416`); None for
    a node without an address, which nobody can dial."""

    node: NodeName
    ordinal: int
    endpoint: str | None


def dial_list(me: NodeName, nodes: Iterable[Dialable]) -> tuple[str, ...]:
    """Endpoints this node opens: those of all lower ordinals, lowest first.

    So every pair has exactly one dialler, and a node that is added changes no list but its own. A node without an
    address cannot be dialled, so it dials everybody else that has one; two such nodes meet through a third that relays.
    A node that the manifests do not name dials nobody.
    """
    known = sorted(nodes, key=lambda entry: entry.ordinal)
    mine = next((entry for entry in known if entry.node == me), None)
    if mine is None:
        return ()
    return tuple(
        entry.endpoint
        for entry in known
        if entry.endpoint is not None and entry.node != me and (entry.ordinal < mine.ordinal or mine.endpoint is None)
    )


def must_reopen(opened_with: Iterable[str], wanted: Iterable[str]) -> bool:
    """An open session cannot learn endpoints. One that is not wanted any longer may stay until the next start."""
    return not set(wanted) <= set(opened_with)
