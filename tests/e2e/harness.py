"""A real node for tests: a bare git remote, a checkout to push from, a daemon process, real runners.

Several nodes can follow one `Origin`, each at a `Place` of its own: `fleet_harness` puts them together.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai

ROOT = Path(__file__).resolve().parents[2]
# Real processes on two shared cores: a deadline here only ends a hang, it measures nothing.
DEADLINE_SECONDS = 120.0
CARDS = ("fox-tiny", "fox-tiny-bf16", "fox-tiny-gguf")

HEAD = "apiVersion: skulk.dev/v1alpha1\nkind: {kind}\nmetadata:\n  name: {name}\nspec:\n"
SCRIPTED_CARD = HEAD.format(kind="ModelCard", name="parrot") + (
    "  modelId: test/parrot\n  source:\n    local: parrot\n  revision: '1'\n"
    "  files:\n    - path: words.txt\n      bytes: 6\n"
    "      sha256: '7ba07c92c32504cd2f8b2f7cb8dbaed7b1f9c3c7f3a9a3d2f4d4e7d3e9b6a9aa'\n"
    "  nLayers: 1\n  hiddenSize: 8\n  supportsTensor: false\n  contextLength: 4096\n"
    "  tasks: [TextGeneration]\n  placement:\n    compatibleBackends: [scripted]\n"
)


def deployment(name: str, model: str, **spec: object) -> str:
    lines = "".join(f"  {key}: {json.dumps(value)}\n" for key, value in spec.items())
    return HEAD.format(kind="Deployment", name=name) + f"  model: {model}\n" + lines


def git(*arguments: str, cwd: Path) -> str:
    environment = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        **{f"GIT_{who}_{what}": "test@skulk.invalid" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    done = subprocess.run(["git", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def alive(pid: int) -> bool:
    """The process exists and is no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@dataclass(frozen=True)
class Place:
    """Where a daemon runs, and how its gateway is reached from the test."""

    address: str = "127.0.0.1"
    enter: tuple[str, ...] = ()
    """A command in front of the daemon's own, which leads into its network."""
    key: str = ""
    """API key for its gateway; empty: none is needed."""


