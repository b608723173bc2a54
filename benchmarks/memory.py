"""How much memory a runner takes, against what was predicted before it was started.

`python benchmarks/memory.py [--engine llama_cpp|mlx] [--quick] [--json FILE]`. Six points of model, context and
concurrency, each a deployment on a real node. All sequences at once are filled to the end of their context, with
prompts that have nothing in common; then the runner's resident size and its peak since the start are read from /proc.
The peak is compared with `skulk.core.memory.footprint`, by which planner and node decide what fits. Linux only. A size
is no time: every point is measured once.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from parts.answers import burst, chat, check
from parts.cores import Cores
from parts.figures import row
from parts.fleet import Node
from parts.models import DEEP, SMALL, TINY, Model, Shape, model_for
from parts.prompts import prompt
from parts.report import Options, each_engine, judged, keep, options
from parts.servers import NAME, described, head, launch_file, node_for, serve

from skulk.core.domain import Card, CardName, CommitId
from skulk.core.manifests import load
from skulk.core.memory import MIB, footprint
from skulk.core.ports import TreeFile
from skulk.core.wire.launch import launch_from_json

ANSWER_TOKENS = 32
SLACK_TOKENS = 16
"""A prompt's length is known to a few tokens."""
OFF_SHARE_MAX = 0.15
OFF_BYTES_MAX = 96 * MIB


@dataclass(frozen=True)
class Point:
    shape: Shape
    context_tokens: int
    concurrency: int


POINTS = (
    Point(SMALL, 1024, 1),
    Point(SMALL, 2048, 2),
    Point(DEEP, 1024, 8),
    Point(DEEP, 4096, 4),
    Point(TINY, 4096, 1),
    Point(TINY, 1024, 16),
)
QUICK_POINTS = (Point(TINY, 512, 1), Point(TINY, 1024, 2))


@dataclass(frozen=True)
class Found:
    """Bytes. `loaded`: when the deployment was Ready."""

    point: str
    predicted: int
    explained: str
    loaded: int
    resident: int
    peak: int

    @property
    def is_enough(self) -> bool:
        return self.predicted >= self.peak

    @property
    def is_close(self) -> bool:
        return self.predicted - self.peak <= max(OFF_SHARE_MAX * self.peak, OFF_BYTES_MAX)


def status_bytes(pid: int, name: str) -> int:
    """VmRSS or VmHWM of a process."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def card_of(model: Model) -> Card:
    """The card as a node reads it."""
    files = {"fleet/fleet.yaml": head(), f"cards/{model.name}/card.yaml": model.card}
    fleet = load([TreeFile(name, text.encode(), size=len(text)) for name, text in files.items()], CommitId("0" * 40))
    assert fleet.fleet is not None, fleet.diagnostics
    return fleet.fleet.cards[CardName(model.name)]


def measured(node: Node, model: Model, point: Point) -> Found:
    pid = serve(node, model, slots=point.concurrency, context_tokens=point.context_tokens)
    loaded = status_bytes(pid, "VmRSS")
    tokens = point.context_tokens - ANSWER_TOKENS - SLACK_TOKENS
    asyncio.run(fill(node.port, [prompt(tokens, f"{point} {client}") for client in range(point.concurrency)]))
    need = footprint(card_of(model), backend_of(node), point.context_tokens, point.concurrency)
    return Found(
        f"{point.shape.name}, {point.concurrency} × {point.context_tokens} tokens",
        need.total_bytes,
        need.explain(),
        loaded,
        status_bytes(pid, "VmRSS"),
        status_bytes(pid, "VmHWM"),
    )


async def fill(port: int, texts: list[str]) -> None:
    answers = await burst(port, [chat(NAME, text, ANSWER_TOKENS) for text in texts])
    check(answers, ANSWER_TOKENS)


def backend_of(node: Node) -> str:
    return launch_from_json(json.loads(launch_file(node).read_text("utf-8"))).backend


def show(found: Found) -> None:
    goal = judged("never below", found.is_enough) + ", " + judged("within 15 % or 96 MiB", found.is_close)
    sizes = found.predicted, found.loaded, found.resident, found.peak
    cells = [*(f"{size / MIB:.0f} MiB" for size in sizes), f"{found.predicted / found.peak:.2f}"]
    print(row(found.point, *cells) + f"   {goal}\n    {found.explained}", flush=True)


def measure(engine: str, asked: Options, base: Path, _: Cores) -> None:
    points = QUICK_POINTS if asked.quick else POINTS
    models = {point.shape: model_for(engine, point.shape, float32=asked.float32) for point in points}
    found = []
    with node_for(next(iter(models.values())), base / "node") as node:
        print(row(f"{engine}{described(engine)}"))
        print(row("", "predicted", "loaded", "filled", "peak", "ratio"))
        for point in points:
            found.append(measured(node, models[point.shape], point))
            show(found[-1])
    keep("memory", engine + described(engine), asked, [asdict(one) for one in found])


if __name__ == "__main__":
    each_engine("memory", options(__doc__ or "", rounds=1), measure)
