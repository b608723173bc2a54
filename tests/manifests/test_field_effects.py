"""Fields with no effect do not exist: every schema field names the test that proves what it does.

The map holds every leaf path of the schemas; a mapping's effect is that of the fields below it. A path without an
entry fails here, and so does an entry whose test is gone.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from corpus_cases import PATHS, edited, file, good_files
from field_table import LANDS

from skulk.core.domain import CommitId
from skulk.core.manifests import NOT_YET, explain, field_paths, load
from skulk.core.manifests.schema import schema_of

ROOT = Path(__file__).resolve().parents[2]

LANDS_IN_DOMAIN = "tests/manifests/test_field_lands.py::test_a_field_lands_in_the_domain_value"
IS_REFUSED = "tests/manifests/test_field_effects.py::test_a_field_without_effect_is_refused_by_name"
HAS_CASES = "tests/manifests/test_corpus.py::test_a_bad_case_has_exactly_its_codes"

EFFECTS: dict[str, str] = {
    **dict.fromkeys(LANDS, LANDS_IN_DOMAIN),
    **dict.fromkeys(NOT_YET, IS_REFUSED),
    **{f"{kind}.{name}": HAS_CASES for kind in PATHS for name in ("apiVersion", "kind")},
    "modelcard.spec.tasks[]": "tests/manifests/test_field_lands.py::test_tasks_land_although_only_one_is_possible",
}


def leaves() -> list[str]:
    return [path for path in field_paths() if not explain(path).children]


def effect_of(path: str) -> str | None:
    """The entry of a path, or of the nearest parent that is refused as a whole."""
    found = EFFECTS.get(path) or EFFECTS.get(path.removesuffix("[]"))
    while found is None and "." in path:
        path = path.rsplit(".", 1)[0]
        if path.removesuffix("[]") in NOT_YET:
            found = IS_REFUSED
    return found


def test_every_field_names_the_test_that_proves_its_effect() -> None:
    assert [path for path in leaves() if effect_of(path) is None] == []


def test_every_named_field_exists() -> None:
    paths = set(field_paths())
    paths |= {path.removesuffix("[]") for path in paths}
    assert [path for path in EFFECTS if path not in paths] == []


@pytest.mark.parametrize("place", sorted(set(EFFECTS.values())))
def test_every_named_test_exists(place: str) -> None:
    path, name = place.split("::")
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


# A value of the right shape that asks for what the field is about.
ASKS: dict[str, str] = {
    "fleet.spec.store.nodes": "[one]",
    "fleet.spec.store.path": "models",
    "fleet.spec.store.upstream": "false",
    "fleet.spec.store.keepRecent": "1GiB",
    "fleet.spec.network.interfacePreference": "[en0]",
    "fleet.spec.requests": "session",
    "fleet.spec.tracing.enabled": "true",
    "deployment.spec.placement.minNodes": "2",
    "deployment.spec.placement.maxNodes": "2",
    "deployment.spec.placement.sharding": "tensor",
    "deployment.spec.onDemand.enabled": "true",
    "deployment.spec.onDemand.idleSeconds": "60",
    "deployment.spec.onDisconnect": "stop",
    "modelcard.spec.tasks[]": "TextToImage",
    "modelcard.spec.components": "[]",
    "modelcard.spec.usesCfg": "true",
    "modelcard.spec.trustRemoteCode": "true",
    "modelcard.spec.vision": "{imageTokenId: 1}",
    "modelcard.spec.reasoning.format": "channel_delimited",
    "modelcard.spec.runtime.promptRenderer": "gemma4",
    "modelcard.spec.runtime.outputParser": "gpt_oss",
    "modelcard.spec.runtime.metalFastSynch": "true",
    "modelcard.spec.runtime.mtpHeads": "1",
    "modelcard.spec.runtime.mtpMaxDepth": "1",
    "modelcard.spec.runtime.mtpSidecarRepo": "a/b",
    "modelcard.spec.runtime.mtpNormConvention": "actual_scale",
    "modelcard.spec.runtime.mtpConcatOrder": "embed_first",
    "modelcard.spec.runtime.speculativeMultiNode": "true",
    "modelcard.spec.runtime.assistantModelRepo": "a/b",
    "modelcard.spec.runtime.servedSpecType": "ngram",
    "modelcard.spec.runtime.servedSpecNMax": "2",
    "modelcard.spec.runtime.servedSpecDraftRepo": "a/b",
    "modelcard.spec.runtime.servedSpecDraftFile": "a",
}


def written(path: str, value: str) -> str:
    """A document with the value at the path, mappings on the way made."""
    kind, *steps = path.split(".")
    text = f"[{value}]" if steps[-1].endswith("[]") else value
    for step in reversed(steps[2:]):
        text = f"{{{step.removesuffix('[]')}: {text}}}"
    if len(steps) == 2:
        return edited(kind, ".".join(steps).removesuffix("[]"), text)
    return edited(kind, ".".join(steps[:2]), text)


def codes_and_messages(path: str, value: str) -> list[tuple[str, str]]:
    files = good_files()
    kind = path.split(".")[0]
    files[PATHS[kind]] = file(PATHS[kind], written(path, value))
    result = load(tuple(files.values()), CommitId("0" * 40))
    return [(d.code, d.message) for d in result.errors]


def test_every_field_without_effect_is_tried() -> None:
    assert ASKS.keys() == NOT_YET.keys()


@pytest.mark.parametrize("path", NOT_YET)
def test_a_field_without_effect_is_refused_by_name(path: str) -> None:
    [(code, message)] = codes_and_messages(path, ASKS[path])
    assert code == "SK-MAN-124"
    assert path.split(".")[-1].removesuffix("[]") in message
    assert NOT_YET[path].sentence in message


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, row in NOT_YET.items() for value in row.allowed])
def test_saying_what_this_version_does_anyway_is_fine(path: str, value: object) -> None:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    assert codes_and_messages(path, text) == []


def test_the_schemas_name_what_has_no_effect() -> None:
    for path, row in NOT_YET.items():
        kind = next(name for name in ("Fleet", "Node", "Deployment", "ModelCard") if name.lower() == path.split(".")[0])
        assert row.sentence in str(schema_of(kind)), path
        assert explain(path).not_yet == row.sentence
