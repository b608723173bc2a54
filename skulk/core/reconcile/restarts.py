"""What restarts a runner: one table, for people and for the test that holds the planner to it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Effect(StrEnum):
    REPLACE = "replaces the runner"
    LIVE = "applies live"
    PLAN = "moves placements only when it must"


RESTARTS: Mapping[str, Effect] = {
    "deployment.spec.model": Effect.REPLACE,
    "deployment.spec.contextTokens": Effect.REPLACE,
    "deployment.spec.concurrency": Effect.REPLACE,
    "deployment.spec.engine.name": Effect.REPLACE,
    "deployment.spec.engine.options": Effect.REPLACE,
    "modelcard.metadata.name": Effect.REPLACE,
    "modelcard.spec.modelId": Effect.REPLACE,
    "modelcard.spec.revision": Effect.REPLACE,
    "modelcard.spec.files": Effect.REPLACE,
    "modelcard.spec.ggufFile": Effect.REPLACE,
    "modelcard.spec.reasoning.format": Effect.REPLACE,
    "engine build": Effect.REPLACE,
    "deployment.spec.replicas": Effect.LIVE,
    "deployment.spec.priority": Effect.LIVE,
    "deployment.spec.aliases": Effect.LIVE,
    "deployment.spec.suspend": Effect.LIVE,
    "deployment.spec.update.strategy": Effect.LIVE,
    "deployment.spec.placement.selector": Effect.PLAN,
    "deployment.spec.placement.excludedNodes": Effect.PLAN,
    "deployment.spec.placement.spread": Effect.PLAN,
    "node.spec.labels": Effect.PLAN,
    "node.spec.cordon": Effect.PLAN,
    "node.spec.drain": Effect.PLAN,
    "node.spec.participation": Effect.PLAN,
    "node.spec.reserve": Effect.PLAN,
    "modelcard.spec.placement.compatibleBackends": Effect.PLAN,
    "modelcard.spec.placement.minVramGib": Effect.PLAN,
}


def table() -> str:
    """The table as Markdown, sorted by effect."""
    rows = sorted(RESTARTS.items(), key=lambda item: (list(Effect).index(item[1]), item[0]))
    lines = ["| field | a change |", "|---|---|"]
    return "\n".join(lines + [f"| `{path}` | {effect.value} |" for path, effect in rows]) + "\n"
