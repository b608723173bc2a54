"""Several real nodes for tests: one remote, one checkout, and a daemon process for each node.

On loopback, or each in a network namespace of its own (`network_ground`) behind mutual TLS. Whatever a fleet starts or
makes is gone when its `with` block ends, also after a failure.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx2
import openai
from harness import HEAD, Node, Origin, Place, base_files, free_port, seconds_of, until

# The bounds hold on a machine with cores to spare. Here they catch a hang; the figure itself is printed.
SLACK = 4.0
# A stream that says nothing for this long hangs.
SILENCE_SECONDS_MAX = 60.0


class Ground(Protocol):
    """Where the nodes of a fleet stand."""

    def place(self, name: str) -> Place: ...

    def tables(self, name: str, base: Path) -> dict[str, dict[str, object]]:
        """`[listen]` and `[planes]` of that node's node.toml."""
        ...

    def enrol(self, node: Node, name: str, origin: Origin) -> None:
        """Write the node's manifest (and files) so that the next push makes it a member."""
        ...

    def close(self) -> None: ...


class Loopback:
    """All on 127.0.0.1, each with ports of its own, without certificates."""

    def __init__(self, mode: str = "peer") -> None:
        self._mode = mode
        self._ports: dict[str, int] = {}

    def place(self, name: str) -> Place:
        self._ports[name] = free_port()
        return Place()

    def tables(self, name: str, base: Path) -> dict[str, dict[str, object]]:
        return {"planes": {"listen": [f"tcp/127.0.0.1:{self._ports[name]}"], "mode": self._mode}}

    def enrol(self, node: Node, name: str, origin: Origin) -> None:
        spec = f"  ordinal: {len(self._ports)}\n  address: 127.0.0.1:{self._ports[name]}\n"
        origin.write({f"fleet/nodes/{name}.yaml": HEAD.format(kind="Node", name=name) + spec})

    def close(self) -> None: ...


class Fleet:
    """Nodes by name. Use as a context manager."""

    def __init__(self, base: Path, engines: Path, *, ground: Ground | None = None) -> None:
        base.mkdir(parents=True, exist_ok=True)
        self.base = base
        self.origin = Origin(base)
        self.ground: Ground = ground if ground is not None else Loopback()
        self.nodes: dict[str, Node] = {}
        self._engines = engines

    def add(self, name: str, manifest: str = "", **config: object) -> Node:
        """A further node, enrolled in the checkout but neither pushed nor started. `manifest`: more lines of its
        Node's spec."""
        base = self.base / name
        base.mkdir()
        place = self.ground.place(name)
        # A remote of its own by name, so that one node can be without it.
        remote = base / "remote.git"
        remote.symlink_to(self.origin.remote)
        tables: dict[str, Any] = {
            "source": {"url": str(remote), "pollSeconds": 0.5},
            **self.ground.tables(name, base),
        }
        for table in tables:
            given = config.pop(table, {})
            assert isinstance(given, dict)
            tables[table] = {**tables[table], **given}
        node = Node(base, self._engines, origin=self.origin, place=place, name=name, **tables, **config)
        self.nodes[name] = node
        self.ground.enrol(node, name, self.origin)
        if manifest:
            path = self.origin.checkout / f"fleet/nodes/{name}.yaml"
            path.write_text(path.read_text() + manifest)
        return node

    def push_base(self, **deployments: str) -> str:
        """The Fleet, all enrolled nodes, all cards, and the given deployments (name → text)."""
        files: dict[str, str | None] = {**base_files(**deployments)}
        if (self.origin.checkout / "fleet/fleet.yaml").exists():
            del files["fleet/fleet.yaml"]
        return self.origin.push(files)

    def start(self, *names: str) -> None:
        """Start these daemons (all by default) side by side, and wait until they answer."""
        nodes = [self.nodes[name] for name in names or self.nodes]
        for node in nodes:
            node.launch()
        for node in nodes:
            node.wait_started()

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for node in self.nodes.values():
                node.__exit__(None, None, None)
        finally:
            self.ground.close()

    # --- what it shows --------------------------------------------------------------------------------------

    def running(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.daemon is not None and node.daemon.poll() is None]

    def wait_whole(self, commit: str | None = None, *names: str) -> None:
        """Wait until these nodes (by default: all whose daemon runs) see each other, act on one document, and every
        deployment is Ready on each gateway."""
        nodes = [self.nodes[name] for name in names] or self.running()

        def whole() -> bool:
            fleets = [node.items("fleet") for node in nodes]
            if not all(fleets):  # one that has just started answers before it has read the source
                return False
            seen = [fleet["status"] for (fleet,) in fleets]
            return (
                len({document(node) for node in nodes}) == 1
                and len({one["coordinator"] for one in seen}) == 1
                and all(one["liveNodes"] == len(nodes) for one in seen)
                and all(commit is None or one["inForce"] == commit for one in seen)
                and all(one["readyDeployments"] == one["deployments"] for one in seen)
            )

        until(whole, "the fleet is whole", context=lambda: self.story(nodes))

    def story(self, nodes: Iterable[Node] | None = None) -> str:
        """What each node says of itself, for a failed wait."""
        lines = []
        for node in nodes if nodes is not None else self.running():
            lines.append(f"--- {node.base.name}: {document(node)}")
            lines += [str(entry) for entry in node.log() if entry.get("component") != "gateway"][-12:]
            try:
                lines.append(str(fleet_status(node)))
                lines += [f"{d['name']}: {d['status']}" for d in node.items("deployments")]
            except (httpx2.HTTPError, AssertionError, ValueError) as error:
                lines.append(repr(error))
        return "\n".join(lines)

    def pids(self) -> dict[str, int]:
        """Every connected runner's pid by placement, each as its own node tells it."""
        return {
            runner["name"]: runner["status"]["pid"]
            for node in self.running()
            for runner in node.items("runners")
            if runner["status"]["node"] == node.base.name and runner["status"]["link"] == "connected"
        }


