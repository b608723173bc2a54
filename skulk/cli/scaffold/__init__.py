"""What `skulk init` puts into a new fleet repository: pure text in, text out, no files touched.

`manifests` writes the documents of the fleet, `surroundings` everything around them, `model` reads a local model
directory (the one part with I/O).
"""

from skulk.cli.scaffold.manifests import card_yaml, deployment_yaml, fleet_yaml, node_yaml
from skulk.cli.scaffold.model import ModelFacts, model_facts
from skulk.cli.scaffold.surroundings import editor_settings, gitignore, readme, workflow

__all__ = [
    "ModelFacts",
    "card_yaml",
    "deployment_yaml",
    "editor_settings",
    "fleet_yaml",
    "gitignore",
    "model_facts",
    "node_yaml",
    "readme",
    "workflow",
]
