"""Manifests: from the bytes of a commit to a `Fleet`, with every fault named at once.

The only pure package that uses pydantic and yaml. It reads no file and no clock; the source adapter brings the
bytes, the acceptance rules judge the result.
"""

from __future__ import annotations

from skulk.core.manifests.card_import import import_toml
from skulk.core.manifests.diagnostics import Diagnostic, Severity, render_dicts, render_github, render_text
from skulk.core.manifests.explain import FieldDoc, explain, field_paths
from skulk.core.manifests.loading import Loaded, load
from skulk.core.manifests.not_yet import ENGINE_OPTIONS, NOT_YET
from skulk.core.manifests.schema import generate, schema_text
from skulk.core.manifests.yaml_text import to_yaml

__all__ = [
    "ENGINE_OPTIONS",
    "NOT_YET",
    "Diagnostic",
    "FieldDoc",
    "Loaded",
    "Severity",
    "explain",
    "field_paths",
    "generate",
    "import_toml",
    "load",
    "render_dicts",
    "render_github",
    "render_text",
    "schema_text",
    "to_yaml",
]
