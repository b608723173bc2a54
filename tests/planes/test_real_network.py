"""Real sessions on loopback: who gets in, what a member can forge, and processes that end without a word."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zenoh

from skulk.adapters.planes import Reply, Traffic, Wiring
from skulk.adapters.zenoh import ZenohTransport
from skulk.adapters.zenoh.certificates import load_key
from skulk.adapters.zenoh.settings import session_config
from skulk.core.domain import BootId, Life, NodeName, Presence, Topic
from skulk.core.errors import RequestError, SkulkError
from skulk.core.wire import planes_keys as keys
from skulk.core.wire.envelope import seal
from skulk.core.wire.planes_documents import document_envelope
from tests.planes.fleetca import Authority
from tests.planes.planeworlds import UID, PlanesWorld, a_request, all_of

ROOT = Path(__file__).resolve().parents[2]
A, B, C = NodeName("a"), NodeName("b"), NodeName("c")


@pytest.fixture(params=["router", "peer"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> PlanesWorld:
    return PlanesWorld(request.param, tmp_path)


class Ear:
    """An inbox that keeps what it hears."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.tokens: set[str] = set()

    def on_reset(self) -> None: ...

    def on_token(self, key: str, alive: bool) -> None:
        (self.tokens.add if alive else self.tokens.discard)(key)

    def on_message(self, key: str, payload: bytes) -> None:
        self.messages.append((key, payload))

    def on_query(self, key: str, payload: bytes, reply: Reply) -> None:
        reply(None)


def everything(token: str) -> Wiring:
    return Wiring(token, "live/**", ("doc/**",), ("bye/*",), ())


@pytest.mark.parametrize("intruder", ["foreign CA", "no certificate", "plain TCP"])
def test_nobody_without_a_certificate_of_the_fleet_gets_in(world: PlanesWorld, intruder: str, tmp_path: Path):
    """The intruder knows everything else: addresses, namespace, keys. A good node that starts after it is in first."""

    async def story(world: PlanesWorld) -> None:
        a = await world.join("a")
        a.publish(Topic.STATUS, b"secret")
        config = session_config(replace(world.settings("b"), listen=()))
        transport: Any = config["transport"]
        if intruder == "foreign CA":
            files = Authority(tmp_path, "foreign").files("b")
            config = session_config(replace(world.settings("b"), tls=replace(files, verify_names=False), listen=()))
        elif intruder == "no certificate":
            for name in ("connect_private_key", "connect_certificate", "listen_private_key", "listen_certificate"):
                del transport["link"]["tls"][name]
            transport["link"]["tls"]["enable_mtls"] = False
        else:
            del transport["link"]["tls"]
            transport["link"]["protocols"] = ["tcp"]
            config["connect"]["endpoints"] = [world.endpoint("a").replace("tls/", "tcp/")]  # type: ignore[index]
        session = await asyncio.to_thread(zenoh.open, zenoh.Config.from_json5(json.dumps(config)))
        try:
            token = session.liveliness().declare_token("live/b/1/boot1b")
            await world.join("c")
            await world.met("a", "c")
            found = await asyncio.to_thread(lambda: list(session.liveliness().get("live/**", timeout=1.0)))
            heard = {str(reply.ok.key_expr) for reply in found if reply.ok is not None}
            assert heard <= {"live/b/1/boot1b"}
            assert session.info.links() == []
            assert set(a.observe().peers) == {"a", "c"}
            token.undeclare()
        finally:
            await asyncio.to_thread(session.close)

    world.run(story)


def test_a_node_with_the_fleets_certificate_and_the_same_configuration_gets_in(world: PlanesWorld):
    """The control of the test above: what keeps the intruders out is the certificate."""

    async def story(world: PlanesWorld) -> None:
        a = await world.join("a")
        config = session_config(replace(world.settings("b"), listen=()))
        session = await asyncio.to_thread(zenoh.open, zenoh.Config.from_json5(json.dumps(config)))
        try:
            token = session.liveliness().declare_token("live/b/1/boot1b")
            await world.until(lambda: B in a.observe().peers)
            token.undeclare()
        finally:
            await asyncio.to_thread(session.close)

    world.run(story)


