"""Every bad document has its code, and the JSON Schemas judge as the loader does."""

from __future__ import annotations

from functools import cache
from typing import Any

import jsonschema
import pytest
from corpus_cases import ERROR_CODES, Case, bad_cases, good_cases

from skulk.core.domain import CommitId
from skulk.core.manifests import generate, load, render_text
from skulk.core.manifests.codes import BEYOND_SCHEMA, NO_MAPPING
from skulk.core.manifests.kinds import MODELS, kind_at
from skulk.core.manifests.strict_yaml import read
from skulk.core.ports import FileKind, TreeFile

COMMIT = CommitId("0" * 40)
BAD, GOOD = bad_cases(), good_cases()


def ids(cases: list[Case]) -> list[str]:
    return [case.name for case in cases]


@cache
def validator(kind: str) -> Any:
    return jsonschema.Draft7Validator(generate()[f"{kind.lower()}.schema.json"])


def schema_accepts(file: TreeFile) -> bool:
    """What an editor says of a file; one that it cannot parse or judge it lets pass."""
    if file.kind is not FileKind.FILE:
        return True
    document = read(file.data)
    unread = document.value is None and all(fault.code is not NO_MAPPING for fault in document.faults)
    if unread or document.spoiled:
        return True
    kind = document.value.get("kind") if isinstance(document.value, dict) else None
    schema = kind if isinstance(kind, str) and kind in MODELS else kind_at(file.path)
    return schema is None or bool(validator(schema).is_valid(document.value))


@pytest.mark.parametrize("case", BAD, ids=ids(BAD))
def test_a_bad_case_has_exactly_its_codes(case: Case) -> None:
    loaded = load(case.files, COMMIT)
    assert loaded.fleet is None
    assert {d.code for d in loaded.errors} == case.codes, render_text(loaded.diagnostics)


@pytest.mark.parametrize("case", GOOD, ids=ids(GOOD))
def test_a_good_case_loads_and_satisfies_the_schemas(case: Case) -> None:
    loaded = load(case.files, COMMIT)
    assert loaded.fleet is not None, render_text(loaded.diagnostics)
    assert all(schema_accepts(file) for file in case.files)


def test_the_corpus_is_large_and_has_every_error_code() -> None:
    assert len(BAD) >= 100
    assert {code for case in BAD for code in case.codes} == ERROR_CODES


def test_what_schemas_cannot_see_is_exactly_what_the_table_lists() -> None:
    unseen = {code for case in BAD if all(map(schema_accepts, case.files)) for code in case.codes}
    assert unseen == {row.code.id for row in BEYOND_SCHEMA}


def test_where_a_schema_is_blind_every_code_of_the_case_is_in_the_table() -> None:
    listed = {row.code.id for row in BEYOND_SCHEMA}
    for case in BAD:
        if not (case.codes & listed):
            assert not all(map(schema_accepts, case.files)), case.name
