"""What asking a node costs that does not serve the model: `python benchmarks/remote_hop.py [REQUESTS] [MLX_REQUESTS]`.

Two nodes, one placement on the first of them; requests go in turn to its own gateway and to the other node's, one at
a time. Time to the first token and between tokens, median and 99th percentile: of both, their difference and ratio.
The scripted engine has a fixed pace (a step each 10 ms), so that what is added is the network's and not the engine's;
MLX is a real model. Once with plain planes on loopback, once with mutual TLS. REQUESTS (200) of the scripted engine go
to each side, and MLX_REQUESTS (70) of MLX; 0 leaves one out.

The serving node's gateway is asked twice in each round, as two sides: what those differ by (`again`) is the noise of
the machine, and an added time below it says nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from parts.figures import conditions, cpu_seconds, ms, percentile, row
from parts.fleet import Node, fleet_at, mlx, scripted
from parts.sse import Timed, ask, chat_body

NAMES = ("left", "right")
REQUESTS = 200
MLX_REQUESTS = 70
TOKENS = 32
STEP_SECONDS = 0.01
WARM_UP = 5


@dataclass
class Side:
    """All answers of one gateway."""

    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    def add(self, timed: Timed) -> None:
        self.first.append(timed.first_seconds)
        # The last event says why the answer ended: it is no token.
        self.gaps += timed.gaps[:-1]


async def in_turn(ports: Sequence[int], body: bytes, requests: int) -> list[Side]:
    """Ask all gateways once in each round, in every order as often, so that none always follows the same other."""
    sides = [Side() for _ in ports]
    for _ in range(WARM_UP):
        for port in ports:
            await ask(port, body)
    orders = itertools.cycle(itertools.permutations(zip(ports, sides, strict=True)))
    for _ in range(requests):
        for port, side in next(orders):
            side.add(await ask(port, body))
    return sides


def compare(what: str, values: Sequence[Sequence[float]]) -> None:
    for share in (0.5, 0.99):
        here, again, there = (percentile(side, share) for side in values)
        name = f"  {what} p{share * 100:.0f}"
        print(row(name, ms(here), ms(again), ms(there), ms(there - here), f"{there / here:.2f}"))


def measure(requests: int, mlx_requests: int, *, tls: bool) -> None:
    with tempfile.TemporaryDirectory() as base, fleet_at(Path(base) / "fleet", NAMES, tls=tls, mlx=True) as fleet:
        left, right = (fleet[name] for name in NAMES)
        commit = fleet.push_base(
            parrot=scripted(fleet, "parrot", NAMES[0], step_seconds=STEP_SECONDS, tokens=TOKENS),
            fox=mlx(fleet, "fox", NAMES[0]),
        )
        fleet.wait_whole(commit)
        for model, count in (("parrot", requests), ("fox", mlx_requests)):
            if count:
                show(model, count, left, right, tls=tls)


def show(model: str, requests: int, left: Node, right: Node, *, tls: bool) -> None:
    more = {"parrot": {}, "fox": {"temperature": 0.0, "max_tokens": TOKENS}}[model]
    engine = {"parrot": f"scripted, {STEP_SECONDS * 1000:g} ms a step", "fox": "mlx, fox-tiny"}[model]
    pids = [node.daemon.pid for node in (left, right) if node.daemon is not None]
    before, began = [cpu_seconds(pid) for pid in pids], time.monotonic()
    sides = asyncio.run(in_turn((left.port, left.port, right.port), chat_body(model, **more), requests))
    seconds = time.monotonic() - began
    used = [cpu_seconds(pid) - earlier for pid, earlier in zip(pids, before, strict=True)]
    print(row(f"{engine}, {'TLS' if tls else 'plain'}", "local", "again", "remote", "added", "ratio"))
    compare("first token", [side.first for side in sides])
    compare("between tokens", [side.gaps for side in sides])
    print(
        f"  {requests} requests and {len(sides[0].gaps)} gaps each, in {seconds:.0f} s;"
        f" CPU of the daemons {used[0] / seconds:.0%} (serving) and {used[1] / seconds:.0%} of a core"
    )


def main(requests: int, mlx_requests: int) -> None:
    print(f"remote hop: {conditions()}")
    for tls in (False, True):
        measure(requests, mlx_requests, tls=tls)
    print(f"after the run: {conditions()}")


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    main(*given, *(REQUESTS, MLX_REQUESTS)[len(given) :])
