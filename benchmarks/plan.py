"""How long planning takes: `python benchmarks/plan.py [NODES] [DEPLOYMENTS]`, empty, settled, and after one change.

Prints seconds, nothing else is measured. Nodes come in four sizes, deployments in three models of two replicas. The
uneven fleet is the hard case: no two nodes and no two models are alike, contexts are open and a part finds no room.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

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


def one_changed(wanted: Fleet) -> Fleet:
    """One deployment in the middle gets another context, so that its replicas are replaced."""
    name = sorted(wanted.deployments)[len(wanted.deployments) // 2]
    changed = replace(wanted.deployments[name], context_tokens=2048)
    return replace(wanted, commit=CommitId("c2"), deployments={**wanted.deployments, name: changed})


def uneven(wanted: Fleet, members: list[Member]) -> tuple[Fleet, list[Member]]:
    """No two nodes alike, a model for each deployment, six replicas each, contexts as memory allows."""
    base = wanted.cards[CardName(f"m{MODELS_GIB[0]}")]
    cards, deployments = {}, {}
    for number, (name, deployment) in enumerate(wanted.deployments.items()):
        model = CardName(f"u{number:04}")
        cards[model] = replace(base, name=model, storage_bytes=GIB + number * 8_000_003)
        deployments[name] = replace(deployment, model=model, replicas=6, context_tokens=None)
    shorter = [replace(m, memory_bytes=m.memory_bytes - number * 4096) for number, m in enumerate(members)]
    return replace(wanted, cards=cards, deployments=deployments), shorter


def measure(name: str, wanted: Fleet, members: list[Member], present: list[RunningPlacement]) -> Blueprint:
    start = time.perf_counter()
    blueprint = plan(wanted, (), members, present, ())
    planned = time.perf_counter()
    notes = check(blueprint, wanted, members)
    checked = time.perf_counter()
    print(
        f"{name:12} {len(wanted.nodes)} nodes × {len(wanted.deployments)} deployments: plan {planned - start:.2f} s,"
        f" check {checked - planned:.2f} s, {len(blueprint.placements)} placed, {len(blueprint.unplaced)} unplaced,"
        f" {len(notes)} notes, {len(to_json(blueprint))} bytes"
    )
    return blueprint


def main() -> None:
    node_count, deployment_count = (int(a) for a in (sys.argv[1:] + ["100", "100"][len(sys.argv) - 1 :]))
    wanted, members = fleet(node_count, deployment_count)
    settled = running(measure("empty", wanted, members, []))
    measure("settled", wanted, members, settled)
    measure("one changed", one_changed(wanted), members, settled)
    measure("uneven", *uneven(wanted, members), [])


if __name__ == "__main__":
    main()
