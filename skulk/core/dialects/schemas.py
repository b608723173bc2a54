"""JSON Schemas that clients send: is this one at all, and is it of a size that can be compiled?

The grammar compiler at the runner has the last word (keywords that it lacks, schemas that nothing satisfies); here is
said what needs no compiler, with the place inside the schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from skulk.core.dialects.fields import clean_value, invalid, shown, unsupported

SCHEMA_BYTES_MAX = 64 * 1024
"""As JSON. Hand-written schemas have a few KB; the grammar grows with it, and compiling holds up a runner."""
SCHEMA_DEPTH_MAX = 64
"""Levels of JSON: each object inside an object takes two."""

_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
# Keyword → what stands in it. `items` is a schema, or in older drafts a list of them.
_SCHEMA = (
    *("items", "additionalItems", "additionalProperties", "unevaluatedItems", "unevaluatedProperties"),
    *("not", "if", "then", "else", "contains", "propertyNames"),
)
_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED_SCHEMAS = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_TEXTS = ("pattern", "format", "title", "description", "$ref", "$id", "$schema", "$anchor")


def read_schema(value: object, param: str) -> dict[str, object]:
    """The schema, its strings cleaned. Raises RequestError 400 for `param`, with the place inside."""
    if not isinstance(value, dict):
        raise invalid(param, f"must be a JSON Schema (an object), not {shown(value)}")
    schema = clean_value(value, SCHEMA_DEPTH_MAX, param)
    assert isinstance(schema, dict)
    size = len(json.dumps(schema, ensure_ascii=False).encode())
    if size > SCHEMA_BYTES_MAX:
        raise invalid(param, f"has {size} bytes, at most {SCHEMA_BYTES_MAX} are allowed")
    _check(schema, param, "#")
    return schema


def _check(schema: Mapping[str, object], param: str, at: str) -> None:
    _check_type(schema, param, at)
    _check_values(schema, param, at)
    ref = schema.get("$ref")
    if isinstance(ref, str) and not (ref == "#" or ref.startswith("#/")):
        raise unsupported(param, f"holds at {at} the reference {shown(ref)}: only #/… inside the schema is followed")
    for place, inner in _inside(schema, param, at):
        if isinstance(inner, dict):
            _check(inner, param, place)
        elif not isinstance(inner, bool):
            raise invalid(param, f"must hold a schema at {place}, not {shown(inner)}")


def _check_type(schema: Mapping[str, object], param: str, at: str) -> None:
    if "type" not in schema:
        return
    written = schema["type"]
    names = written if isinstance(written, list) and written else [written]
    for name in names:
        if name not in _TYPES:
            raise invalid(param, f"has an unknown type at {at}: {shown(name)} is none of {', '.join(_TYPES)}")


def _check_values(schema: Mapping[str, object], param: str, at: str) -> None:
    for key, value in schema.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if key in _NUMBERS and not number and not (key.startswith("exclusive") and isinstance(value, bool)):
            raise invalid(param, f"must have a number in {at}/{key}, not {shown(value)}")
        if key in _COUNTS and not _is_count(value):
            raise invalid(param, f"must have a count in {at}/{key}, not {shown(value)}")
        if key in _TEXTS and not isinstance(value, str):
            raise invalid(param, f"must have a string in {at}/{key}, not {shown(value)}")
        if key == "enum" and not (isinstance(value, list) and value):
            raise invalid(param, f"must have a list of values in {at}/enum, not {shown(value)}")
        if key == "required" and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
            raise invalid(param, f"must have a list of names in {at}/required, not {shown(value)}")


def _is_count(value: object) -> bool:
    """Drafts allow 3.0 for 3. Nothing is converted: an integer can be larger than any float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value >= 0 and (isinstance(value, int) or value.is_integer())


def _inside(schema: Mapping[str, object], param: str, at: str) -> Iterator[tuple[str, object]]:
    for key, value in schema.items():
        place = f"{at}/{key}"
        if key in _SCHEMAS or (key == "items" and isinstance(value, list)):
            if not isinstance(value, list) or not value:
                raise invalid(param, f"must have a list of schemas in {place}, not {shown(value)}")
            yield from ((f"{place}/{index}", item) for index, item in enumerate(value))
        elif key in _SCHEMA:
            yield place, value
        elif key in _NAMED_SCHEMAS:
            if not isinstance(value, dict):
                raise invalid(param, f"must have an object of schemas in {place}, not {shown(value)}")
            yield from ((f"{place}/{name}", item) for name, item in value.items())
