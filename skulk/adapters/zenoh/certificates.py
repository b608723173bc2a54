"""This node's key and certificate from files, and Ed25519 signatures made and checked with such keys (RFC 8032).

The certificate authenticates the connection, its key signs what the node publishes. Makes no keys and no
certificates: the operator's command line does.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from skulk.adapters.zenoh.settings import TlsFiles
from skulk.core.domain import NodeName
from skulk.core.errors import PLN_TLS, InvalidInput
from skulk.core.wire.envelope import Verify

T = TypeVar("T")


def load_key(files: TlsFiles, node: NodeName) -> Ed25519PrivateKey:
    """The node's private key. Raises InvalidInput PLN_TLS that names the file when one is missing or unreadable,
    the key is not Ed25519 or readable by everybody, or the certificate is not this node's, not of this key, not
    of that CA, or expired."""
    key = _read(files.key, "an unencrypted PEM private key", lambda data: load_pem_private_key(data, None))
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidInput(PLN_TLS, f"{files.key} is not an Ed25519 key")
    if files.key.stat().st_mode & 0o007:
        raise InvalidInput(PLN_TLS, f"{files.key} is accessible to every user", fix=f"chmod 600 {files.key}")
    certificate = _read(files.certificate, "a PEM certificate", x509.load_pem_x509_certificate)
    authorities = _read(files.ca, "a PEM certificate", x509.load_pem_x509_certificates)
    if certificate.public_key() != key.public_key():
        raise InvalidInput(PLN_TLS, f"{files.certificate} does not belong to the key {files.key}")
    names = [str(a.value) for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [node]:
        raise InvalidInput(PLN_TLS, f"{files.certificate} is for {', '.join(names) or 'nobody'}, not for node {node}")
    if not any(_issued(certificate, authority) for authority in authorities):
        raise InvalidInput(PLN_TLS, f"{files.certificate} was not issued by {files.ca}")
    ends = certificate.not_valid_after_utc
    if ends <= datetime.datetime.now(datetime.UTC):
        raise InvalidInput(PLN_TLS, f"{files.certificate} expired on {ends:%Y-%m-%d}", fix="sign a new one")
    return key


def verifier(keys: Mapping[NodeName, bytes]) -> Verify:
    """A check against these public keys (32 raw bytes each). An author without a key is not believed."""
    loaded = {node: Ed25519PublicKey.from_public_bytes(raw) for node, raw in keys.items()}

    def verify(author: NodeName, data: bytes, signature: bytes) -> bool:
        key = loaded.get(author)
        if key is None:
            return False
        try:
            key.verify(signature, data)
        except InvalidSignature:
            return False
        return True

    return verify


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _read(path: Path, what: str, load: Callable[[bytes], T]) -> T:
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise InvalidInput(PLN_TLS, f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise InvalidInput(PLN_TLS, f"{path} is not {what}") from error
