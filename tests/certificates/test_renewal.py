"""Whether a certificate stays: judged against what the manifest, the authority and the key are now."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from skulk.adapters.certificates import (
    CERTIFICATE_DAYS,
    RENEWAL_DAYS,
    Authority,
    Request,
    common_name,
    make_authority,
    make_key_and_request,
    read_request,
    renewal_reason,
    sign,
)
from skulk.core.domain import NodeName

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
HOSTS = ("10.0.0.1", "box.lan")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "ca", "home", None, NOW)


def request_of(directory: Path, node: str = "box") -> Request:
    make_key_and_request(NodeName(node), directory / f"{node}.key", directory / f"{node}.csr")
    return read_request(directory / f"{node}.csr")


def days(number: float) -> datetime.datetime:
    return NOW + datetime.timedelta(days=number)


def test_a_certificate_stays_until_it_ends_soon(authority: Authority, tmp_path: Path) -> None:
    request = request_of(tmp_path)
    pem = sign(authority, request, HOSTS, NOW).pem
    last = CERTIFICATE_DAYS - RENEWAL_DAYS
    for day in (0, last - 1, last):
        assert renewal_reason(authority.certificate, pem, request, HOSTS, days(day)) == ""
    assert renewal_reason(authority.certificate, pem, request, HOSTS, days(last + 0.1)) == "it ends on 2032-04-05"
    assert renewal_reason(authority.certificate, pem, request, HOSTS, days(CERTIFICATE_DAYS + 1)).startswith("it ends")


def test_one_that_ends_with_its_authority_is_not_renewed_for_nothing(authority: Authority, tmp_path: Path) -> None:
    request = request_of(tmp_path)
    late = authority.not_after - datetime.timedelta(days=5)
    pem = sign(authority, request, HOSTS, late).pem
    assert renewal_reason(authority.certificate, pem, request, HOSTS, late) == ""
    after = authority.not_after + datetime.timedelta(seconds=1)
    assert renewal_reason(authority.certificate, pem, request, HOSTS, after).startswith("it ends on")


def test_an_address_that_was_added_counts_and_one_that_went_does_not(authority: Authority, tmp_path: Path) -> None:
    request = request_of(tmp_path)
    pem = sign(authority, request, HOSTS, NOW).pem
    assert renewal_reason(authority.certificate, pem, request, ("10.0.0.2",), NOW) == "it does not name 10.0.0.2"
    assert renewal_reason(authority.certificate, pem, request, ("box.lan", "b", "c"), NOW) == "it does not name b, c"
    assert renewal_reason(authority.certificate, pem, request, (), NOW) == ""
    assert renewal_reason(authority.certificate, pem, request, ("box.lan",), NOW) == ""


def test_an_ipv6_address_is_the_same_however_it_is_written(authority: Authority, tmp_path: Path) -> None:
    request = request_of(tmp_path)
    pem = sign(authority, request, ("fd00::1",), NOW).pem
    assert renewal_reason(authority.certificate, pem, request, ("fd00:0:0::1",), NOW) == ""


def test_another_authority_another_key_and_another_node_are_named(authority: Authority, tmp_path: Path) -> None:
    request = request_of(tmp_path)
    pem = sign(authority, request, HOSTS, NOW).pem
    # Of the same name: it is the signature that counts.
    other = make_authority(tmp_path / "other", "home", None, NOW)
    foreign = "it is not signed by this fleet's authority"
    assert renewal_reason(other.certificate, pem, request, HOSTS, NOW) == foreign
    (tmp_path / "again").mkdir()
    again = request_of(tmp_path / "again")
    assert renewal_reason(authority.certificate, pem, again, HOSTS, NOW) == "it is for another key"
    renamed = Request(NodeName("box-2"), request.public_key)
    assert renewal_reason(authority.certificate, pem, renamed, HOSTS, NOW) == "it is for node box"


@pytest.mark.parametrize("rubbish", [b"", b"rubbish", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"])
def test_rubbish_is_no_certificate(rubbish: bytes, authority: Authority, tmp_path: Path) -> None:
    reason = renewal_reason(authority.certificate, rubbish, request_of(tmp_path), HOSTS, NOW)
    assert reason == "it is not signed by this fleet's authority"
    assert common_name(rubbish) == ""


def test_a_certificate_says_whom_it_names(authority: Authority, tmp_path: Path) -> None:
    assert common_name(sign(authority, request_of(tmp_path), HOSTS, NOW).pem) == "box"
