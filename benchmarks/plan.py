"""How long planning takes: `python benchmarks/plan.py [NODES] [DEPLOYMENTS]`, an empty fleet and a settled one.

Prints seconds, nothing else is measured. Nodes come in four sizes, deployments in three models of two replicas.
"""

from __future__ import annotations

import sys
import time

from skulk.core.domain import (
    Blueprint,
    BootId,
    Card,
    CardFile,
    CardName,
    CommitId,
    Deployment,
    DeploymentName,
    EngineBuild,
    Fleet,
    KvShape,
    LocalSource,
    Member,
    Node,
    NodeName,
    RunningPlacement,
)
from skulk.core.memory import GIB
from skulk.core.planner import check, plan, to_json

BUILD = EngineBuild("mlx-metal", "mlx", "0.32.0", "digest")
SIZES_GIB = (16, 32, 64, 128)
MODELS_GIB = (1, 4, 8)


def fleet(node_count: int, deployment_count: int) -> tuple[Fleet, list[Member]]:
    nodes = {NodeName(f"n{i:04}"): Node(NodeName(f"n{i:04}"), i) for i in range(node_count)}
    members = [
        Member(name, BootId(name), SIZES_GIB[i % len(SIZES_GIB)] * GIB, (BUILD,)) for i, name in enumerate(nodes)
    ]
    cards = {
        CardName(f"m{gib}"): Card(
            CardName(f"m{gib}"),
            f"org/m{gib}",
            LocalSource(f"m{gib}"),
            "r",
            tuple(CardFile(f"{i}.safetensors", gib * GIB // 8, f"{gib:02}{i:062}") for i in range(8)),
            gib * GIB,
            32,
            4096,
            KvShape(full_layers=32, kv_heads=8),
            32768,
            ("mlx",),
        )
        for gib in MODELS_GIB
    }
    deployments = {
        DeploymentName(f"d{i:04}"): Deployment(
            DeploymentName(f"d{i:04}"), list(cards)[i % len(cards)], replicas=2, context_tokens=4096
        )
        for i in range(deployment_count)
    }
    return Fleet("bench", "bench", CommitId("c1"), nodes, cards, deployments), members


def running(blueprint: Blueprint) -> list[RunningPlacement]:
    return [
        RunningPlacement(
            p.uid,
            p.deployment,
            p.replica,
            p.model,
            p.ranks[0].node,
            p.backend,
            p.context_tokens,
            p.concurrency,
            p.launch_hash,
            p.content_hash,
            p.ranks[0].memory_bytes,
            complete=True,
        )
        for p in blueprint.placements
    ]


def main() -> None:
    node_count, deployment_count = (int(a) for a in (sys.argv[1:] + ["100", "100"][len(sys.argv) - 1 :]))
    wanted, members = fleet(node_count, deployment_count)
    present: list[RunningPlacement] = []
    for name in ("empty", "settled"):
        start = time.perf_counter()
        blueprint = plan(wanted, (), members, present, ())
        planned = time.perf_counter()
        notes = check(blueprint, wanted, members)
        checked = time.perf_counter()
        print(
            f"{name:8} {node_count} nodes × {deployment_count} deployments: plan {planned - start:.2f} s,"
            f" check {checked - planned:.2f} s, {len(blueprint.placements)} placed,"
            f" {len(blueprint.unplaced)} unplaced, {len(notes)} notes, {len(to_json(blueprint))} bytes"
        )
        present = running(blueprint)


if __name__ == "__main__":
    main()
