"""The YAML reader: 1.2 scalars, exact places, every fault at once, hostile input, both parsers alike."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import yaml
from corpus_cases import text_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from skulk.core.manifests import codes, to_yaml
from skulk.core.manifests.strict_yaml import DEPTH_LEVELS_MAX, FAULTS_MAX, FILE_BYTES_MAX, LOADER, read


def value_of(text: str) -> Any:
    document = read(f"v: {text}\n".encode())
    assert not document.faults
    assert isinstance(document.value, dict)
    return document.value["v"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("Yes", "Yes"),
        ("on", "on"),
        ("12:30:00", "12:30:00"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("0o17", 15),
        ("0x1F", 31),
        ("-0", 0),
        ("+12", 12),
        ("1.20", 1.2),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("9223372036854775807", 2**63 - 1),
        ("true", True),
        ("TRUE", True),
        ("tRUE", "tRUE"),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ('"010"', "010"),
        ("'true'", "true"),
        ("|\n  a\n  b", "a\nb\n"),
        ("<<", "<<"),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    found = value_of(text)
    assert found == value
    assert type(found) is type(value)


def test_places_are_exact_for_keys_values_and_list_entries() -> None:
    document = read("# c\na:\n  - bä: 1\n    key: [x, 2.50]\n".encode())
    place = {path: (m.key_line, m.key_column, m.line, m.column) for path, m in document.marks.items()}
    assert place[()] == (2, 1, 2, 1)
    assert place[("a",)] == (2, 1, 3, 3)
    assert place[("a", 0, "bä")] == (3, 5, 3, 9)
    assert place[("a", 0, "key", 1)] == (4, 14, 4, 14)
    assert document.marks[("a", 0, "key", 1)].source == "2.50"


def test_a_byte_order_mark_is_skipped_and_columns_count_without_it() -> None:
    document = read(b"\xef\xbb\xbfa: 1\n")
    assert document.value == {"a": 1}
    assert document.marks[("a",)].key_column == 1


def test_several_faults_are_told_at_once() -> None:
    document = read(b"a: 01\na: 2\n1: x\nb: &x !!str y\nc: *x\n")
    assert [(fault.line, fault.code) for fault in document.faults] == [
        (1, codes.LEADING_ZERO),
        (2, codes.DUPLICATE_KEY),
        (3, codes.KEY_NOT_STRING),
        (4, codes.ANCHOR),
        (4, codes.TAG),
        (5, codes.ANCHOR),
    ]


def test_a_duplicate_key_names_the_first_and_keeps_it() -> None:
    document = read(b"a: {b: 1}\nc: 2\na: {b: 3}\n")
    assert document.value == {"a": {"b": 1}, "c": 2}
    [fault] = document.faults
    assert (fault.line, fault.column) == (3, 1)
    assert "line 1" in fault.message


def test_a_second_document_does_not_hide_the_first() -> None:
    document = read(b"a: 1\n---\nb: 2\n")
    assert document.value == {"a": 1}
    assert [fault.code for fault in document.faults] == [codes.SEVERAL_DOCUMENTS]


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_deep_nesting_is_a_fault_and_not_a_crash(opening: str) -> None:
    document = read((opening * 100_000).encode())
    assert document.value is None
    assert document.faults[-1].code in (codes.TOO_DEEP, codes.KEY_NOT_STRING)


def test_the_deepest_allowed_document_is_read() -> None:
    depth = DEPTH_LEVELS_MAX - 1
    assert not read(("a: " + "[" * depth + "]" * depth).encode()).faults
    assert read(("a: " + "[" * (depth + 1) + "]" * (depth + 1)).encode()).faults


def test_an_anchor_bomb_stays_small() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    document = read("\n".join(lines).encode())
    assert len(document.faults) <= FAULTS_MAX + 1
    assert {fault.code for fault in document.faults} == {codes.ANCHOR, codes.TOO_MANY_FAULTS}
    assert len(document.marks) < 1000


def test_the_size_limit_is_exact() -> None:
    head = b"a: 1\n#"
    assert not read(head + b"x" * (FILE_BYTES_MAX - len(head))).faults
    assert read(head + b"x" * (FILE_BYTES_MAX - len(head) + 1)).faults[0].code is codes.FILE_TOO_LARGE


def test_bytes_that_are_not_utf8_are_placed() -> None:
    [fault] = read(b"a: 1\nbc: \xff\n").faults
    assert (fault.code, fault.line, fault.column) == (codes.NOT_UTF8, 2, 5)


def test_a_control_character_is_placed() -> None:
    [fault] = read("ä: 1\nbc: \x01\n".encode()).faults
    assert (fault.code, fault.line, fault.column) == (codes.SYNTAX, 2, 5)
    assert "U+0001" in fault.message


def test_the_c_parser_is_used_where_there_is_one() -> None:
    assert yaml.__with_libyaml__ is (LOADER is not yaml.SafeLoader)


@pytest.mark.parametrize("case", text_cases(), ids=lambda case: case.name)
def test_the_python_parser_finds_the_same_faults(case: Any) -> None:
    data = next(file.data for file in case.files if file.path == "fleet/nodes/two.yaml")
    if len(data) > 100_000 and b"[" not in data[:4]:
        data = data[:2000]
    fast, slow = read(data), read(data, loader=yaml.SafeLoader)
    assert fast.value == slow.value
    assert [fault.code for fault in fast.faults] == [fault.code for fault in slow.faults]
    assert [fault.line for fault in fast.faults] == [fault.line for fault in slow.faults]


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@settings(max_examples=300, deadline=None)
def test_no_input_raises(data: bytes) -> None:
    document = read(data)
    assert isinstance(document.value, dict) or document.faults


SCALARS = (
    st.text(max_size=20)
    | st.integers(-(2**53), 2**53)
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: math.isfinite(number))
    | st.sampled_from(["no", "0o17", "010", "1.20", "null", "~", "- a", "a: b", "#x", "<<", "é\x85", "\ufeff", "\x7f"])
)
VALUES = st.recursive(SCALARS, lambda child: st.lists(child, max_size=3) | st.dictionaries(st.text(max_size=8), child))


@given(st.dictionaries(st.text(max_size=8), VALUES, min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_written_yaml_is_read_back_unchanged(value: dict[str, Any]) -> None:
    encodable = json.dumps(value, ensure_ascii=True)
    document = read(to_yaml(value).encode())
    assert not document.faults, document.faults
    assert json.dumps(document.value, ensure_ascii=True) == encodable
