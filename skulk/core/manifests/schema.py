"""JSON Schemas of the four kinds, for editors and CI: generated from the models, committed under schemas/.

Draft-07 keywords only, because yaml-language-server and most editors stop there; references are inlined, so that
each file stands alone. What the models cannot say themselves is laid over: fields without effect (`NOT_YET`),
engine options, and the rules between fields that `if`/`then` can express. The rest is `codes.BEYOND_SCHEMA`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from skulk.core.manifests.kinds import MODELS
from skulk.core.manifests.not_yet import ENGINE_OPTIONS, NOT_YET, EngineOption

Schema = dict[str, Any]

DRAFT = "http://json-schema.org/draft-07/schema#"


def generate() -> dict[str, Schema]:
    """File name (`fleet.schema.json`, …) → schema; `schema_text` makes the file's content."""
    return {f"{kind.lower()}.schema.json": _of_kind(kind) for kind in MODELS}


def schema_text(schema: Schema) -> str:
    """The canonical text of a schema, as committed under schemas/: keys in the order of the models."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


@cache
def _cached(kind: str) -> Schema:
    return _of_kind(kind)


def schema_of(kind: str) -> Schema:
    """The schema of one kind; shared, so never to be changed."""
    return _cached(kind)


def _of_kind(kind: str) -> Schema:
    raw = MODELS[kind].model_json_schema(by_alias=True, mode="validation")
    definitions = raw.pop("$defs", {})
    schema = _inlined(raw, definitions)
    assert isinstance(schema, dict)
    for path, row in NOT_YET.items():
        table_kind, *steps = path.split(".")
        if table_kind == kind.lower():
            _refuse(_descend(schema, steps), row.sentence, row.allowed)
    if kind == "ModelCard":
        _card_rules(schema["properties"]["spec"])
    if kind == "Deployment":
        _engine_rules(schema["properties"]["spec"]["properties"]["engine"])
    return {"$schema": DRAFT, "title": kind, **schema}


def _inlined(node: Any, definitions: Mapping[str, Any]) -> Any:
    """The schema with references replaced by what they name, titles dropped, and null taken out of unions.

    No manifest field takes null: a key without a value is a fault of its own.
    """
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[-1]]
        rest = {key: value for key, value in node.items() if key != "$ref"}
        return _inlined({**target, **rest}, definitions)
    if "anyOf" in node:
        [only] = [branch for branch in node["anyOf"] if branch != {"type": "null"}]
        rest = {key: value for key, value in node.items() if key != "anyOf"}
        return _inlined({**only, **rest}, definitions)
    result: Schema = {}
    for key, value in node.items():
        if key == "properties":
            result[key] = {name: _inlined(child, definitions) for name, child in value.items()}
        elif (key == "default" and value is None) or key == "title":
            continue
        elif key == "default":
            result[key] = value
        else:
            result[key] = _inlined(value, definitions)
    return result


def _descend(schema: Schema, steps: list[str]) -> Schema:
    for step in steps:
        schema = schema["properties"][step.removesuffix("[]")]
        if step.endswith("[]"):
            schema = schema["items"]
    return schema


def _refuse(field: Schema, sentence: str, allowed: tuple[object, ...]) -> None:
    """Turn a field into one that takes only the values without further effect."""
    described = f"{field.get('description', '')} Not yet: {sentence}.".strip()
    if allowed:
        field["enum"] = list(allowed)
        field["description"] = described
    else:
        for key in field.keys() - {"type", "properties", "items", "default"}:
            del field[key]
        field.update({"not": {}, "description": described})


def _card_rules(spec: Schema) -> None:
    spec["properties"]["source"].update({"minProperties": 1, "maxProperties": 1})
    spec["if"] = {
        "properties": {"source": {"type": "object", "required": ["local"]}},
        "required": ["source"],
    }
    spec["then"] = {"properties": {"files": {"minItems": 1}}}


def _engine_rules(engine: Schema) -> None:
    engine["dependencies"] = {"options": ["name"]}
    engine["allOf"] = [
        {
            "if": {"properties": {"name": {"const": name}}, "required": ["name"]},
            "then": {"properties": {"options": _options(options)}},
        }
        for name, options in ENGINE_OPTIONS.items()
        if options is not None
    ]


def _options(options: Mapping[str, EngineOption]) -> Schema:
    if not options:
        return {"maxProperties": 0}
    values = {name: {"enum": list(option.values)} for name, option in options.items()}
    return {"properties": values, "additionalProperties": False}
