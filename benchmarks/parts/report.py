"""What the benchmarks of engines have in common: their options, tables of two sides, and a JSON file of every round."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from parts.cores import Cores, divide
from parts.figures import conditions, median, row
from parts.models import CACHE, SMALL, TINY, Model, Shape, model_for

NAMES = ("llama_cpp", "mlx")
Round = Mapping[str, float]
"""Figures of one side in one round, by name; times in seconds."""
Show = Callable[[float], str]
Burst = TypeVar("Burst")
"""What some requests gave that ran together."""


@dataclass(frozen=True)
class Work:
    """What a request is, and how many a round has at least, so that percentiles and CPU time say something."""

    prompt_tokens: int
    tokens: int
    answers_min: int


WORK = {"llama_cpp": Work(64, 128, 16), "mlx": Work(32, 32, 4)}
"""On a CPU mlx needs some 66 ms for a token of the small model in 4 bits, prompt or answer, llama.cpp 3."""
QUICK_WORK = Work(32, 16, 1)


@dataclass(frozen=True)
class Options:
    """What a person asked for. `quick`: see whether it works, with a tiny model; its figures say nothing."""

    engines: Sequence[str]
    rounds: int
    quick: bool
    temperature: float
    float32: bool
    json: Path | None

    @property
    def shape(self) -> Shape:
        return TINY if self.quick else SMALL

    def work(self, engine: str) -> Work:
        return QUICK_WORK if self.quick else WORK[engine]

    def model(self, engine: str) -> Model:
        return model_for(engine, self.shape, float32=self.float32)


def options(about: str, *, rounds: int = 5, quick_rounds: int = 1) -> Options:
    """Read the command line; `about` is the script's own text."""
    parser = argparse.ArgumentParser(
        description=about.partition("\n")[0], epilog=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=NAMES, action="append", help="this one only (default: both)")
    parser.add_argument("--rounds", type=int, help=f"of which the medians are taken (default: {rounds})")
    parser.add_argument("--quick", action="store_true", help="see whether it works: a tiny model, no honest figures")
    parser.add_argument("--json", type=Path, help="where to write every round's figures (default: below the cache)")
    parser.add_argument("--temperature", type=float, default=0.0, help="of all requests (default: 0, greedy)")
    about_float32 = "mlx: weights that are not quantised, for which OpenBLAS makes batches faster"
    parser.add_argument("--float32", action="store_true", help=about_float32)
    given = parser.parse_args()
    count = given.rounds or (quick_rounds if given.quick else rounds)
    return Options(given.engine or NAMES, count, given.quick, given.temperature, given.float32, given.json)


Measure = Callable[[str, Options, Path, Cores], None]
"""Measures one engine: its name, what is asked, a directory for everything, the cores."""


def each_engine(title: str, asked: Options, measure: Measure) -> None:
    """Measure all engines that are asked for, each in a directory of its own; says before and after what it ran on."""
    # Runners outlive whoever started them: an end from outside has to pass through the contexts too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cores = divide()
    facts = [conditions(), str(cores)]
    if asked.rounds > 1:
        facts.append(f"medians of {asked.rounds} rounds")
    if asked.temperature:
        facts.append(f"temperature {asked.temperature:g}")
    if asked.quick:
        facts.append("QUICK, these are no figures")
    print(f"{title}: {'; '.join(facts)}")
    with tempfile.TemporaryDirectory() as base:
        for engine in asked.engines:
            directory = Path(base) / engine
            directory.mkdir()
            measure(engine, asked, directory, cores)
    print(f"after the run: {conditions()}")


def in_turn(sides: Sequence[str], number: int) -> Sequence[str]:
    """Another one first in every round."""
    turn = number % len(sides)
    return [*sides[turn:], *sides[:turn]]


def every_burst(
    sides: Sequence[str], rounds: int, repeats: int, ask: Callable[[str, int, int], Burst]
) -> dict[str, list[list[Burst]]]:
    """Per side and round what `ask(side, round, repeat)` gave. The sides take turns at every one of them: what the
    machine gives wanders within seconds."""
    found: dict[str, list[list[Burst]]] = {side: [[] for _ in range(rounds)] for side in sides}
    for number in range(rounds):
        for repeat in range(repeats):
            for side in in_turn(sides, number + repeat):
                found[side][number].append(ask(side, number, repeat))
    return found


def medians(rounds: Sequence[Round]) -> dict[str, float]:
    return {name: median([one[name] for one in rounds]) for name in rounds[0]}


def ratios(ours: Sequence[Round], theirs: Sequence[Round]) -> dict[str, float]:
    """Medians of the first by the second, round by round: the two sides of a round had the same prompts, and the same
    neighbours on the machine. What is 0 on the other side is left out."""
    pairs = list(zip(ours, theirs, strict=True))
    names = [name for name in ours[0] if all(other[name] for _, other in pairs)]
    return {name: median([one[name] / other[name] for one, other in pairs]) for name in names}


def compare(what: str, ours: float, theirs: float, show: Show, goal: str = "", rate: float | None = None) -> None:
    """One line: both sides, and the first by the second (`rate`, where it is not of these two)."""
    shown = ratio(ours, theirs) if rate is None else f"{rate:.2f}"
    print(row(f"  {what}", show(ours), show(theirs), shown) + (f"   {goal}" if goal else ""))


def ratio(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.2f}" if theirs else "-"


def judged(text: str, met: bool) -> str:
    """A goal, and whether it was reached."""
    return f"{text}: {'met' if met else 'MISSED'}"


def keep(script: str, about: str, asked: Options, figures: object) -> None:
    """Write what was measured, and say where. A file that a person names gets one entry for each engine."""
    path = asked.json or CACHE / "results" / f"{script}-{time.strftime('%Y%m%dT%H%M%S')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "script": script,
        "about": about,
        "quick": asked.quick,
        "temperature": asked.temperature,
        "conditions": conditions(),
    }
    before = json.loads(path.read_text("utf-8")) if asked.json and path.exists() else []
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps([*before, facts | {"figures": figures}], indent=1), "utf-8")
    temporary.rename(path)
    print(f"  every round: {path}")
