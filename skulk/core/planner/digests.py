"""Digests that give things their identity: inputs, launches, contents, placements.

All are sha256 over one canonical JSON form, so that equal values have equal digests on every node. What goes into
the launch hash is the table of what restarts a runner: add a field here only when a runner must be replaced for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache

from skulk.core.domain import (
    Card,
    ContentHash,
    Deployment,
    DeploymentName,
    EngineBuild,
    Fleet,
    LaunchHash,
    NodeName,
    PlacementUid,
)

UID_HEX_DIGITS = 16
"""64 bits: a fleet would need billions of placements before two of them met."""


@lru_cache(maxsize=256)
def _field_names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _plain(value: object) -> object:
    """The value as JSON types; sets become sorted lists. Raises TypeError for what has no canonical form."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, str | int | float):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name)) for name in _field_names(type(value))}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Set):
        return sorted((_plain(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no canonical form")


def canonical(value: object) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: the same bytes for equal values, in every process."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(value: object) -> str:
    """64 hex digits over the canonical form."""
    return hashlib.sha256(canonical(value)).hexdigest()


def digest_unordered(values: Sequence[object]) -> str:
    """Like `digest`, whatever order the values come in."""
    return digest(sorted(digest(value) for value in values))


def fleet_digest(fleet: Fleet) -> str:
    """Of what planning reads of a commit: its id, nodes, cards and deployments, not how the files are written."""
    return digest([fleet.commit, fleet.nodes, fleet.cards, fleet.deployments])


def content_hash(card: Card) -> ContentHash:
    """What a continuation elsewhere needs to be the same: every file of the card, by path and sha256."""
    return ContentHash(digest(sorted((file.path, file.sha256) for file in card.files)))


def launch_hash(
    card: Card,
    deployment: Deployment,
    build: EngineBuild,
    context_tokens: int,
    *,
    rank_count: int = 1,
) -> LaunchHash:
    """Everything a runner is started with. When it changes, the runner is replaced."""
    return LaunchHash(
        digest(
            {
                "card": card.name,
                "model": card.model_id,
                "revision": card.revision,
                "files": sorted((file.path, file.bytes, file.sha256) for file in card.files),
                "ggufFile": card.gguf_file,
                "reasoning": card.reasoning.format,
                "backend": build.backend,
                "build": [build.version, build.digest],
                "options": deployment.engine_options,
                "contextTokens": context_tokens,
                "concurrency": deployment.concurrency,
                "ranks": rank_count,
            }
        )
    )


def placement_uid(
    deployment: DeploymentName, replica: int, nodes: Sequence[NodeName], launch: LaunchHash
) -> PlacementUid:
    """Deterministic identity: the same replica, started the same way on the same nodes, is the same placement."""
    return PlacementUid(digest([deployment, replica, list(nodes), launch])[:UID_HEX_DIGITS])
