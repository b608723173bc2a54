"""The four kinds: name, model, and where in the repository each lives. One table for loader, schemas and docs."""

from __future__ import annotations

from collections.abc import Mapping

from skulk.core.manifests.card_model import ModelCardManifest
from skulk.core.manifests.deployment_model import DeploymentManifest
from skulk.core.manifests.fleet_model import FleetManifest
from skulk.core.manifests.node_model import NodeManifest

AnyManifest = FleetManifest | NodeManifest | DeploymentManifest | ModelCardManifest

MODELS: Mapping[str, type[AnyManifest]] = {
    "Fleet": FleetManifest,
    "Node": NodeManifest,
    "Deployment": DeploymentManifest,
    "ModelCard": ModelCardManifest,
}

PLACES: Mapping[str, str] = {
    "Fleet": "fleet/fleet.yaml",
    "Node": "fleet/nodes/",
    "Deployment": "fleet/deployments/",
    "ModelCard": "cards/",
}

_SUFFIXES = (".yaml", ".yml")


def kind_at(path: str) -> str | None:
    """The kind that lives at a path of the repository, or None when no manifest is read from there."""
    if not path.endswith(_SUFFIXES):
        return None
    parts = path.split("/")
    match parts[:-1]:
        case ["fleet"] if parts[-1].rsplit(".", 1)[0] == "fleet":
            return "Fleet"
        case ["fleet", "nodes"]:
            return "Node"
        case ["fleet", "deployments"]:
            return "Deployment"
        case ["cards", *_]:
            return "ModelCard"
    return None


def is_model_file(path: str) -> bool:
    """A file below a `files` directory of a card: part of a model, never a manifest."""
    parts = path.split("/")
    return parts[0] == "cards" and "files" in parts[1:-1]
