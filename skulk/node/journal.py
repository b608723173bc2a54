"""Durable facts of this node: one small JSON file, and the body of the document it acts on beside it.

Both are replaced atomically and flushed before they are acted on; the body is there before the file that names it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path

from skulk.core.domain import CommitId
from skulk.core.errors import SRC_DISK, Transient
from skulk.core.ports import Persisted


class FileJournal:
    """Port `Journal` over `<stateDir>/journal.json`. What is damaged reads as empty: everything in it can be found
    again from the source, from the other nodes and from the runners themselves."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: Persisted | None = None

    def load(self) -> Persisted:
        if self._known is None:
            self._known = self._read()
        return self._known

    def _read(self) -> Persisted:
        try:
            raw = json.loads(self._path.read_text("utf-8"))
            accepted, promised, life = raw.get("accepted"), raw.get("promised"), raw.get("life")
            digest, proof = raw.get("document"), raw.get("proof")
        except (OSError, ValueError, AttributeError):
            return Persisted()
        return Persisted(
            accepted=CommitId(accepted) if isinstance(accepted, str) else None,
            promised=promised if isinstance(promised, int) else 0,
            document=self._body(digest) if isinstance(digest, str) else None,
            proof=_from_base64(proof) if isinstance(proof, str) else b"",
            life=life if isinstance(life, int) else 0,
        )

    def _body(self, digest: str) -> bytes | None:
        try:
            body = self._beside(digest).read_bytes()
        except OSError:
            return None
        return body if hashlib.sha256(body).hexdigest() == digest else None

    def _beside(self, digest: str) -> Path:
        # A name from a damaged file must not lead elsewhere.
        return self._path.with_name(f"document-{hashlib.sha256(digest.encode()).hexdigest()[:16]}.json")

    def save(self, persisted: Persisted) -> None:
        """Raises Transient (SRC_DISK): what cannot be remembered must not be acted on, and a full disk must not end
        the daemon."""
        digest = None
        if persisted.document is not None:
            digest = hashlib.sha256(persisted.document).hexdigest()
        if persisted.document is not None and digest is not None and persisted.document != self.load().document:
            self._write(self._beside(digest), persisted.document)
        facts = {
            "accepted": persisted.accepted,
            "promised": persisted.promised,
            "document": digest,
            "proof": base64.b64encode(persisted.proof).decode(),
            "life": persisted.life,
        }
        self._write(self._path, json.dumps(facts).encode())
        self._known = persisted
        kept = self._beside(digest) if digest is not None else None
        for old in self._path.parent.glob("document-*.json"):
            if old != kept:
                old.unlink(missing_ok=True)

    def _write(self, path: Path, data: bytes) -> None:
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            # The name too: after a power cut a promise that others have heard of must still be known.
            directory = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise Transient(SRC_DISK, f"{path} cannot be written: {error.strerror or error}") from error


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""