def test_a_relaying_member_can_neither_forge_nor_replay_anothers_document(tmp_path: Path):
    """`b` and `c` meet only through `a`, which is a full member with a certificate, and hostile."""

    async def story(world: PlanesWorld) -> None:
        ear = Ear()
        relay = ZenohTransport(world.settings("a"))
        await relay.open(everything("live/a/1/boot1a"), ear)
        b = await world.join("b")
        c_settings = world.settings("c")
        world.settings = lambda name, namespace="demo": replace(c_settings, dial=(world.endpoint("a"),))  # type: ignore[method-assign]
        c = await world.join("c")
        await world.met("b", "c")
        try:
            b.publish(Topic.ANNOUNCEMENT, b"old")
            key = keys.document(Topic.ANNOUNCEMENT, B)
            await world.until(lambda: any(k == key for k, _ in ear.messages))
            old = next(payload for k, payload in ear.messages if k == key)
            b.publish(Topic.ANNOUNCEMENT, b"new")
            await world.until(lambda: body(c) == b"new")
            relay.retain(key, old, Traffic.CONTROL)
            await world.until(lambda: c.observe().refused.get("older than what is known", 0) > 0)
            forged = document_envelope(world.prefix(), Topic.ANNOUNCEMENT, Life(B, BootId("boot1b"), 1), 99, b"forged")
            own_key = load_key(world.authority.files("a"), A)
            relay.retain(key, seal(forged, own_key.sign), Traffic.CONTROL)
            await world.until(lambda: c.observe().refused.get("not signed by its author", 0) > 0)
            own = document_envelope(world.prefix(), Topic.ANNOUNCEMENT, Life(A, BootId("boot1a"), 1), 99, b"forged")
            relay.retain(key, seal(own, own_key.sign), Traffic.CONTROL)
            await world.until(lambda: c.observe().refused.get("on another author's key", 0) > 0)
            assert body(c) == b"new"
            b.publish(Topic.ANNOUNCEMENT, b"newest")
            await world.until(lambda: body(c) == b"newest")
            assert await all_of(await c.submit(B, UID, a_request(10))) == list(range(1, 11))
        finally:
            for name in list(world.planes):
                await world.leave(name)
            assert await relay.close(5.0)

    def body(planes: Any) -> bytes | None:
        document = planes.observe().documents[Topic.ANNOUNCEMENT].get(B)
        return None if document is None else document.body

    PlanesWorld("router", tmp_path).run(story)


def test_a_longer_dial_list_is_opened_anew_and_loses_nothing(world: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        a = await world.join("a")
        full, settings = world.settings("b"), world.settings
        world.settings = lambda name, namespace="demo": replace(full, dial=())  # type: ignore[method-assign]
        b = await world.join("b")
        c_settings = replace(settings("c"), dial=(world.endpoint("b"),))
        world.settings = lambda name, namespace="demo": c_settings  # type: ignore[method-assign]
        c = await world.join("c")
        await world.met("b", "c")
        b.publish(Topic.STATUS, b"status of b")
        world.hosts["c"].pace = world.hosts["b"].pace = 0.01
        owned = asyncio.ensure_future(all_of(await b.submit(C, UID, a_request(300, "owned"))))
        served = asyncio.ensure_future(all_of(await c.submit(B, UID, a_request(300, "served"))))
        assert B not in a.observe().peers
        assert not await b.redial(())
        assert await b.redial(full.dial)
        await world.met("a", "b")
        await world.until(lambda: B in a.observe().documents[Topic.STATUS])
        assert not await b.redial(full.dial)
        assert await owned == await served == list(range(1, 301))

    world.run(story)


def test_a_closed_node_has_freed_its_port_and_a_taken_one_is_an_error(world: PlanesWorld):
    async def story(world: PlanesWorld) -> None:
        await world.join("a")
        assert await world.leave("a")
        await world.join("a", life=2)
        second = ZenohTransport(world.settings("a"))
        with pytest.raises(SkulkError, match="SK-PLN-003"):
            await second.open(everything("live/a/3/boot3a"), Ear())
        assert await second.close(2.0)

    world.run(story)


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start(world: PlanesWorld, name: str, life: int) -> subprocess.Popen[bytes]:
    settings = world.settings(name)
    assert settings.tls is not None
    given = {
        "node": name,
        "life": life,
        "listen": settings.listen,
        "dial": settings.dial,
        "mode": settings.mode,
        "tls": [str(path) for path in (settings.tls.ca, settings.tls.certificate, settings.tls.key)],
        "keys": {node: key.hex() for node, key in world.keys().items()},
    }
    command = [sys.executable, "-m", "tests.planes.node_process", json.dumps(given)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE)


def test_a_killed_process_ends_its_streams_and_its_successor_serves(
    world: PlanesWorld, processes: list[subprocess.Popen[bytes]]
):
    async def story(world: PlanesWorld) -> None:
        a = await world.join("a")
        processes.append(start(world, "b", 1))
        await world.until(lambda: B in a.observe().live(), 60.0)
        generation = await a.submit(B, UID, a_request(100_000))
        processes[0].send_signal(signal.SIGKILL)
        with pytest.raises(RequestError, match="node b"):
            await all_of(generation)
        assert a.observe().peers[B].presence is Presence.LOST
        processes.append(start(world, "b", 2))
        await world.until(lambda: a.observe().peers[B].life.number == 2 and B in a.observe().live(), 60.0)
        assert await all_of(await a.submit(B, UID, a_request(20, "next"))) == list(range(1, 21))
        processes[1].stdin.close()  # type: ignore[union-attr]
        processes[1].stdin = None
        await world.until(lambda: a.observe().peers[B].presence is Presence.LEFT)
        assert await asyncio.to_thread(processes[1].wait, 30) == 0

    world.run(story)


def test_a_frozen_process_is_lost_and_comes_back_by_itself(
    world: PlanesWorld, processes: list[subprocess.Popen[bytes]]
):
    async def story(world: PlanesWorld) -> None:
        a = await world.join("a")
        processes.append(start(world, "b", 1))
        await world.until(lambda: B in a.observe().live(), 60.0)
        generation = await a.submit(B, UID, a_request(100_000))
        processes[0].send_signal(signal.SIGSTOP)
        with pytest.raises(RequestError, match="node b has been unreachable"):
            await all_of(generation)
        processes[0].send_signal(signal.SIGCONT)
        await world.until(lambda: B in a.observe().live(), 60.0)
        assert await all_of(await a.submit(B, UID, a_request(20, "next"))) == list(range(1, 21))

    world.run(story)
