"""A strict reader of one YAML document: plain values, the place of each, and every fault at once.

Why not `yaml.safe_load`: it reads YAML 1.1 (`no` is False, `010` is 8), takes the last of duplicate keys in
silence, and the C composer overflows its stack on deeply nested input. So this module drives PyYAML's *event*
parser (C scanner where there is one, the pure-Python one otherwise) with its own bounded stack and resolves
plain scalars by the YAML 1.2 core schema (https://yaml.org/spec/1.2.2/#103-core-schema). It knows nothing of
kinds and fields.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from skulk.core.manifests import codes
from skulk.core.manifests.codes import ManifestCode
from skulk.core.manifests.diagnostics import quoted

# A manifest is a few kilobytes; a bound keeps one push from filling every node's memory.
FILE_BYTES_MAX = 1024 * 1024
# Our deepest field is 6 levels down; 32 leaves room and keeps every later recursion shallow.
DEPTH_LEVELS_MAX = 32
# Beyond this many faults a file is not a manifest, and the list helps nobody.
FAULTS_MAX = 100
# 19 digits hold every 64-bit number; JSON clients cannot represent more anyway.
DIGITS_MAX = 19

LFS_POINTER_START = b"version https://git-lfs.github.com/spec/"

# The C parser where PyYAML was built with libyaml, else the Python one: same events, about ten times slower.
LOADER: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Path = tuple[str | int, ...]

_INT = re.compile(r"[-+]?[0-9]+")
_OCT = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a value stands: its key (or itself in a list) and the value, lines and columns from 1.

    `source` is the text of a plain scalar, so that a hint can quote `1.20` as it was written.
    """

    key_line: int
    key_column: int
    line: int
    column: int
    source: str | None = None


@dataclass(frozen=True, slots=True)
class TextFault:
    """A fault of the text itself, at its own place; `path` is the value it spoils, when there is one."""

    line: int
    column: int
    code: ManifestCode
    message: str
    hint: str = ""
    path: Path | None = None


@dataclass(slots=True)
class Document:
    """What was read. `value` is None when nothing usable was found; `spoiled` paths hold a stand-in value."""

    value: object = None
    marks: dict[Path, Mark] = field(default_factory=dict)
    faults: list[TextFault] = field(default_factory=list)

    @property
    def spoiled(self) -> frozenset[Path]:
        return frozenset(fault.path for fault in self.faults if fault.path is not None)


def read(data: bytes, *, loader: type[Any] | None = None) -> Document:
    """Read one document from bytes. Never raises for bad input: look at `faults`."""
    document = Document()
    if data.startswith(LFS_POINTER_START):
        document.faults.append(TextFault(1, 1, codes.LFS_POINTER, "this is a git-lfs pointer, not YAML"))
        return document
    if len(data) > FILE_BYTES_MAX:
        document.faults.append(TextFault(1, 1, codes.FILE_TOO_LARGE, f"{len(data)} bytes, more than {FILE_BYTES_MAX}"))
        return document
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = len(before) - (before.rfind(b"\n") + 1) + 1
        document.faults.append(TextFault(line, column, codes.NOT_UTF8, f"byte 0x{data[error.start]:02x} is not UTF-8"))
        return document
    _Reader(document).run(text, LOADER if loader is None else loader)
    return document


class _Stop(Exception):
    """Reading further makes no sense: what was built is dropped, the faults stay."""


class _Enough(Exception):
    """The first document is complete; what follows is not read."""


@dataclass(slots=True)
class _Frame:
    """A container that is being filled. `key` is the pending key of a mapping, None when a key comes next."""

    container: dict[str, object] | list[object]
    path: Path
    key: str | None = None
    key_line: int = 0
    key_column: int = 0
    discard: bool = False
    """The pending key is faulty: its value is read and thrown away."""


