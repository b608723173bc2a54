"""Set one field in the text of a manifest and leave every other character as the person wrote it.

A program that loads YAML and dumps it again loses comments, order and quoting, so nobody would let it near their
repository. This one finds the place of the field by the parser's marks and changes the text there. It reads its own
result back: what would change anything but the field is refused, never written. It judges no field and no fleet.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.events import (
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from skulk.core.errors import CLI_EDIT, InvalidInput
from skulk.core.manifests.diagnostics import quoted
from skulk.core.manifests.strict_yaml import read
from skulk.core.manifests.yaml_text import STEP, scalar_text

Scalar = str | int | bool
_BREAKS = "\n\r\x85\u2028\u2029"


def set_scalar(text: str, path: Sequence[str], value: Scalar) -> str:
    """`text` (one manifest) with the field at `path`, a list of mapping keys, set to `value`.

    A missing key is added at the end of its mapping, with mappings around it where those are missing too. Raises
    InvalidInput (CLI_EDIT) when the text is no strict YAML, when something on the way is no mapping or the field
    no scalar, and in layouts where adding a line would change more than the field.
    """
    assert path
    dotted = ".".join(path)
    before = read(text.encode())
    if before.faults or not isinstance(before.value, dict):
        raise InvalidInput(CLI_EDIT, f"{dotted} cannot be set: the file is no strict YAML")
    if _at(before.value, path) == (type(value), value):
        return text
    wanted = _with(before.value, path, value, dotted)
    edit = _edit(_tree(text), text, tuple(path), value, dotted)
    result = text[: edit.start] + edit.insert + text[edit.end :]
    after = read(result.encode())
    if after.faults or _canonical(after.value) != _canonical(wanted):
        raise InvalidInput(CLI_EDIT, f"{dotted} cannot be set in this layout without changing more than the field")
    return result


@dataclass(frozen=True, slots=True)
class _Edit:
    """Replace text[start:end] by `insert`."""

    start: int
    end: int
    insert: str


@dataclass(slots=True)
class _Node:
    """A value in the text. Positions are characters; `end` of a block collection is where its last value ends."""

    kind: type[Event]
    start: int
    end: int
    column: int
    flow: bool = False
    style: str | None = None
    children: list[_Node] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    key_column: int = 0
    """Of the first key of a mapping."""

    def child(self, key: str) -> _Node | None:
        return self.children[self.keys.index(key)] if key in self.keys else None


def _tree(text: str) -> _Node:
    # The Python parser: its marks count characters of the text, on every platform.
    events: Iterator[Any] = iter(yaml.parse(text, Loader=yaml.SafeLoader))
    for event in events:
        if isinstance(event, (MappingStartEvent, SequenceStartEvent, ScalarEvent)):
            return _node(event, events)
    raise AssertionError("a document that was read has a root")


def _node(event: Any, events: Iterator[Any]) -> _Node:
    """The value that begins with `event`. The strict reader bounds the depth before this recursion runs."""
    start, end, column = event.start_mark.index, event.end_mark.index, event.start_mark.column
    if isinstance(event, ScalarEvent):
        return _Node(ScalarEvent, start, end, column, style=event.style)
    node = _Node(type(event), start, end, column, flow=bool(event.flow_style))
    while type(event := next(events)) not in (MappingEndEvent, SequenceEndEvent):
        if node.kind is MappingStartEvent:
            if not node.keys:
                node.key_column = event.start_mark.column
            node.keys.append(event.value)
            event = next(events)
        node.children.append(_node(event, events))
    if node.flow:
        node.end = event.end_mark.index
    elif node.children:
        node.end = node.children[-1].end
    return node


def _edit(root: _Node, text: str, path: tuple[str, ...], value: Scalar, dotted: str) -> _Edit:
    node = root
    for depth, key in enumerate(path):
        if node.kind is not MappingStartEvent:
            raise InvalidInput(CLI_EDIT, f"{dotted} cannot be set: {'.'.join(path[:depth])} is no mapping")
        child = node.child(key)
        if child is None:
            return _addition(root, node, text, path[depth:], value)
        node = child
    if node.kind is not ScalarEvent or node.style in ("|", ">"):
        raise InvalidInput(CLI_EDIT, f"{dotted} cannot be set: what stands there is no one-line value")
    # A key without a value ends at its colon.
    space = " " if node.start == node.end else ""
    return _Edit(node.start, node.end, space + scalar_text(value))


def _addition(root: _Node, node: _Node, text: str, path: tuple[str, ...], value: Scalar) -> _Edit:
    """A new key below a mapping, on a line of its own in block style, inside the braces in flow style."""
    if node.flow:
        entry = _flow(path, value)
        if not node.children:
            return _Edit(node.start + 1, node.start + 1, entry)
        end = node.children[-1].end
        return _Edit(end, end, f", {entry}")
    indent, step = " " * node.key_column, _step(root)
    newline = _newline(text)
    lines = [f"{indent}{step * depth}{scalar_text(key)}:" for depth, key in enumerate(path)]
    lines[-1] += f" {scalar_text(value)}"
    block = newline.join(lines)
    if node.end and text[node.end - 1] in _BREAKS:
        # A block scalar ends at the start of the next line.
        return _Edit(node.end, node.end, block + newline)
    at = node.end
    while at < len(text) and text[at] not in _BREAKS:
        at += 1
    return _Edit(at, at, newline + block)


def _flow(path: tuple[str, ...], value: Scalar) -> str:
    *outer, last = map(scalar_text, path)
    entry = f"{last}: {scalar_text(value)}"
    for key in reversed(outer):
        entry = f"{key}: {{{entry}}}"
    return entry


def _step(root: _Node) -> str:
    """How far this file indents a mapping inside a mapping."""
    for child in root.children:
        if child.kind is MappingStartEvent and not child.flow and child.key_column > root.key_column:
            return " " * (child.key_column - root.key_column)
    return STEP


def _newline(text: str) -> str:
    """The file's own line end."""
    return "\r\n" if "\r\n" in text else "\n"


def _at(value: object, path: Sequence[str]) -> tuple[type, object]:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return type(value), value


def _with(value: dict[str, Any], path: Sequence[str], new: Scalar, dotted: str) -> dict[str, Any]:
    """What the document must hold afterwards."""
    result = place = deepcopy(value)
    for key in path[:-1]:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise InvalidInput(CLI_EDIT, f"{dotted} cannot be set: {quoted(key)} is no mapping")
    place[path[-1]] = new
    return result


def _canonical(value: object) -> str:
    """Text that tells `true` from 1, which Python's equality does not."""
    return json.dumps(value, sort_keys=False)
