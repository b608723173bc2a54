"""What a long prompt does to those who are being answered, and what a prompt that was read before saves.

`python benchmarks/joining.py [--engine llama_cpp|mlx] [--rounds N] [--quick] [--json FILE]`; the peers are those of
`benchmarks/serving.py`, the prompts new in each round and the same for both sides.

Joining: eight clients are being answered; when each has some tokens, a ninth comes with a prompt of 1,200. Printed: the
longest pause between two tokens that any of the eight saw from then until the ninth had its first token, the longest
before, and the ninth's own time to the first token.

Prefix: a client asks with a system message of 1,200 tokens (cold), then another question after the same message (warm).
Printed: both times to the first token and their ratio, and how many tokens the server says it had kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from parts.answers import Answer, Running, ask, check
from parts.cores import Cores
from parts.figures import ms, row
from parts.prompts import prompt, words
from parts.report import Options, Round, compare, each_engine, in_turn, judged, keep, medians, options
from parts.servers import Server, Size, described, ours, peer

RUNNING = 8
SLOTS = RUNNING + 1
CONTEXT_TOKENS = 2048
LONG_TOKENS = 1200
PROMPT_TOKENS = 32
QUESTION_TOKENS = 16
TOKENS = {"llama_cpp": 512, "mlx": 160}
"""Enough that the eight are not done before the ninth has begun."""
BEGUN_EVENTS = 16
JOINER_TOKENS = 8
QUICK_TOKENS = 192
QUICK_LONG_TOKENS = 300
WARM_MAX = 0.25


async def joined(server: Server, texts: Sequence[str], tokens: int, long_text: str) -> tuple[list[Answer], Answer]:
    """The answers of those who ran, and of the one that came later."""
    running = [Running(wanted=BEGUN_EVENTS) for _ in texts]
    bodies = [server.body(text, tokens) for text in texts]
    tasks = [
        asyncio.ensure_future(ask(server.port, body, running=own)) for body, own in zip(bodies, running, strict=True)
    ]
    # Where there are fewer slots than clients, the last of them has not begun before the first is done.
    for own, task in zip(running, tasks, strict=True):
        await asyncio.wait([task, asyncio.ensure_future(own.seen.wait())], return_when=asyncio.FIRST_COMPLETED)
    joiner = await ask(server.port, server.body(long_text, JOINER_TOKENS))
    return list(await asyncio.gather(*tasks)), joiner


def joining_round(server: Server, texts: Sequence[str], tokens: int, long_text: str) -> tuple[Round, int]:
    answers, joiner = asyncio.run(joined(server, texts, tokens, long_text))
    check(answers, tokens)
    check([joiner], JOINER_TOKENS)
    came, served = joiner.sent, joiner.times[0]
    all_began = max(answer.times[0] for answer in answers)
    during = _longest(answers, lambda begin, end: end > came and begin < served)
    before = _longest(answers, lambda begin, end: begin >= all_began and end <= came)
    still = sum(1 for answer in answers if answer.times[-1] > served)
    return {
        "longest pause, joining": during,
        "longest pause, before": before,
        "joiner's first token": joiner.first_seconds,
        "still running": float(still),
        "prompt tokens": float(joiner.prompt_tokens),
    }, joiner.prompt_tokens


def _longest(answers: Sequence[Answer], counts: Callable[[float, float], bool]) -> float:
    gaps = [
        end - begin
        for answer in answers
        for begin, end in zip(answer.times, answer.times[1:], strict=False)
        if counts(begin, end)
    ]
    return max(gaps, default=0.0)


def prefix_round(server: Server, system: str, questions: Sequence[str]) -> tuple[Round, int]:
    cold, warm = (
        asyncio.run(ask(server.port, server.body(question, JOINER_TOKENS, system=system))) for question in questions
    )
    check([cold, warm], JOINER_TOKENS)
    details = warm.usage.get("prompt_tokens_details") or {}
    return {
        "cold": cold.first_seconds,
        "warm": warm.first_seconds,
        "warm / cold": warm.first_seconds / cold.first_seconds,
        "cached tokens": float(details.get("cached_tokens") or 0),
    }, cold.prompt_tokens


def rounds_of(
    sides: Sequence[Server], asked: Options, one: Callable[[Server, int], tuple[Round, int]]
) -> dict[str, list[Round]]:
    """`one`: a round of one side by its number, and how long the prompt was that both must have read."""
    found: dict[str, list[Round]] = {side.name: [] for side in sides}
    for number in range(asked.rounds):
        lengths = set()
        for name in in_turn(list(found), number):
            figures, length = one(next(side for side in sides if side.name == name), number)
            found[name].append(figures)
            lengths.add(length)
        if len(lengths) != 1:
            raise RuntimeError(f"the sides read different prompts: {lengths}")
    return found


def joining(sides: Sequence[Server], engine: str, asked: Options) -> dict[str, list[Round]]:
    tokens = QUICK_TOKENS if asked.quick else TOKENS[engine]
    length = QUICK_LONG_TOKENS if asked.quick else LONG_TOKENS

    def one(server: Server, number: int) -> tuple[Round, int]:
        texts = [prompt(PROMPT_TOKENS, f"running {number} {client}") for client in range(RUNNING)]
        return joining_round(server, texts, tokens, prompt(length, f"joining {number}"))

    found = rounds_of(sides, asked, one)
    (name, mine), (other, theirs) = ((side, medians(rounds)) for side, rounds in found.items())
    print(row(f"{mine['prompt tokens']:.0f} tokens join {RUNNING} streams", name, other, "ratio"))
    # Where all have ended, nobody could see a pause.
    fair = min(mine["still running"], theirs["still running"]) >= RUNNING
    for what in ("longest pause, joining", "longest pause, before", "joiner's first token"):
        judge = fair and what == "longest pause, joining"
        goal = judged("at most 1", mine[what] <= theirs[what]) if judge else ""
        compare(what, mine[what], theirs[what], ms, goal)
    for side, values in ((name, mine), (other, theirs)):
        if values["still running"] < RUNNING:
            print(f"  {side}: {values['still running']:.0f} of {RUNNING} still ran when the joiner had its first token")
    return found


def prefix(sides: Sequence[Server], asked: Options) -> dict[str, list[Round]]:
    length = QUICK_LONG_TOKENS if asked.quick else LONG_TOKENS

    def one(server: Server, number: int) -> tuple[Round, int]:
        questions = [words(QUESTION_TOKENS, f"question {number} {which}") for which in ("cold", "warm")]
        return prefix_round(server, words(length, f"system {number}"), questions)

    found = rounds_of(sides, asked, one)
    (name, mine), (other, theirs) = ((side, medians(rounds)) for side, rounds in found.items())
    print(row(f"a shared prefix of {length} tokens", name, other, "ratio"))
    for what in ("cold", "warm"):
        compare(f"first token, {what}", mine[what], theirs[what], ms)
    goal = judged(f"ours at most {WARM_MAX}", mine["warm / cold"] <= WARM_MAX)
    for what, digits, text in (("warm / cold", 2, goal), ("cached tokens", 0, "")):
        compare(what, mine[what], theirs[what], lambda value, digits=digits: f"{value:.{digits}f}", text)  # type: ignore[misc]
    return found


def measure(engine: str, asked: Options, base: Path, cores: Cores) -> None:
    model = asked.model(engine)
    size: Size = {"slots": SLOTS, "context_tokens": CONTEXT_TOKENS, "temperature": asked.temperature}
    with ours(model, base / "ours", cores, **size) as mine, peer(model, base / "peer", cores, **size) as theirs:
        about = f"{model}; {SLOTS} slots of {CONTEXT_TOKENS} tokens{described(engine)}"
        print(about, flush=True)
        sides = (mine, theirs)
        figures = {"joining": joining(sides, engine, asked), "prefix": prefix(sides, asked)}
    keep("joining", about, asked, figures)


if __name__ == "__main__":
    each_engine("joining", options(__doc__ or ""), measure)
