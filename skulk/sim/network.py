"""A network in one process, on virtual time: messages that are late, lost, doubled or overtaken, cut links, and what
each node believes of who is live. It knows nothing of what the messages say."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Protocol

from skulk.core.domain import NodeName

# As measured with the real planes: a lease of 2 s, a lost connection at once, a new link within a moment.
LEASE_SECONDS = 2.0
JOIN_SECONDS = 0.2
# A message of a healthy link arrives within this; two messages overtake each other easily.
DELAY_SECONDS_MIN = 0.001
DELAY_SECONDS_MAX = 0.05


class Endpoint(Protocol):
    """What is reached over the network."""

    @property
    def up(self) -> bool:
        """Its process exists."""
        ...

    @property
    def frozen(self) -> bool:
        """Its process exists and does nothing."""
        ...

    def receive(self, sender: NodeName, message: object) -> None: ...


class Network:
    """Every pair of nodes has one link. Faults are switches."""

    def __init__(self, rng: random.Random) -> None:
        self.endpoints: dict[NodeName, Endpoint] = {}
        self.cut: set[frozenset[NodeName]] = set()
        self.loss = 0.0
        """Share of messages that never arrive."""
        self.doubling = 0.0
        """Share of messages that arrive twice."""
        self.delay_seconds_max = DELAY_SECONDS_MAX
        self._rng = rng

    def part(self, *sides: Iterable[NodeName]) -> None:
        """Cut every link between different sides."""
        for left, right in combinations([list(side) for side in sides], 2):
            self.cut |= {frozenset((a, b)) for a in left for b in right}

    def heal(self) -> None:
        self.cut.clear()

    def linked(self, a: NodeName, b: NodeName) -> bool:
        return frozenset((a, b)) not in self.cut

    def send(self, sender: NodeName, receiver: NodeName, message: object) -> None:
        """Deliver later, perhaps, perhaps twice."""
        copies = 2 if self._rng.random() < self.doubling else 1
        for _ in range(copies):
            if self._rng.random() >= self.loss:
                delay = self._rng.uniform(DELAY_SECONDS_MIN, self.delay_seconds_max)
                asyncio.get_running_loop().call_later(delay, self._deliver, sender, receiver, message)

    def _deliver(self, sender: NodeName, receiver: NodeName, message: object) -> None:
        endpoint = self.endpoints[receiver]
        if endpoint.up and self.linked(sender, receiver):
            endpoint.receive(sender, message)


class Liveness:
    """Whom one node believes live. Refresh it while the node's process does anything at all."""

    def __init__(self, me: NodeName) -> None:
        self._me = me
        self._up_at: dict[NodeName, float] = {}
        self._back_at: dict[NodeName, float] = {}
        self._boots: dict[NodeName, int] = {}
        self.peers: set[NodeName] = set()
        self.changes = 0

    def refresh(self, network: Network, boots: Mapping[NodeName, int], now: float) -> None:
        """Notice who came and who went. A process that ended is noticed at once, a silent one after the lease."""
        for name, endpoint in network.endpoints.items():
            if name == self._me:
                continue
            restarted = boots[name] != self._boots.get(name, boots[name])
            reached = endpoint.up and not endpoint.frozen and network.linked(self._me, name)
            # Connections end with the process, which the other side sees if the link is there.
            ended = network.linked(self._me, name) and (not endpoint.up or restarted)
            if name in self.peers and (ended or (not reached and now - self._up_at[name] > LEASE_SECONDS)):
                self.peers.discard(name)
                self._back_at.pop(name, None)
                self.changes += 1
            elif name in self.peers and reached and now - self._up_at[name] > LEASE_SECONDS:
                # We were the ones that slept: they dropped us and took us back.
                self.changes += 1
            elif name not in self.peers and reached:
                self._back_at.setdefault(name, now)
                if now - self._back_at[name] >= JOIN_SECONDS:
                    self.peers.add(name)
                    self.changes += 1
            elif not reached:
                self._back_at.pop(name, None)
            self._boots[name] = boots[name]
            if reached:
                self._up_at[name] = now
