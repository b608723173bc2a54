"""Durable facts of this node in one small JSON file, replaced atomically and flushed before they are acted on."""

from __future__ import annotations

import json
import os
from pathlib import Path

from skulk.core.domain import CommitId
from skulk.core.errors import SRC_DISK, Transient
from skulk.core.ports import Persisted


class FileJournal:
    """Port `Journal` over `<stateDir>/journal.json`. A damaged file reads as empty: everything in it can be
    found again from the source and from the runners themselves."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Persisted:
        try:
            raw = json.loads(self._path.read_text("utf-8"))
            accepted = raw.get("accepted")
            return Persisted(accepted=CommitId(accepted) if isinstance(accepted, str) else None)
        except (OSError, ValueError, AttributeError):
            return Persisted()

    def save(self, persisted: Persisted) -> None:
        """Raises Transient (SRC_DISK): what cannot be remembered must not be acted on, and a full disk must not end
        the daemon."""
        data = json.dumps({"accepted": persisted.accepted})
        temporary = self._path.with_suffix(".tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            raise Transient(SRC_DISK, f"{self._path} cannot be written: {error.strerror or error}") from error
