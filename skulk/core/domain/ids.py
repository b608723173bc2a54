"""Identities. Distinct types, so that the type checker refuses a card's name where a deployment's is meant."""

from __future__ import annotations

from typing import NewType

NodeName = NewType("NodeName", str)
CardName = NewType("CardName", str)
DeploymentName = NewType("DeploymentName", str)
CommitId = NewType("CommitId", str)
"""A 40-hex git commit, or `dir-` and 40 hex of the content for a directory source."""
PlacementUid = NewType("PlacementUid", str)
"""Deterministic: 16 hex digits of a digest of deployment, replica index, nodes and launch hash."""
LaunchHash = NewType("LaunchHash", str)
ContentHash = NewType("ContentHash", str)
BootId = NewType("BootId", str)
"""Random per process start; tells two lives of one daemon apart."""
RequestId = NewType("RequestId", str)
