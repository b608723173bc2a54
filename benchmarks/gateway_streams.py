"""How many events a gateway streams, against a bare server: `python benchmarks/gateway_streams.py [ROUNDS] [TOKENS]`.

The scripted engine gives a token each 20 ms to 1, 16, 64 and 128 streams at once, each token one event; and at last to
128 as fast as it can, to see what is the most. The peer is a
FastAPI server under uvicorn that sends the bytes of the very same events at the same pace, from memory (`bare`), or
encoding each event first (`encoding`). Same client, same run, the sides in turn within each round. Local: asked at the
gateway of the node that serves. Remote: asked at the other node's; then both daemons work, and both are counted.

Prints events per second by the wall, and CPU microseconds per event of the servers' processes: the second says how
much a core can do, and moves little when other programs want the machine. What a daemon uses while nobody asks it is
measured in the same round, while others are asked, and taken off; the engine's own process is told apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from parts.figures import conditions, cpu_seconds, median, row
from parts.fleet import Node, fleet_at, free_port, scripted, until
from parts.sse import StreamFailed, ask, chat_body, events_of

STEP_SECONDS = 0.02
LOADS = ((1, STEP_SECONDS), (16, STEP_SECONDS), (64, STEP_SECONDS), (128, STEP_SECONDS), (128, 0.0))
"""Streams at once, and how long the engine takes for a token of each."""
MODELS = {STEP_SECONDS: "paced", 0.0: "quick"}
"""Deployment by pace. Names of one length: the peer sends the events of one of them for both."""
CHAT = "/v1/chat/completions"
TOKENS = 300
ROUNDS = 3


@dataclass(frozen=True)
class Side:
    """One way to be served: where to ask, and whose CPU time it costs."""

    name: str
    port: int
    path: str
    pids: tuple[int, ...]

    def target(self, step: float) -> str:
        return self.path if self.path == CHAT else f"{self.path}?step={step}"


@dataclass(frozen=True)
class Run:
    """What was asked of one side at once. `spent`: CPU seconds of each process meanwhile, also of those that were not
    asked; `elapsed`: in how many seconds."""

    events: int
    seconds: float
    spent: Mapping[int, float]
    elapsed: float

    def rate(self, pid: int) -> float:
        return self.spent[pid] / self.elapsed


@dataclass(frozen=True)
class Figures:
    events_per_second: float
    cpu_per_event: float
    engine_per_event: float


Found = dict[tuple[tuple[int, float], str], list[Figures]]
"""By load and name of the side."""


async def together(side: Side, streams: int, step: float) -> tuple[int, float]:
    """Events that `streams` clients got at once, and the seconds it took."""
    body, path = chat_body(MODELS[step]), side.target(step)
    began = time.perf_counter()
    answers = await asyncio.gather(*(ask(side.port, body, path) for _ in range(streams)))
    seconds, counts = time.perf_counter() - began, {len(answer.arrivals) for answer in answers}
    if len(counts) != 1:
        raise StreamFailed(f"{side.name}: streams of one answer had different numbers of events: {sorted(counts)}")
    return counts.pop() * streams, seconds


def measured(side: Side, load: tuple[int, float], pids: Iterable[int]) -> Run:
    before, began = {pid: cpu_seconds(pid) for pid in pids}, time.monotonic()
    events, seconds = asyncio.run(together(side, *load))
    spent = {pid: cpu_seconds(pid) - then for pid, then in before.items()}
    return Run(events, seconds, spent, time.monotonic() - began)


def figures_of(runs: Sequence[tuple[Side, Run]], daemons: Sequence[int], engine: int) -> dict[str, Figures]:
    """Of one round, by name of the side. `engine`: pid of the runner."""
    idle = {pid: median([run.rate(pid) for side, run in runs if pid not in side.pids]) for pid in daemons}
    return {
        side.name: Figures(
            run.events / run.seconds,
            sum(run.spent[pid] - run.elapsed * idle.get(pid, 0.0) for pid in side.pids) / run.events,
            run.spent[engine] / run.events,
        )
        for side, run in runs
    }


@contextlib.contextmanager
def bare(events: list[bytes], directory: Path) -> Iterator[tuple[int, int]]:
    """The peer as a process: its port and pid."""
    file, port = directory / "events.json", free_port()
    file.write_text(json.dumps([event.decode() for event in events]))
    script = Path(__file__).parent / "parts" / "bare_server.py"
    process = subprocess.Popen([sys.executable, str(script), str(port), str(file)])
    try:
        until(lambda: _answers(port), "the bare server answers")
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError, StreamFailed):
        asyncio.run(ask(port, b"", "/replay?step=0"))
        return True
    return False


def recorded(node: Node, body: bytes) -> list[bytes]:
    """The events of one answer, without comments: what the peer has to send."""
    raw = bytearray()
    asyncio.run(ask(node.port, body, keep=raw))
    return [event for event in events_of(bytes(raw)) if event.startswith(b"data: ")]


def table(what: str, sides: Sequence[Side], found: Found, of: Callable[[Figures], float]) -> None:
    print(row(what, *(side.name for side in sides), "local/bare", "remote/bare"))
    for load in LOADS:
        values = {side.name: median([of(figures) for figures in found[load, side.name]]) for side in sides}
        ratios = [values[name] / values["bare"] if values["bare"] else float("nan") for name in ("local", "remote")]
        cells = [f"{value:.0f}" for value in values.values()]
        name = f"  {load[0]} streams" + ("" if load[1] else ", no pace")
        print(row(name, *cells, *(f"{ratio:.2f}" for ratio in ratios)))


def main(rounds: int, tokens: int) -> None:
    print(f"gateway streams: {conditions()}; medians of {rounds} rounds of {tokens} tokens")
    with tempfile.TemporaryDirectory() as base, fleet_at(Path(base) / "fleet", ("left", "right")) as fleet:
        left, right = fleet["left"], fleet["right"]
        concurrency = max(streams for streams, _ in LOADS)
        models = {
            name: scripted(fleet, name, "left", step_seconds=step, tokens=tokens, concurrency=concurrency)
            for step, name in MODELS.items()
        }
        fleet.wait_whole(fleet.push_base(**models))
        both = tuple(node.daemon.pid for node in (left, right) if node.daemon is not None)
        engines = {step: left.runner(name)["pid"] for step, name in MODELS.items()}
        with bare(recorded(left, chat_body(MODELS[STEP_SECONDS])), Path(base)) as (port, pid):
            sides = [
                Side("bare", port, "/replay", (pid,)),
                Side("encoding", port, "/encode", (pid,)),
                Side("local", left.port, CHAT, both[:1]),
                Side("remote", right.port, CHAT, both),
            ]
            for side, step in itertools.product(sides, MODELS):
                # All send the same: what is compared is how.
                assert asyncio.run(together(side, 1, step))[0] == tokens + 1, side
            found: Found = {}
            for load, number in itertools.product(LOADS, range(rounds)):
                turn, engine = number % len(sides), engines[load[1]]
                runs = [(s, measured(s, load, (pid, *both, engine))) for s in sides[turn:] + sides[:turn]]
                for name, figures in figures_of(runs, both, engine).items():
                    found.setdefault((load, name), []).append(figures)
        table("events per second", sides, found, lambda figures: figures.events_per_second)
        table("CPU µs per event, servers", sides, found, lambda figures: figures.cpu_per_event * 1e6)
        used = [median([figures.engine_per_event for figures in found[load, "local"]]) * 1e6 for load in LOADS]
        print("CPU µs per event of the engine, local: " + ", ".join(f"{value:.0f}" for value in used))
    print(f"after the run: {conditions()}")


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    main(*given, *(ROUNDS, TOKENS)[len(given) :])
