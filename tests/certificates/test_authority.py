"""What the authority signs is taken by an independent TLS library, for the right names only."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from skulk.adapters.certificates import (
    AUTHORITY_DAYS,
    CERTIFICATE_DAYS,
    Authority,
    Request,
    authority_files,
    load_authority,
    make_authority,
    make_key_and_request,
    read_request,
    sign,
    valid_until,
    write_public,
)
from skulk.core.domain import NodeName
from skulk.core.errors import (
    CRT_AUTHORITY,
    CRT_EXISTS,
    CRT_FILE,
    CRT_PASSPHRASE,
    CRT_REQUEST,
    ErrorCode,
    InvalidInput,
    Refused,
    SkulkError,
)

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "ca", "home", None, NOW)


def request_of(directory: Path, node: str) -> Request:
    make_key_and_request(NodeName(node), directory / f"{node}.key", directory / f"{node}.csr")
    return read_request(directory / f"{node}.csr")


def enrolled(authority: Authority, directory: Path, node: str, *hosts: str) -> Path:
    """A node's certificate; its key lies beside it."""
    certificate = directory / f"{node}.pem"
    write_public(certificate, sign(authority, request_of(directory, node), hosts, NOW).pem, replace=False)
    return certificate


def code_of(error: pytest.ExceptionInfo[SkulkError]) -> ErrorCode:
    return error.value.code


# --- an independent judge -----------------------------------------------------------------------------------


def context(ca: Path, certificate: Path, *, server: bool) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(ca)
    made.load_cert_chain(certificate, certificate.with_suffix(".key"))
    return made


