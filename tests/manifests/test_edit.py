"""One field changes, everything else stays as the person wrote it, to the last blank."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skulk.core.errors import InvalidInput
from skulk.core.manifests.edit import set_scalar
from skulk.core.manifests.strict_yaml import read

NODE = """\
# yaml-language-server: $schema=../../schemas/node.schema.json
apiVersion: skulk.dev/v1alpha1
kind: Node
metadata: {name: mac-1}   # the one under the desk

spec:
    ordinal: 1   # never reused
    cordon:   false # a disk is being replaced
    platform: {os: macos, arch: arm64}
    # what it is for

    labels:
        zone: a
    # the end
"""


def changed(before: str, after: str) -> list[str]:
    return [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]


def test_a_value_changes_in_its_place_and_its_comment_stays():
    result = set_scalar(NODE, ["spec", "cordon"], True)
    assert changed(NODE, result) == [
        "-     cordon:   false # a disk is being replaced",
        "+     cordon:   true # a disk is being replaced",
    ]


def test_a_missing_key_is_added_behind_the_last_one_as_the_file_indents():
    result = set_scalar(NODE, ["spec", "drain"], True)
    assert changed(NODE, result) == ["+     drain: true"]
    assert "        zone: a\n    drain: true\n    # the end\n" in result
    assert changed(NODE, set_scalar(NODE, ["spec", "labels", "rack"], "r1")) == ["+         rack: r1"]


def test_missing_mappings_are_added_too():
    result = set_scalar(NODE, ["spec", "hardware", "memory"], "64GiB")
    assert changed(NODE, result) == ["+     hardware:", '+         memory: "64GiB"']


def test_a_flow_mapping_grows_inside_its_braces():
    result = set_scalar(NODE, ["metadata", "note"], "two words")
    assert "metadata: {name: mac-1, note: two words}   # the one under the desk\n" in result
    assert set_scalar("a: {}\n", ["a", "b", "c"], 1) == "a: {b: {c: 1}}\n"
    assert set_scalar("a: {b: 1, # one\n}\n", ["a", "c"], 2) == "a: {b: 1, c: 2, # one\n}\n"


def test_text_that_reads_as_something_else_is_quoted():
    for text in ("yes", "1.20", "ed25519:AAA=", "null", "", "a: b", "# no"):
        assert read(set_scalar(NODE, ["spec", "x"], text).encode()).value["spec"]["x"] == text  # type: ignore[index]


def test_what_is_so_already_changes_nothing():
    assert set_scalar(NODE, ["spec", "cordon"], False) == NODE
    assert set_scalar("a: 1\n", ["a"], True) == "a: true\n"


@pytest.mark.parametrize(
    ("before", "path", "after"),
    [
        ("a:\n", ["a"], "a: 7\n"),
        ("a: 1", ["b"], "a: 1\nb: 7"),
        ("a: 1\r\nb: 2\r\n", ["c"], "a: 1\r\nb: 2\r\nc: 7\r\n"),
        ("---\na: 1\n...\n", ["b"], "---\na: 1\nb: 7\n...\n"),
        ("\ufeffa: 1\n", ["b"], "\ufeffa: 1\nb: 7\n"),
        ("a: |\n  text\n\n# c\n", ["b"], "a: |\n  text\n\nb: 7\n# c\n"),
        ("a: |+\n  text\n\n", ["b"], "a: |+\n  text\n\nb: 7\n"),
        ("a: one\n  two\nb: 1\n", ["a"], "a: 7\nb: 1\n"),
        ("a:\n- 1\n- 2\n", ["b"], "a:\n- 1\n- 2\nb: 7\n"),
        ('{"a": 1}\n', ["b"], '{"a": 1, b: 7}\n'),
        ('"a" : "1"\n', ["a"], '"a" : 7\n'),
        ("a: [{b: 1}]\n", ["c"], "a: [{b: 1}]\nc: 7\n"),
    ],
)
def test_unusual_layouts_are_kept(before: str, path: list[str], after: str):
    assert set_scalar(before, path, 7) == after


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a: |\n  text\n", ["a"]),
        ("a: {b: 1}\n", ["a"]),
        ("a: [1]\n", ["a"]),
        ("a: 1\n", ["a", "b"]),
        ("a: [1]\n", ["a", "b"]),
        ("a:\n", ["a", "b"]),
        ("a: &x 1\n", ["a"]),
        ("a: 1\na: 2\n", ["a"]),
        ("- a\n", ["a"]),
        ("", ["a"]),
        ("a: |\n  no line end", ["b"]),
    ],
)
def test_what_cannot_be_set_alone_is_refused(text: str, path: list[str]):
    with pytest.raises(InvalidInput, match="SK-CLI-008"):
        set_scalar(text, path, 7)


# --- any layout ---------------------------------------------------------------------------------------------

KEYS = st.sampled_from(["a", "b", "long-key", "skulk.dev/x", "y", "1"])
SCALARS = st.one_of(
    st.booleans(), st.integers(-99, 99), st.sampled_from(["", "word", "two words", "# no", "a: b", "'", '"', "ü"])
)
VALUES: Any = st.recursive(
    st.one_of(SCALARS, st.lists(SCALARS, max_size=2)),
    lambda inner: st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@dataclass
class Hand:
    """Writes a document as somebody with habits would."""

    draw: Any
    step: int

    def scalar(self, value: object) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int):
            return str(value)
        if isinstance(value, list):
            return "[" + ", ".join(map(self.scalar, value)) + "]"
        text = str(value)
        if text in ("word", "two words", "ü") and self.draw(st.booleans()):
            return text
        return "'" + text.replace("'", "''") + "'"

    def key(self, key: str) -> str:
        return f'"{key}"' if key in ("y", "1") or self.draw(st.booleans()) else key

    def flow(self, value: object) -> str:
        if not isinstance(value, dict):
            return self.scalar(value)
        return "{" + ", ".join(f"{self.key(k)}: {self.flow(v)}" for k, v in value.items()) + "}"

    def block(self, value: dict[str, Any], column: int) -> list[str]:
        lines = []
        for key, child in value.items():
            head, tail = f"{' ' * column}{self.key(key)}:", self.draw(st.sampled_from(["", " ", "  # why: {a} - b"]))
            lines += self.draw(st.sampled_from([[], [""], [f"{' ' * column}# about: it"], ["# far: left"]]))
            if isinstance(child, dict) and child and self.draw(st.booleans()):
                lines += [head + tail, *self.block(child, column + self.step)]
            elif isinstance(child, list) and child and self.draw(st.booleans()):
                lines += [head + tail, *(f"{' ' * column}- {self.scalar(v)}" for v in child)]
            else:
                lines.append(f"{head} {self.flow(child)}{tail}")
        return lines


def mappings(value: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    found = [(path, value)]
    for key, child in value.items():
        if isinstance(child, dict):
            found += mappings(child, (*path, key))
    return found


@given(st.data())
def test_in_any_layout_only_the_field_changes(data: st.DataObject):
    document = data.draw(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4), "document")
    hand = Hand(data.draw, data.draw(st.integers(1, 5), "step"))
    end = data.draw(st.sampled_from(["\n", "\r\n"]), "line end")
    text = end.join([*hand.block(document, 0), ""]) + data.draw(st.sampled_from(["", "# bye" + end, "..." + end]))
    assert read(text.encode()).value == document

    where, mapping = data.draw(st.sampled_from(mappings(document)), "mapping")
    scalars = [key for key, child in mapping.items() if not isinstance(child, (dict, list))]
    key = data.draw(st.sampled_from([*scalars, "new"]), "key")
    below = data.draw(st.sampled_from([(), ("deep",)]), "below") if key == "new" else ()
    value = data.draw(SCALARS, "value")
    result = set_scalar(text, (*where, key, *below), value)

    mapping[key] = {"deep": value} if below else value
    read_back = read(result.encode())
    assert read_back.faults == []
    assert repr(read_back.value) == repr(document)
    old, new = text.split(end), result.split(end)
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    edits = [op for op in matcher.get_opcodes() if op[0] != "equal"]
    if len(old) == len(new):
        assert sum(a != b for a, b in zip(old, new, strict=True)) <= 1
    else:
        assert [op for op, *_ in edits] == ["insert"]
        assert len(new) - len(old) == 1 + len(below)
