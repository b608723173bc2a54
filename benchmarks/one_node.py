"""How long a push takes to serve, and a daemon to adopt, on one node with real parts.

Prints minimum, median and maximum over ten pushes (each replaces the runner: another context length), the same for
ten restarts of the daemon, and the time of the bare engine for the same work (a new interpreter that loads the
model and generates one token), measured in turn with the pushes: the ratio is what Skulk adds.

    uv run python benchmarks/one_node.py [ROUNDS]
"""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from harness import Node, deployment  # noqa: E402

from skulk.adapters.engine_envs import ensure  # noqa: E402

BARE = """
import sys
from mlx_lm import load, stream_generate
model, tokenizer = load(sys.argv[1])
prompt = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True)
next(iter(stream_generate(model, tokenizer, prompt, max_tokens=1)))
"""


def spread(name: str, values: list[float]) -> str:
    return f"{name:<34} min {min(values):.2f} s  median {statistics.median(values):.2f} s  max {max(values):.2f} s"


def main(rounds: int) -> None:
    engines = Path.home() / ".cache" / "skulk" / "engines"
    python = ensure("mlx", engines).python
    pushes, adoptions, bare = [], [], []
    with tempfile.TemporaryDirectory() as directory, Node(Path(directory), engines) as node:
        node.start()
        node.push_base(chat=deployment("chat", "fox-tiny", contextTokens=2048))
        node.wait_ready("chat")
        for number in range(rounds):
            text = deployment("chat", "fox-tiny", contextTokens=1024 + 64 * (number % 8))
            began = time.monotonic()
            commit = node.push({"fleet/deployments/chat.yaml": text})
            node.wait_ready("chat", commit)
            pushes.append(time.monotonic() - began)
            began = time.monotonic()
            subprocess.run([python, "-c", BARE, ROOT / "cards/fox-tiny/files"], check=True, capture_output=True)
            bare.append(time.monotonic() - began)
        for _ in range(rounds):
            node.end(signal.SIGKILL)
            node.start()
            node.wait_ready("chat")
            adoptions.append(node.adoption_seconds("chat"))
    print(spread("push to Ready", pushes))
    print(spread("bare engine, load and one token", bare))
    print(f"{'ratio of medians':<34} {statistics.median(pushes) / statistics.median(bare):.2f}")
    print(spread("daemon start to adopted", adoptions))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