def handshake(ca: Path, dialler: Path, listener: Path, name: str) -> None:
    """Mutual TLS in memory. Raises SSLError when either side refuses the other."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context(ca, dialler, server=False).wrap_bio(to_client, to_server, server_hostname=name)
    server = context(ca, listener, server=True).wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    for _ in range(10):
        for side in list(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
    assert not waiting
    assert server.getpeercert()


@pytest.mark.parametrize("host", ["10.0.0.3", "fd00::1", "mac-1.local"])
def test_two_enrolled_nodes_trust_each_other_by_address_and_by_name(authority: Authority, tmp_path: Path, host: str):
    a, b = enrolled(authority, tmp_path, "a"), enrolled(authority, tmp_path, "b", host)
    ca = authority_files(tmp_path / "ca")[0]
    handshake(ca, a, b, host)
    handshake(ca, a, b, "b")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"10\.0\.0\.99"):
        handshake(ca, a, b, "10.0.0.99")


def test_a_node_of_another_authority_is_not_trusted(authority: Authority, tmp_path: Path):
    other = make_authority(tmp_path / "other", "home", None, NOW)
    a = enrolled(authority, tmp_path, "a")
    (tmp_path / "their").mkdir()
    foreign = enrolled(other, tmp_path / "their", "b", "10.0.0.3")
    with pytest.raises(ssl.SSLError):
        handshake(authority_files(tmp_path / "ca")[0], a, foreign, "10.0.0.3")


def test_a_node_cannot_sign_for_others(authority: Authority, tmp_path: Path):
    """Its certificate and key, put in the place of an authority, convince nobody."""
    enrolled(authority, tmp_path, "a")
    rogue = tmp_path / "rogue"
    rogue.mkdir()
    (tmp_path / "a.key").rename(rogue / "ca.key")
    (tmp_path / "a.pem").rename(rogue / "ca.pem")
    b = enrolled(load_authority(rogue, None), tmp_path, "b", "10.0.0.3")
    b.write_bytes(b.read_bytes() + (rogue / "ca.pem").read_bytes())  # the whole chain is shown
    c = enrolled(authority, tmp_path, "c", "10.0.0.3")
    with pytest.raises(ssl.SSLError):
        handshake(authority_files(tmp_path / "ca")[0], b, c, "10.0.0.3")


def test_what_a_certificate_may_be_used_for_is_written_into_it(authority: Authority, tmp_path: Path):
    made = x509.load_pem_x509_certificate(sign(authority, request_of(tmp_path, "a"), (), NOW).pem).extensions
    assert made.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(False, None)
    usage = made.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_cert_sign, usage.crl_sign) == (True, False, False)
    assert authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


# --- lifetimes ----------------------------------------------------------------------------------------------


def test_certificates_end_when_they_should_and_never_after_their_authority(authority: Authority, tmp_path: Path):
    request = request_of(tmp_path, "a")
    assert authority.not_after == NOW + datetime.timedelta(days=AUTHORITY_DAYS)
    assert sign(authority, request, (), NOW).not_after == NOW + datetime.timedelta(days=CERTIFICATE_DAYS)
    late = authority.not_after - datetime.timedelta(days=9)
    signed = sign(authority, request, (), late)
    assert signed.not_after == authority.not_after
    write_public(tmp_path / "late.pem", signed.pem, replace=False)
    assert valid_until(tmp_path / "late.pem") == authority.not_after
    with pytest.raises(InvalidInput) as error:
        sign(authority, request, (), authority.not_after)
    assert code_of(error) is CRT_AUTHORITY


def test_every_certificate_has_a_number_of_its_own(authority: Authority, tmp_path: Path):
    request = request_of(tmp_path, "a")
    pems = {sign(authority, request, (), NOW).pem for _ in range(5)}
    assert len({x509.load_pem_x509_certificate(pem).serial_number for pem in pems}) == 5


# --- names --------------------------------------------------------------------------------------------------


def test_a_name_that_is_no_host_name_stands_in_the_subject_only(authority: Authority, tmp_path: Path):
    assert sign(authority, request_of(tmp_path, "a..b"), ("10.0.0.3",), NOW).names == ("10.0.0.3",)
    with pytest.raises(Refused) as error:
        sign(authority, request_of(tmp_path, "a..b"), (), NOW)
    assert code_of(error) is CRT_REQUEST


def test_a_host_that_cannot_be_verified_is_refused(authority: Authority, tmp_path: Path):
    with pytest.raises(Refused, match="no host name"):
        sign(authority, request_of(tmp_path, "a"), ("a..b",), NOW)


# --- keys and requests --------------------------------------------------------------------------------------


def test_keys_are_for_their_owner_only_and_never_replaced(tmp_path: Path):
    key, request = tmp_path / "planes" / "a.key", tmp_path / "planes" / "a.csr"
    assert make_key_and_request(NodeName("a"), key, request)
    before = key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.parent.stat().st_mode & 0o077 == 0
    request.unlink()
    assert not make_key_and_request(NodeName("a"), key, request)
    assert not make_key_and_request(NodeName("a"), key, request)
    assert key.read_bytes() == before
    assert b"PRIVATE" not in request.read_bytes()
    assert sorted(path.name for path in key.parent.iterdir()) == ["a.csr", "a.key"]


def test_a_request_for_a_lost_key_is_made_anew(tmp_path: Path):
    first = request_of(tmp_path, "a")
    (tmp_path / "a.key").unlink()
    assert request_of(tmp_path, "a").public_key != first.public_key


def test_what_lies_in_the_way_is_left_alone(tmp_path: Path):
    (tmp_path / "a.csr").write_text("a letter")
    with pytest.raises(InvalidInput) as error:
        request_of(tmp_path, "a")
    assert code_of(error) is CRT_EXISTS
    assert (tmp_path / "a.csr").read_text() == "a letter"
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "b.key").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InvalidInput):
        request_of(tmp_path, "b")
    assert not (tmp_path / "nowhere").exists()


def test_a_key_that_others_can_read_is_refused(tmp_path: Path):
    request_of(tmp_path, "a")
    (tmp_path / "a.key").chmod(0o640)
    with pytest.raises(InvalidInput, match="chmod 600") as error:
        request_of(tmp_path, "a")
    assert code_of(error) is CRT_FILE


def subject(*names: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])


def test_a_request_that_proves_nothing_is_refused(tmp_path: Path):
    path = tmp_path / "x.csr"
    builder = x509.CertificateSigningRequestBuilder()
    genuine = builder.subject_name(subject("a")).sign(Ed25519PrivateKey.generate(), None).public_bytes(Encoding.DER)
    other_kind = builder.subject_name(subject("a")).sign(generate_private_key(SECP256R1()), SHA256())
    texts = {
        "not signed by": x509.load_der_x509_csr(genuine[:-1] + bytes([genuine[-1] ^ 1])).public_bytes(Encoding.PEM),
        "not Ed25519": other_kind.public_bytes(Encoding.PEM),
        "names 0 nodes": builder.subject_name(subject())
        .sign(Ed25519PrivateKey.generate(), None)
        .public_bytes(Encoding.PEM),
        "names 2 nodes": builder.subject_name(subject("a", "b"))
        .sign(Ed25519PrivateKey.generate(), None)
        .public_bytes(Encoding.PEM),
    }
    for words, data in texts.items():
        path.write_bytes(data)
        with pytest.raises(Refused, match=words) as error:
            read_request(path)
        assert code_of(error) is CRT_REQUEST
    for data in (b"", b"a letter", b"x" * 100_000):
        path.write_bytes(data)
        with pytest.raises(InvalidInput, match=str(path)):
            read_request(path)


# --- the authority's own files ------------------------------------------------------------------------------


def test_an_authority_is_made_once(tmp_path: Path, authority: Authority):
    _, key = authority_files(tmp_path / "ca")
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_bytes()
    with pytest.raises(InvalidInput) as error:
        make_authority(tmp_path / "ca", "home", None, NOW)
    assert code_of(error) is CRT_EXISTS
    assert key.read_bytes() == before
    assert load_authority(tmp_path / "ca", b"not needed").pem == authority.pem


def test_an_encrypted_authority_opens_with_its_passphrase_only(tmp_path: Path):
    made = make_authority(tmp_path, "home", b"open sesame", NOW)
    assert b"ENCRYPTED" in authority_files(tmp_path)[1].read_bytes()
    for wrong in (None, b"", b"open"):
        with pytest.raises(InvalidInput) as error:
            load_authority(tmp_path, wrong)
        assert code_of(error) is CRT_PASSPHRASE
    assert load_authority(tmp_path, b"open sesame").pem == made.pem


def test_half_an_authority_is_none(tmp_path: Path, authority: Authority):
    certificate, key = authority_files(tmp_path / "ca")
    make_authority(tmp_path / "other", "home", None, NOW)
    certificate.write_bytes(authority_files(tmp_path / "other")[0].read_bytes())
    with pytest.raises(InvalidInput, match="is not the Ed25519 key of"):
        load_authority(tmp_path / "ca", None)
    key.write_text("nothing")
    with pytest.raises(InvalidInput, match="no private key"):
        load_authority(tmp_path / "ca", None)
    key.unlink()
    with pytest.raises(InvalidInput) as error:
        load_authority(tmp_path / "ca", None)
    assert code_of(error) is CRT_AUTHORITY
