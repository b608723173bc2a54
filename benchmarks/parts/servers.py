"""What is compared: a node of ours that serves one model, and the server that comes with the same library.

Ours is a real daemon with a real fleet repository. All servers listen on loopback, have as many slots of as many
tokens, compute in one thread, and are otherwise at their defaults. The threads that compute are on the engine's core,
those that speak to clients or to a gateway where our gateway is: of our runner's, and of the peers' single process.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from harness import HEAD

from parts.answers import Answer, ask, burst, chat, check
from parts.cores import Cores, move
from parts.figures import cpu_seconds, thread_seconds
from parts.fleet import ENGINES, Node, deployment, free_port, until
from parts.llama_server import llama_server
from parts.models import Model
from parts.prompts import prompt
from skulk.adapters.engine_envs import ensure
from skulk.adapters.runners import child_environment

OPENBLAS = (
    "/usr/lib/{machine}-linux-gnu/openblas-pthread/libopenblas.so.0",
    "/usr/lib/{machine}-linux-gnu/libopenblas.so.0",
)
"""Where Debian's libopenblas0-pthread puts it. `SKULK_OPENBLAS` names another file."""
PEERS = {"llama_cpp": "llama-server", "mlx": "mlx_lm.server"}
NAME = "bench"
WARM_TOKENS = 16
POLL_SECONDS = 5.0
END_SECONDS = 10.0
COMPUTING_SHARE = 0.02
"""A thread of our runner, other than the first, that takes at least this share of its CPU time is one that computes.
mlx has two: ours, which builds graphs, and its own, which works on them; a core each would cost them a tenth more."""


class Size(TypedDict):
    """What both sides of a comparison have alike."""

    slots: int
    context_tokens: int
    temperature: float


@dataclass(frozen=True)
class Spent:
    """CPU seconds since the start, with what they do while nobody asks."""

    engine: float
    gateway: float


@dataclass(frozen=True)
class Server:
    """Where to ask, and whose CPU time it costs. `gateway` is None where one process is all."""

    name: str
    port: int
    model: str
    temperature: float
    engine: int
    gateway: int | None = None
    launch: Path | None = None
    """What our runner was started with."""

    def body(self, text: str, tokens: int, *, system: str = "") -> bytes:
        return chat(self.model, text, tokens, system=system, temperature=self.temperature)

    def spent(self) -> Spent:
        return Spent(cpu_seconds(self.engine), 0.0 if self.gateway is None else cpu_seconds(self.gateway))


@dataclass(frozen=True)
class Served:
    """What clients that asked together got, and the CPU seconds it cost."""

    answers: Sequence[Answer]
    engine: float
    gateway: float


def ask_all(
    server: Server, texts: Sequence[str], tokens: int, *, apart_seconds: float = 0.0, first_only: bool = False
) -> Served:
    """Each text by a client of its own, all at once or that far apart. `first_only`: as in `burst`."""
    before = server.spent()
    bodies = [server.body(text, tokens) for text in texts]
    answers = asyncio.run(burst(server.port, bodies, apart_seconds=apart_seconds, first_only=first_only))
    after = server.spent()
    check(answers, tokens)
    return Served(answers, after.engine - before.engine, after.gateway - before.gateway)


def openblas() -> str | None:
    """The library that replaces the slow one in mlx's wheels for Linux, where it is installed."""
    named = os.environ.get("SKULK_OPENBLAS")
    places = [named] if named else [place.format(machine=os.uname().machine) for place in OPENBLAS]
    return next((place for place in places if Path(place).exists()), None)


def preloads(engine: str) -> dict[str, str]:
    """Variables that both sides get."""
    library = openblas() if engine == "mlx" else None
    return {} if library is None else {"LD_PRELOAD": library, "OPENBLAS_NUM_THREADS": "1"}


def described(engine: str) -> str:
    """What to say of `preloads` beside the figures."""
    if engine != "mlx":
        return ""
    library = openblas()
    return "; OpenBLAS preloaded on both sides" if library else "; with the reference BLAS of mlx's wheel, no OpenBLAS"


