"""Schemas and reference are what the models say. `SKULK_UPDATE_GOLDEN=1` writes them anew."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from skulk.core.errors import InvalidInput
from skulk.core.manifests import explain, field_paths, generate, schema_text
from skulk.core.manifests.codes import BEYOND_SCHEMA, CODES
from skulk.core.manifests.reference import codes_markdown, manifests_markdown

ROOT = Path(__file__).resolve().parents[2]

FILES = {
    **{f"schemas/{name}": schema_text(schema) for name, schema in generate().items()},
    "docs/reference/manifests.md": manifests_markdown(),
    "docs/reference/manifest-codes.md": codes_markdown(),
}


@pytest.mark.parametrize("path", FILES)
def test_a_generated_file_is_up_to_date(path: str) -> None:
    file = ROOT / path
    if os.environ.get("SKULK_UPDATE_GOLDEN") == "1":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(FILES[path], "utf-8")
    assert file.read_text("utf-8") == FILES[path], "run with SKULK_UPDATE_GOLDEN=1 and commit the result"


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for child in schema.values():
            yield from nodes(child)
    elif isinstance(schema, list):
        for child in schema:
            yield from nodes(child)


@pytest.mark.parametrize("name", generate())
def test_a_schema_is_valid_draft_07_and_stands_alone(name: str) -> None:
    schema = generate()[name]
    jsonschema.Draft7Validator.check_schema(schema)
    later = {"$ref", "$defs", "prefixItems", "unevaluatedProperties", "dependentRequired", "discriminator", "nullable"}
    assert all(not (node.keys() & later) for node in nodes(schema))
    assert '"null"' not in json.dumps(schema)


def test_every_field_has_a_description_of_its_own() -> None:
    assert [path for path in field_paths() if len(explain(path).description) < 8] == []


def test_every_field_and_every_code_has_a_heading() -> None:
    headings = set(FILES["docs/reference/manifests.md"].splitlines())
    assert [path for path in field_paths() if f"### {path}" not in headings] == []
    headings = set(FILES["docs/reference/manifest-codes.md"].splitlines())
    assert [code for code in CODES if f"## {code}" not in headings] == []


def test_the_reference_lists_what_schemas_cannot_express() -> None:
    text = FILES["docs/reference/manifests.md"]
    assert all(f"| {row.code.id} |" in text for row in BEYOND_SCHEMA)


def test_explain_tells_type_default_range_and_children() -> None:
    doc = explain("deployment.spec.replicas")
    assert (doc.type, doc.default, doc.required) == ("integer 0..64", 1, False)
    assert explain("Node.spec.ordinal").required
    assert [child.name for child in explain("deployment.spec.update").children] == ["strategy"]
    assert explain("deployment.spec.update.strategy").allowed == ("start-first", "stop-first")


@pytest.mark.parametrize("path", ["modelcard.spec.files[].path", "card.spec.files.path", "cards.spec.files[].path"])
def test_explain_takes_kinds_and_lists_as_people_write_them(path: str) -> None:
    assert explain(path).path == "modelcard.spec.files[].path"


@pytest.mark.parametrize(
    ("path", "fix"),
    [
        ("deploymnt", "did you mean deployment?"),
        ("deployment.spec.replica", "did you mean replicas?"),
        ("node.spec.zzz", "known: ordinal"),
        ("node.spec.cordon.x", "no fields below"),
    ],
)
def test_explain_of_an_unknown_path_says_what_was_meant(path: str, fix: str) -> None:
    with pytest.raises(InvalidInput) as error:
        explain(path)
    assert fix in error.value.fix
