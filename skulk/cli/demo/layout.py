"""What the demo's fleet looks like on disk: the remote, a checkout to edit in, a directory for each node.

    .demo/remote.git     the fleet's remote, a bare repository
    .demo/fleet/         a checkout of it: fleet/, cards/ and schemas/ of this repository
    .demo/<node>/        node.toml, daemon.log, state/

Nothing is started here.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from skulk.core.errors import CFG_PORT_TAKEN, CFG_STATE_LOCKED, CLI_USAGE, InvalidInput, Terminal
from skulk.core.manifests.edit import set_scalar

ROOT = Path(__file__).resolve().parents[3]
PORT = 52415
"""The gateway of the first node; the others follow in tens, the planes of each are one higher."""
PORT_STEP = 10
# Elsewhere, and still easy to remember.
OTHER_PORT = PORT + 100
# Without their daemon, runners of a demo have no purpose: they free their memory after this.
ORPHAN_SECONDS = 10
# Two runners of the demo's models side by side, and a reserve; as in fleet/nodes/.
MEMORY_CAP = "1GiB"
# So that a push is seen at once; a real fleet asks its remote more rarely.
POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class DemoNode:
    """One of the three. `engines` are offered; whether missing ones are installed is said when node.toml is written."""

    name: str
    work: Path
    port: int
    engines: tuple[str, ...]

    @property
    def planes_port(self) -> int:
        return self.port + 1

    @property
    def directory(self) -> Path:
        return self.work / self.name

    @property
    def config(self) -> Path:
        return self.directory / "node.toml"

    @property
    def log(self) -> Path:
        return self.directory / "daemon.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class Site:
    """The place of one demo. `desk` takes requests and runs nothing."""

    work: Path
    desk: DemoNode
    studio: DemoNode
    tower: DemoNode

    @property
    def nodes(self) -> tuple[DemoNode, ...]:
        return self.desk, self.studio, self.tower

    @property
    def checkout(self) -> Path:
        return self.work / "fleet"

    @property
    def remote(self) -> Path:
        return self.work / "remote.git"


def site(work: Path, port: int) -> Site:
    """The names in `fleet/nodes/`. Raises InvalidInput for ports that no machine has."""
    highest = port + 2 * PORT_STEP + 1
    if port < 1 or highest > 65535:
        fix = f"make demo PORT={OTHER_PORT}"
        raise InvalidInput(CLI_USAGE, f"PORT={port}: the demo needs the ports up to {highest}", fix=fix)
    engines = {"desk": (), "studio": ("mlx",), "tower": ("llama_cpp",)}
    nodes = (DemoNode(name, work, port + i * PORT_STEP, e) for i, (name, e) in enumerate(engines.items()))
    return Site(work, *nodes)


def shown(path: Path) -> str:
    """A path as a person in the repository's directory would write it."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def refuse_taken(place: Site) -> None:
    """Raise Terminal(CFG_PORT_TAKEN) for the first port that another program has."""
    for node in place.nodes:
        for port, what in ((node.port, "gateway"), (node.planes_port, "planes")):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    fix = f"stop the other program, or move all ports of the demo: make demo PORT={OTHER_PORT}"
                    message = f"port {port} ({what} of {node.name}) is in use"
                    raise Terminal(CFG_PORT_TAKEN, message, fix=fix) from None


@contextmanager
def held(work: Path) -> Iterator[None]:
    """One demo at a time below `work`. Raises Terminal(CFG_STATE_LOCKED)."""
    work.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(_lock(work), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            message = f"another demo runs in {shown(work)}"
            raise Terminal(CFG_STATE_LOCKED, message, fix="end it with Ctrl-C in its terminal") from None
        yield
    finally:
        os.close(descriptor)


def earlier_configs(work: Path) -> tuple[Path, ...]:
    """node.toml of every node that an earlier demo made here, in this layout or the first one's."""
    return tuple(sorted({*work.glob("node.toml"), *work.glob("*/node.toml")}))


def prepare(place: Site) -> None:
    """Everything anew; nothing of an earlier demo may run any more."""
    for path in place.work.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != _lock(place.work):
            path.unlink()
    git("init", "--quiet", "--bare", "--initial-branch=main", str(place.remote))
    _make_checkout(place)
    for node in place.nodes:
        node.directory.mkdir()
        write_config(place, node, install=node is not place.tower)


def write_config(place: Site, node: DemoNode, *, install: bool) -> None:
    """Write node.toml. `install`: whether the node installs engines that are missing."""
    engines_dir = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skulk" / "engines"
    values = {
        "name": node.name,
        "namespace": "demo",
        "stateDir": "state",
        "enginesDir": str(engines_dir),
        "engines": node.engines,
        "installEngines": install,
        "modelRoots": [str(ROOT / "cards")],
        "memoryCap": MEMORY_CAP,
        "orphanSeconds": ORPHAN_SECONDS,
        "listen": {"port": node.port},
        "planes": {"listen": [f"tcp/127.0.0.1:{node.planes_port}"]},
        "source": {"url": str(place.remote), "branch": "main", "pollSeconds": POLL_SECONDS},
    }
    draft = node.config.with_suffix(".new")
    draft.write_text(_toml(values), "utf-8")
    draft.replace(node.config)


def push_manifests(place: Site) -> str:
    """Commit what is in the checkout and push it; return the commit."""
    checkout = str(place.checkout)
    git("-C", checkout, "add", "--all")
    git("-C", checkout, "commit", "--quiet", "--message", "Describe the demo fleet")
    git("-C", checkout, "push", "--quiet", "--set-upstream", "origin", "main")
    return git("-C", checkout, "rev-parse", "HEAD")


def git(*arguments: str) -> str:
    """Run git; its own words are the error. Raises SystemExit."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"error: git: {done.stderr.strip()}")
    return done.stdout.strip()


def _make_checkout(place: Site) -> None:
    checkout = place.checkout
    git("init", "--quiet", "--initial-branch=main", str(checkout))
    shutil.copytree(ROOT / "fleet", checkout / "fleet")
    for card in sorted((ROOT / "cards").glob("*/*.yaml")):
        target = checkout / card.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(card, target)
    shutil.copytree(ROOT / "schemas", checkout / "schemas")
    for node in place.nodes:
        manifest = checkout / "fleet" / "nodes" / f"{node.name}.yaml"
        address = f"127.0.0.1:{node.planes_port}"
        manifest.write_text(set_scalar(manifest.read_text("utf-8"), ("spec", "address"), address), "utf-8")
    git("-C", str(checkout), "remote", "add", "origin", str(place.remote))
    # Whoever runs the demo may have no git identity; the demo's own commits need one, theirs keep theirs.
    git("-C", str(checkout), "config", "user.name", "Skulk demo")
    git("-C", str(checkout), "config", "user.email", "demo@skulk.invalid")
    git("-C", str(checkout), "config", "commit.gpgsign", "false")


def _toml(values: dict[str, object]) -> str:
    """Plain values first, then tables, as TOML wants it. JSON's texts, numbers and lists are TOML's too."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += ["", f"[{key}]", _toml(value).rstrip()]
    return "\n".join(lines) + "\n"


def _lock(work: Path) -> Path:
    return work / ".lock"
