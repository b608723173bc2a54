"""Keys name one thing each, and the dial lists give every pair one dialler."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skulk.core.domain import BootId, Life, NodeName, Topic
from skulk.core.wire import planes_keys as keys

ME = Life(NodeName("node-1.lan"), BootId("ab12"), 1_700_000_000)


def test_tokens_and_documents_are_read_back():
    assert keys.live_of(keys.live(ME)) == ME
    assert keys.document_of(keys.document(Topic.STATUS, ME.node)) == (Topic.STATUS, ME.node)


@pytest.mark.parametrize("key", ["live/a/1", "live/a/x/b", "live/a/²/b", "live//1/b", "doc/a/1/b", "", "live/a/1/b/c"])
def test_other_keys_are_nobodys_token(key: str):
    assert keys.live_of(key) is None


def test_an_unknown_topic_is_no_document():
    assert keys.document_of("doc/gossip/a") is None


@pytest.mark.parametrize("part", ["", "a/b", "*", "**", "$*", "a?b", "a#b", "é", "x" * 129])
def test_nothing_but_a_plain_chunk_becomes_part_of_a_key(part: str):
    with pytest.raises(ValueError, match="part of a key"):
        keys.bye(NodeName(part))


def test_namespaces_have_prefixes_of_their_own():
    names = ["default", "prod", "prod/eu", "Ω*?", "default "]
    assert len({keys.fleet_prefix(name) for name in names}) == len(names)
    assert all(part.isalnum() for name in names for part in keys.fleet_prefix(name).split("/"))


@given(st.lists(st.integers(1, 99), unique=True, max_size=8))
def test_every_pair_has_exactly_one_dialler_the_higher_ordinal(ordinals: list[int]):
    nodes = [keys.Dialable(NodeName(f"n{o}"), o, f"tls/10.0.0.{o}:1") for o in ordinals]
    lists = {node.node: set(keys.dial_list(node.node, nodes)) for node in nodes}
    for one, other in itertools.combinations(nodes, 2):
        high, low = (one, other) if one.ordinal > other.ordinal else (other, one)
        assert low.endpoint in lists[high.node]
        assert high.endpoint not in lists[low.node]


def test_adding_a_node_changes_no_list_but_its_own():
    nodes = [keys.Dialable(NodeName(f"n{o}"), o, f"tls/10.0.0.{o}:1") for o in (1, 2, 3)]
    more = [*nodes, keys.Dialable(NodeName("n4"), 4, "tls/10.0.0.4:1")]
    for node in nodes:
        before, after = keys.dial_list(node.node, nodes), keys.dial_list(node.node, more)
        assert before == after
        assert not keys.must_reopen(before, after)
    assert keys.dial_list(NodeName("stranger"), nodes) == ()


def test_a_removed_entry_waits_for_the_next_start():
    assert not keys.must_reopen(["x", "y"], ["x"])
    assert keys.must_reopen(["x"], ["x", "y"])
    assert keys.must_reopen(["x"], ["y"])
