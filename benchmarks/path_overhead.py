"""What the way from a client to the engine costs: our endpoint against the bare engine loop.

`python benchmarks/path_overhead.py [--engine llama_cpp|mlx] [--rounds N] [--quick] [--json FILE]`. A second process in
the same engine environment drives the same engine code directly (`benchmarks/parts/bare_engine.py`), with what the
runner was started with. Both get the same prompts in turn: one alone, and eight that come 20 ms apart, so that both
meet the same steps of the engine. Neither works while the other is measured. Every round starts both anew: two
processes with the same code were seen to differ by 4 % in the CPU of a step for as long as they ran, which is about
what is to be measured.

Prints milliseconds to the first token of both and the difference, and CPU per token: of the bare loop, of the runner,
and of runner and daemon together, less what they use while nobody asks. That is taken while the bare loop works, of the
same processes, seconds apart: what an idle process uses is not the same from one minute to the next. Differences and
ratios are medians of the rounds' own.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from parts.cores import Cores, move
from parts.figures import median, ms, percentile, row
from parts.processes import engine_process, exchange
from parts.prompts import prompt
from parts.report import Options, Round, Work, each_engine, every_burst, in_turn, judged, keep, medians, options, ratios
from parts.servers import Server, Size, ask_all, described, ours

from skulk.adapters.runners.link import LOAD_SECONDS

SLOTS = 8
CONTEXT_TOKENS = 1024
LEVELS = (1, 8)
APART_SECONDS = 0.02
"""Between the beginnings of requests that run together. At once they would come to the bare loop in one step and to the
endpoint one after the other, and what is compared would be two schedules."""
SETTLE_SECONDS = LOAD_SECONDS + 0.25
"""After a burst, until the daemon has looked at what its end changed: that is the burst's too."""
BURSTS_MIN = 8
"""Per round. Who misses a step of the engine waits for the next one, and a first token of mlx alone wanders by 20 ms
from one to the next: the median of three or four said little."""
WARM_TOKENS = 8
SIDES = ("endpoint", "bare")
Given = TypeVar("Given")
ADDED_SECONDS_MAX = 0.010
ADDED_CPU_MAX = 0.05


@dataclass(frozen=True)
class Bare:
    """The process with the engine loop."""

    process: subprocess.Popen[str]
    temperature: float

    def generate(self, texts: Sequence[str], tokens: int) -> dict[str, Any]:
        order = {"texts": list(texts), "tokens": tokens, "temperature": self.temperature, "apart": APART_SECONDS}
        return exchange(self.process, order)


@contextlib.contextmanager
def bare_loop(engine: str, launch: Path, base: Path, cores: Cores, temperature: float) -> Iterator[Bare]:
    base.mkdir()
    with engine_process(engine, "bare_engine.py", str(launch), base) as process:
        exchange(process, None)
        move(process.pid, cores.engine)
        yield Bare(process, temperature)


@dataclass(frozen=True)
class Use:
    """CPU seconds of the endpoint's processes, and in how many seconds."""

    runner: float = 0.0
    gateway: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Use) -> Use:
        return Use(self.runner + other.runner, self.gateway + other.gateway, self.seconds + other.seconds)

    def beyond(self, idle: Use) -> Use:
        """Less what they use in that time while nobody asks."""
        share = self.seconds / idle.seconds
        return Use(self.runner - share * idle.runner, self.gateway - share * idle.gateway, self.seconds)


@dataclass(frozen=True)
class Burst:
    """What some requests that ran together gave: seconds to each first token, what the endpoint used meanwhile, and
    CPU seconds of the bare loop where it was asked."""

    first: Sequence[float]
    use: Use
    bare: float = 0.0


def ask_endpoint(server: Server, texts: Sequence[str], tokens: int) -> Burst:
    def asked() -> Sequence[float]:
        answers = ask_all(server, texts, tokens, apart_seconds=APART_SECONDS, first_only=True).answers
        time.sleep(SETTLE_SECONDS)
        return [answer.first_seconds for answer in answers]

    return Burst(*during(server, asked))


def ask_bare(server: Server, bare: Bare, texts: Sequence[str], tokens: int) -> Burst:
    answer, use = during(server, lambda: bare.generate(texts, tokens))
    if answer["tokens"] != tokens * len(texts):
        raise RuntimeError(f"the bare engine generated {answer['tokens']} tokens, not {tokens * len(texts)}")
    return Burst(answer["first"], use, answer["cpu"])


