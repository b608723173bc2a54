"""Model files on this node: found under the model roots, verified, kept once per content."""

from skulk.adapters.weights.local import LocalWeights

__all__ = ["LocalWeights"]
