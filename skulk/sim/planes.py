"""A network in memory for the planes: delay, loss, duplicates, cuts and crashes, reproducible from a seed.

Only the transport is simulated. What runs on it is the real `skulk.adapters.planes`, so that membership, documents
and streams meet the faults that the simulated network makes. Delivery is in order between two nodes, as in the
real one; a message on a cut link is lost at once, which is harsher than the real one.
"""

from __future__ import annotations

import asyncio
import fnmatch
import functools
import hashlib
import random
from collections.abc import Callable, Iterable, Mapping

from skulk.adapters.planes import Identity, Inbox, Planes, Reply, Traffic, Wiring
from skulk.core.domain import Life, NodeName
from skulk.core.ports import Clock, PlaneHost
from skulk.core.wire.envelope import Verify

LEASE_SECONDS = 2.0
"""As in the real planes: a silent node's token disappears after this."""
_DROPPABLE = frozenset((Traffic.SIGNAL, Traffic.DATA, Traffic.TELEMETRY))


class SimNetwork:
    """Nodes and the links between them. `loss` and `duplicates` are shares of the droppable messages.

    `relay`: a node passes on what others cannot exchange directly (router mode); without it only direct links
    count (peer mode).
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        delay_seconds: float = 0.001,
        loss: float = 0.0,
        duplicates: float = 0.0,
        relay: bool = True,
    ) -> None:
        self.loss = loss
        self.duplicates = duplicates
        self.delay_seconds = delay_seconds
        self.relay = relay
        self._random = random.Random(seed)
        self._nodes: dict[str, SimTransport] = {}
        self._cuts: set[frozenset[str]] = set()
        self._frozen: set[str] = set()
        self._seen: set[tuple[str, str]] = set()
        """(who, whom): whose token has been reported to whom."""
        self._tokens: dict[str, str] = {}
        """Last token of every node that ever joined."""
        self._busy_until: dict[tuple[str, str], float] = {}

    # --- faults ---------------------------------------------------------------------------------------------

    def cut(self, one: str, other: str) -> None:
        """Nothing passes between these two directly."""
        self._cuts.add(frozenset((one, other)))
        self._settle()

    def partition(self, *groups: Iterable[str]) -> None:
        """Only nodes of one group reach each other."""
        sides = [set(group) for group in groups]
        self._cuts = {
            frozenset((a, b)) for i, side in enumerate(sides) for other in sides[i + 1 :] for a in side for b in other
        }
        self._settle()

    def heal(self) -> None:
        self._cuts.clear()
        self._frozen.clear()
        self._settle()

    def freeze(self, node: str) -> None:
        """Cut a node off from everybody."""
        self._frozen.add(node)
        self._settle()

    def crash(self, node: str) -> None:
        """The process ends without a word: the others notice at once."""
        self._nodes.pop(node, None)
        for one, other in [pair for pair in self._seen if node in pair]:
            self._seen.discard((one, other))
            gone = self._tokens.get(node)
            if other == node and one in self._nodes and gone is not None:
                self._later(one, node, self._token_to(one, gone, False))
        self._settle()

    # --- for transports -------------------------------------------------------------------------------------

    def join(self, transport: SimTransport) -> None:
        self._nodes[transport.name] = transport
        self._tokens[transport.name] = transport.token
        self._settle()

    def leave(self, transport: SimTransport) -> None:
        if self._nodes.get(transport.name) is transport:
            self.crash(transport.name)

    def carry(self, sender: SimTransport, key: str, payload: bytes, traffic: Traffic) -> None:
        """Deliver to every subscriber that can be reached, the sender included."""
        for name, receiver in list(self._nodes.items()):
            if not receiver.hears(key) or not self.reachable(sender.name, name):
                continue
            times = 1
            if traffic in _DROPPABLE and name != sender.name:
                times = 0 if self._random.random() < self.loss else 1 + (self._random.random() < self.duplicates)
            for _ in range(times):
                self._later(name, sender.name, self._message_to(receiver, key, payload))

    async def ask(self, sender: SimTransport, key: str, payload: bytes, timeout_seconds: float) -> tuple[bytes, ...]:
        """A query to the one node that answers to the key."""
        receiver = next((n for n in self._nodes.values() if n.answers(key)), None)
        if receiver is None or not self.reachable(sender.name, receiver.name):
            return ()
        answered: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

        def settle(data: bytes | None) -> None:
            if not answered.done():
                answered.set_result(data)

        def reply(data: bytes | None) -> None:
            if self.reachable(sender.name, receiver.name):
                self._later(sender.name, receiver.name, lambda: settle(data))

        self._later(receiver.name, sender.name, lambda: receiver.query_arrived(key, payload, reply))
        try:
            async with asyncio.timeout(timeout_seconds):
                data = await answered
        except TimeoutError:
            return ()
        return () if data is None else (data,)

    def reachable(self, one: str, other: str) -> bool:
        if one not in self._nodes or other not in self._nodes:
            return False
        if one == other:
            return True
        reached, edge = {one}, [one]
        while edge and other not in reached:
            here = edge.pop()
            near = {n for n in self._nodes if n not in reached and self._linked(here, n)}
            if here != one and not self.relay:
                near = set()
            reached |= near
            edge.extend(near)
        return other in reached

    # --- inside ---------------------------------------------------------------------------------------------

    def _linked(self, one: str, other: str) -> bool:
        return frozenset((one, other)) not in self._cuts and not {one, other} & self._frozen

    def _later(self, to: str, sender: str, act: Callable[[], None]) -> None:
        """After the link's delay, in order."""
        loop = asyncio.get_running_loop()
        at = loop.time() + (0.0 if to == sender else self.delay_seconds * (1 + self._random.random()))
        at = max(at, self._busy_until.get((sender, to), 0.0))
        self._busy_until[(sender, to)] = at
        loop.call_at(at, act)

    def _settle(self) -> None:
        """Compare what can be reached with whose tokens are known, and let the difference happen in its time."""
        for one in list(self._nodes):
            for other in list(self._nodes):
                known, near = (one, other) in self._seen, self.reachable(one, other)
                if near and not known:
                    self._later(one, other, functools.partial(self._meet, one, other))
                elif known and not near:
                    asyncio.get_running_loop().call_later(LEASE_SECONDS, self._part, one, other)

    def _meet(self, one: str, other: str) -> None:
        if (one, other) in self._seen or not self.reachable(one, other):
            return
        self._seen.add((one, other))
        receiver, sender = self._nodes[one], self._nodes[other]
        receiver.token_changed(sender.token, True)
        for key, payload in sender.retained.items():
            if receiver.hears(key):
                receiver.message_arrived(key, payload)

    def _part(self, one: str, other: str) -> None:
        if (one, other) in self._seen and not self.reachable(one, other):
            self._seen.discard((one, other))
            if one in self._nodes:
                self._nodes[one].token_changed(self._tokens[other], False)

    def _token_to(self, to: str, token: str, alive: bool) -> Callable[[], None]:
        receiver = self._nodes[to]
        return lambda: receiver.token_changed(token, alive)

    @staticmethod
    def _message_to(receiver: SimTransport, key: str, payload: bytes) -> Callable[[], None]:
        return lambda: receiver.message_arrived(key, payload)


