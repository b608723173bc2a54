"""A fleet's certificate authority for tests: Ed25519 keys, certificates for 127.0.0.1."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from skulk.adapters.zenoh import TlsFiles


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


class Authority:
    """Makes node certificates; `files` writes them once per node."""

    def __init__(self, base: Path, name: str = "fleet") -> None:
        self._base = base / name
        self._base.mkdir(parents=True)
        self._key = Ed25519PrivateKey.generate()
        self._keys: dict[str, Ed25519PrivateKey] = {}
        self.ca = self._base / "ca.pem"
        self._certificate = self._sign(_name(name), self._key, authority=True)
        self.ca.write_bytes(self._certificate.public_bytes(Encoding.PEM))

    def files(self, node: str, *, days: int = 9) -> TlsFiles:
        key, certificate = self._base / f"{node}.key", self._base / f"{node}.pem"
        if node not in self._keys:
            private = self._keys[node] = Ed25519PrivateKey.generate()
            key.touch(0o600)
            key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            certificate.write_bytes(self._sign(_name(node), private, days=days).public_bytes(Encoding.PEM))
        return TlsFiles(self.ca, certificate, key)

    def public(self, node: str) -> bytes:
        self.files(node)
        return self._keys[node].public_key().public_bytes_raw()

    def _sign(
        self, name: x509.Name, key: Ed25519PrivateKey, *, authority: bool = False, days: int = 9
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        issuer = name if authority else self._certificate.subject
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=10))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .add_extension(x509.BasicConstraints(authority, None), True)
            .sign(self._key, None)
        )