def fleet_status(node: Node) -> dict[str, Any]:
    (fleet,) = node.items("fleet")  # ValueError from a node that has not read the source yet
    return dict(fleet["status"])


def document(node: Node) -> tuple[str, str] | None:
    """Version and author of the newest document that the node accepted."""
    accepted = node.log("document_accepted")
    return (accepted[-1]["version"], accepted[-1]["author"]) if accepted else None


def accepted_after(node: Node, moment: float) -> list[dict[str, Any]]:
    """The documents that the node accepted after that time of day, oldest first."""
    return [entry for entry in node.log("document_accepted") if seconds_of(entry["ts"]) > moment]


def wait_new_document(nodes: Sequence[Node], moment: float) -> float:
    """Wait until each of these nodes accepted a document after that time of day; return how long the last one's first
    took, by the log's own times."""
    until(lambda: all(accepted_after(node, moment) for node in nodes), "a new document", context=lambda: "")
    return max(seconds_of(accepted_after(node, moment)[0]["ts"]) for node in nodes) - moment


def wait_one_document(nodes: Sequence[Node], moment: float) -> float:
    """Wait until these nodes act on one document; return how long after that time of day the last one took it."""
    until(lambda: len({document(node) for node in nodes}) == 1, "one document")
    return max(0.0, max(seconds_of(node.log("document_accepted")[-1]["ts"]) for node in nodes) - moment)


def measured(what: str, seconds: float, bound: float) -> None:
    """Print a figure beside its bound; fail only for what is a hang on any machine."""
    print(f"measured: {what}: {seconds:.2f} s (bound {bound:g} s)")
    assert seconds <= SLACK * bound, f"{what} took {seconds:.1f} s, the bound is {bound:g} s"


def only_on(name: str, names: Iterable[str]) -> dict[str, object]:
    """The placement constraint that leaves one node."""
    return {"excludedNodes": sorted({*names} - {name})}