class _Reader:
    """The stack machine over events. Holds the frames; `Document` receives the results."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.frames: list[_Frame] = []
        self.documents = 0

    def run(self, text: str, loader: type[Any]) -> None:
        try:
            for event in yaml.parse(text, Loader=loader):
                self.take(event)
        except _Stop:
            self.document.value = None
        except _Enough:
            self.not_a_mapping()
        except yaml.MarkedYAMLError as error:
            self.document.value = None
            mark = error.problem_mark or error.context_mark
            line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
            problem = ", ".join(part for part in (error.context, error.problem) if part)
            self.document.faults.append(TextFault(line, column, codes.SYNTAX, _one_line(problem)))
        except yaml.reader.ReaderError as error:
            self.document.value = None
            self.document.faults.append(_unreadable(text, str(error.reason)))
        else:
            self.not_a_mapping()

    def not_a_mapping(self) -> None:
        if isinstance(self.document.value, dict):
            return
        what = "the file is empty" if self.document.value is None else "the document is not a mapping"
        mark = self.document.marks.get((), Mark(1, 1, 1, 1))
        self.document.value = None
        self.fault(mark.line, mark.column, codes.NO_MAPPING, what)

    def take(self, event: Event) -> None:
        if isinstance(event, ScalarEvent):
            self.scalar(event)
        elif isinstance(event, (MappingStartEvent, SequenceStartEvent)):
            self.open(event)
        elif isinstance(event, (MappingEndEvent, SequenceEndEvent)):
            self.frames.pop()
        elif isinstance(event, AliasEvent):
            line, column = _at(event)
            if self.expects_key():
                self.fault(line, column, codes.ANCHOR, f"alias *{event.anchor} as a key")
                raise _Stop
            path = self.put(None, line, column, None)
            self.fault(line, column, codes.ANCHOR, f"alias *{event.anchor}", path=path)
        elif isinstance(event, DocumentStartEvent):
            self.documents += 1
            line, column = _at(event)
            if self.documents > 1:
                self.fault(line, column, codes.SEVERAL_DOCUMENTS, "a second document starts here")
                raise _Enough
            if event.version not in (None, (1, 2)):
                version = ".".join(map(str, event.version))
                self.fault(line, column, codes.DIRECTIVE, f"the document asks for YAML {version}")

    def check_properties(self, event: Any, path: Path | None) -> None:
        """Anchors and tags. A tagged value is spoiled: what it would have been is anybody's guess."""
        line, column = _at(event)
        if event.anchor:
            self.fault(line, column, codes.ANCHOR, f"anchor &{event.anchor}")
        if event.tag:
            self.fault(line, column, codes.TAG, f"tag {quoted(event.tag)}", path=path)

    def open(self, event: MappingStartEvent | SequenceStartEvent) -> None:
        line, column = _at(event)
        if len(self.frames) >= DEPTH_LEVELS_MAX:
            self.fault(line, column, codes.TOO_DEEP, f"nested deeper than {DEPTH_LEVELS_MAX} levels")
            raise _Stop
        if self.expects_key():
            self.fault(line, column, codes.KEY_NOT_STRING, "a mapping or list as a key")
            raise _Stop
        container: dict[str, object] | list[object] = {} if isinstance(event, MappingStartEvent) else []
        path = self.put(container, line, column, None)
        self.check_properties(event, path)
        self.frames.append(_Frame(container, path))

    def scalar(self, event: ScalarEvent) -> None:
        line, column = _at(event)
        # A tag makes any scalar's resolution moot; the fault stands, the text is kept. The C parser gives plain
        # scalars the style "", the Python one None.
        plain = not event.style and not event.tag
        if self.expects_key():
            self.check_properties(event, None)
            self.key(event, plain)
            return
        value, code = _resolve(event.value) if plain else (event.value, None)
        path = self.put(value, line, column, event.value if plain else None)
        self.check_properties(event, path)
        if code is codes.LEADING_ZERO:
            shorter = str(int(event.value))
            hint = f'write {shorter}, or "{event.value}" if a string is meant'
            self.fault(line, column, code, f"{event.value} starts with a zero", hint, path)
        elif code is not None:
            self.fault(line, column, code, f"{quoted(event.value)} is not a usable number", "", path)

    def key(self, event: ScalarEvent, plain: bool) -> None:
        line, column = _at(event)
        frame = self.frames[-1]
        frame.key, frame.key_line, frame.key_column, frame.discard = event.value, line, column, False
        if plain and not isinstance(_resolve(event.value)[0], str):
            hint = f'write "{event.value}"' if event.value else ""
            self.fault(line, column, codes.KEY_NOT_STRING, f"key {quoted(event.value)} is not a string", hint)
            frame.discard = True
        elif event.value in frame.container:
            first = self.document.marks[(*frame.path, event.value)].key_line
            message = f"key {quoted(event.value)} appears twice, first in line {first}"
            self.fault(line, column, codes.DUPLICATE_KEY, message)
            frame.discard = True

    def expects_key(self) -> bool:
        return bool(self.frames) and isinstance(self.frames[-1].container, dict) and self.frames[-1].key is None

    def put(self, value: object, line: int, column: int, source: str | None) -> Path:
        """Place a value into the open container; returns its path. Discarded values get a path nobody asks for."""
        if not self.frames:
            self.document.value = value
            self.document.marks[()] = Mark(line, column, line, column, source)
            return ()
        frame = self.frames[-1]
        if isinstance(frame.container, list):
            path: Path = (*frame.path, len(frame.container))
            frame.container.append(value)
            self.document.marks[path] = Mark(line, column, line, column, source)
            return path
        assert frame.key is not None
        key, frame.key = frame.key, None
        if frame.discard:
            # An empty string component cannot collide with the first value's path below a duplicate key.
            return (*frame.path, key, "")
        path = (*frame.path, key)
        frame.container[key] = value
        self.document.marks[path] = Mark(frame.key_line, frame.key_column, line, column, source)
        return path

    def fault(
        self, line: int, column: int, code: ManifestCode, message: str, hint: str = "", path: Path | None = None
    ) -> None:
        self.document.faults.append(TextFault(line, column, code, message, hint, path))
        if len(self.document.faults) >= FAULTS_MAX:
            self.document.faults.append(
                TextFault(line, column, codes.TOO_MANY_FAULTS, f"stopped after {FAULTS_MAX} faults")
            )
            raise _Stop


