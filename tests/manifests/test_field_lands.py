"""Every field with an effect becomes a domain value; defaults and units are resolved on the way."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from corpus_cases import PATHS, A, _card, edited, file, good_files
from field_table import EDITED_AT, LANDS

from skulk.core.domain import CommitId, Fleet, KvShape
from skulk.core.manifests import load, render_text

COMMIT = CommitId("1" * 40)


def loaded(kind: str, path: str, value: str) -> Fleet:
    files = good_files()
    files["cards/owl/card.yaml"] = file("cards/owl/card.yaml", _card("owl"))
    files[PATHS[kind]] = file(PATHS[kind], edited(kind, path, value))
    for orphan in ("modelcard.metadata.name", "modelcard.spec.source"):
        if f"{kind}.{path}" == orphan:
            # The deployment would have no card, or one that cannot be fetched.
            files[PATHS["deployment"]] = file(PATHS["deployment"], edited("deployment", "spec.model", "owl"))
    result = load(tuple(files.values()), COMMIT)
    assert result.fleet is not None, render_text(result.diagnostics)
    return result.fleet


def at(value: object, place: str) -> object:
    for step in place.split("/"):
        value = value.get(step) if isinstance(value, Mapping) else getattr(value, step, None)
    return value


@pytest.mark.parametrize("path", LANDS)
def test_a_field_lands_in_the_domain_value(path: str) -> None:
    text, place, expected = LANDS[path]
    kind, where = EDITED_AT.get(path, path).removesuffix("[]").split(".", 1)
    baseline = load(tuple(good_files().values()), COMMIT).fleet
    assert at(baseline, place) != expected, "the value of the table is the default"
    assert at(loaded(kind, where, text), place) == expected


def test_tasks_land_although_only_one_is_possible() -> None:
    assert loaded("modelcard", "spec.tasks", "[TextGeneration]").cards["fox"].tasks == ("TextGeneration",)


def test_a_deployments_own_values_win_over_the_fleets_defaults() -> None:
    files = good_files()
    files[PATHS["fleet"]] = file(
        PATHS["fleet"],
        edited("fleet", "spec.defaults", "{contextTokens: 99, concurrency: 3, strategy: stop-first}"),
    )
    text = "apiVersion: skulk.dev/v1alpha1\nkind: Deployment\nmetadata: {name: chat}\nspec:\n  model: fox\n"
    text += "  contextTokens: 7\n  concurrency: 1\n  update: {strategy: start-first}\n"
    files[PATHS["deployment"]] = file(PATHS["deployment"], text)
    fleet = load(tuple(files.values()), COMMIT).fleet
    assert fleet is not None
    chat = fleet.deployments["chat"]
    assert (chat.context_tokens, chat.concurrency, chat.strategy) == (7, 1, "start-first")


@pytest.mark.parametrize("limit", ["spec.contextLength 64", "spec.placement {maxContextTokens: 64}"])
def test_a_default_context_never_exceeds_the_card(limit: str) -> None:
    files = good_files()
    files[PATHS["fleet"]] = file(PATHS["fleet"], edited("fleet", "spec.defaults", "{contextTokens: 99}"))
    path, value = limit.split(" ", 1)
    files[PATHS["modelcard"]] = file(PATHS["modelcard"], edited("modelcard", path, value))
    fleet = load(tuple(files.values()), COMMIT).fleet
    assert fleet is not None
    assert fleet.deployments["chat"].context_tokens == 64


def test_windowed_layers_are_taken_from_the_full_ones() -> None:
    kv = loaded("modelcard", "spec.kv", "{slidingWindow: {tokens: 128, layers: 3}}").cards["fox"].kv
    assert kv == KvShape(full_layers=1, windowed_layers=3, window_tokens=128, kv_heads=2)


def test_without_heads_and_mla_no_layer_costs_anything() -> None:
    kv = loaded("modelcard", "spec.numKeyValueHeads", "~remove").cards["fox"].kv
    assert kv == KvShape()


def test_mla_costs_without_heads() -> None:
    files = good_files()
    text = edited("modelcard", "spec.kv", "{mla: {rank: 512, ropeDim: 64}}").replace("numKeyValueHeads: 2", "family: x")
    files[PATHS["modelcard"]] = file(PATHS["modelcard"], text)
    fleet = load(tuple(files.values()), COMMIT).fleet
    assert fleet is not None
    assert fleet.cards["fox"].kv == KvShape(full_layers=4, mla_rank=512, mla_rope_dim=64)


def test_storage_defaults_to_the_sum_of_the_files() -> None:
    value = f'[{{path: a, bytes: 3, sha256: "{A}"}}, {{path: b, bytes: 4, sha256: "{A}"}}]'
    assert loaded("modelcard", "spec.files", value).cards["fox"].storage_bytes == 7
