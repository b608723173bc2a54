"""The blueprint as bytes: nothing is lost, neighbours' versions are understood, rubbish is refused by place."""

import json
from dataclasses import replace

import pytest
from planner_worlds import LLAMA_CPU, card, deployment, fleet, member, node, one_node

from skulk.core.domain import Blueprint, CardFile, CommitId, DeploymentName, LaunchHash, NodeName, SessionPlacement
from skulk.core.planner import DocumentError, content_hash, from_json, launch_hash, placement_uid, plan, to_json


def example() -> Blueprint:
    world = one_node(deployment(), deployment("big", context_tokens=99_999))
    world.step()
    world.push(deployment(concurrency=2))
    return replace(world.plan(), epoch=3, seq=7)


def test_a_blueprint_survives_the_way_there_and_back() -> None:
    blueprint = example()
    data = to_json(blueprint)
    assert from_json(data) == blueprint
    assert to_json(from_json(data)) == data
    assert b'"contextTokens":4096' in data


def test_keys_of_a_newer_version_are_ignored_and_optional_ones_may_be_missing() -> None:
    obj = json.loads(to_json(example()))
    obj["extra"] = 1
    obj["placements"][0]["extra"] = {}
    for key in ("keep", "backend", "memoryBytes"):
        for entry in obj["retiring"]:
            del entry[key]
    found = from_json(json.dumps(obj).encode())
    assert not found.retiring[0].keep


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "not a JSON document"),
        (b"\xff", "not a JSON document"),
        (b"[" * 100_000, "not a JSON document"),
        (b"[]", "blueprint is not an object"),
        (b"{}", "blueprint.commit is not a str"),
        (b'{"commit":"c","epoch":true,"seq":0}', "blueprint.epoch is not a int"),
        (b'{"commit":"c","epoch":0,"seq":0,"placements":[3]}', "blueprint.placements[0] is not an object"),
        (b'{"commit":"c","epoch":0,"seq":0,"placements":{}}', "blueprint.placements is not a list"),
        (b'{"commit":"c","epoch":0,"seq":0,"inputs":{"a":1}}', "blueprint.inputs.a is not a str"),
        (
            b'{"commit":"c","epoch":0,"seq":0,"unplaced":[{"deployment":"d","replica":0,"reason":"No","message":""}]}',
            "blueprint.unplaced[0].reason is no known reason",
        ),
        (b" " * (16 * 1024 * 1024 + 1), "more than a blueprint may have"),
    ],
)
def test_anything_else_is_refused_and_the_place_named(data: bytes, text: str) -> None:
    with pytest.raises(DocumentError) as caught:
        from_json(data)
    assert text in str(caught.value)


def test_every_input_has_its_digest_and_only_its_own() -> None:
    world = one_node()
    world.settle()
    running = tuple(world.running.values())
    base = plan(world.fleet, (), world.members, running, ()).inputs
    session = SessionPlacement("u", card().name, "someone", 1.0)
    changed = {
        "fleet": plan(replace(world.fleet, commit=CommitId("c9")), (), world.members, running, ()).inputs,
        "sessions": plan(world.fleet, [session], world.members, running, ()).inputs,
        "members": plan(world.fleet, (), [member("a", 17)], running, ()).inputs,
        "running": plan(world.fleet, (), world.members, (), ()).inputs,
    }
    for name, inputs in changed.items():
        assert {key for key in base if base[key] != inputs[key]} == {name}


def test_sessions_change_nothing_but_their_digest() -> None:
    session = SessionPlacement("u", card().name, "someone", 1.0)
    wanted = fleet([node("a")], [deployment()])
    with_one = plan(wanted, [session], [member("a")], (), ())
    without = plan(wanted, (), [member("a")], (), ())
    assert replace(with_one, inputs={}) == replace(without, inputs={})


def test_the_way_a_commit_is_written_does_not_enter_the_digest() -> None:
    wanted = fleet([node("a")], [deployment()])
    rewritten = replace(wanted, documents={"Fleet/demo": {}}, places={"Fleet/demo": "fleet.yaml:1"})
    assert plan(rewritten, (), (), (), ()).inputs == plan(wanted, (), (), (), ()).inputs


def test_identities_are_stable_over_releases() -> None:
    """A change here replaces every runner of every fleet at the next upgrade: it has to be meant."""
    launch = launch_hash(card(), deployment(), LLAMA_CPU, 4096)
    assert launch == "53aaf2687233ad06b63b002d53458e853f99dbc6e49e95c0169dc804060f303e"
    assert content_hash(card()) == "15352900c6897be7549535ccf117c6f05211608d42a4871f1cd623d3f98d5f77"
    uid = placement_uid(DeploymentName("chat"), 0, (NodeName("a"),), LaunchHash("0" * 64))
    assert uid == "9855432f60e4ac3e"


@pytest.mark.parametrize("field", ["name", "model_id", "revision", "license", "family"])
def test_content_follows_the_files_alone(field: str) -> None:
    same_files = replace(card(), **{field: "other"})
    assert content_hash(same_files) == content_hash(card())
    assert content_hash(card("wolf")) != content_hash(card())


def test_the_order_of_files_in_a_card_is_no_part_of_its_identity() -> None:
    files = (*card().files, CardFile("tokenizer.json", 10, "a" * 64))
    one, other = card(files=files), card(files=files[::-1])
    assert content_hash(one) == content_hash(other)
    assert launch_hash(one, deployment(), LLAMA_CPU, 64) == launch_hash(other, deployment(), LLAMA_CPU, 64)


def test_ranks_enter_the_launch_hash() -> None:
    one = launch_hash(card(), deployment(), LLAMA_CPU, 4096)
    assert launch_hash(card(), deployment(), LLAMA_CPU, 4096, rank_count=2) != one
