"""What the way from a client to the engine costs: our endpoint against the bare engine loop.

`python benchmarks/path_overhead.py [--engine llama_cpp|mlx] [--rounds N] [--quick] [--json FILE]`. A second process in
the same engine environment drives the same engine code directly (`benchmarks/parts/bare_engine.py`), with what the
runner was started with. Both get the same prompts in turn: one alone, and eight at once. Neither works while the other
is measured.

Prints milliseconds to the first token of both and the difference, and CPU per token: of the bare loop, of the runner,
and of runner and daemon together, less what they use while nobody asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parts.answers import burst, check
from parts.cores import Cores, move
from parts.figures import median, ms, percentile, row
from parts.processes import engine_process, exchange
from parts.prompts import prompt
from parts.report import Options, Round, Work, each_engine, in_turn, judged, keep, medians, options
from parts.servers import Server, Size, described, ours

SLOTS = 8
CONTEXT_TOKENS = 1024
LEVELS = (1, 8)
WARM_TOKENS = 8
ADDED_SECONDS_MAX = 0.010
ADDED_CPU_MAX = 0.05


@dataclass(frozen=True)
class Bare:
    """The process with the engine loop."""

    process: subprocess.Popen[str]
    slots: int
    temperature: float

    def generate(self, texts: Sequence[str], tokens: int) -> dict[str, Any]:
        return exchange(self.process, {"texts": list(texts), "tokens": tokens, "temperature": self.temperature})


@contextlib.contextmanager
def bare_loop(engine: str, launch: Path, base: Path, cores: Cores, temperature: float) -> Iterator[Bare]:
    base.mkdir()
    with engine_process(engine, "bare_engine.py", str(launch), base) as process:
        ready = exchange(process, None)
        move(process.pid, cores.engine)
        yield Bare(process, ready["slots"], temperature)


def endpoint_round(server: Server, rounds: Sequence[Sequence[str]], tokens: int) -> Round:
    """`rounds`: texts that are asked at once, one list after the other."""
    before, first = server.spent(), []
    for texts in rounds:
        answers = asyncio.run(burst(server.port, [[server.body(text, tokens)] for text in texts]))
        check(answers, tokens)
        first += [answer.first_seconds for answer in answers]
    after, total = server.spent(), tokens * len(first)
    runner, daemon = after.engine - before.engine, after.gateway - before.gateway
    return {
        "first token p50": percentile(first, 0.5),
        "first token p95": percentile(first, 0.95),
        "CPU per token, runner": runner / total,
        "CPU per token": (runner + daemon) / total,
    }


def bare_round(bare: Bare, rounds: Sequence[Sequence[str]], tokens: int) -> Round:
    answers = [bare.generate(texts, tokens) for texts in rounds]
    first = [seconds for answer in answers for seconds in answer["first"]]
    total = sum(answer["tokens"] for answer in answers)
    if total != tokens * len(first):
        raise RuntimeError(f"the bare engine generated {total} tokens, not {tokens * len(first)}")
    return {
        "first token p50": percentile(first, 0.5),
        "first token p95": percentile(first, 0.95),
        "CPU per token": sum(answer["cpu"] for answer in answers) / total,
    }


def rounds_of(server: Server, bare: Bare, streams: int, work: Work, rounds: int) -> dict[str, list[Round]]:
    tokens, repeats = work.tokens, max(1, work.answers_min // streams)
    found: dict[str, list[Round]] = {"endpoint": [], "bare": []}
    for number in range(rounds):
        texts = [
            [prompt(work.prompt_tokens, f"{streams} {number} {repeat} {client}") for client in range(streams)]
            for repeat in range(repeats)
        ]
        for side in in_turn(list(found), number):
            run = endpoint_round(server, texts, tokens) if side == "endpoint" else bare_round(bare, texts, tokens)
            found[side].append(run)
    return found


def show(streams: int, found: dict[str, list[Round]]) -> None:
    endpoint, bare = medians(found["endpoint"]), medians(found["bare"])
    print(row(f"{streams} at once", "endpoint", "bare", "added", "ratio"))
    for what in ("first token p50", "first token p95"):
        # Round by round, because both had the same prompts and the same neighbours on the machine.
        pairs = zip(found["endpoint"], found["bare"], strict=True)
        added = median([mine[what] - theirs[what] for mine, theirs in pairs])
        goal = judged("below 10 ms", added < ADDED_SECONDS_MAX) if what.endswith("p50") else ""
        _line(what, endpoint[what], bare[what], added, goal)
    cpu = bare["CPU per token"]
    _line("CPU per token, runner alone", endpoint["CPU per token, runner"], cpu)
    _line("CPU per token", endpoint["CPU per token"], cpu, None, _share(endpoint["CPU per token"] / cpu - 1))


def _line(what: str, mine: float, theirs: float, added: float | None = None, goal: str = "") -> None:
    difference = mine - theirs if added is None else added
    print(
        row(f"  {what}", ms(mine), ms(theirs), ms(difference), f"{mine / theirs:.3f}") + (f"   {goal}" if goal else "")
    )


def _share(share: float) -> str:
    return judged(f"{share:+.1%}, below 5 %", share < ADDED_CPU_MAX)


def measure(engine: str, asked: Options, base: Path, cores: Cores) -> None:
    model = asked.model(engine)
    with contextlib.ExitStack() as stack:
        size: Size = {"slots": SLOTS, "context_tokens": CONTEXT_TOKENS, "temperature": asked.temperature}
        server = stack.enter_context(ours(model, base / "ours", cores, **size))
        assert server.launch is not None
        bare = stack.enter_context(bare_loop(engine, server.launch, base / "bare", cores, asked.temperature))
        about = f"{model}; the engine has {bare.slots} slots{described(engine)}"
        print(about, flush=True)
        work = asked.work(engine)
        bare.generate([prompt(work.prompt_tokens, f"warm {number}") for number in range(SLOTS)], WARM_TOKENS)
        figures = {}
        for streams in LEVELS:
            figures[streams] = rounds_of(server, bare, streams, work, asked.rounds)
            show(streams, figures[streams])
    keep("path_overhead", about, asked, figures)


if __name__ == "__main__":
    each_engine("path overhead", options(__doc__ or ""), measure)
