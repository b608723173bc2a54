"""This machine as a Node manifest, for `skulk node probe`: what planning needs while the machine is not there.

Backends and accelerators are left out: the node reports them itself, and what it finds wins where nothing is
declared.
"""

from __future__ import annotations

import os
import platform

_MIB = 1024 * 1024
_OS = {"Darwin": "macos", "Linux": "linux"}
_ARCH = {"amd64": "x86_64"}


def node_manifest(name: str, ordinal: int) -> dict[str, object]:
    """The manifest as YAML-able values. Memory is rounded down to MiB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    machine = platform.machine()
    spec: dict[str, object] = {"ordinal": ordinal}
    system = _OS.get(platform.system())
    if system is not None:
        spec["platform"] = {"os": system, "arch": _ARCH.get(machine.lower(), machine)}
    spec["hardware"] = {"memory": f"{memory // _MIB}MiB"}
    return {"apiVersion": "skulk.dev/v1alpha1", "kind": "Node", "metadata": {"name": name}, "spec": spec}
