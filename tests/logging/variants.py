"""The configurations that the role skulk_logging can write, and where its files are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "playbooks" / "roles" / "skulk_logging"
SINKS = {"vector": ("console", "file", "loki", "otlp"), "otelcol": ("console", "file", "otlp")}
SYSTEMS = ("Linux", "Darwin")
# Names that YAML, XML or a shell would take for something else.
NODE = 'desk: "1" & <co>'
ENDPOINT = "https://logs.example.com/a"


@dataclass(frozen=True)
class Variant:
    """One configuration: on which system, of which shipper, into which sink, with a token or without."""

    system: str
    shipper: str
    sink: str
    token: bool

    def __str__(self) -> str:
        return f"{self.system}-{self.shipper}-{self.sink}{'-token' if self.token else ''}"


VARIANTS = [
    Variant(system, shipper, sink, token)
    for system in SYSTEMS
    for shipper, sinks in SINKS.items()
    for sink in sinks
    for token in ((False, True) if sink in ("loki", "otlp") else (False,))
]


def load(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text("utf-8"))
    assert isinstance(found, dict)
    return found
