"""A commit's files become one Fleet, whole or not at all; the repository's own fleet is one of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from corpus_cases import PATHS, bad_cases, edited, file, good_cases, good_files
from hypothesis import given, settings
from hypothesis import strategies as st

from skulk.core.domain import CommitId, LocalSource
from skulk.core.manifests import load, render_text
from skulk.core.ports import TreeFile

ROOT = Path(__file__).resolve().parents[2]
COMMIT = CommitId("a" * 40)


def own_files() -> tuple[TreeFile, ...]:
    """The manifests of this repository, as a source delivers them."""
    paths = [path for folder in ("fleet", "cards") for path in sorted((ROOT / folder).rglob("*.yaml"))]
    return tuple(file(path.relative_to(ROOT).as_posix(), path.read_bytes()) for path in paths)


def test_the_repositorys_own_fleet_is_valid() -> None:
    result = load(own_files(), COMMIT)
    assert result.fleet is not None, render_text(result.diagnostics)
    assert not result.diagnostics
    assert result.fleet.namespace == "demo"
    assert set(result.fleet.cards) == {"fox-tiny", "fox-tiny-bf16", "fox-tiny-gguf"}
    assert result.fleet.deployments["chat"].context_tokens == 2048


def test_the_repositorys_cards_describe_the_files_beside_them() -> None:
    fleet = load(own_files(), COMMIT).fleet
    assert fleet is not None
    for card in fleet.cards.values():
        assert isinstance(card.source, LocalSource)
        folder = ROOT / "cards" / card.source.name
        assert {path.name for path in folder.iterdir()} == {entry.path for entry in card.files}
        for entry in card.files:
            data = (folder / entry.path).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.bytes, entry.sha256), entry.path


def test_every_yaml_of_the_repository_names_its_schema() -> None:
    for entry in own_files():
        first = entry.data.decode().splitlines()[0]
        prefix = "# yaml-language-server: $schema="
        assert first.startswith(prefix), entry.path
        assert (ROOT / entry.path).parent.joinpath(first.removeprefix(prefix)).resolve().is_file(), entry.path


def test_documents_and_places_are_kept_for_people() -> None:
    fleet = load(own_files(), COMMIT).fleet
    assert fleet is not None
    assert fleet.commit == COMMIT
    assert fleet.documents["Deployment/chat"]["spec"] == {"model": "fox-tiny", "contextTokens": 2048}
    assert fleet.places["Deployment/chat"] == "fleet/deployments/chat.yaml:2"
    assert fleet.documents.keys() == fleet.places.keys()


def test_there_is_a_fleet_exactly_when_there_is_no_error() -> None:
    for case in [*bad_cases(), *good_cases()]:
        result = load(case.files, COMMIT)
        assert (result.fleet is None) == bool(result.errors), case.name


def test_files_of_a_model_are_not_manifests() -> None:
    files = [*good_files().values(), file("cards/fox/files/config.yaml", "not: a manifest")]
    assert load(files, COMMIT).fleet is not None


def test_a_deployment_may_keep_the_name_of_a_card_it_no_longer_serves() -> None:
    files = good_files()
    other = edited("modelcard", "metadata.name", "chat").replace("skulk/fox", "skulk/other")
    files["cards/chat/card.yaml"] = file("cards/chat/card.yaml", other)
    result = load(tuple(files.values()), COMMIT)
    assert result.fleet is not None, render_text(result.diagnostics)


def test_two_deployments_of_one_model_share_its_names() -> None:
    files = good_files()
    second = edited("deployment", "metadata.name", "talk").replace("aliases: []", "aliases: [gpt]")
    files[PATHS["deployment"]] = file(PATHS["deployment"], edited("deployment", "spec.aliases", "[gpt]"))
    files["fleet/deployments/talk.yaml"] = file("fleet/deployments/talk.yaml", second)
    assert load(tuple(files.values()), COMMIT).fleet is not None


@given(st.permutations(list(good_files().values())))
@settings(max_examples=24, deadline=None)
def test_the_order_of_files_does_not_matter(files: list[TreeFile]) -> None:
    first = load(list(good_files().values()), COMMIT).fleet
    second = load(files, COMMIT).fleet
    assert first == second
    assert first is not None
    assert second is not None
    assert list(first.documents) == list(second.documents)
