"""The key of a model directory: which exact files a card names."""

from __future__ import annotations

import hashlib
import json

from skulk.core.domain import Card


def content_key(card: Card) -> str:
    """16 hex digits over (path, bytes, sha256) of every file, independent of their order in the card."""
    files = sorted((file.path, file.bytes, file.sha256) for file in card.files)
    return hashlib.sha256(json.dumps(files, separators=(",", ":")).encode()).hexdigest()[:16]
