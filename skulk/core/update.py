"""Update on boot: which release a node goes over to, from what, and what a wheelhouse's index says. Pure.

Which version is wanted stands in the Fleet of the last accepted commit; this only compares. Reading that commit is
`skulk.node.wanted`, installing is `skulk.adapters.release.installed`. An older version is taken like a newer one: a
`git revert` of `spec.version` is how a fleet goes back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from skulk.core.release import Release

INDEX = "releases.json"
"""In a wheelhouse: which wheel is which version of Skulk, with its sha256."""
VERSION = re.compile(r"[0-9][0-9A-Za-z.!+]{0,63}")
"""What a version may look like here: it becomes a part of file names and of command lines of root."""
_WHEEL = re.compile(r"skulk-[0-9A-Za-z.!+_]{1,80}-[a-z0-9_.]+-[a-z0-9_.]+-[a-z0-9_.]+\.whl")
_DIGEST = re.compile(r"[0-9a-f]{64}")
# No user, no query, no fragment: secrets would stand in node.toml, and file names are appended.
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z.-]+)(:[0-9]{1,5})?(/[0-9A-Za-z._~%/+-]*)?"
)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True, slots=True)
class Wheelhouse:
    """Where a node takes releases and packages from: a directory, or a URL that ends in `/`."""

    location: str
    is_url: bool

    @property
    def links(self) -> str:
        """As pip and uv are told."""
        return self.location

    def place(self, name: str) -> str:
        """Of one file in it."""
        return f"{self.location.rstrip('/')}/{name}"


def wheelhouse(text: str) -> Wheelhouse:
    """Raises ValueError for what root must not install from: plain HTTP beyond this machine, a relative path."""
    if text.startswith("/") and not any(c in text for c in "\n\r\0"):
        return Wheelhouse(text, is_url=False)
    found = _URL.fullmatch(text)
    if found is None:
        raise ValueError(f"an absolute directory or an https:// URL without user and query is expected, not {text!r}")
    if found["scheme"] == "http" and found["host"] not in _LOOPBACK:
        raise ValueError("http:// is for this machine only: anybody in between could give the node another program")
    return Wheelhouse(text.rstrip("/") + "/", is_url=True)


@dataclass(frozen=True, slots=True)
class Listed:
    """A release of a wheelhouse: the name of its wheel and the digest that the file must have."""

    release: Release
    wheel: str


def read_index(text: str) -> dict[str, Listed]:
    """Version → release, from `releases.json`. Raises ValueError for anything that is not of its form."""
    raw = json.loads(text)
    releases = raw.get("releases") if isinstance(raw, dict) else None
    if not isinstance(releases, dict):
        raise ValueError("it has no table `releases`")
    found = {}
    for version, entry in releases.items():
        wheel, digest = (entry.get("wheel"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
        if not (VERSION.fullmatch(version) and isinstance(wheel, str) and _WHEEL.fullmatch(wheel)):
            raise ValueError(f"release {version!r} names no wheel of Skulk")
        if not (isinstance(digest, str) and _DIGEST.fullmatch(digest)):
            raise ValueError(f"release {version!r} has no sha256")
        found[version] = Listed(Release(version, digest), wheel)
    return found


def index_text(releases: Collection[Listed]) -> str:
    """What `read_index` reads; the same text for the same releases."""
    table = {
        listed.release.version: {"wheel": listed.wheel, "sha256": listed.release.digest}
        for listed in sorted(releases, key=lambda listed: listed.release.version)
    }
    return json.dumps({"releases": table}, indent=1) + "\n"


@dataclass(frozen=True, slots=True)
class Installed:
    """The whole releases of a program directory. `current` runs, `previous` ran before it (a name, maybe of none)."""

    current: Release
    previous: str = ""
    others: tuple[Release, ...] = ()


@dataclass(frozen=True, slots=True)
class Stay:
    """Nothing is to be done, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Switch:
    """It is there already: only the links change."""

    release: Release


def without_wheelhouse(wanted: str | None, there: Installed) -> Stay | Switch | None:
    """What can be done with what the node has; None: only a wheelhouse can help. Among several builds of the version
    the one that ran before is taken."""
    if wanted is None:
        return Stay("the Fleet names no version (spec.version)")
    if wanted == there.current.version:
        return Stay(f"runs {there.current.name}, as the Fleet wants")
    fitting = [release for release in there.others if release.version == wanted]
    before = [release for release in fitting if release.name == there.previous]
    return Switch((before or fitting)[-1]) if fitting else None


def missing(wanted: str, listed: Mapping[str, Listed]) -> str:
    """Why a wheelhouse cannot help."""
    names = ", ".join(sorted(listed)) or "no release"
    return f"it has no release {wanted}, which the Fleet wants (spec.version); it has {names}"
