"""Many streams at once: our endpoint against the server that comes with the same library, on the same model file.

`python benchmarks/serving.py [--engine llama_cpp|mlx] [--rounds N] [--quick] [--json FILE]`. llama_cpp is compared with
llama-server, mlx with mlx_lm.server. 1, 4, 8 and 16 clients each ask for 128 tokens after a prompt of 64 (mlx: 32 and
32), all at once; few clients several times, so that every level has at least 16 (mlx: 4) answers in a round. The sides
get the same prompts, which neither has seen before, in turn, and have 16 slots.

Prints medians over the rounds, and the median of the rounds' ratios, of: tokens per second of all clients together,
seconds to the first token and between tokens (median and 95th percentile of a round), and CPU milliseconds per token
of all processes that serve.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from parts.answers import Answer
from parts.cores import Cores
from parts.figures import ms, percentile, row
from parts.prompts import prompt
from parts.report import Options, Round, Work, compare, each_engine, every_burst, judged, keep, medians, options, ratios
from parts.servers import Served, Server, Size, ask_all, described, ours, peer

SLOTS = 16
CONTEXT_TOKENS = 1024
LEVELS = (1, 4, 8, 16)
QUICK_LEVELS = (1, 4)
SPEED_MIN = 0.95
FIRST_MAX = 1.1
PIECES_OFF_MAX = 0.02


def seconds_of(burst: Served) -> float:
    return max(answer.ended for answer in burst.answers) - min(answer.sent for answer in burst.answers)


def figures_of(bursts: Sequence[Served], tokens: int) -> Round:
    """One round of one side."""
    answers = [answer for one in bursts for answer in one.answers]
    total = tokens * len(answers)
    first = [answer.first_seconds for answer in answers]
    gaps = [gap for answer in answers for gap in answer.gaps]
    engine, gateway = (sum(one.engine for one in bursts), sum(one.gateway for one in bursts))
    return {
        "tokens per second": total / sum(map(seconds_of, bursts)),
        "first token p50": percentile(first, 0.5),
        "first token p95": percentile(first, 0.95),
        "between tokens p50": percentile(gaps, 0.5),
        "between tokens p95": percentile(gaps, 0.95),
        "CPU per token": (engine + gateway) / total,
        "CPU per token, engine": engine / total,
        "CPU per token, gateway": gateway / total,
        "pieces of text per token": sum(len(answer.times) for answer in answers) / total,
        "cached prompt tokens": float(sum(_cached(answer) for answer in answers)),
        "at": time.time(),
    }


def _cached(answer: Answer) -> int:
    return int((answer.usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)


def rounds_of(sides: Sequence[Server], streams: int, work: Work, rounds: int) -> dict[str, list[Round]]:
    servers = {side.name: side for side in sides}

    def ask(side: str, number: int, repeat: int) -> Served:
        texts = [prompt(work.prompt_tokens, f"{streams} {number} {repeat} {client}") for client in range(streams)]
        return ask_all(servers[side], texts, work.tokens)

    found = every_burst(list(servers), rounds, max(1, work.answers_min // streams), ask)
    read = [[a.prompt_tokens for bursts in own for one in bursts for a in one.answers] for own in found.values()]
    if any(counts != read[0] for counts in read):
        raise RuntimeError(f"the sides read different prompts: {read}")
    return {side: [figures_of(bursts, work.tokens) for bursts in own] for side, own in found.items()}


def show(streams: int, found: dict[str, list[Round]]) -> None:
    (name, mine), (other, theirs) = ((side, medians(rounds)) for side, rounds in found.items())
    print(row(f"{streams} stream{'s' if streams > 1 else ''}", name, other, "ratio"))
    rates = ratios(*found.values())
    speed, first = rates["tokens per second"], rates["first token p95"]
    goals = {
        "tokens per second": judged(f"at least {SPEED_MIN}", speed >= SPEED_MIN),
        "first token p95": judged(f"at most {FIRST_MAX}", first <= FIRST_MAX),
    }
    for what in mine:
        if what == "tokens per second":
            compare(what, mine[what], theirs[what], lambda value: f"{value:.1f}", goals[what], rates[what])
        elif what == "CPU per token":
            compare(what, mine[what], theirs[what], ms, rate=rates[what])
            parts = (ms(mine[f"{what}, {part}"]) for part in ("engine", "gateway"))
            print("    of ours: engine {}, gateway {}".format(*parts))
        elif what.startswith(("first", "between")):
            compare(what, mine[what], theirs[what], ms, goals.get(what, ""), rates[what])
    for side, values in ((name, mine), (other, theirs)):
        if abs(values["pieces of text per token"] - 1) > 0.02:
            print(
                f"  {side} sent {values['pieces of text per token']:.2f} pieces of text per token: its gaps are others"
            )


def measure(engine: str, asked: Options, base: Path, cores: Cores) -> None:
    model = asked.model(engine)
    size: Size = {"slots": SLOTS, "context_tokens": CONTEXT_TOKENS, "temperature": asked.temperature}
    with ours(model, base / "ours", cores, **size) as mine, peer(model, base / "peer", cores, **size) as theirs:
        about = f"{model}; {SLOTS} slots of {CONTEXT_TOKENS} tokens{described(engine)}"
        print(about, flush=True)
        figures = {}
        for streams in QUICK_LEVELS if asked.quick else LEVELS:
            figures[streams] = rounds_of((mine, theirs), streams, asked.work(engine), asked.rounds)
            show(streams, figures[streams])
    keep("serving", about, asked, figures)


if __name__ == "__main__":
    each_engine("serving", options(__doc__ or ""), measure)
