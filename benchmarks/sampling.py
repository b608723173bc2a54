"""What a draw of the next token costs: ours against the one of the library whose engine it is.

`python benchmarks/sampling.py [--engine llama_cpp|mlx] [--rounds N] [--quick] [--json FILE]`. Both sides draw from the
same logits of a vocabulary as large as those of current models (`benchmarks/parts/bare_sampling.py`), in one process
and one thread of the engine's environment. Every stream pays this at every token.

Prints medians of CPU microseconds per draw.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from parts import ROOT
from parts.cores import Cores, move
from parts.figures import row
from parts.fleet import ENGINES
from parts.report import Options, Round, compare, each_engine, keep, medians, options

from skulk.adapters.engine_envs import ensure
from skulk.adapters.runners import child_environment

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
    python, script = ensure(engine, ENGINES).python, ROOT / "benchmarks" / "parts" / "bare_sampling.py"
    figures: dict[str, list[Round]] = {}
    with (base / "log").open("wb") as log:
        process = subprocess.Popen(
            [python, "-I", "-B", script, ROOT, engine],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=child_environment(os.environ, {}),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with process:
            move(process.pid, cores.engine)
            for settings in SETTINGS:
                name = ", ".join(f"{what} {value:g}" for what, value in settings.items())
                figures[name] = []
                for number in range(asked.rounds):
                    order = {"settings": settings, "draws": draws, "size": VOCABULARY, "number": number}
                    process.stdin.write(json.dumps(order) + "\n")
                    process.stdin.flush()
                    if not (line := process.stdout.readline()):
                        raise RuntimeError(f"it ended with {process.wait()}: {(base / 'log').read_text('utf-8')}")
                    figures[name].append({side: cpu / draws for side, cpu in json.loads(line).items()})
            process.stdin.close()
    print(row("CPU per draw", "skulk", LIBRARIES[engine], "ratio"))
    for name, rounds in figures.items():
        middle = medians(rounds)
        compare(name, middle["skulk"], middle["library"], lambda seconds: f"{seconds * 1e6:.0f} µs")
    keep("sampling", about, asked, figures)


if __name__ == "__main__":
    each_engine("sampling", options(__doc__ or ""), measure)
