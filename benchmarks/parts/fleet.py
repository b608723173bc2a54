"""Fleets to measure: real daemons on loopback, with or without mutual TLS between them.

Passes on what the benchmarks need of the tests' harness, which is on the path only once this package is imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fleet_harness import Fleet, Loopback, only_on
from harness import HEAD, Node, Origin, deployment, free_port, git, seconds_of, until

from skulk.adapters.engine_envs import ensure

__all__ = [
    "ENGINES",
    "LETTERS",
    "EncryptedLoopback",
    "Fleet",
    "Node",
    "deployment",
    "fleet_at",
    "free_port",
    "git",
    "mlx",
    "only_on",
    "scripted",
    "seconds_of",
    "until",
]

ENGINES = Path.home() / ".cache" / "skulk" / "engines"
LETTERS = "The quick brown fox jumps over the lazy dog. "
"""What the scripted engine says: one event for each letter, as its tokens are bytes."""


class EncryptedLoopback(Loopback):
    """Like `Loopback`, but the nodes have certificates of one authority, made by the program's own commands."""

    def __init__(self, authority: Path) -> None:
        super().__init__()
        self._authority = authority

    def tables(self, name: str, base: Path) -> dict[str, dict[str, object]]:
        keys = base / "keys"
        files = {"ca": keys / "ca.pem", "certificate": keys / f"{name}.pem", "key": keys / f"{name}.key"}
        listen = [f"tls/127.0.0.1:{self._ports[name]}"]
        return {"planes": {"listen": listen, **{key: str(path) for key, path in files.items()}}}

    def enrol(self, node: Node, name: str, origin: Origin) -> None:
        if not (origin.checkout / "fleet/fleet.yaml").exists():
            text = HEAD.format(kind="Fleet", name="demo") + "  namespace: demo\n  network:\n    tlsRequired: true\n"
            origin.write({"fleet/fleet.yaml": text})
        checkout = str(origin.checkout)
        self._run(node, "add", name, "--address", f"127.0.0.1:{self._ports[name]}", "--path", checkout)
        self._run(node, "key", "--config", str(node.base / "node.toml"))
        new = [] if self._authority.exists() else ["--new-ca"]
        request = str(node.base / "keys" / f"{name}.csr")
        self._run(node, "sign", request, "--path", checkout, "--ca", str(self._authority), *new)

    def _run(self, node: Node, *arguments: str) -> None:
        done = node.skulk("node", *arguments)
        if done.returncode != 0:
            raise RuntimeError(f"skulk node {' '.join(arguments)}: {done.stderr}")


def fleet_at(base: Path, names: Iterable[str], *, tls: bool = False, mlx: bool = False) -> Fleet:
    """Nodes of these names, enrolled and started. `mlx`: all of them offer that engine too."""
    ground = EncryptedLoopback(base.parent / f"{base.name}-authority") if tls else Loopback()
    if mlx:
        ensure("mlx", ENGINES)
    fleet = Fleet(base, ENGINES, ground=ground)
    for name in names:
        fleet.add(name, engines=["mlx"] if mlx else [])
    fleet.start()
    return fleet


def scripted(fleet: Fleet, name: str, node: str, *, step_seconds: float, tokens: int, concurrency: int = 1) -> str:
    """A deployment of the scripted engine on that node: `tokens` events, one for each step."""
    engine = {"name": "scripted", "options": {"echo": LETTERS, "tokens": tokens, "step_seconds": step_seconds}}
    where = only_on(node, fleet.nodes)
    return deployment(name, "parrot", engine=engine, concurrency=concurrency, placement=where, contextTokens=4096)


def mlx(fleet: Fleet, name: str, node: str) -> str:
    """A deployment of the small model on that node."""
    return deployment(name, "fox-tiny", placement=only_on(node, fleet.nodes), contextTokens=1024)
