"""The account of memory of one planning run: bytes in use per node and pool, and nodes by how much is free.

Everything that runs counts until it is gone, so whatever the planner adds fits beside it. The orders are what lets
a search look at the emptiest node first instead of at every node; they follow each entry of the account.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from enum import StrEnum

from skulk.core.domain import EngineBuild, NodeName


class Pool(StrEnum):
    """Where a backend's memory comes from. All devices with memory of their own on a node count as one pool,
    because builds of several engines may share one of them."""

    MACHINE = "machine"
    DEVICE = "device"


def pool_of(build: EngineBuild) -> Pool:
    return Pool.MACHINE if build.unified else Pool.DEVICE


Entry = tuple[int, int]
"""(free bytes negated, index of the site): sorted ascending, the emptiest comes first, ties by lowest index."""


class Room:
    """Bytes in use per node and pool. An `order` is made once and kept up to date."""

    def __init__(self) -> None:
        self.changes = 0
        """Grows with every change of what is in use."""
        self._used: dict[tuple[NodeName, Pool], int] = defaultdict(int)
        self._leaving: dict[tuple[NodeName, Pool], int] = defaultdict(int)
        self._orders: dict[Hashable, list[Entry]] = {}
        self._listed: dict[tuple[NodeName, Pool], list[tuple[list[Entry], int, int]]] = defaultdict(list)

    def take(self, name: NodeName, pools: Iterable[Pool], size_bytes: int) -> None:
        self.changes += 1
        for pool in pools:
            before = self._used[name, pool]
            after = self._used[name, pool] = before + size_bytes
            for order, index, usable in self._listed.get((name, pool), ()):
                del order[bisect_left(order, (before - usable, index))]
                insort(order, (after - usable, index))

    def leave(self, name: NodeName, pools: Iterable[Pool], size_bytes: int) -> None:
        """Note that this much of what is in use is on its way out. It still counts."""
        for pool in pools:
            self._leaving[name, pool] += size_bytes

    def used_bytes(self, name: NodeName, pool: Pool) -> int:
        return self._used[name, pool]

    def leaving_bytes(self, name: NodeName, pool: Pool) -> int:
        return self._leaving[name, pool]

    def order(self, key: Hashable) -> Sequence[Entry] | None:
        """The order of that name, emptiest first; None when it was not made yet."""
        return self._orders.get(key)

    def make_order(self, key: Hashable, pool: Pool, usable: Iterable[tuple[NodeName, int, int]]) -> Sequence[Entry]:
        """Make an order over (node, index of its site, usable bytes) by what is free in `pool`."""
        order: list[Entry] = []
        for name, index, usable_bytes in usable:
            order.append((self._used[name, pool] - usable_bytes, index))
            self._listed[name, pool].append((order, index, usable_bytes))
        order.sort()
        self._orders[key] = order
        return order
