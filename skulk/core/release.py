"""What a node installs: one wheel with everything that it needs, known by version and content. Pure.

Two builds of one version are two releases, so the name carries a digest: a node never believes that it has what it has
not. Building and installing are `skulk.adapters.release` and the playbooks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from skulk.core.domain.desired import Fleet

_DIGEST = re.compile(r"[0-9a-f]{64}")
DIGEST_CHARACTERS_SHOWN = 12
"""Of the sha256 in a release's name: nobody keeps so many builds of one version that they would collide."""


@dataclass(frozen=True, slots=True)
class Release:
    """`digest`: sha256 of the wheel, 64 lower-case hex digits."""

    version: str
    digest: str

    def __post_init__(self) -> None:
        if _DIGEST.fullmatch(self.digest) is None:
            raise ValueError(f"{self.digest!r} is not a sha256 digest")

    @property
    def name(self) -> str:
        """What its directory on a node is called, such as `0.1.0-3f2a9c01d4be`."""
        return f"{self.version}-{self.digest[:DIGEST_CHARACTERS_SHOWN]}"


def other_version(fleet: Fleet | None, running: str) -> tuple[str, ...]:
    """One line when the Fleet names another version than the one that runs, nothing otherwise."""
    if fleet is None or fleet.version is None or fleet.version == running:
        return ()
    place = fleet.places.get(f"Fleet/{fleet.name}", "fleet/fleet.yaml")
    fix = "`skulk bootstrap --playbook upgrade` brings it there"
    return (f"runs Skulk {running}, but {place} wants {fleet.version}: {fix}",)
