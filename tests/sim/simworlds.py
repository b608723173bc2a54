"""Manifests for simulated histories, as text."""

from __future__ import annotations

from collections.abc import Mapping

HEAD = "apiVersion: skulk.dev/v1alpha1\nkind: {kind}\nmetadata:\n  name: {name}\nspec:\n"
GIB = 2**30


def fleet(**spec: str) -> str:
    extra = "".join(f"  {key}: {value}\n" for key, value in spec.items())
    return HEAD.format(kind="Fleet", name="demo") + "  namespace: demo\n" + extra


def node(name: str = "demo", **spec: str) -> str:
    extra = "".join(f"  {key}: {value}\n" for key, value in spec.items())
    return HEAD.format(kind="Node", name=name) + "  ordinal: 1\n" + extra


def card(name: str, *, gib: float = 1.0, revision: str = "1") -> str:
    size = int(gib * GIB)
    return HEAD.format(kind="ModelCard", name=name) + (
        f"  modelId: test/{name}\n  source:\n    local: {name}\n  revision: '{revision}'\n"
        f"  files:\n    - path: model.safetensors\n      bytes: {size}\n      sha256: '{'0' * 64}'\n"
        "  nLayers: 4\n  hiddenSize: 256\n  numKeyValueHeads: 2\n  supportsTensor: false\n  contextLength: 4096\n"
        "  tasks: [TextGeneration]\n"
    )


def deployment(name: str, model: str, **spec: str) -> str:
    extra = "".join(f"  {key}: {value}\n" for key, value in spec.items())
    return HEAD.format(kind="Deployment", name=name) + f"  model: {model}\n" + extra


def tree(deployments: Mapping[str, str], cards: Mapping[str, str], **more: str) -> dict[str, str]:
    """Path → text of a whole repository."""
    return {
        "fleet/fleet.yaml": more.pop("fleet", fleet()),
        "fleet/nodes/demo.yaml": more.pop("node", node()),
        **{f"fleet/deployments/{name}.yaml": text for name, text in deployments.items()},
        **{f"cards/{name}/card.yaml": text for name, text in cards.items()},
    }
