"""On the node: its key and the request for a certificate (PKCS 10, RFC 2986). On the operator's machine: reading one.

A request proves that whoever made it holds the key, and says which node it wants to be. Nothing else in it is
believed: address and lifetime come from the manifest and the operator.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from skulk.adapters.certificates.files import read_private, read_public, write_new, write_public
from skulk.core.domain import NodeName
from skulk.core.errors import CRT_FILE, CRT_REQUEST, InvalidInput, Refused


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose signature was checked: the node that it names and the raw public key (32 bytes)."""

    node: NodeName
    public_key: bytes


def make_key_and_request(node: NodeName, key: Path, request: Path) -> bool:
    """Make the node's Ed25519 key at `key` and the request for it at `request`; False when the key was there already.

    A key is never replaced; the request is made again for the key that is there. Raises InvalidInput: CRT_FILE when a
    file cannot be used, CRT_EXISTS when something else lies at `request`.
    """
    made = not os.path.lexists(key)
    if made:
        fresh = Ed25519PrivateKey.generate()
        write_new(key, fresh.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    private = _private(key)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)])
    signed = x509.CertificateSigningRequestBuilder().subject_name(name).sign(private, None)
    data = signed.public_bytes(Encoding.PEM)
    # A request holds nothing that cannot be made again, but what lies there may be something else.
    write_public(request, data, replace=_is_request_of(request, node))
    return made


def read_request(path: Path) -> Request:
    """The request in a PEM file. Raises InvalidInput CRT_FILE when there is none, Refused CRT_REQUEST when it is not
    signed by its own key, the key is not Ed25519, or it does not name exactly one node."""
    return request_in(read_public(path), str(path))


def request_in(pem: bytes, path: str) -> Request:
    """The request in a text; `path` is what it is called. Raises as `read_request`."""
    try:
        request = x509.load_pem_x509_csr(pem)
        names = [str(entry.value) for entry in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except ValueError as error:
        raise InvalidInput(CRT_FILE, f"{path} is no certificate request in PEM") from error
    try:
        key = request.public_key()
        genuine = isinstance(key, Ed25519PublicKey) and request.is_signature_valid
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        key, genuine = None, False
    if key is not None and not isinstance(key, Ed25519PublicKey):
        raise Refused(CRT_REQUEST, f"{path}: the key is not Ed25519")
    if not genuine or key is None:
        raise Refused(CRT_REQUEST, f"{path} is not signed by the key that it asks for")
    if len(names) != 1:
        raise Refused(CRT_REQUEST, f"{path} names {len(names)} nodes, not one")
    return Request(NodeName(names[0]), key.public_bytes_raw())


def _private(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(read_private(path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInput(CRT_FILE, f"{path} is no unencrypted private key in PEM") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidInput(CRT_FILE, f"{path} is no Ed25519 key")
    return key


def _is_request_of(path: Path, node: NodeName) -> bool:
    try:
        return read_request(path).node == node
    except (InvalidInput, Refused):
        return False
