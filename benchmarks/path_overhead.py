"""What the way from a client to the engine costs: our endpoint against the bare engine loop.

`python benchmarks/path_overhead.py [--engine llama_cpp|mlx] [--rounds N] [--quick] [--json FILE]`. A second process in
the same engine environment drives the same engine code directly (`benchmarks/parts/bare_engine.py`), with what the
runner was started with. Both get the same prompts in turn: one alone, and eight that come 20 ms apart, so that both
meet the same steps of the engine. Neither works while the other is measured. Every round starts both anew: two
processes with the same code were seen to differ by 4 % in the CPU of a step for as long as they ran, which is about
what is to be measured.

Prints milliseconds to the first token of both and the difference, and CPU per token: of the bare loop, of the runner,
and of runner and daemon together, less what they use while nobody asks. Differences and ratios are medians of the
rounds' own.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parts.cores import Cores, move
from parts.figures import median, ms, percentile, row
from parts.processes import engine_process, exchange
from parts.prompts import prompt
from parts.report import Options, Round, Work, each_engine, every_burst, in_turn, judged, keep, medians, options, ratios
from parts.servers import Server, Size, ask_all, described, ours

SLOTS = 8
CONTEXT_TOKENS = 1024
LEVELS = (1, 8)
APART_SECONDS = 0.02
"""Between the beginnings of requests that run together. At once they would come to the bare loop in one step and to the
endpoint one after the other, and what is compared would be two schedules."""
WARM_TOKENS = 8
SIDES = ("endpoint", "bare")
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
class Burst:
    """What some requests that ran together gave: seconds to each first token, CPU seconds altogether."""

    first: Sequence[float]
    cpu: float
    runner: float


def ask_endpoint(server: Server, texts: Sequence[str], tokens: int) -> Burst:
    got = ask_all(server, texts, tokens, apart_seconds=APART_SECONDS)
    return Burst([answer.first_seconds for answer in got.answers], got.engine + got.gateway, got.engine)


def ask_bare(bare: Bare, texts: Sequence[str], tokens: int) -> Burst:
    answer = bare.generate(texts, tokens)
    if answer["tokens"] != tokens * len(texts):
        raise RuntimeError(f"the bare engine generated {answer['tokens']} tokens, not {tokens * len(texts)}")
    return Burst(answer["first"], answer["cpu"], answer["cpu"])


def figures_of(bursts: Sequence[Burst], tokens: int) -> Round:
    first = [seconds for burst in bursts for seconds in burst.first]
    return {
        "first token p50": percentile(first, 0.5),
        "first token p95": percentile(first, 0.95),
        "CPU per token, runner": sum(burst.runner for burst in bursts) / (tokens * len(first)),
        "CPU per token": sum(burst.cpu for burst in bursts) / (tokens * len(first)),
    }


def round_of(server: Server, bare: Bare, streams: int, work: Work, number: int) -> dict[str, Round]:
    tokens = work.tokens

    def ask(side: str, _: int, repeat: int) -> Burst:
        texts = [prompt(work.prompt_tokens, f"{streams} {number} {repeat} {client}") for client in range(streams)]
        return ask_endpoint(server, texts, tokens) if side == "endpoint" else ask_bare(bare, texts, tokens)

    found = every_burst(in_turn(SIDES, number), 1, max(1, work.answers_min // streams), ask)
    return {side: figures_of(bursts, tokens) for side, [bursts] in found.items()}


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
