"""How this machine's operating system and architecture are called in Skulk, and where a path's disk is found."""

from __future__ import annotations

import platform
from pathlib import Path

_SYSTEMS = {"Linux": "linux", "Darwin": "macos"}
_ARCHITECTURES = {"AMD64": "x86_64", "x86-64": "x86_64"}


def system_name() -> str:
    """`linux`, `macos`, or the system's own name in small letters."""
    return _SYSTEMS.get(platform.system(), platform.system().lower())


def architecture() -> str:
    """`x86_64`, `aarch64`, `arm64`, …"""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def nearest_existing(path: Path) -> Path:
    """`path`, or the nearest directory above it that exists: a disk can be measured before anything is made on it."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
