"""The fleet's certificate authority, on the operator's machine: made once, signs node certificates (X.509, RFC 5280).

One level, Ed25519, no revocation list: a node is shut out by taking its manifest or its public key out of the
repository. Asks no questions and prints nothing; the command line does.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from skulk.adapters.certificates.files import PUBLIC, read_private, read_public, write_new
from skulk.adapters.certificates.requests import Request
from skulk.core.errors import CRT_AUTHORITY, CRT_EXISTS, CRT_FILE, CRT_PASSPHRASE, CRT_REQUEST, InvalidInput, Refused

AUTHORITY_DAYS = 3650
"""Ten years: changing the authority means touching every node, and its key is offline."""
CERTIFICATE_DAYS = 825
"""Two years and a quarter, the longest that browsers and Apple's TLS accept; renewing is one command per node."""
RENEWAL_DAYS = 30
"""A certificate is renewed this long before its end: time enough for somebody to plug the authority in."""
BACKDATED = datetime.timedelta(hours=1)
"""A node's clock may be behind the operator's when the certificate arrives."""
COMMON_NAME_CHARACTERS_MAX = 64
"""RFC 5280, ub-common-name."""
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_DNS = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class Authority:
    """What signs: the authority's certificate and its key."""

    certificate: x509.Certificate
    key: Ed25519PrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def not_after(self) -> datetime.datetime:
        return self.certificate.not_valid_after_utc


@dataclass(frozen=True, slots=True)
class Signed:
    """A node's certificate in PEM, what it is valid for, and until when."""

    pem: bytes
    names: tuple[str, ...]
    not_after: datetime.datetime


def authority_files(directory: Path) -> tuple[Path, Path]:
    """(certificate, key) of the authority kept in `directory`."""
    return directory / "ca.pem", directory / "ca.key"


def make_authority(directory: Path, name: str, passphrase: bytes | None, now: datetime.datetime) -> Authority:
    """Make the authority of fleet `name` in `directory`, its key encrypted when there is a passphrase.

    Raises InvalidInput: CRT_EXISTS when there is one already, CRT_FILE when it cannot be written.
    """
    certificate_file, key_file = authority_files(directory)
    for path in (certificate_file, key_file):
        if path.exists() or path.is_symlink():
            raise InvalidInput(CRT_EXISTS, f"{path} exists already", fix="leave --new-ca out to use it")
    key = Ed25519PrivateKey.generate()
    subject = _name(f"skulk fleet {name}"[:COMMON_NAME_CHARACTERS_MAX])
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(True, 0), True)
        .add_extension(_usage(signs_certificates=True), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        .sign(key, None)
    )
    how: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    # The key first: a certificate without it would look like an authority and sign nothing.
    write_new(key_file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how))
    write_new(certificate_file, certificate.public_bytes(Encoding.PEM), PUBLIC)
    return Authority(certificate, key)


def authority_certificate(directory: Path) -> x509.Certificate:
    """The certificate of the authority kept in `directory`: enough to judge others, and no secret.

    Raises InvalidInput: CRT_AUTHORITY when there is none, CRT_FILE when it cannot be used.
    """
    certificate_file, _ = authority_files(directory)
    if not certificate_file.exists():
        raise InvalidInput(CRT_AUTHORITY, f"{directory} holds no ca.pem and ca.key")
    try:
        return x509.load_pem_x509_certificate(read_public(certificate_file))
    except ValueError as error:
        raise InvalidInput(CRT_FILE, f"{certificate_file} is no certificate in PEM") from error