def _resolve(text: str) -> tuple[object, ManifestCode | None]:
    """A plain scalar's value by the YAML 1.2 core schema, and the fault of a number that cannot be used."""
    if text in _NULL:
        return None, None
    if text in _TRUE:
        return True, None
    if text in _FALSE:
        return False, None
    if text[0] not in "+-.0123456789":
        return text, None
    if _LEADING_ZERO.fullmatch(text):
        if len(text) > DIGITS_MAX:
            return None, codes.NUMBER_OUT_OF_RANGE
        return None, codes.LEADING_ZERO
    if _INT.fullmatch(text):
        if len(text.lstrip("+-")) > DIGITS_MAX:
            return None, codes.NUMBER_OUT_OF_RANGE
        return int(text), None
    if _OCT.fullmatch(text) or _HEX.fullmatch(text):
        if len(text) > DIGITS_MAX:
            return None, codes.NUMBER_OUT_OF_RANGE
        return int(text, 0), None
    if _NOT_FINITE.fullmatch(text):
        return None, codes.NUMBER_OUT_OF_RANGE
    if _FLOAT.fullmatch(text):
        number = float(text)
        return (number, None) if math.isfinite(number) else (None, codes.NUMBER_OUT_OF_RANGE)
    return text, None


def _at(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _unreadable(text: str, reason: str) -> TextFault:
    """A control character. The C parser reports byte offsets and the Python one characters, so look it up."""
    for index, character in enumerate(text):
        allowed = character in "\t\n\r\x85" or (character.isprintable() or ord(character) >= 0xA0)
        if not allowed or 0xD800 <= ord(character) <= 0xDFFF or character in "\ufffe\uffff":
            line = text.count("\n", 0, index) + 1
            column = index - (text.rfind("\n", 0, index) + 1) + 1
            message = f"character U+{ord(character):04X} is not allowed"
            return TextFault(line, column, codes.SYNTAX, message)
    return TextFault(1, 1, codes.SYNTAX, _one_line(reason))
