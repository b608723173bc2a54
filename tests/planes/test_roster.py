"""The Node manifests as the planes read them: endpoints to dial, keys to believe."""

from __future__ import annotations

import ipaddress
import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skulk.core.domain import CommitId, Fleet, Node, NodeName
from skulk.core.errors import InvalidInput
from skulk.core.wire.planes_keys import Dialable, dial_list
from skulk.core.wire.planes_roster import (
    ADDRESS_PATTERN,
    endpoint_of,
    endpoints,
    host_and_port,
    public_key_bytes,
    public_key_text,
    public_keys,
)


def node(name: str, ordinal: int, address: str | None = None, key: str | None = None) -> Node:
    return Node(NodeName(name), ordinal, address, public_key=key)


def fleet(*nodes: Node) -> Fleet:
    return Fleet("home", "home", CommitId("0" * 40), nodes={n.name: n for n in nodes})


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("10.0.0.3", "tls/10.0.0.3:52416"),
        ("mac-1.local", "tls/mac-1.local:52416"),
        ("mac-1.local:7000", "tls/mac-1.local:7000"),
        ("fd00::1", "tls/[fd00::1]:52416"),
        ("[fd00::1]", "tls/[fd00::1]:52416"),
        ("[::1]:7000", "tls/[::1]:7000"),
    ],
)
def test_an_address_becomes_the_endpoint_that_others_dial(address: str, endpoint: str):
    assert endpoint_of(node("a", 1, address), tls=True) == endpoint
    assert endpoint_of(node("a", 1, address), tls=False) == endpoint.replace("tls/", "tcp/")


@given(st.ip_addresses(v=6), st.integers(1, 65535))
def test_every_ipv6_address_but_none_at_all_is_taken(address: ipaddress.IPv6Address, port: int):
    for text in (address.compressed, address.exploded):
        if address == ipaddress.ip_address("::"):
            assert text != "::" or re.fullmatch(ADDRESS_PATTERN, text) is None
        elif "." not in text:
            assert host_and_port(text) == (text, 52416)
            assert host_and_port(f"[{text}]:{port}") == (text, port)


@given(st.text(alphabet="0123456789abcf:[]", max_size=24))
def test_what_looks_like_ipv6_is_ipv6(text: str):
    if re.fullmatch(ADDRESS_PATTERN, text) is not None and ":" in host_and_port(text)[0]:
        ipaddress.IPv6Address(host_and_port(text)[0])


def test_every_declared_node_is_listed_also_one_that_cannot_be_dialled():
    listed = endpoints(fleet(node("c", 3, "10.0.0.3"), node("a", 1), node("b", 2, "b.lan:1")), tls=True)
    assert listed == (
        Dialable(NodeName("a"), 1, None),
        Dialable(NodeName("b"), 2, "tls/b.lan:1"),
        Dialable(NodeName("c"), 3, "tls/10.0.0.3:52416"),
    )


@given(st.lists(st.booleans(), max_size=7))
def test_every_pair_has_one_dialler_unless_neither_has_an_address(has_address: list[bool]):
    nodes = [Dialable(NodeName(f"n{i}"), i + 1, f"tls/h{i}:1" if has else None) for i, has in enumerate(has_address)]
    lists = {entry.node: dial_list(entry.node, nodes) for entry in nodes}
    for one, other in itertools.combinations(nodes, 2):
        dials = [one.endpoint in lists[other.node], other.endpoint in lists[one.node]]
        assert dials.count(True) == (0 if one.endpoint is None and other.endpoint is None else 1)
    assert all(entry.endpoint not in lists[entry.node] for entry in nodes)


def test_only_nodes_that_declare_a_key_are_believed():
    raw = bytes(range(32))
    found = public_keys(fleet(node("a", 1, key=public_key_text(raw)), node("b", 2)))
    assert found == {"a": raw}


@given(st.binary(min_size=32, max_size=32))
def test_a_public_key_is_read_back_from_its_text(raw: bytes):
    assert public_key_bytes(public_key_text(raw)) == raw


@pytest.mark.parametrize("text", ["", "ed25519:", "ed25519:!!", "ed25519:é", "ed25519:AAAA", "rsa:" + "A" * 43 + "="])
def test_another_form_is_no_public_key(text: str):
    with pytest.raises(InvalidInput, match="SK-PLN-002"):
        public_key_bytes(text)
