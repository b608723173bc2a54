"""The document: a blueprint with its author and the members it was made for, as bytes that can be compared.

It is always complete, never a change to another one. Digest and signature are made over the bytes as published, and
whoever passes a document on passes on those bytes, so that a daemon of another version does not alter them. Signing
and checking signatures happen elsewhere: this module only reads, writes and orders.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from skulk.core.coordination.limits import EPOCH_MAX, EPOCHS_PER_ROUND
from skulk.core.domain import Blueprint, CommitId, NodeName
from skulk.core.planner.digests import canonical
from skulk.core.planner.document import DOCUMENT_BYTES_MAX, DocumentError, from_json, to_json

__all__ = ["Document", "DocumentError", "Version", "compose", "epoch_after", "read"]

Key = tuple[int, int]
"""(epoch, seq): the order of documents."""


@dataclass(frozen=True, slots=True)
class Version:
    """Which document: what is announced and reported instead of the body."""

    epoch: int
    seq: int
    author: NodeName
    commit: CommitId
    digest: str
    """64 hex digits of sha256 over the body."""

    @property
    def key(self) -> Key:
        return self.epoch, self.seq


@dataclass(frozen=True, slots=True)
class Document:
    """A document as read. `body` are the bytes that digest and signature are over."""

    version: Version
    members: frozenset[NodeName]
    """The nodes it was planned for: only they may accept it."""
    blueprint: Blueprint
    body: bytes

    @property
    def key(self) -> Key:
        return self.version.key

    @property
    def commit(self) -> CommitId:
        return self.version.commit


def compose(author: NodeName, members: Sequence[NodeName], blueprint: Blueprint) -> Document:
    """The document of `author` for `blueprint`, whose epoch and seq are set already."""
    return read(
        canonical({"author": author, "members": sorted(members), "blueprint": json.loads(to_json(blueprint))}),
    )


def read(body: bytes) -> Document:
    """The document in `body`. Raises DocumentError for anything that `compose` could not have written."""
    if len(body) > DOCUMENT_BYTES_MAX:
        raise DocumentError(f"{len(body)} bytes are more than a document may have ({DOCUMENT_BYTES_MAX})")
    try:
        top = json.loads(body)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DocumentError(f"not a JSON document: {error}") from None
    if not isinstance(top, dict):
        raise DocumentError("the document is not an object")
    author, members = top.get("author"), top.get("members")
    if not isinstance(author, str) or not author:
        raise DocumentError("document.author is not a name")
    if not isinstance(members, list) or not all(isinstance(name, str) for name in members):
        raise DocumentError("document.members is not a list of names")
    blueprint = from_json(canonical(top.get("blueprint")))
    if not 0 < blueprint.epoch <= EPOCH_MAX or blueprint.seq < 0:
        raise DocumentError(f"document ({blueprint.epoch}, {blueprint.seq}) has no valid place in the order")
    digest = hashlib.sha256(body).hexdigest()
    version = Version(blueprint.epoch, blueprint.seq, NodeName(author), blueprint.commit, digest)
    return Document(version, frozenset(NodeName(name) for name in members), blueprint, body)


def epoch_after(highest: int, ordinal: int) -> int:
    """The first epoch above `highest` that belongs to the node with `ordinal`.

    Epochs are dealt out: number e belongs to the ordinal e modulo EPOCHS_PER_ROUND. So two coordinators never hold
    one epoch, even on two sides of a partition that cannot know of each other's promises.
    """
    assert 0 < ordinal < EPOCHS_PER_ROUND, "manifests bound the ordinal"
    base = highest - highest % EPOCHS_PER_ROUND + ordinal
    return base if base > highest else base + EPOCHS_PER_ROUND


def belongs_to(epoch: int, ordinal: int) -> bool:
    """Whether the node with `ordinal` may publish in `epoch`."""
    return epoch % EPOCHS_PER_ROUND == ordinal
