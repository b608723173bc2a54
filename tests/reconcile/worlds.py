"""Small worlds for the decision tests: a placement, its card, its runner in some state."""

from __future__ import annotations

from dataclasses import replace

from skulk.core.domain import (
    Card,
    CardFile,
    CardName,
    CommitId,
    ContentHash,
    Deployment,
    DeploymentName,
    EngineBuild,
    KvShape,
    LastWords,
    Launch,
    LaunchHash,
    Link,
    LocalSource,
    NodeName,
    Placement,
    PlacementUid,
    Rank,
    RunnerFacts,
    RunnerReport,
    WeightsFacts,
)
from skulk.core.formats.content import content_key
from skulk.core.reconcile.observed import Observed, Part

GIB = 2**30
NODE = NodeName("demo")
CARD = Card(
    name=CardName("fox"),
    model_id="skulk/fox",
    source=LocalSource("fox"),
    revision="1",
    files=(CardFile("model.safetensors", 100, "0" * 64),),
    storage_bytes=100,
    layers=4,
    hidden_size=256,
    kv=KvShape(),
    context_length=4096,
    compatible_backends=("mlx",),
)
BUILD = EngineBuild("mlx-cpu", "mlx", "1.0", "digest-1")
CONTENT = content_key(CARD)
WEIGHTS = {CONTENT: WeightsFacts(CARD.name, CONTENT, ready=True, model_dir="/models/fox")}


def placement(name: str = "a", memory: int = GIB, **more: object) -> Placement:
    base = Placement(
        uid=PlacementUid(name),
        deployment=DeploymentName("chat"),
        replica=0,
        model=CARD.name,
        commit=CommitId("c1"),
        backend="mlx-cpu",
        engine_version="1.0",
        ranks=(Rank(NODE, memory_bytes=memory),),
        context_tokens=2048,
        concurrency=1,
        launch_hash=LaunchHash(f"hash-{name}"),
        content_hash=ContentHash("content"),
        engine_digest="digest-1",
    )
    return replace(base, **more)  # type: ignore[arg-type]


def part(*placements: Placement, **more: object) -> Part:
    base = Part(
        placements=placements,
        cards={CARD.name: CARD},
        deployments={DeploymentName("chat"): Deployment(DeploymentName("chat"), CARD.name)},
        authoritative=True,
    )
    return replace(base, **more)  # type: ignore[arg-type]


def facts(
    name: str = "a",
    report: RunnerReport = RunnerReport.READY,
    link: Link = Link.CONNECTED,
    *,
    now: float = 0.0,
    memory: int = GIB,
    **more: object,
) -> RunnerFacts:
    launch = Launch(
        uid=PlacementUid(name),
        deployment=DeploymentName("chat"),
        replica=0,
        model=CARD.name,
        engine="mlx",
        backend="mlx-cpu",
        engine_digest="digest-1",
        model_dir="/models/fox",
        context_tokens=2048,
        concurrency=1,
        launch_hash=LaunchHash(f"hash-{name}"),
        content_hash=ContentHash("content"),
        memory_bytes=memory,
    )
    base = RunnerFacts(
        launch,
        link,
        pid=42,
        report=report,
        started_at=now,
        report_since=now,
        last_heartbeat_at=now,
        last_progress_at=now,
    )
    return replace(base, **more)  # type: ignore[arg-type]


def dead(name: str = "a", words: LastWords | None = None) -> RunnerFacts:
    return facts(name, link=Link.DEAD, last_words=words)


def observed(*runners: RunnerFacts, **more: object) -> Observed:
    base = Observed(
        runners={f.launch.uid: f for f in runners},
        weights=WEIGHTS,
        builds=(BUILD,),
        memory_bytes=8 * GIB,
        free_memory_bytes=8 * GIB,
        stock_taken=True,
    )
    return replace(base, **more)  # type: ignore[arg-type]
