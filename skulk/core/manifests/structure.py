"""One document against its kind: every fault at once, each with a code, a place and what would be right.

Three layers look at the same raw mapping and none hides another: the pydantic model (fields, types, ranges), the
rules between fields, and the fields without effect. A value that one layer found faulty is not reported again by
the next. Other files are not looked at.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pydantic import ValidationError

from skulk.core.manifests import codes
from skulk.core.manifests.codes import CODES
from skulk.core.manifests.diagnostics import quoted
from skulk.core.manifests.explain import FieldDoc, field_tree
from skulk.core.manifests.faults import Fault
from skulk.core.manifests.fields import API_VERSION
from skulk.core.manifests.kinds import MODELS, AnyManifest
from skulk.core.manifests.not_yet import check_effects
from skulk.core.manifests.rules import RULES
from skulk.core.manifests.strict_yaml import FAULTS_MAX, Document, Path

# What people write for true and false in YAML 1.1, and what they mean.
_YES_NO = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}

_RANGE_ERRORS = frozenset({"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"})
_LENGTH_ERRORS = frozenset({"too_long", "too_short", "string_too_long", "string_too_short"})


@dataclass(frozen=True, slots=True)
class Checked:
    """A document after the check. `model` is None when there are faults, `name` when it is not usable."""

    kind: str | None
    name: str | None
    model: AnyManifest | None
    faults: tuple[Fault, ...]


def check(document: Document) -> Checked:
    """Check a document whose value is a mapping. Faults of the text itself are not repeated."""
    raw = document.value
    assert isinstance(raw, dict)
    kind = raw.get("kind")
    if "kind" not in raw:
        fault = Fault(("kind",), codes.MISSING_FIELD, "missing field kind", f"one of {', '.join(MODELS)}")
        return Checked(None, _name(raw), None, (fault,))
    if not isinstance(kind, str) or kind not in MODELS:
        if ("kind",) in document.spoiled:
            return Checked(None, _name(raw), None, ())
        hint = did_you_mean(str(kind), MODELS) or codes.UNKNOWN_KIND.fix
        fault = Fault(("kind",), codes.UNKNOWN_KIND, f"unknown kind {quoted(kind)}", hint)
        return Checked(None, _name(raw), None, (fault,))
    model, found = _validated(kind, raw, document)
    faults = _new(found, document.spoiled)
    faults += _new(islice(_empty(document, raw), FAULTS_MAX), document.spoiled)
    taken = document.spoiled | {fault.path for fault in faults}
    for rule in RULES[kind]:
        faults += _new(islice(rule(raw), FAULTS_MAX), taken)
    taken = document.spoiled | {fault.path for fault in faults}
    faults += _new(check_effects(kind, raw), taken)
    faults = _without_null_echo(faults)
    if len(faults) > FAULTS_MAX:
        more = Fault((), codes.TOO_MANY_FAULTS, f"more than {FAULTS_MAX} faults, the rest is not shown")
        faults = [*faults[:FAULTS_MAX], more]
    return Checked(kind, _name(raw), model if not faults else None, tuple(faults))


def _name(raw: dict[str, Any]) -> str | None:
    metadata = raw.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else None


def _new(faults: Iterable[Fault], taken: Iterable[Path]) -> list[Fault]:
    """Those that are not at or below a path where something is wrong already."""
    known = set(taken)
    return [fault for fault in faults if not any(fault.path[:length] in known for length in range(len(fault.path) + 1))]


def _without_null_echo(faults: list[Fault]) -> list[Fault]:
    """A key without a value is also of the wrong type; the first says it better."""
    empty = {fault.path for fault in faults if fault.code is codes.NO_VALUE}
    return [fault for fault in faults if fault.code is codes.NO_VALUE or fault.path not in empty]


def _empty(document: Document, raw: dict[str, Any]) -> Iterator[Fault]:
    """Null is nowhere a value: a key is either given one or left out."""
    stack: list[tuple[Path, object]] = [((), raw)]
    while stack:
        path, value = stack.pop()
        if value is None:
            yield Fault(path, codes.NO_VALUE, f"{_dotted(path)} has no value", at_key=True)
        elif isinstance(value, dict):
            stack.extend(((*path, key), child) for key, child in value.items())
        elif isinstance(value, list):
            stack.extend(((*path, index), child) for index, child in enumerate(value))


def _validated(kind: str, raw: dict[str, Any], document: Document) -> tuple[AnyManifest | None, list[Fault]]:
    try:
        return MODELS[kind].model_validate(raw), []
    except ValidationError as error:
        tree = field_tree(kind)
        # Hints cost time: a file of a hundred thousand unknown keys must not hold up a node.
        errors = error.errors(include_url=False)[: FAULTS_MAX + 1]
        return None, [_fault(tree, item, document) for item in errors]


def _fault(tree: FieldDoc, error: Any, document: Document) -> Fault:
    """A pydantic error as a fault. Error types: https://docs.pydantic.dev/latest/errors/validation_errors/"""
    path: Path = tuple(error["loc"])
    kind: str = error["type"]
    if path and path[-1] == "[key]":
        # How pydantic marks a fault of a mapping's key rather than of its value.
        message = f"{_dotted(path[:-2])}: {error['msg']}"
        return Fault(path[:-1], CODES.get(kind, codes.BAD_TEXT), message, at_key=True)
    if kind == "extra_forbidden":
        return _unknown(tree, path)
    if kind == "missing":
        doc = _doc_at(tree, path)
        hint = doc.description if doc else ""
        return Fault(path, codes.MISSING_FIELD, f"missing field {_dotted(path)}", hint, at_key=True)
    if kind in CODES:
        return Fault(path, CODES[kind], f"{_dotted(path)}: {error['msg']}")
    if kind in _RANGE_ERRORS:
        return Fault(
            path, codes.OUT_OF_BOUNDS, f"{_dotted(path)}: {error['input']} is out of range", _range(tree, path)
        )
    if kind in _LENGTH_ERRORS:
        return Fault(path, codes.BAD_LENGTH, f"{_dotted(path)}: {_uncapitalised(error['msg'])}")
    if kind == "literal_error":
        return _not_allowed(tree, path, error["input"], document)
    return _wrong_type(tree, path, error["input"], document)