class SimTransport:
    """Port `Transport` of one node on a `SimNetwork`. `fleet` parts the keys of fleets on one network."""

    def __init__(self, network: SimNetwork, name: str, fleet: str = "") -> None:
        self.name = name
        self.token = ""
        self.retained: dict[str, bytes] = {}
        self._network = network
        self._fleet = fleet
        self._wiring: Wiring | None = None
        self._inbox: Inbox | None = None

    async def open(self, wiring: Wiring, inbox: Inbox) -> None:
        self._wiring, self._inbox, self.token = wiring, inbox, self._outer(wiring.token)
        inbox.on_reset()
        self._network.join(self)

    def retain(self, key: str, payload: bytes, traffic: Traffic) -> None:
        self.retained[self._outer(key)] = payload
        self.send(key, payload, traffic)

    def send(self, key: str, payload: bytes, traffic: Traffic) -> None:
        if self._inbox is not None:
            self._network.carry(self, self._outer(key), payload, traffic)

    async def query(
        self, key: str, payload: bytes, timeout_seconds: float, *, large: bool = False
    ) -> tuple[bytes, ...]:
        return await self._network.ask(self, self._outer(key), payload, timeout_seconds)

    async def redial(self, endpoints: tuple[str, ...]) -> bool:
        """Everybody hears everybody here."""
        return False

    async def close(self, deadline_seconds: float) -> bool:
        # What was sent before is on its way already.
        self._network.leave(self)
        self._inbox = None
        return True

    # --- for the network ------------------------------------------------------------------------------------

    def hears(self, key: str) -> bool:
        return self._wiring is not None and self._any(key, (*self._wiring.retained, *self._wiring.messages))

    def answers(self, key: str) -> bool:
        return self._wiring is not None and self._any(key, self._wiring.queries)

    def token_changed(self, token: str, alive: bool) -> None:
        key = self._inner(token)
        if self._inbox is not None and key is not None:
            self._inbox.on_token(key, alive)

    def message_arrived(self, key: str, payload: bytes) -> None:
        inner = self._inner(key)
        if self._inbox is not None and inner is not None:
            self._inbox.on_message(inner, payload)

    def query_arrived(self, key: str, payload: bytes, reply: Reply) -> None:
        inner = self._inner(key)
        if self._inbox is not None and inner is not None:
            self._inbox.on_query(inner, payload, reply)

    def _outer(self, key: str) -> str:
        return f"{self._fleet}/{key}"

    def _inner(self, key: str) -> str | None:
        prefix = f"{self._fleet}/"
        return key[len(prefix) :] if key.startswith(prefix) else None

    def _any(self, key: str, expressions: tuple[str, ...]) -> bool:
        inner = self._inner(key)
        # `*` of a key stands for one chunk; no expression of the planes relies on the difference to `**`.
        return inner is not None and any(fnmatch.fnmatchcase(inner, e.replace("**", "*")) for e in expressions)


def sim_key(node: str) -> bytes:
    """What stands for a node's public key in the simulator."""
    return hashlib.sha256(node.encode()).digest()


def sim_identity(namespace: str, life: Life, seed: int = 0) -> Identity:
    """Signatures without secrets: enough for what the planes do with them, not for an attacker."""
    numbers = random.Random(f"{seed}/{life.node}/{life.boot}")

    def verifier(keys: Mapping[NodeName, bytes]) -> Verify:
        return lambda author, data, signature: author in keys and signature == _mark(keys[author], data)

    return Identity(
        namespace,
        life,
        sign=lambda data: _mark(sim_key(life.node), data),
        verifier=verifier,
        secret=lambda: f"{numbers.getrandbits(128):032x}",
    )


def sim_planes(
    network: SimNetwork, life: Life, *, namespace: str, clock: Clock, host: PlaneHost, wake: Callable[[], None]
) -> Planes:
    """The planes of one node on a simulated network; `open` joins it."""
    return Planes(sim_identity(namespace, life), SimTransport(network, life.node, namespace), clock, host, wake)


def _mark(key: bytes, data: bytes) -> bytes:
    return hashlib.sha256(key + data).digest()
