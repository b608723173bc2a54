"""What a wheelhouse must hold: which pinned packages a target needs, and which wheels fit it. Pure.

A target is a Python on a platform, seldom the ones that fill the wheelhouse: markers are judged for the target, and
what pip gets has no markers any more. A wheel that fits older systems is preferred: one file for all nodes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache
from itertools import chain

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

PLATFORMS = ("linux/aarch64", "linux/x86_64", "macos/arm64")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# manylinux_2_N: from the oldest that anybody builds for to what the oldest tried system (Debian 12) has. One that
# needs more would be found out about on the node.
GLIBC_MINORS = range(5, 37)
# Older names of the same thing (PEP 600).
_MANYLINUX_OLD = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}
_MANYLINUX_OLD_OF_X86 = frozenset({5, 12})
# MLX has wheels from this version on.
MACOS = (14, 0)
_PYTHON = re.compile(r"3\.(1[1-9]|[2-9][0-9])")


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """CPython `python` on `platform` (one of PLATFORMS)."""

    python: tuple[int, int]
    platform: str

    @property
    def name(self) -> str:
        return f"Python {self.python[0]}.{self.python[1]} on {self.platform}"

    @property
    def abi(self) -> str:
        return f"cp{self.python[0]}{self.python[1]}"


def target(python: str, platform: str) -> Target:
    """Raises ValueError for a Python before 3.11 or a platform that no wheels are looked for."""
    if _PYTHON.fullmatch(python) is None:
        raise ValueError(f"{python!r} is no version such as 3.11, or an older one than that")
    if platform not in PLATFORMS:
        raise ValueError(f"{platform!r} is not one of {', '.join(PLATFORMS)}")
    major, minor = python.split(".")
    return Target((int(major), int(minor)), platform)


@dataclass(frozen=True, slots=True)
class Pinned:
    """One package of a lock: canonical name, version, the sha256 digests of its files, and where it is needed."""

    name: str
    version: str
    digests: frozenset[str]
    marker: str = ""

    @property
    def label(self) -> str:
        return f"{self.name}=={self.version}"

    @property
    def line(self) -> str:
        """As pip takes it, without the marker."""
        return " ".join((self.label, *(f"--hash=sha256:{digest}" for digest in sorted(self.digests))))


def read_requirements(text: str) -> tuple[Pinned, ...]:
    """The packages of an exported lock. Raises ValueError for one without an exact version or without hashes."""
    return tuple(_pinned(line) for line in _logical_lines(text))


def _logical_lines(text: str) -> Iterator[str]:
    joined = re.sub(r"\\\n", " ", "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")))
    return (line.strip() for line in joined.splitlines() if line.strip())


def _pinned(line: str) -> Pinned:
    text, *options = re.split(r"\s+--hash=", line)
    try:
        found = Requirement(text)
    except InvalidRequirement:
        raise ValueError(f"{text[:80]!r} is no pinned package") from None
    exact = [specifier.version for specifier in found.specifier if specifier.operator == "=="]
    digests = frozenset(option.strip().removeprefix("sha256:") for option in options)
    if len(exact) != 1 or len(found.specifier) != 1 or found.url or not digests:
        raise ValueError(f"{text[:80]!r} is not pinned by version and hash")
    if any(re.fullmatch(r"[0-9a-f]{64}", digest) is None for digest in digests):
        raise ValueError(f"{text[:80]!r} has a hash that is no sha256")
    return Pinned(canonicalize_name(found.name), exact[0], digests, str(found.marker or ""))


def needed(pins: Iterable[Pinned], where: Target) -> tuple[Pinned, ...]:
    """The packages that the target needs, each once, by name."""
    unique = {pin.line: pin for pin in pins if not pin.marker or _holds(pin.marker, where)}
    return tuple(sorted(unique.values(), key=lambda pin: pin.label))


def _holds(marker: str, where: Target) -> bool:
    # A marker may tell patch releases apart, which a target does not: then it is needed for some of its machines.
    return any(Marker(marker).evaluate(_environment(where, patch)) for patch in (0, 99))


def _environment(where: Target, patch: int) -> dict[str, str | AbstractSet[str]]:
    system, machine = where.platform.split("/")
    short = f"{where.python[0]}.{where.python[1]}"
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{short}.{patch}",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Darwin" if system == "macos" else "Linux",
        "platform_version": "",
        "python_full_version": f"{short}.{patch}",
        "python_version": short,
        "sys_platform": "darwin" if system == "macos" else "linux",
    }


def platform_tags(where: Target) -> tuple[str, ...]:
    """Those that a wheel for the target may carry, best first."""
    system, machine = where.platform.split("/")
    if system == "macos":
        return tuple(mac_platforms(MACOS, machine))
    return tuple(
        f"{name}_{machine}"
        for minor in GLIBC_MINORS
        for name in (f"manylinux_2_{minor}", _MANYLINUX_OLD.get(minor, ""))
        if name and (name.startswith("manylinux_") or machine == "x86_64" or minor not in _MANYLINUX_OLD_OF_X86)
    )


@cache
def _tags(where: Target) -> frozenset[Tag]:
    platforms = platform_tags(where)
    return frozenset(
        chain(
            cpython_tags(where.python, [where.abi], platforms),
            compatible_tags(where.python, where.abi, platforms),
        )
    )


def fits(pin: Pinned, where: Target, file_name: str) -> bool:
    """Whether a file is by its name a wheel of that package for that target. Its digest is not looked at."""
    try:
        name, version, _, tags = parse_wheel_filename(file_name)
    except InvalidWheelFilename:
        return False
    return name == pin.name and version == Version(pin.version) and not tags.isdisjoint(_tags(where))


def pip_options(where: Target) -> list[str]:
    """What `pip download` is told, so that it looks for the target and not for itself."""
    options = [f"--python-version={where.python[0]}.{where.python[1]}", "--implementation=cp"]
    options += [f"--abi={abi}" for abi in (where.abi, "abi3", "none")]
    return options + [f"--platform={tag}" for tag in platform_tags(where)]