def _unknown(tree: FieldDoc, path: Path) -> Fault:
    """An unknown field: the nearest known name, the place where the name is known, or what is known here."""
    name = str(path[-1])
    parent = _doc_at(tree, path[:-1]) or tree
    known = [child.name for child in parent.children]
    elsewhere = [doc.path for doc in tree.walk() if doc.name == name]
    if elsewhere:
        hint = f"it belongs at {elsewhere[0]}"
    else:
        hint = did_you_mean(name, known) or f"known here: {', '.join(known)}"
    where = _dotted(path[:-1]) or "the document"
    return Fault(path, codes.UNKNOWN_FIELD, f"unknown field {quoted(name)} in {where}", hint, at_key=True)


def _not_allowed(tree: FieldDoc, path: Path, value: object, document: Document) -> Fault:
    doc = _doc_at(tree, path)
    allowed = doc.allowed if doc else ()
    if path == ("apiVersion",) and isinstance(value, str):
        return Fault(path, codes.UNKNOWN_VERSION, f"unknown apiVersion {quoted(value)}", f"write {API_VERSION}")
    if not isinstance(value, str):
        return _wrong_type(tree, path, value, document)
    hint = did_you_mean(value, allowed) or f"one of {', '.join(allowed)}"
    return Fault(path, codes.NOT_ALLOWED_VALUE, f"{_dotted(path)}: {quoted(value)} is not allowed", hint)


def _wrong_type(tree: FieldDoc, path: Path, value: object, document: Document) -> Fault:
    doc = _doc_at(tree, path)
    expected = doc.type if doc else "text"
    if doc and path and isinstance(path[-1], int):
        expected = expected.removeprefix("list of ")
    where = _dotted(path) or "the document"
    mark = document.marks.get(path)
    if isinstance(value, str) and expected == "true or false" and value.lower() in _YES_NO:
        hint = f"write {_YES_NO[value.lower()]}"
        return Fault(path, codes.YES_NO, f"{where}: {quoted(value)} is text, not a truth value", hint)
    if isinstance(value, (bool, int, float)) and mark is not None and mark.source is not None and _is_text(expected):
        message = f"{where}: {mark.source} is a {_type_name(value)}, not text"
        return Fault(path, codes.NOT_QUOTED, message, f'write "{mark.source}"')
    if isinstance(value, float) and value.is_integer() and expected.startswith("integer"):
        return Fault(path, codes.DECIMAL_POINT, f"{where}: {value} is not a whole number", f"write {int(value)}")
    hint = f"this is {expected}"
    if expected == "quantity":
        hint = "write a number and a unit, such as 2GiB"
    return Fault(path, codes.WRONG_TYPE, f"{where}: {_type_name(value)} where {expected} is expected", hint)


def _is_text(expected: str) -> bool:
    return expected in ("text", "sha256", "mapping of text")


def _type_name(value: object) -> str:
    match value:
        case bool():
            return "truth value"
        case int() | float():
            return "number"
        case str():
            return "text"
        case list():
            return "list"
        case dict():
            return "mapping"
        case None:
            return "nothing"
    return "date or time"


def _range(tree: FieldDoc, path: Path) -> str:
    doc = _doc_at(tree, path)
    return f"this is {doc.type}" if doc else ""


def _doc_at(tree: FieldDoc, path: Path) -> FieldDoc | None:
    """The field at a path; below a free mapping (labels, options) that mapping itself."""
    doc = tree
    for step in path:
        if isinstance(step, int):
            continue
        child = doc.child(step)
        if child is None:
            return None if doc.children else doc
        doc = child
    return doc


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean X?` for the nearest known word, else nothing."""
    folded = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(word.casefold(), list(folded), 1)
    return f"did you mean {folded[close[0]]}?" if close else ""


def _dotted(path: Path) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def _uncapitalised(text: str) -> str:
    return text[:1].lower() + text[1:]