def during(server: Server, act: Callable[[], Given]) -> tuple[Given, Use]:
    """What `act` returns, and what the endpoint used meanwhile."""
    before, began = server.spent(), time.monotonic()
    given = act()
    after = server.spent()
    return given, Use(after.engine - before.engine, after.gateway - before.gateway, time.monotonic() - began)


def figures_of(first: Sequence[float], tokens: int, runner: float, gateway: float) -> Round:
    return {
        "first token p50": percentile(first, 0.5),
        "first token p95": percentile(first, 0.95),
        "CPU per token, runner": runner / (tokens * len(first)),
        "CPU per token": (runner + gateway) / (tokens * len(first)),
    }


def round_of(server: Server, bare: Bare, streams: int, work: Work, number: int) -> dict[str, Round]:
    tokens = work.tokens

    def ask(side: str, _: int, repeat: int) -> Burst:
        texts = [prompt(work.prompt_tokens, f"{streams} {number} {repeat} {client}") for client in range(streams)]
        return ask_endpoint(server, texts, tokens) if side == "endpoint" else ask_bare(server, bare, texts, tokens)

    found = every_burst(in_turn(SIDES, number), 1, max(BURSTS_MIN, work.answers_min // streams), ask)
    [endpoint], [loop] = found["endpoint"], found["bare"]
    idle = sum((burst.use for burst in loop), Use())
    use = sum((burst.use for burst in endpoint), Use()).beyond(idle)
    return {
        "endpoint": figures_of(firsts(endpoint), tokens, use.runner, use.gateway),
        "bare": figures_of(firsts(loop), tokens, sum(burst.bare for burst in loop), 0.0),
    }


def firsts(bursts: Sequence[Burst]) -> Sequence[float]:
    return [seconds for burst in bursts for seconds in burst.first]


def show(streams: int, found: dict[str, list[Round]]) -> None:
    mine, theirs = found["endpoint"], found["bare"]
    endpoint, bare, rates = medians(mine), medians(theirs), ratios(mine, theirs)
    together = f"{streams} together" if streams > 1 else "1 alone"
    print(row(together, "endpoint", "bare", "added", "ratio"))
    for what in endpoint:
        added = median([one[what] - other[what] for one, other in zip(mine, theirs, strict=True)])
        goal = ""
        if what == "first token p50":
            goal = judged("below 10 ms", added < ADDED_SECONDS_MAX)
        elif what == "CPU per token":
            goal = judged(f"{rates[what] - 1:+.1%}, below 5 %", rates[what] - 1 < ADDED_CPU_MAX)
        line = row(f"  {what}", ms(endpoint[what]), ms(bare[what]), ms(added), f"{rates[what]:.3f}")
        print(f"{line}   {goal}" if goal else line)


@contextlib.contextmanager
def both(engine: str, asked: Options, base: Path, cores: Cores) -> Iterator[tuple[Server, Bare]]:
    """The two sides, started anew and warm."""
    base.mkdir()
    size: Size = {"slots": SLOTS, "context_tokens": CONTEXT_TOKENS, "temperature": asked.temperature}
    with ours(asked.model(engine), base / "ours", cores, **size) as server:
        assert server.launch is not None
        with bare_loop(engine, server.launch, base / "bare", cores, asked.temperature) as bare:
            prompt_tokens = asked.work(engine).prompt_tokens
            bare.generate([prompt(prompt_tokens, f"warm {number}") for number in range(SLOTS)], WARM_TOKENS)
            yield server, bare


def measure(engine: str, asked: Options, base: Path, cores: Cores) -> None:
    about = f"{asked.model(engine)}; {SLOTS} slots{described(engine)}"
    print(about, flush=True)
    figures: dict[int, dict[str, list[Round]]] = {streams: {side: [] for side in SIDES} for streams in LEVELS}
    for number in range(asked.rounds):
        with both(engine, asked, base / str(number), cores) as (server, bare):
            for streams, found in figures.items():
                for side, figure in round_of(server, bare, streams, asked.work(engine), number).items():
                    found[side].append(figure)
    for streams, found in figures.items():
        show(streams, found)
    keep("path_overhead", about, asked, figures)


if __name__ == "__main__":
    each_engine("path overhead", options(__doc__ or ""), measure)
