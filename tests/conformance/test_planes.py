"""Ports `ControlPlane` and `DataPlane`: what the loop and the gateway rely on, in every world."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from skulk.core.domain import Message, NodeName, Presence, Topic
from skulk.core.errors import PLN_BODY, PLN_UNREACHABLE, RequestError, RetriableRefusal, Transient
from tests.planes.planeworlds import UID, PlanesWorld, a_request, all_of


@pytest.fixture(params=["fake", "router", "peer"])
def worlds(request: pytest.FixtureRequest, tmp_path: Path) -> PlanesWorld:
    return PlanesWorld(request.param, tmp_path)


def body_of(planes: Any, topic: Topic, node: str) -> bytes | None:
    document = planes.observe().documents[topic].get(NodeName(node))
    return None if document is None else document.body


def test_nodes_see_each_other_and_a_goodbye_is_not_a_crash(worlds: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a = await world.join("a")
        await world.join("b")
        await world.join("c")
        await world.met("a", "b", "c")
        woken = world.wakes["a"]
        await world.leave("b")
        await world.until(lambda: a.observe().peers[NodeName("b")].presence is Presence.LEFT)
        assert world.wakes["a"] > woken
        await world.crash("c")
        await world.until(lambda: a.observe().peers[NodeName("c")].presence is Presence.LOST)
        assert a.observe().live() == {NodeName("a")}

    worlds.run(story)


def test_a_document_reaches_who_is_there_and_who_comes_later(worlds: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, b = await world.join("a"), await world.join("b")
        await world.met("a", "b")
        a.publish(Topic.MEMBER, b"first")
        a.publish(Topic.MEMBER, b"second")
        await world.until(lambda: body_of(b, Topic.MEMBER, "a") == b"second")
        c = await world.join("c")
        await world.until(lambda: body_of(c, Topic.MEMBER, "a") == b"second")
        assert body_of(c, Topic.STATUS, "a") is None

    worlds.run(story)


def test_the_next_life_of_a_node_replaces_its_documents(worlds: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, b = await world.join("a"), await world.join("b", life=1)
        for number in range(5):
            b.publish(Topic.STATUS, f"old {number}".encode())
        await world.until(lambda: body_of(a, Topic.STATUS, "b") == b"old 4")
        await world.crash("b")
        b = await world.join("b", life=2)
        b.publish(Topic.STATUS, b"new")
        await world.until(lambda: body_of(a, Topic.STATUS, "b") == b"new")
        await world.met("a", "b")
        assert a.observe().peers[NodeName("b")].life.number == 2

    worlds.run(story)


def test_readings_arrive_with_their_age_and_an_unknown_value_stays_unknown(worlds: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, b = await world.join("a"), await world.join("b")
        b.report("accelerator", {"utilisation": None, "memoryBytes": 12})
        await world.until(lambda: "accelerator" in a.observe().readings.get(NodeName("b"), {}))
        reading = a.observe().readings[NodeName("b")]["accelerator"]
        assert reading.values == {"utilisation": None, "memoryBytes": 12}
        young = reading.age_seconds
        await world.until(lambda: a.observe().readings[NodeName("b")]["accelerator"].age_seconds > young + 0.5)
        assert "accelerator" not in a.observe().readings.get(NodeName("a"), {})

    worlds.run(story)


def test_a_body_is_fetched_from_any_holder_and_checked(worlds: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, b, c = await world.join("a"), await world.join("b"), await world.join("c")
        await world.met("a", "b", "c")
        body = b"blueprint " * 100_000
        digest = hashlib.sha256(body).hexdigest()
        with pytest.raises(Transient) as nobody:
            await a.fetch(digest, deadline_seconds=0.5)
        assert nobody.value.code is PLN_BODY
        c.hold([body])
        b.hold([b"something else"])
        assert await a.fetch(digest, deadline_seconds=10.0) == body
        a.hold([body])
        await world.leave("c")
        assert await b.fetch(digest, deadline_seconds=10.0) == body

    worlds.run(story)


def test_a_question_is_answered_by_the_node_it_was_put_to(worlds: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, _ = await world.join("a"), await world.join("b")
        await world.met("a", "b")
        assert await a.ask(NodeName("b"), b"promise?", deadline_seconds=10.0) == b"to a: promise?"
        with pytest.raises(Transient) as nobody:
            await a.ask(NodeName("nobody"), b"promise?", deadline_seconds=0.3)
        assert nobody.value.code is PLN_UNREACHABLE

    worlds.run(story)


def test_a_request_to_another_node_streams_like_a_local_one(worlds: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, b = await world.join("a"), await world.join("b")
        await world.met("a", "b")
        generation = await a.submit(NodeName("b"), UID, a_request(2000))
        assert (generation.placement, generation.accepted.prompt_ids) == (UID, (1, 2, 3))
        assert await all_of(generation) == list(range(1, 2001))
        assert [owner.node for _, owner in world.hosts["b"].taken] == ["a"]
        await world.until(lambda: a.streams() == b.streams() == 0)
        assert world.hosts["b"].cancelled == []

    worlds.run(story)


def test_a_long_prompt_gets_there_and_its_verdict_comes_back(worlds: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, _ = await world.join("a"), await world.join("b")
        await world.met("a", "b")
        request = replace(a_request(3), messages=(Message("user", "fox 🦊 " * 500_000),))
        world.hosts["b"].prompt_ids = tuple(range(100_000))
        generation = await a.submit(NodeName("b"), UID, request)
        assert generation.accepted.prompt_ids == tuple(range(100_000))
        assert await all_of(generation) == [1, 2, 3]

    worlds.run(story)


def test_streams_of_several_owners_do_not_mix(worlds: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, b, c = await world.join("a"), await world.join("b"), await world.join("c")
        await world.met("a", "b", "c")
        world.hosts["c"].pace = 0.001
        one = await a.submit(NodeName("c"), UID, a_request(100, "one"))
        two = await a.submit(NodeName("c"), UID, a_request(50, "two"))
        three = await b.submit(NodeName("c"), UID, a_request(70, "three"))
        assert [len(await all_of(g)) for g in (one, two, three)] == [100, 50, 70]
        await world.until(lambda: a.streams() == b.streams() == c.streams() == 0)

    worlds.run(story)


def test_a_refusal_and_a_failure_come_back_as_they_were(worlds: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, _ = await world.join("a"), await world.join("b")
        await world.met("a", "b")
        world.hosts["b"].refuses = True
        with pytest.raises(RequestError) as refused:
            await a.submit(NodeName("b"), UID, a_request())
        error = refused.value
        assert (error.status, error.slug, error.param) == (400, "context_length_exceeded", "messages")
        assert not isinstance(error, RetriableRefusal)
        world.hosts["b"].refuses = False
        world.hosts["b"].dies_at = 4
        generation = await a.submit(NodeName("b"), UID, a_request(name="r2"))
        with pytest.raises(RequestError, match="the runner died"):
            await all_of(generation)
        with pytest.raises(RetriableRefusal):
            await a.submit(NodeName("nobody"), UID, a_request(name="r3"))

    worlds.run(story)


def test_a_cancel_reaches_the_generation(worlds: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, b = await world.join("a"), await world.join("b")
        await world.met("a", "b")
        world.hosts["b"].pace = 0.01
        generation = await a.submit(NodeName("b"), UID, a_request(100_000))
        generation.cancel("the client went away")
        await world.until(lambda: world.hosts["b"].cancelled == ["the client went away"])
        await world.until(lambda: a.streams() == b.streams() == 0)

    worlds.run(story)


def test_a_lost_serving_node_ends_its_streams_with_a_reason(worlds: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, _ = await world.join("a"), await world.join("b")
        await world.met("a", "b")
        world.hosts["b"].pace = 0.01
        generation = await a.submit(NodeName("b"), UID, a_request(100_000))
        await world.crash("b")
        with pytest.raises(RequestError, match="node b"):
            await all_of(generation)
        assert a.streams() == 0

    worlds.run(story)


def test_a_lost_owner_frees_the_slot(worlds: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, b = await world.join("a"), await world.join("b")
        await world.met("a", "b")
        world.hosts["b"].pace = 0.01
        await a.submit(NodeName("b"), UID, a_request(100_000))
        await world.crash("a")
        await world.join("a", life=2)
        await world.until(lambda: len(world.hosts["b"].cancelled) == 1 and b.streams() == 0)

    worlds.run(story)


def test_two_fleets_on_one_network_do_not_see_each_other(worlds: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, b = await world.join("a"), await world.join("b")
        c = await world.join("c", namespace="another")
        await world.met("a", "b")
        c.publish(Topic.STATUS, b"foreign")
        c.hold([b"foreign"])
        a.publish(Topic.STATUS, b"ours")
        await world.until(lambda: body_of(b, Topic.STATUS, "a") == b"ours")
        await world.until(lambda: c.observe().live() == {NodeName("c")})
        with pytest.raises(Transient):
            await a.fetch(hashlib.sha256(b"foreign").hexdigest(), deadline_seconds=0.5)
        assert set(a.observe().peers) == set(b.observe().peers) == {"a", "b"}
        assert c.observe().documents[Topic.STATUS].keys() <= {"c"}

    worlds.run(story)