class Origin:
    """A bare git remote, a checkout to push from, and the model files, all below `base`."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.checkout = base / "checkout"
        self.remote = base / "remote.git"
        self.models = base / "models"
        git("init", "--quiet", "--bare", "--initial-branch=main", str(self.remote), cwd=base)
        git("clone", "--quiet", str(self.remote), str(self.checkout), cwd=base)
        git("checkout", "--quiet", "-B", "main", cwd=self.checkout)
        (self.models / "parrot").mkdir(parents=True)
        (self.models / "parrot" / "words.txt").write_text("words\n")
        # The roots are real: tests must not leave a mark in the checkout's own files.
        for name in CARDS:
            shutil.copytree(ROOT / "cards" / name / "files", self.models / name / "files")

    def write(self, files: dict[str, str | None]) -> None:
        """Write (or, with None, delete) files of the checkout."""
        for name, text in files.items():
            path = self.checkout / name
            if text is None:
                path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)

    def push(self, files: dict[str, str | None], message: str = "Change the fleet") -> str:
        """Write (or, with None, delete) files, commit, push; return the commit."""
        self.write(files)
        git("add", "--all", cwd=self.checkout)
        git("commit", "--quiet", "--message", message, cwd=self.checkout)
        git("push", "--quiet", "origin", "main", cwd=self.checkout)
        return git("rev-parse", "HEAD", cwd=self.checkout)

    def revert(self) -> str:
        git("revert", "--no-edit", "HEAD", cwd=self.checkout)
        git("push", "--quiet", "origin", "main", cwd=self.checkout)
        return git("rev-parse", "HEAD", cwd=self.checkout)


def base_files(**deployments: str) -> dict[str, str]:
    """The Fleet, all cards, and the given deployments (name → text)."""
    cards = {f"cards/{n}/card.yaml": (ROOT / f"cards/{n}/card.yaml").read_text() for n in CARDS}
    digest = hashlib.sha256(b"words\n").hexdigest()
    parrot = "\n".join(
        f"      sha256: '{digest}'" if line.startswith("      sha256") else line for line in SCRIPTED_CARD.splitlines()
    )
    return {
        "fleet/fleet.yaml": HEAD.format(kind="Fleet", name="demo") + "  namespace: demo\n",
        "cards/parrot/card.yaml": parrot + "\n",
        **cards,
        **{f"fleet/deployments/{name}.yaml": text for name, text in deployments.items()},
    }


class Node:
    """One node below `base`. Use as a context manager: nothing of it survives."""

    def __init__(
        self,
        base: Path,
        engines: Path,
        /,
        *,
        origin: Origin | None = None,
        place: Place = Place(),
        orphan_seconds: float = 600.0,
        **config: object,
    ) -> None:
        """`config` goes into node.toml. Without `origin` the node has one of its own."""
        self.base = base
        self.origin = origin if origin is not None else Origin(base)
        self.state = base / "state"
        self.place = place
        self.port = free_port()
        self.url = f"http://{place.address}:{self.port}"
        self.daemon: subprocess.Popen[bytes] | None = None
        self._configure({"enginesDir": str(engines), "orphanSeconds": orphan_seconds, **config})
        headers = {"Authorization": f"Bearer {place.key}"} if place.key else {}
        self.http = httpx2.Client(base_url=self.url, timeout=30.0, trust_env=False, headers=headers)
        key = place.key or "none"
        self.openai = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=120.0)

    def _configure(self, config: dict[str, object]) -> None:
        head = {
            "name": "demo",
            "namespace": "demo",
            "stateDir": str(self.state),
            "modelRoots": [str(self.roots)],
            "scriptedEngine": True,
            "installEngines": False,
            **config,
        }
        listen, source, planes = (head.pop(name, {}) for name in ("listen", "source", "planes"))
        assert isinstance(source, dict)
        where = {} if "directory" in source else {"url": str(self.remote), "pollSeconds": 0.3}
        text = _toml(head) + f"[listen]\nport = {self.port}\n" + _toml(listen)
        text += "[source]\n" + _toml({**where, **source}) + "[planes]\n" + _toml(planes)
        (self.base / "node.toml").write_text(text)

    @property
    def checkout(self) -> Path:
        return self.origin.checkout

    @property
    def remote(self) -> Path:
        return self.origin.remote

    @property
    def roots(self) -> Path:
        return self.origin.models

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.openai.close()
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()
        for pid in self._left_over():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _left_over(self) -> list[int]:
        """Processes that were started with a path of this node: its runners, whatever became of their daemon."""
        mine, found = f"{self.base}/".encode(), []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mine in (entry / "cmdline").read_bytes() and int(entry.name) != os.getpid():
                    found.append(int(entry.name))
        return found

    # --- the daemon -----------------------------------------------------------------------------------------

    def start(self, **environment: str) -> Node:
        """Start the daemon and wait until it answers."""
        self.launch(**environment)
        return self.wait_started()

    def launch(self, **environment: str) -> None:
        log = (self.base / "daemon.log").open("ab")
        command = [sys.executable, "-m", "skulk.cli.main", "node", "run", "--config", str(self.base / "node.toml")]
        self.daemon = subprocess.Popen(
            [*self.place.enter, *command],
            cwd=self.base,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        log.close()

    def wait_started(self) -> Node:
        until(self._answers, "the daemon answers", context=self.tail)
        return self

    def _answers(self) -> bool:
        assert self.daemon is not None
        assert self.daemon.poll() is None, f"the daemon ended:\n{self.tail()}"
        with contextlib.suppress(httpx2.TransportError):
            return self.http.get("/livez").status_code == 200
        return False

    def end(self, number: signal.Signals) -> int:
        """Send a signal and wait for the daemon's end; return its exit code."""
        assert self.daemon is not None
        self.daemon.send_signal(number)
        return self.daemon.wait(DEADLINE_SECONDS)

    def tail(self, lines: int = 40) -> str:
        path = self.base / "daemon.log"
        return "\n".join(path.read_text("utf-8", "replace").splitlines()[-lines:]) if path.exists() else ""

    def log(self, event: str | None = None) -> list[dict[str, Any]]:
        """The daemon's log since its first start, or those lines of it that tell of `event`."""
        path = self.base / "daemon.log"
        lines = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
        entries = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [entry for entry in entries if event in (None, entry["event"])]

    def finished(self, request_id: str) -> dict[str, Any]:
        """What the log says of a request that is over; waits for it."""
        found: list[dict[str, Any]] = []

        def told() -> bool:
            found[:] = [line for line in self.log("request_finished") if line["request_id"] == request_id]
            return bool(found)

        until(told, f"the log tells of {request_id}", context=self.tail)
        (line,) = found
        return line

    # --- manifests ------------------------------------------------------------------------------------------

    def push(self, files: dict[str, str | None], message: str = "Change the fleet") -> str:
        return self.origin.push(files, message)

    def push_base(self, **deployments: str) -> str:
        """The Fleet, this node, all cards, and the given deployments (name → text)."""
        manifest = HEAD.format(kind="Node", name="demo") + "  ordinal: 1\n"
        return self.push({**base_files(**deployments), "fleet/nodes/demo.yaml": manifest})

    def revert(self) -> str:
        return self.origin.revert()

    # --- what it shows --------------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        response = self.http.get(path)
        assert response.status_code == 200, response.text
        return response.json()

    def items(self, kind: str) -> list[dict[str, Any]]:
        return list(self.get(f"/fleet/v1/{kind}")["items"])

    def condition(self, kind: str, name: str, type_: str = "Ready") -> dict[str, Any]:
        for item in self.items(kind):
            if item["name"] == name:
                return next((c for c in item["conditions"] if c["type"] == type_), {})
        return {}

    def wait_ready(self, name: str, commit: str | None = None) -> None:
        def ready() -> bool:
            if commit is not None and self.get("/fleet/v1/status")["inForce"] != commit:
                return False
            return self.condition("deployments", name).get("status") == "True"

        until(ready, f"{name} is Ready", context=lambda: f"{self.items('deployments')}\n{self.tail()}")

    def runner(self, deployment_name: str) -> dict[str, Any]:
        """The status of the one runner of a deployment that is there to stay (not on its way out)."""
        leaving = {p["name"] for p in self.items("placements") if p["status"]["retiring"]}
        (found,) = [
            r["status"]
            for r in self.items("runners")
            if r["status"]["deployment"] == deployment_name
            and r["status"]["link"] != "dead"
            and r["name"] not in leaving
        ]
        return dict(found)

    def wait_replaced(self, deployment_name: str, pid: int) -> int:
        """Wait until another process than `pid` serves the deployment; return its pid."""
        found: list[int] = []

        def replaced() -> bool:
            leaving = {p["name"] for p in self.items("placements") if p["status"]["retiring"]}
            found[:] = [
                r["status"]["pid"]
                for r in self.items("runners")
                if r["status"]["deployment"] == deployment_name
                and (r["status"]["phase"], r["status"]["link"]) == ("Ready", "connected")
                and r["name"] not in leaving
                and r["status"]["pid"] != pid
            ]
            return bool(found)

        until(replaced, f"{deployment_name} is served by another process than {pid}", context=self.tail)
        return found[0]

    def adoption_seconds(self, deployment_name: str) -> float:
        """From the newest daemon's start to `Ready` of an adopted runner, by the log's own times."""
        assert self.runner(deployment_name)["adopted"]
        started = adopted = 0.0
        for entry in self.log():
            if entry["event"] == "daemon_started":
                started, adopted = seconds_of(entry["ts"]), 0.0
            elif entry["event"] == "placement_phase_changed" and entry["phase"] == "Ready":
                adopted = seconds_of(entry["ts"])
        assert started, "no daemon_started in the log"
        assert adopted, "no placement became Ready"
        return adopted - started

    def skulk(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line against this node."""
        command = [sys.executable, "-m", "skulk.cli.main", *arguments]
        environment = {**os.environ, "SKULK_URL": self.url, "NO_COLOR": "1"}
        if self.place.key:
            environment["SKULK_API_KEY"] = self.place.key
        return subprocess.run(
            command,
            cwd=self.base,
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )

    # --- asking ---------------------------------------------------------------------------------------------

    def ask(self, model: str, text: str, **more: Any) -> str:
        answer = self.openai.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **more)
        return answer.choices[0].message.content or ""

    def stream(self, model: str, text: str, **more: Any) -> Iterator[str]:
        for chunk in self.openai.chat.completions.create(
            model=model, messages=[{"role": "user", "content": text}], stream=True, **more
        ):
            if chunk.choices and chunk.choices[0].delta.content:
                yield chunk.choices[0].delta.content


def seconds_of(timestamp: str) -> float:
    return datetime.datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()


def _toml(table: object) -> str:
    """The keys of one table; JSON writes text, numbers, booleans and lists of text as TOML does."""
    assert isinstance(table, dict)
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())


def until(
    condition: Callable[[], bool],
    what: str,
    *,
    seconds: float = DEADLINE_SECONDS,
    context: Callable[[], object] = lambda: "",
    pause_seconds: float = 0.05,
) -> None:
    """Poll until `condition` holds; a timeout fails with what was waited for and the context."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s for: {what}\n{context()}")
        time.sleep(pause_seconds)
