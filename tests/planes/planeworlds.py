"""Worlds in which several nodes' planes meet: real sessions over TLS on loopback, or the simulated network."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skulk.adapters.planes import Planes
from skulk.adapters.zenoh import Mode, PlaneSettings, ZenohTransport, identity
from skulk.core.domain import (
    Accepted,
    BootId,
    Finish,
    GenerationRequest,
    Life,
    Message,
    NodeName,
    Owner,
    PlacementUid,
    RequestId,
    Sampling,
    Tokens,
)
from skulk.core.errors import REQ_CONTEXT, RUN_LOST, RequestError
from skulk.core.ports import Clock, TakeTokens
from skulk.core.wire.planes_keys import fleet_prefix
from skulk.node.clock import SystemClock
from skulk.sim import clock as virtual
from skulk.sim.planes import SimNetwork, SimTransport, sim_identity, sim_key
from tests.planes.fleetca import Authority

UID = PlacementUid("00000000000000aa")
NAMES = ("a", "b", "c")


def a_request(tokens: int = 5, name: str = "r1") -> GenerationRequest:
    return GenerationRequest(
        id=RequestId(name),
        model="fox",
        messages=(Message("user", "What does the fox say? 🦊"),),
        sampling=Sampling(seed=7),
        max_tokens=tokens,
    )


class Counting:
    """A generation that counts: frame n has the id n. `pace` seconds between frames."""

    def __init__(self, host: CountingHost, request: GenerationRequest, placement: PlacementUid) -> None:
        self.accepted = Accepted(host.prompt_ids, len(host.prompt_ids), 0, False, 100)
        self.placement = placement
        self._host = host
        self._request = request
        self._reason: str | None = None

    async def follow(self, take: TakeTokens) -> None:
        last = self._request.max_tokens or 1
        for number in range(1, last + 1):
            if self._reason is not None:
                take(Tokens(number, (), b"", Finish.CANCELLED, self._reason))
                return
            if self._host.dies_at == number:
                raise RequestError(RUN_LOST, "the runner died", status=502, kind="server_error")
            take(Tokens(number, (number,), b"x" * self._host.size, Finish.LENGTH if number == last else None))
            await self._host.clock.sleep(self._host.pace)

    def cancel(self, reason: str) -> None:
        self._reason = reason
        self._host.cancelled.append(reason)


@dataclass
class CountingHost:
    """The node behind the planes."""

    clock: Clock
    pace: float = 0.0
    size: int = 1
    """Bytes of a frame."""
    prompt_ids: tuple[int, ...] = (1, 2, 3)
    dies_at: int = 0
    refuses: bool = False
    taken: list[tuple[str, Owner]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    async def take(self, placement: PlacementUid, request: GenerationRequest, owner: Owner) -> Counting:
        self.taken.append((request.id, owner))
        if self.refuses:
            raise RequestError(REQ_CONTEXT, "too long", status=400, slug="context_length_exceeded", param="messages")
        return Counting(self, request, placement)

    def answer(self, asker: NodeName, question: bytes) -> bytes:
        return b"to " + asker.encode() + b": " + question


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class PlanesWorld:
    """Nodes `a`, `b`, `c` (dialling in that order), and whoever else is asked for."""

    def __init__(self, kind: str, base: Path) -> None:
        self.kind = kind
        self.clock: Clock = virtual.VirtualClock() if kind == "fake" else SystemClock()
        self.network = SimNetwork()
        self.authority = Authority(base)
        self.hosts: dict[str, CountingHost] = {}
        self.planes: dict[str, Planes] = {}
        self.wakes: dict[str, int] = {}
        self._ports = {name: free_port() for name in NAMES} if kind != "fake" else {}
        self._transports: dict[str, Any] = {}

    def run(self, story: Callable[[PlanesWorld], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            try:
                await story(self)
            finally:
                for name in list(self.planes):
                    await self.leave(name)

        (virtual.run if self.kind == "fake" else asyncio.run)(whole())

    def keys(self, *names: str) -> dict[NodeName, bytes]:
        public = sim_key if self.kind == "fake" else self.authority.public
        return {NodeName(name): public(name) for name in names or NAMES}

    def endpoint(self, name: str) -> str:
        return f"tls/127.0.0.1:{self._ports.setdefault(name, free_port())}"

    def settings(self, name: str, namespace: str = "demo") -> PlaneSettings:
        mode: Mode = "peer" if self.kind == "peer" else "router"
        dial = tuple(self.endpoint(n) for n in NAMES if n < name)
        return PlaneSettings(namespace, (self.endpoint(name),), dial, mode, self.authority.files(name))

    def transport(self, name: str, namespace: str = "demo") -> Any:
        """Raw access to the network, as that member."""
        if self.kind == "fake":
            return SimTransport(self.network, name, namespace)
        return ZenohTransport(self.settings(name, namespace))

    async def join(
        self, name: str, *, life: int = 1, namespace: str = "demo", keys: dict[NodeName, bytes] | None = None
    ) -> Planes:
        me = Life(NodeName(name), BootId(f"boot{life}{name}"), life)
        host = self.hosts[name] = CountingHost(self.clock)
        transport = self._transports[name] = self.transport(name, namespace)
        who = sim_identity(namespace, me) if self.kind == "fake" else identity(self.settings(name, namespace), me)
        self.wakes[name] = 0

        def wake() -> None:
            self.wakes[name] += 1

        planes = Planes(who, transport, self.clock, host, wake)
        planes.trust(self.keys() if keys is None else keys)
        await planes.open()
        self.planes[name] = planes
        return planes

    async def leave(self, name: str) -> bool:
        return await self.planes.pop(name).close(5.0)

    async def crash(self, name: str) -> None:
        """The daemon ends without a word: its transport is cut from under it."""
        planes = self.planes.pop(name)
        await self._transports[name].close(2.0)
        await planes.close(0.2)

    async def met(self, *names: str) -> None:
        """Every one of them is connected to every other."""
        for name in names:
            await self.until(lambda name=name: set(names) <= self.planes[name].observe().live())

    async def until(self, met: Callable[[], bool], seconds: float = 20.0) -> None:
        deadline = self.clock.now() + seconds
        while not met():
            assert self.clock.now() < deadline, "not in time"
            await self.clock.sleep(0.02)

    def prefix(self, namespace: str = "demo") -> str:
        return fleet_prefix(namespace)


async def all_of(generation: Any) -> list[int]:
    """The ids of all frames; fails for one that is out of order."""
    ids: list[int] = []

    def take(tokens: Tokens) -> bool:
        assert tokens.number == len(ids) + 1
        ids.extend(tokens.ids)
        return True

    await generation.follow(take)
    return ids