@contextlib.contextmanager
def ours(
    model: Model, base: Path, cores: Cores, *, slots: int, context_tokens: int, temperature: float
) -> Iterator[Server]:
    """A daemon with one deployment, Ready and warm."""
    with node_for(model, base) as node:
        pid = serve(node, model, slots=slots, context_tokens=context_tokens)
        assert node.daemon is not None
        server = Server("skulk", node.port, NAME, temperature, pid, node.daemon.pid, launch=launch_file(node))
        before = thread_seconds(pid)
        warm(server, slots)
        # The first thread speaks to the daemon, others render prompts and watch.
        spent = {thread: seconds - before.get(thread, 0.0) for thread, seconds in thread_seconds(pid).items()}
        least = COMPUTING_SHARE * sum(spent.values())
        computing = {thread for thread, seconds in spent.items() if seconds >= least and thread != pid}
        move(pid, cores.engine, lambda thread: thread in computing)
        move(pid, cores.front, lambda thread: thread not in computing)
        yield server


@contextlib.contextmanager
def node_for(model: Model, base: Path) -> Iterator[Node]:
    """A started node that offers the model's engine and finds its files."""
    ensure(model.engine, ENGINES)
    base.mkdir()
    # Looking for commits costs CPU that is none of serving's; by default a node does it each 30 s.
    source = {"pollSeconds": POLL_SECONDS}
    with Node(base, ENGINES, engines=[model.engine], modelRoots=[str(model.root)], source=source) as node:
        yield node.start(**preloads(model.engine))


def serve(node: Node, model: Model, *, slots: int, context_tokens: int) -> int:
    """Push this one deployment, wait until it is Ready, return the runner's pid."""
    commit = node.push(
        {
            "fleet/fleet.yaml": head(),
            "fleet/nodes/demo.yaml": HEAD.format(kind="Node", name="demo") + "  ordinal: 1\n",
            f"cards/{model.name}/card.yaml": model.card,
            f"fleet/deployments/{NAME}.yaml": deployment(
                NAME, model.name, concurrency=slots, contextTokens=context_tokens
            ),
        }
    )
    node.wait_ready(NAME, commit)
    return int(node.runner(NAME)["pid"])


def head() -> str:
    """The manifest of the fleet itself."""
    return HEAD.format(kind="Fleet", name="demo") + "  namespace: demo\n"


def launch_file(node: Node) -> Path:
    """The newest launch.json."""
    return max(node.state.rglob("launch.json"), key=lambda path: path.stat().st_mtime)


@contextlib.contextmanager
def peer(
    model: Model, base: Path, cores: Cores, *, slots: int, context_tokens: int, temperature: float
) -> Iterator[Server]:
    """llama-server or mlx_lm.server with the same file, warm."""
    base.mkdir()
    port = free_port()
    where = ["--host", "127.0.0.1", "--port", str(port)]
    computes: Callable[[int, int], bool]
    if model.engine == "llama_cpp":
        command = [str(llama_server()), "--model", str(model.gguf_file), *where]
        command += ["--parallel", str(slots), "--ctx-size", str(slots * context_tokens)]
        command += ["--threads", "1", "--threads-batch", "1", "--reasoning-format", "none"]
        # The first thread computes, those that answer HTTP are its children.
        computes, name = (lambda thread, pid: thread == pid), NAME
    else:
        python = str(ensure("mlx", ENGINES).python)
        command = [python, "-m", "mlx_lm", "server", "--model", str(model.directory), *where]
        command += ["--decode-concurrency", str(slots), "--log-level", "WARNING"]
        # The first thread accepts connections and starts one for each; all others that last compute.
        computes, name = (lambda thread, pid: thread != pid), str(model.directory)
    with (base / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=base,
            stdout=log,
            stderr=log,
            env=child_environment(os.environ, preloads(model.engine)),
        )
    try:
        server = Server(PEERS[model.engine], port, name, temperature, process.pid)
        until(lambda: _healthy(process, port), f"{server.name} answers", context=(base / "log").read_text)
        warm(server, slots)
        move(process.pid, cores.engine, lambda thread: computes(thread, process.pid))
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def warm(server: Server, slots: int) -> None:
    """Every slot has worked once, alone and with the others."""

    async def work() -> None:
        for streams in (1, slots):
            bodies = [server.body(prompt(WARM_TOKENS, f"warm {streams} {number}"), 4) for number in range(streams)]
            for answer in await asyncio.gather(*(ask(server.port, body) for body in bodies)):
                assert answer.events

    asyncio.run(work())


def _healthy(process: subprocess.Popen[bytes], port: int) -> bool:
    assert process.poll() is None, f"it ended with {process.returncode}"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
