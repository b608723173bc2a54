"""A fleet's authority and its nodes' files, made by the program's own code, all in one directory."""

from __future__ import annotations

import datetime
from pathlib import Path

from skulk.adapters.certificates import (
    CERTIFICATE_DAYS,
    authority_files,
    make_authority,
    make_key_and_request,
    read_request,
    sign,
    write_public,
)
from skulk.adapters.zenoh import TlsFiles
from skulk.core.domain import NodeName


class Authority:
    """Makes node certificates for 127.0.0.1; `files` writes them once per node."""

    def __init__(self, base: Path, name: str = "fleet") -> None:
        self._base = base / name
        self._now = datetime.datetime.now(datetime.UTC)
        self._authority = make_authority(self._base, name, None, self._now)
        self.ca = authority_files(self._base)[0]

    def files(self, node: str, *, days: int = 9) -> TlsFiles:
        """The files of a node whose certificate ends in so many days."""
        key, certificate = self._base / f"{node}.key", self._base / f"{node}.pem"
        if not certificate.exists():
            make_key_and_request(NodeName(node), key, self._request(node))
            then = self._now + datetime.timedelta(days=days - CERTIFICATE_DAYS)
            signed = sign(self._authority, read_request(self._request(node)), ["127.0.0.1"], then)
            write_public(certificate, signed.pem, replace=False)
        return TlsFiles(self.ca, certificate, key)

    def public(self, node: str) -> bytes:
        self.files(node)
        return read_request(self._request(node)).public_key

    def _request(self, node: str) -> Path:
        return self._base / f"{node}.csr"
