"""What a draw of the next token costs: ours against the one of the library whose engine it is.

`python benchmarks/sampling.py [--engine llama_cpp|mlx] [--rounds N] [--quick] [--json FILE]`. Both sides draw from the
same logits of a vocabulary as large as those of current models (`benchmarks/parts/bare_sampling.py`), in one process
and one thread of the engine's environment. Every stream pays this at every token.

Prints medians of CPU microseconds per draw.
"""

from __future__ import annotations

from pathlib import Path

from parts.cores import Cores, move
from parts.figures import row
from parts.processes import engine_process, exchange
from parts.report import Options, Round, compare, each_engine, keep, medians, options

VOCABULARY = 151_936
DRAWS, QUICK_DRAWS = 300, 50
SETTINGS: tuple[dict[str, float], ...] = (
    {"temperature": 1.0},
    {"temperature": 0.7, "top_p": 0.95},
    {"temperature": 0.7, "top_k": 40},
    {"temperature": 0.7, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
)
LIBRARIES = {"llama_cpp": "llama.cpp", "mlx": "mlx-lm"}


def measure(engine: str, asked: Options, base: Path, cores: Cores) -> None:
    about = f"{engine}; a vocabulary of {VOCABULARY} tokens"
    print(about)
    draws = QUICK_DRAWS if asked.quick else DRAWS
    figures: dict[str, list[Round]] = {}
    with engine_process(engine, "bare_sampling.py", engine, base) as process:
        move(process.pid, cores.engine)
        for settings in SETTINGS:
            name = ", ".join(f"{what} {value:g}" for what, value in settings.items())
            figures[name] = []
            for number in range(asked.rounds):
                order = {"settings": settings, "draws": draws, "size": VOCABULARY, "number": number}
                spent = exchange(process, order)
                figures[name].append({side: cpu / draws for side, cpu in spent.items()})
    print(row("CPU per draw", "skulk", LIBRARIES[engine], "ratio"))
    for name, rounds in figures.items():
        middle = medians(rounds)
        compare(name, middle["skulk"], middle["library"], lambda seconds: f"{seconds * 1e6:.0f} µs")
    keep("sampling", about, asked, figures)


if __name__ == "__main__":
    each_engine("sampling", options(__doc__ or ""), measure)
