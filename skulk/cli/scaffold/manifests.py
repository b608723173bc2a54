"""The manifests of a new fleet, as text with the comments that a newcomer needs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skulk.cli.scaffold.model import ModelFacts

API_VERSION = "skulk.dev/v1alpha1"


def _document(kind: str, name: str, spec: Mapping[str, Any], *, depth: int, comment: str) -> str:
    """One manifest. `depth`: folders between the file and the repository root, for the editor's schema line."""
    # loads pydantic, which the other verbs do without
    from skulk.core.manifests import to_yaml

    body = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}
    schema = f"{'../' * depth}schemas/{kind.lower()}.schema.json"
    return f"# yaml-language-server: $schema={schema}\n{comment}{to_yaml(body)}"


def fleet_yaml(name: str) -> str:
    """fleet/fleet.yaml: the namespace and nothing else, because every default is right for one node."""
    return _document(
        "Fleet",
        name,
        {"namespace": name},
        depth=1,
        comment="# What holds for all nodes. Every field: `skulk explain fleet.spec`.\n",
    )


def node_yaml(name: str, ordinal: int, spec: Mapping[str, Any] | None = None) -> str:
    """fleet/nodes/NAME.yaml: a node that reports its own hardware and backends; `spec` adds what is known already."""
    return _document(
        "Node",
        name,
        {"ordinal": ordinal, **(spec or {})},
        depth=2,
        comment="# One machine. `skulk node probe` prints this manifest with the machine's hardware filled in.\n",
    )


def deployment_yaml(name: str, model: str) -> str:
    """fleet/deployments/NAME.yaml: one replica of a card."""
    return _document(
        "Deployment",
        name,
        {"model": model, "replicas": 1},
        depth=2,
        comment="# Which model, how often, where. Every field: `skulk explain deployment.spec`.\n",
    )


def card_yaml(facts: ModelFacts) -> str:
    """cards/NAME/card.yaml for a model directory on this machine."""
    return _document(
        "ModelCard",
        facts.name,
        facts.spec,
        depth=2,
        comment="# Measured from the model directory; `skulk explain modelcard.spec` documents every field.\n",
    )
