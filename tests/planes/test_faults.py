"""The planes on a network that loses, repeats, cuts and freezes, on virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from skulk.adapters.planes import Traffic
from skulk.core.domain import NodeName, Presence, Tokens, Topic
from skulk.core.errors import REQ_SLOW_CLIENT, RequestError
from skulk.core.wire.planes_messages import (
    Numbered,
    Receipt,
    decode_frames,
    encode_frames,
    encode_gone,
    encode_receipts,
)
from skulk.sim.planes import SimTransport
from tests.planes.planeworlds import UID, PlanesWorld, a_request, all_of

B = NodeName("b")


@pytest.fixture
def world(tmp_path: Path) -> PlanesWorld:
    return PlanesWorld("fake", tmp_path)


@pytest.mark.parametrize("loss", [0.05, 0.3])
def test_lost_and_repeated_frames_are_neither_seen_nor_missed(world: PlanesWorld, loss: float):
    async def story(world: PlanesWorld) -> None:
        world.network.loss, world.network.duplicates = loss, 0.2
        a, b = await world.join("a"), await world.join("b")
        await world.met("a", "b")
        world.hosts["b"].pace = 0.02
        streams = [await a.submit(B, UID, a_request(300, f"r{n}")) for n in range(4)]
        for ids in await asyncio.gather(*(all_of(stream) for stream in streams)):
            assert ids == list(range(1, 301))
        await world.until(lambda: a.streams() == b.streams() == 0, 60.0)

    world.run(story)


def test_a_cut_shorter_than_the_patience_is_a_pause_in_the_stream(world: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, b = await world.join("a"), await world.join("b")
        await world.met("a", "b")
        world.hosts["b"].pace = 0.01
        generation = await a.submit(B, UID, a_request(500))
        reading = asyncio.ensure_future(all_of(generation))
        await world.clock.sleep(1.0)
        world.network.cut("a", "b")
        await world.clock.sleep(3.5)
        world.network.heal()
        assert await reading == list(range(1, 501))
        await world.until(lambda: b.streams() == 0)

    world.run(story)


@pytest.mark.parametrize("fault", ["cut", "freeze"])
def test_a_client_hears_of_a_lost_serving_node_within_five_seconds(world: PlanesWorld, fault: str):
    async def story(world: PlanesWorld) -> None:
        a, b = await world.join("a"), await world.join("b")
        await world.met("a", "b")
        world.hosts["b"].pace = 0.01
        generation = await a.submit(B, UID, a_request(100_000))
        at = world.clock.now()
        if fault == "cut":
            world.network.partition("a", "b")
        else:
            world.network.freeze("b")
        with pytest.raises(RequestError, match="node b has been unreachable"):
            await all_of(generation)
        assert world.clock.now() - at <= 5.0
        # The other side waits for the owner for longer, then frees the slot.
        await world.until(lambda: b.streams() == 0)
        assert 15.0 <= world.clock.now() - at <= 20.0
        assert world.hosts["b"].cancelled

    world.run(story)


def test_an_owner_that_comes_back_after_giving_up_frees_the_slot_at_once(world: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, b = await world.join("a"), await world.join("b")
        await world.met("a", "b")
        world.hosts["b"].pace = 0.01
        generation = await a.submit(B, UID, a_request(100_000))
        world.network.partition("a", "b")
        with pytest.raises(RequestError):
            await all_of(generation)
        world.network.heal()
        await world.until(lambda: b.streams() == 0, 3.0)

    world.run(story)


def test_after_a_partition_everybody_has_the_newest_documents(world: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        planes = [await world.join(name) for name in "abc"]
        await world.met("a", "b", "c")
        world.network.partition("ab", "c")
        await world.until(lambda: planes[0].observe().peers[NodeName("c")].presence is Presence.LOST)
        for number in range(3):
            for name, plane in zip("abc", planes, strict=True):
                plane.publish(Topic.STATUS, f"{name}{number}".encode())
        await world.clock.sleep(5.0)
        world.network.heal()
        await world.until(
            lambda: all(
                [document.body for document in plane.observe().documents[Topic.STATUS].values()]
                == [b"a2", b"b2", b"c2"]
                for plane in planes
            )
        )
        await world.met("a", "b", "c")

    world.run(story)


@pytest.mark.parametrize("relay", [True, False])
def test_two_nodes_that_cannot_see_each_other_meet_only_through_a_relay(world: PlanesWorld, relay: bool):
    async def story(world: PlanesWorld) -> None:
        world.network.relay = relay
        a, b, _ = [await world.join(name) for name in "abc"]
        world.network.cut("a", "b")
        await world.met("a", "c")
        await world.clock.sleep(5.0)
        assert (B in a.observe().live()) is relay
        if relay:
            assert await all_of(await a.submit(B, UID, a_request(10))) == list(range(1, 11))
        await world.until(lambda: b.streams() == 0)

    world.run(story)


def test_a_reader_that_falls_behind_loses_its_request_and_nobody_elses(world: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, b = await world.join("a"), await world.join("b")
        await world.met("a", "b")
        world.hosts["b"].size = 10_000
        slow = await a.submit(B, UID, a_request(2000, "slow"))
        good = await a.submit(B, UID, a_request(500, "good"))
        assert len(await all_of(good)) == 500
        await world.until(lambda: a.streams() == b.streams() == 0, 120.0)
        with pytest.raises(RequestError) as failed:
            await all_of(slow)
        assert failed.value.code is REQ_SLOW_CLIENT
        assert world.hosts["b"].cancelled == ["the client reads too slowly"]

    world.run(story)


def test_a_repeated_submission_runs_once(world: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, b = await world.join("a"), await world.join("b")
        await world.met("a", "b")
        lossy = world.network.ask
        lost: list[str] = []

        async def ask(sender: Any, key: str, payload: bytes, timeout: float) -> tuple[bytes, ...]:
            answers = await lossy(sender, key, payload, timeout)
            if key.endswith("/submit") and len(lost) < 2:
                lost.append(key)
                return ()
            return answers

        world.network.ask = ask  # type: ignore[method-assign]
        assert await all_of(await a.submit(B, UID, a_request(5))) == [1, 2, 3, 4, 5]
        assert len(lost) == 2
        assert [request for request, _ in world.hosts["b"].taken] == ["r1"]
        await world.until(lambda: b.streams() == 0)

    world.run(story)


def test_a_serving_daemon_that_was_restarted_ends_the_streams_of_its_former_life(world: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, _ = await world.join("a"), await world.join("b")
        await world.met("a", "b")
        world.hosts["b"].pace = 0.01
        generation = await a.submit(B, UID, a_request(100_000))
        await world.crash("b")
        await world.join("b", life=2)
        with pytest.raises(RequestError, match="node b"):
            await all_of(generation)
        assert await all_of(await a.submit(B, UID, a_request(3, "next"))) == [1, 2, 3]

    world.run(story)


def test_a_request_that_is_not_waited_for_any_longer_is_taken_back(world: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, b = await world.join("a"), await world.join("b")
        await world.met("a", "b")
        queued = asyncio.Event()
        ended: list[str] = []

        async def take(*_: Any) -> Any:
            queued.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("cancelled in the queue")

        world.hosts["b"].take = take  # type: ignore[method-assign]
        submitting = asyncio.ensure_future(a.submit(B, UID, a_request()))
        await queued.wait()
        submitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submitting
        await world.until(lambda: bool(ended) and a.streams() == b.streams() == 0)

    world.run(story)


def test_a_recorded_call_cannot_be_played_again(world: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, b = await world.join("a"), await world.join("b")
        await world.met("a", "b")
        carried, recorded = world.network.ask, []

        async def ask(sender: Any, key: str, payload: bytes, timeout: float) -> tuple[bytes, ...]:
            recorded.append((key, payload))
            return await carried(sender, key, payload, timeout)

        world.network.ask = ask  # type: ignore[method-assign]
        await all_of(await a.submit(B, UID, a_request(5)))
        await world.until(lambda: b.streams() == 0)
        thief = world.transport("thief")
        for key, payload in [*recorded, (recorded[0][0], recorded[0][1][:-9] + b"other text")]:
            assert await carried(SimTransport(world.network, "a", "demo"), key, payload, 1.0) == ()
            assert await carried(thief, key, payload, 1.0) == ()
        assert len(world.hosts["b"].taken) == 1
        assert b.observe().refused["a call that was heard before"] == len(recorded)
        await world.crash("b")
        b = await world.join("b", life=2)
        await world.met("a", "b")
        assert await carried(SimTransport(world.network, "a", "demo"), *recorded[0], 1.0) == ()
        assert b.observe().refused == {"meant for another reader": 1}

    world.run(story)


def test_without_the_streams_secret_nobody_adds_to_it_or_ends_it(world: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, _b = await world.join("a"), await world.join("b")
        await world.met("a", "b")
        world.hosts["b"].pace = 0.01
        generation = await a.submit(B, UID, a_request(100))
        member = SimTransport(world.network, "b", "demo")
        guess = [Numbered("0" * 32, 2, Tokens(1, (99,), b"forged")), Numbered("r1", 2, Tokens(1, (99,), b"forged"))]
        for _ in range(20):
            world.network.carry(member, f"demo/frames/a/boot1a/b/{UID}", encode_frames(guess), Traffic.DATA)
            world.network.carry(member, "demo/ack/b/a/boot1a", encode_receipts([Receipt("r1", -1)]), Traffic.SIGNAL)
            world.network.carry(member, "demo/gone/a/boot1a", encode_gone(["r1", "0" * 32]), Traffic.SIGNAL)
            world.network.carry(member, "demo/frames/a/boot1a/b/x", b"garbage", Traffic.DATA)
        assert await all_of(generation) == list(range(1, 101))
        assert a.observe().refused == {"malformed": 20}

    world.run(story)


def test_a_serving_node_that_says_it_has_the_request_no_longer_ends_it(world: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, _ = await world.join("a"), await world.join("b")
        await world.met("a", "b")
        world.hosts["b"].pace = 0.01
        carried, secrets = world.network.carry, set()

        def carry(sender: Any, key: str, payload: bytes, traffic: Traffic) -> None:
            if "/frames/" in key:
                secrets.update(item.stream for item in decode_frames(payload))
            carried(sender, key, payload, traffic)

        world.network.carry = carry  # type: ignore[method-assign]
        generation = await a.submit(B, UID, a_request(100_000))
        member = SimTransport(world.network, "b", "demo")
        carried(member, "demo/gone/a/boot1a", encode_gone(secrets), Traffic.SIGNAL)
        with pytest.raises(RequestError, match="node b does not have the request any longer"):
            await all_of(generation)

    world.run(story)


def test_closing_ends_every_stream_with_a_reason_on_both_sides(world: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, b = await world.join("a"), await world.join("b")
        await world.met("a", "b")
        for name in "ab":
            world.hosts[name].pace = 0.01
        one = await a.submit(B, UID, a_request(100_000, "one"))
        two = await b.submit(NodeName("a"), UID, a_request(100_000, "two"))
        await world.leave("a")
        with pytest.raises(RequestError, match="node a is about to end"):
            await all_of(one)
        with pytest.raises(RequestError, match="node a went away"):
            await all_of(two)
        assert world.hosts["a"].cancelled == ["the serving node is about to end"]
        await world.until(lambda: b.streams() == 0 and len(world.hosts["b"].cancelled) == 1)

    world.run(story)


def test_a_fault_behind_the_planes_still_ends_the_stream_with_a_reason(world: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a, b = await world.join("a"), await world.join("b")
        await world.met("a", "b")

        async def take(*_: Any) -> Any:
            raise KeyError("a bug")

        world.hosts["b"].take = take  # type: ignore[method-assign]
        with pytest.raises(RequestError, match="without a reason") as failed:
            await a.submit(B, UID, a_request())
        assert failed.value.status == 500
        await world.until(lambda: b.streams() == 0)

    world.run(story)
