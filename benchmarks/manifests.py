"""How many manifests per second the loader reads: `uv run python benchmarks/manifests.py [COUNT]`.

Makes COUNT small manifests in memory (one Fleet, and nodes, cards and deployments in equal parts), loads them
three times and prints the best time. It reads no disk, so it says nothing about git.
"""

from __future__ import annotations

import sys
import time

from skulk.core.domain import CommitId
from skulk.core.manifests import load, render_text
from skulk.core.ports import TreeFile

HEAD = "apiVersion: skulk.dev/v1alpha1\nkind: {}\nmetadata:\n  name: {}\nspec:\n"


def manifests(count: int) -> list[TreeFile]:
    """One Fleet and `count` - 1 others."""
    digest = "ab" * 32
    files = [("fleet/fleet.yaml", HEAD.format("Fleet", "bench") + "  namespace: bench\n")]
    for index in range(count - 1):
        number = index // 3
        if index % 3 == 0:
            text = HEAD.format("ModelCard", f"card-{number}") + (
                f"  modelId: bench/card-{number}\n  source:\n    local: card-{number}\n  nLayers: 32\n"
                "  hiddenSize: 4096\n  numKeyValueHeads: 8\n  contextLength: 8192\n  files:\n"
                + "".join(
                    f'    - {{path: part-{part}.safetensors, bytes: 4096, sha256: "{digest}"}}\n' for part in range(8)
                )
            )
            files.append((f"cards/card-{number}/card.yaml", text))
        elif index % 3 == 1:
            text = HEAD.format("Deployment", f"deployment-{number}") + (
                f"  model: card-{number}\n  replicas: 2\n  contextTokens: 4096\n"
                "  placement:\n    selector: {zone: a}\n    spread: node\n"
            )
            files.append((f"fleet/deployments/deployment-{number}.yaml", text))
        else:
            text = HEAD.format("Node", f"node-{number}") + (
                f"  ordinal: {number + 1}\n  labels: {{zone: a, rack: r{number}}}\n  reserve: {{memory: 2GiB}}\n"
            )
            files.append((f"fleet/nodes/node-{number}.yaml", text))
    return [TreeFile(path, text.encode(), size=len(text)) for path, text in files]


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    files = manifests(count)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        loaded = load(files, CommitId("0" * 40))
        times.append(time.perf_counter() - started)
        if loaded.fleet is None:
            print(render_text(loaded.diagnostics[:5]))
            return 1
    best = min(times)
    print(f"{count} manifests in {best:.3f} s: {count / best:.0f} per second (best of {len(times)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