def load_authority(directory: Path, passphrase: bytes | None) -> Authority:
    """The authority kept in `directory`.

    Raises InvalidInput: CRT_AUTHORITY when there is none, CRT_PASSPHRASE when the key is encrypted and the passphrase
    missing or wrong, CRT_FILE when a file cannot be used.
    """
    certificate_file, key_file = authority_files(directory)
    if not key_file.exists():
        raise InvalidInput(CRT_AUTHORITY, f"{directory} holds no ca.pem and ca.key")
    certificate = authority_certificate(directory)
    data = read_private(key_file)
    try:
        # An unencrypted key with a passphrase is a TypeError too: then the passphrase is not needed.
        key = load_pem_private_key(data, passphrase if b"ENCRYPTED" in data else None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        if b"ENCRYPTED" not in data:
            raise InvalidInput(CRT_FILE, f"{key_file} is no private key in PEM") from error
        what = "is encrypted" if passphrase is None else "does not open with this passphrase"
        raise InvalidInput(CRT_PASSPHRASE, f"{key_file} {what}") from error
    if not isinstance(key, Ed25519PrivateKey) or key.public_key() != certificate.public_key():
        raise InvalidInput(CRT_FILE, f"{key_file} is not the Ed25519 key of {certificate_file}")
    return Authority(certificate, key)


def sign(authority: Authority, request: Request, hosts: Sequence[str], now: datetime.datetime) -> Signed:
    """A certificate for the node of `request`: valid for its name and `hosts` (host names or IP addresses), as server
    and as client, for CERTIFICATE_DAYS or as long as the authority itself.

    The caller has checked that the fleet declares such a node. Raises Refused CRT_REQUEST for a host that cannot stand
    in a certificate, InvalidInput CRT_AUTHORITY when the authority has expired.
    """
    if authority.not_after <= now:
        when = f"{authority.not_after:%Y-%m-%d}"
        raise InvalidInput(CRT_AUTHORITY, f"the authority expired on {when}", fix="make a new one: --new-ca, --ca DIR")
    names = tuple(dict.fromkeys((*hosts, *([request.node] if _DNS.fullmatch(request.node) else []))))
    if not names:
        message = f"node {request.node} has no address, and its name is no host name"
        raise Refused(CRT_REQUEST, message, fix="write spec.address into its manifest")
    ends = min(now + datetime.timedelta(days=CERTIFICATE_DAYS), authority.not_after)
    public = Ed25519PublicKey.from_public_bytes(request.public_key)
    issuer = authority.certificate
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(request.node))
        .issuer_name(issuer.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(False, None), True)
        .add_extension(_usage(signs_certificates=False), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), False)
        .sign(authority.key, None)
    )
    return Signed(certificate.public_bytes(Encoding.PEM), names, certificate.not_valid_after_utc)


def renewal_reason(
    authority: x509.Certificate, pem: bytes, request: Request, hosts: Sequence[str], now: datetime.datetime
) -> str:
    """Why the certificate that a node has is not the one that it should have; empty when it is. Needs no key."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        certificate.verify_directly_issued_by(authority)
        public = certificate.public_key()
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return "it is not signed by this fleet's authority"
    if not isinstance(public, Ed25519PublicKey) or public.public_bytes_raw() != request.public_key:
        return "it is for another key"
    if (named := common_name(pem)) != request.node:
        return f"it is for node {named}"
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "it names no host"
    if missing := [host for host in hosts if _general_name(host) not in names]:
        return f"it does not name {', '.join(missing)}"
    ends = certificate.not_valid_after_utc
    # None is signed beyond the authority's own end: a new one would end no later.
    renewable = ends < authority.not_valid_after_utc
    if ends <= now or (renewable and ends - now < datetime.timedelta(days=RENEWAL_DAYS)):
        return f"it ends on {ends:%Y-%m-%d}"
    return ""


def common_name(pem: bytes) -> str:
    """Whom a certificate in PEM names; empty when it is none."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        return ""
    return str(names[0].value) if names else ""


def valid_until(certificate: Path) -> datetime.datetime:
    """When a certificate in PEM ends. Raises InvalidInput CRT_FILE when there is none."""
    try:
        return x509.load_pem_x509_certificate(read_public(certificate)).not_valid_after_utc
    except ValueError as error:
        raise InvalidInput(CRT_FILE, f"{certificate} is no certificate in PEM") from error


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if _DNS.fullmatch(host) is None:
        raise Refused(CRT_REQUEST, f'"{host}" is no host name or IP address', fix="correct spec.address of the node")
    return x509.DNSName(host)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