# --- load ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What came of one request of the load; times are monotonic."""

    gateway: str
    model: str
    began: float
    ended: float
    text: str
    error: Exception | None

    @property
    def kind(self) -> str:
        """`answered`; `told`: an error event ended the stream; `refused`: a status said no; `cut`: no clean end."""
        match self.error:
            case None:
                return "answered"
            case openai.APIStatusError():
                return "refused"
            case openai.APIConnectionError():
                return "cut"
            case openai.APIError():
                return "told"
            case _:
                return "cut"


class Load:
    """Clients that stream one answer after the other, one for each (gateway, model), until the block ends."""

    def __init__(self, asks: Iterable[tuple[Node, str]]) -> None:
        self.answers: list[Answer] = []
        self._ending = threading.Event()
        self._since: dict[tuple[str, str], float] = {}
        self._now: dict[tuple[str, str], list[str]] = {}
        asks = list(asks)
        self._keys = {(node.base.name, model) for node, model in asks}
        self._threads = [threading.Thread(target=self._stream, args=ask, daemon=True) for ask in asks]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(2 * SILENCE_SECONDS_MAX)
        assert not any(thread.is_alive() for thread in self._threads), "a stream hangs"

    def _stream(self, node: Node, model: str) -> None:
        key, read = (node.base.name, model), httpx2.Timeout(SILENCE_SECONDS_MAX)
        while not self._ending.is_set():
            began = self._since[key] = time.monotonic()
            pieces = self._now[key] = []
            error: Exception | None = None
            try:
                for piece in node.stream(model, "hello", timeout=read):
                    pieces.append(piece)
            except (openai.OpenAIError, httpx2.HTTPError) as caught:
                error = caught
            self.answers.append(Answer(*key, began, time.monotonic(), "".join(pieces), error))
            if error is not None:
                self._ending.wait(0.2)

    def wait_flowing(self) -> None:
        """Every client had an answer to a request that began after now."""
        self._wait_answers(self._keys)

    def wait_midstream(self, keys: set[tuple[str, str]]) -> None:
        """These clients are in the first half of an answer."""
        until(lambda: all(1 <= len(self._now[key]) <= 10 for key in keys), "streams are in the middle")

    def wait_flowing_but(self, lost: str) -> None:
        """The same for all that a lost node has no part in: neither its gateway nor the model that is on it alone."""
        self._wait_answers({(gateway, m) for gateway, m in self._keys if gateway != lost and m != f"on-{lost}"})

    def _wait_answers(self, keys: set[tuple[str, str]]) -> None:
        now = time.monotonic()

        def missing() -> set[tuple[str, str]]:
            return keys - {(a.gateway, a.model) for a in list(self.answers) if a.error is None and a.began >= now}

        until(lambda: not missing(), "all streams flow", context=lambda: self._story(missing()))

    def _story(self, keys: set[tuple[str, str]]) -> str:
        lines = []
        for key in sorted(keys):
            last = [answer for answer in list(self.answers) if (answer.gateway, answer.model) == key][-3:]
            lines.append(f"{key}: open for {time.monotonic() - self._since[key]:.1f} s, before that: {last}")
        return "\n".join(lines)

    def story(self, then: float) -> str:
        """How the requests went on that were open at `then`, and what became of the next ones."""
        lines = [f"{key}: open for {time.monotonic() - since:.1f} s" for key, since in sorted(self._since.items())]
        told = [a for a in list(self.answers) if a.ended > then and (a.error is not None or a.began < then)]
        for a in [a for a in told if a.kind != "cut"][:40]:
            times = f"{a.began - then:+.2f} … {a.ended - then:+.2f}"
            lines.append(f"{a.gateway}/{a.model}: {times}: {a.kind} {len(a.text)} {a.error or ''}")
        return "\n".join(lines)

    def failed(self, *, after: float = 0.0) -> list[Answer]:
        """Requests that began after that moment and did not end well."""
        return [a for a in self.answers if a.error is not None and a.began >= after]
