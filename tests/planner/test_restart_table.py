"""The table of what restarts a runner says what the planner does, row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace

import pytest
from planner_worlds import GIB, LLAMA_CPU, MLX, World, card, deployment, fleet, member, node

from skulk.core.domain import (
    CardFile,
    CardName,
    CommitId,
    Deployment,
    NodeName,
    Participation,
    Reasoning,
    Spread,
    UpdateStrategy,
)
from skulk.core.planner import launch_hash
from skulk.core.reconcile.restarts import RESTARTS, Effect, table

Change = Callable[[World], None]


def world() -> World:
    """Two nodes that can both take the one replica; it is on `a`, which has the lower ordinal and both engines."""
    both = card(compatible_backends=("mlx", "llama_cpp"), backend_preference=("mlx",))
    made = World(
        fleet([node("a"), node("b", 2)], [deployment()], [both]),
        [member("a", 32, builds=(MLX, LLAMA_CPU)), member("b", 16)],
    )
    made.settle()
    return made


def of_deployment(**changes: object) -> Change:
    def change(made: World) -> None:
        made.push(deployment(**changes))

    return change


def of_card(**changes: object) -> Change:
    def change(made: World) -> None:
        (before,) = made.fleet.cards.values()
        made.push(deployment(), cards=[replace(before, **changes)])  # type: ignore[arg-type]

    return change


def of_node(name: str, **changes: object) -> Change:
    def change(made: World) -> None:
        nodes = dict(made.fleet.nodes)
        nodes[NodeName(name)] = replace(nodes[NodeName(name)], **changes)  # type: ignore[arg-type]
        made.fleet = replace(made.fleet, commit=CommitId("c2"), nodes=nodes)

    return change


def another_card(made: World) -> None:
    made.push(deployment(model="hound"), cards=[*made.fleet.cards.values(), card("hound")])


def renamed_card(made: World) -> None:
    (before,) = made.fleet.cards.values()
    made.push(deployment(model="hound"), cards=[replace(before, name=CardName("hound"))])


def newer_engine(made: World) -> None:
    newer = replace(MLX, version="0.33.0", digest="d-mlx-2")
    made.members = [replace(made.members[0], builds=(newer, LLAMA_CPU)), made.members[1]]


def suspended_and_back(made: World) -> None:
    made.push(deployment(suspend=True))
    assert made.plan().placements == ()
    made.push(deployment(), commit="c3")


DIGEST = "f" * 64
CHANGES: Mapping[str, Change] = {
    "deployment.spec.model": another_card,
    "deployment.spec.contextTokens": of_deployment(context_tokens=2048),
    "deployment.spec.concurrency": of_deployment(concurrency=2),
    "deployment.spec.engine.name": of_deployment(engine="llama_cpp"),
    "deployment.spec.engine.options": of_deployment(engine_options={"speed": "high"}),
    "modelcard.metadata.name": renamed_card,
    "modelcard.spec.modelId": of_card(model_id="org/renamed"),
    "modelcard.spec.revision": of_card(revision="r2"),
    "modelcard.spec.files": of_card(files=(CardFile("model.safetensors", GIB, DIGEST),)),
    "modelcard.spec.ggufFile": of_card(gguf_file="fox.gguf"),
    "modelcard.spec.reasoning.format": of_card(reasoning=Reasoning("token_delimited")),
    "engine build": newer_engine,
    "deployment.spec.replicas": of_deployment(replicas=2),
    "deployment.spec.priority": of_deployment(priority=7),
    "deployment.spec.aliases": of_deployment(aliases=("fox-alias",)),
    "deployment.spec.suspend": suspended_and_back,
    "deployment.spec.update.strategy": of_deployment(strategy=UpdateStrategy.STOP_FIRST),
    "deployment.spec.placement.selector": of_deployment(selector={"skulk.dev/node": "a"}),
    "deployment.spec.placement.excludedNodes": of_deployment(excluded_nodes=(NodeName("b"),)),
    "deployment.spec.placement.spread": of_deployment(spread=Spread.NODE),
    "node.spec.labels": of_node("a", labels={"rack": "1"}),
    "node.spec.cordon": of_node("a", cordon=True),
    "node.spec.drain": of_node("b", drain=True),
    "node.spec.participation": of_node("b", participation=Participation.MANAGEMENT),
    "node.spec.reserve": of_node("a", reserve_memory_bytes=GIB, reserve_disk_bytes=GIB),
    "modelcard.spec.placement.compatibleBackends": of_card(compatible_backends=("mlx",)),
    "modelcard.spec.placement.minVramGib": of_card(min_vram_bytes=GIB),
}

# A value that the running placement violates: now it must move.
FORBIDDING: Mapping[str, Change] = {
    "deployment.spec.placement.selector": of_deployment(selector={"skulk.dev/node": "b"}),
    "deployment.spec.placement.excludedNodes": of_deployment(excluded_nodes=(NodeName("a"),)),
    "node.spec.drain": of_node("a", drain=True),
    "node.spec.participation": of_node("a", participation=Participation.MANAGEMENT),
    "modelcard.spec.placement.compatibleBackends": of_card(compatible_backends=("llama_cpp",)),
}


def test_every_row_is_tried_and_nothing_else() -> None:
    assert set(CHANGES) == set(RESTARTS)


@pytest.mark.parametrize("path", RESTARTS)
def test_a_row_says_what_happens(path: str) -> None:
    made = world()
    (before,) = made.running
    CHANGES[path](made)
    after = {placement.uid for placement in made.plan().placements}
    assert (before not in after) == (RESTARTS[path] is Effect.REPLACE)


@pytest.mark.parametrize("path", FORBIDDING)
def test_what_moves_only_when_it_must_moves_then(path: str) -> None:
    assert RESTARTS[path] is Effect.PLAN
    made = world()
    (before,) = made.running
    FORBIDDING[path](made)
    assert before not in {placement.uid for placement in made.plan().placements}


def test_every_field_of_a_deployment_is_in_the_table() -> None:
    """A new field must be thought about: it goes into the table, or it changes nothing."""
    elsewhere = {"name"}
    tried = {
        "model": "deployment.spec.model",
        "replicas": "deployment.spec.replicas",
        "context_tokens": "deployment.spec.contextTokens",
        "concurrency": "deployment.spec.concurrency",
        "engine": "deployment.spec.engine.name",
        "engine_options": "deployment.spec.engine.options",
        "selector": "deployment.spec.placement.selector",
        "excluded_nodes": "deployment.spec.placement.excludedNodes",
        "spread": "deployment.spec.placement.spread",
        "strategy": "deployment.spec.update.strategy",
        "priority": "deployment.spec.priority",
        "aliases": "deployment.spec.aliases",
        "suspend": "deployment.spec.suspend",
    }
    assert {field.name for field in fields(Deployment)} == set(tried) | elsewhere
    assert set(tried.values()) == {path for path in RESTARTS if path.startswith("deployment.")}


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "fox"},
        {"quantization": "4bit"},
        {"license": "MIT"},
        {"capabilities": ("text",)},
        {"described": {"tooling": {}}},
        {"reasoning": Reasoning(supports_toggle=True)},
        {"storage_bytes": 2 * GIB},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_card_that_is_described_differently_restarts_nothing(changes: dict[str, object]) -> None:
    before = launch_hash(card(), deployment(), MLX, 4096)
    assert launch_hash(card(**changes), deployment(), MLX, 4096) == before


def test_the_order_of_files_restarts_nothing() -> None:
    one, two = CardFile("a", 1, "a" * 64), CardFile("b", 1, "b" * 64)
    hashes = {launch_hash(card(files=files), deployment(), MLX, 4096) for files in ((one, two), (two, one))}
    assert len(hashes) == 1


def test_the_table_for_people_has_every_row() -> None:
    lines = table().splitlines()
    assert len(lines) == 2 + len(RESTARTS)
    assert all(f"| `{path}` | {effect.value} |" in lines for path, effect in RESTARTS.items())
