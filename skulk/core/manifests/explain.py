"""What each field means, by path: for `skulk explain`, hints about unknown fields, and the reference.

Read from the generated schemas, so that nothing is described twice. A path is the kind in lower case and the
YAML keys, `[]` after a list: `deployment.spec.replicas`, `modelcard.spec.files[].path`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from skulk.core.errors import CLI_USAGE, InvalidInput
from skulk.core.manifests.diagnostics import quoted
from skulk.core.manifests.kinds import MODELS
from skulk.core.manifests.not_yet import NOT_YET
from skulk.core.manifests.schema import schema_of

_OTHER_NAMES = {
    "card": "modelcard",
    "cards": "modelcard",
    "modelcards": "modelcard",
    "nodes": "node",
    "deployments": "deployment",
    "fleets": "fleet",
}


@dataclass(frozen=True, slots=True)
class FieldDoc:
    """One field. `default` is None when there is none; `children` are the fields directly below it."""

    path: str
    type: str
    required: bool
    default: object
    description: str
    allowed: tuple[str, ...] = ()
    not_yet: str = ""
    children: tuple[FieldDoc, ...] = ()

    @property
    def name(self) -> str:
        """The last part of the path, without `[]`."""
        return self.path.rsplit(".", 1)[-1].removesuffix("[]")

    def child(self, name: str) -> FieldDoc | None:
        return next((child for child in self.children if child.name == name), None)

    def walk(self) -> Iterator[FieldDoc]:
        """This field and everything below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()


def explain(path: str) -> FieldDoc:
    """The documentation of a kind or field.

    `[]` may be left out, the kind may be in any case and plural, `card` stands for `modelcard`. Raises InvalidInput
    (SK-CLI-001) for a path that does not exist, with what is meant when that can be guessed.
    """
    kind, *steps = path.strip(".").split(".")
    wanted = _OTHER_NAMES.get(kind.lower(), kind.lower())
    docs = {name.lower(): name for name in MODELS}
    if wanted not in docs:
        raise InvalidInput(CLI_USAGE, f"no kind {quoted(kind)}", fix=_meant(kind.lower(), list(docs)))
    doc = field_tree(docs[wanted])
    for step in steps:
        child = doc.child(step.removesuffix("[]"))
        if child is None:
            names = [c.name for c in doc.children]
            raise InvalidInput(CLI_USAGE, f"no field {quoted(step)} in {doc.path}", fix=_meant(step, names))
        doc = child
    return doc


def _meant(word: str, names: list[str]) -> str:
    close = difflib.get_close_matches(word, names, 1)
    if close:
        return f"did you mean {close[0]}?"
    return f"known: {', '.join(names)}" if names else "it has no fields below it"


def field_paths() -> tuple[str, ...]:
    """Every field path of every kind, parents before children."""
    return tuple(doc.path for kind in MODELS for doc in field_tree(kind).walk() if "." in doc.path)


@cache
def field_tree(kind: str) -> FieldDoc:
    """The documentation tree of one kind."""
    return _doc(kind.lower(), schema_of(kind), required=True)


def _doc(path: str, schema: dict[str, Any], *, required: bool) -> FieldDoc:
    inner = schema
    if isinstance(schema.get("items"), dict):
        path, inner = f"{path}[]", schema["items"]
    demanded = set(inner.get("required", ()))
    children = tuple(
        _doc(f"{path}.{name}", child, required=name in demanded) for name, child in inner.get("properties", {}).items()
    )
    row = NOT_YET.get(path) or NOT_YET.get(path.removesuffix("[]"))
    allowed = inner.get("enum", [inner["const"]] if "const" in inner else [])
    return FieldDoc(
        path=path,
        type=_type(schema),
        required=required,
        default=schema.get("default"),
        description=schema.get("description", ""),
        allowed=tuple(str(value).lower() if isinstance(value, bool) else str(value) for value in allowed),
        not_yet=row.sentence if row else "",
        children=children,
    )


_FORMS = {
    "^[0-9a-f]{64}$": "sha256",
}


def _type(schema: dict[str, Any]) -> str:
    """A short name of the type for people: `integer 0..64`, `list of text`, `text`, `mapping`."""
    kind = schema.get("type")
    if kind == "array":
        return f"list of {_type(schema['items'])}"
    if kind == "object":
        free = schema.get("additionalProperties")
        return "mapping of text" if isinstance(free, dict) and free.get("type") == "string" else "mapping"
    if kind in ("integer", "number"):
        low, high = schema.get("minimum"), schema.get("maximum")
        return f"{kind} {low}..{high}" if low is not None and high is not None else str(kind)
    if kind == "boolean":
        return "true or false"
    pattern = str(schema.get("pattern", ""))
    if "KiB" in pattern:
        return "quantity"
    return _FORMS.get(pattern, "text")
