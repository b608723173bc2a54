"""Machines on which nothing is wrong, told as the probe tells them, and what differs from them."""

from __future__ import annotations

from dataclasses import replace

from skulk.core.domain import CommitId, Fleet, Node, NodeName
from skulk.core.preflight import Finding, Plan, judge, read_probe

NOW = 1_800_000_000
LINUX = {
    "probe": "1",
    "system": "Linux",
    "machine": "x86_64",
    "epoch": str(NOW),
    "user": "ops",
    "group": "ops",
    "distribution": "debian 12",
    "family": "debian",
    "libc": "glibc 2.36",
    "systemd": "252",
    "service": "absent",
    "git": "yes",
    "python": "3.11.2 /usr/bin/python3",
    "program_dir": "/opt/skulk",
    "state_dir": "/var/lib/skulk",
    "root": "yes",
}
MAC = {
    "probe": "1",
    "system": "Darwin",
    "machine": "arm64",
    "epoch": str(NOW),
    "user": "ops",
    "group": "staff",
    "distribution": "15.1",
    "service": "absent",
    "git": "yes",
    "python": "3.12.1 /opt/homebrew/bin/python3",
    "program_dir": "/opt/skulk",
    "state_dir": "/Library/Application Support/Skulk/state",
    "root": "yes",
}
BOX = NodeName("box")
PLACE = "fleet/nodes/box.yaml:1"


def printed(facts: dict[str, str], *more: str, **changes: str | None) -> str:
    """What the probe prints; a change to None leaves the line out."""
    told = {key: value for key, value in {**facts, **changes}.items() if value is not None}
    return "".join(f"{line}\n" for line in (*(f"{key}={value}" for key, value in told.items()), *more))


def judged(text: str, node: Node | None = None, **plan: object) -> tuple[Finding, ...]:
    declared = node if node is not None else Node(BOX, 1)
    fleet = Fleet("home", "home", CommitId("c"), nodes={BOX: declared}, places={f"Node/{BOX}": PLACE})
    wanted = replace(Plan(now=NOW, ports=(52415, 52416)), **plan)  # type: ignore[arg-type]
    return judge(fleet, BOX, read_probe(text), wanted)
