"""Certificate files and settings of the planes: whatever is wrong with them is said before anything is opened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from skulk.adapters.zenoh import PlaneSettings, TlsFiles, ZenohTransport, identity, public_key_bytes, public_key_text
from skulk.adapters.zenoh.certificates import load_key, verifier
from skulk.adapters.zenoh.settings import session_config
from skulk.core.domain import BootId, Life, NodeName
from skulk.core.errors import PLN_EXPOSED, PLN_OPEN, PLN_TLS, InvalidInput
from tests.planes.fleetca import Authority

A = NodeName("a")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def refused(files: TlsFiles, node: str = "a") -> str:
    with pytest.raises(InvalidInput) as error:
        load_key(files, NodeName(node))
    assert error.value.code is PLN_TLS
    return error.value.message


def test_a_nodes_key_signs_for_that_node_only(authority: Authority):
    key = load_key(authority.files("a"), A)
    verify = verifier({A: authority.public("a"), NodeName("b"): authority.public("b")})
    signature = key.sign(b"text")
    assert verify(A, b"text", signature)
    assert not verify(A, b"texT", signature)
    assert not verify(A, b"text", b"")
    assert not verify(NodeName("b"), b"text", signature)
    assert not verify(NodeName("c"), b"text", signature)


def test_unusable_files_are_named(authority: Authority, tmp_path: Path):
    files = authority.files("a")
    other = Authority(tmp_path, "another")
    missing, text = tmp_path / "missing", tmp_path / "text"
    text.write_text("nothing")
    assert str(missing) in refused(replace(files, key=missing))
    assert str(text) in refused(replace(files, key=text))
    assert str(text) in refused(replace(files, certificate=text))
    assert str(text) in refused(replace(files, ca=text))
    assert "does not belong to the key" in refused(replace(files, certificate=authority.files("b").certificate))
    assert "not for node z" in refused(files, "z")
    assert "was not issued by" in refused(replace(files, ca=other.ca))
    assert "expired" in refused(authority.files("old", days=-1), "old")
    files.key.chmod(0o644)
    assert "accessible to every user" in refused(files)


def test_a_key_of_another_kind_is_refused(authority: Authority, tmp_path: Path):
    path = tmp_path / "ec.key"
    path.write_bytes(generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert "not an Ed25519 key" in refused(replace(authority.files("a"), key=path))


def test_public_keys_have_a_text_form(authority: Authority):
    raw = authority.public("a")
    assert public_key_bytes(public_key_text(raw)) == raw
    for text in ("", "ed25519:", "ed25519:!!", public_key_text(raw)[:-8], "rsa:" + public_key_text(raw)):
        with pytest.raises(InvalidInput):
            public_key_bytes(text)


@pytest.mark.parametrize("endpoint", ["tcp/10.0.0.1:1", "tcp/[2001:db8::1]:1", "tcp/0.0.0.0:1", "tcp/localhost:1"])
def test_plain_planes_stay_on_loopback_unless_the_operator_allows_more(endpoint: str):
    loopback = "tcp/127.0.0.1:1"
    for settings in (PlaneSettings("n", (endpoint,)), PlaneSettings("n", (loopback,), (endpoint,))):
        with pytest.raises(InvalidInput) as error:
            ZenohTransport(settings)
        assert error.value.code is PLN_EXPOSED
        ZenohTransport(replace(settings, allow_plain=True))
    ZenohTransport(PlaneSettings("n", (loopback, "tcp/[::1]:2")))


@pytest.mark.parametrize("endpoint", ["tcp/127.0.0.1:1", "udp/127.0.0.1:1", "tls/127.0.0.1", "127.0.0.1:1", ""])
def test_with_certificates_only_tls_endpoints_are_taken(authority: Authority, endpoint: str):
    files = authority.files("a")
    for settings in (
        PlaneSettings("n", (endpoint,), tls=files, allow_plain=True),
        PlaneSettings("n", ("tls/127.0.0.1:1",), (endpoint,), tls=files),
    ):
        with pytest.raises(InvalidInput) as error:
            ZenohTransport(settings)
        assert error.value.code is PLN_OPEN
    link = session_config(PlaneSettings("n", ("tls/127.0.0.1:1",), tls=files))["transport"]["link"]  # type: ignore[index]
    assert link["protocols"] == ["tls"]
    assert link["tls"]["enable_mtls"] is True


def test_plain_planes_say_so_and_believe_unsigned_words_only():
    who = identity(PlaneSettings("n", ("tcp/127.0.0.1:1",)), Life(A, BootId("b"), 1))
    assert who.plain
    verify = who.verifier({})
    assert verify(A, b"text", who.sign(b"text"))
    assert not verify(A, b"text", b"something")
    assert len({who.secret() for _ in range(10)}) == 10
    assert len(who.secret()) == 32
