"""What the operator has: a checkout, a git server that nodes reach, an SSH key, and the `skulk` of this source tree.

Everything is done as a person would do it: by the program, by git, and by HTTP to the nodes' gateways.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from hosts import Hosts

ROOT = Path(__file__).resolve().parents[2]
API_KEY = "sk-of-the-machines-test"
NEXT_VERSION = "0.1.1"
HEAD = "apiVersion: skulk.dev/v1alpha1\nkind: {kind}\nmetadata:\n  name: {name}\nspec:\n"
# A run takes a minute on idle cores, and cores here are shared.
RUN_SECONDS_MAX = 600.0
STEP_SECONDS_MAX = 90.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run of `skulk bootstrap -o json`."""

    exit_code: int
    nodes: dict[str, dict[str, Any]]
    changed_manifests: list[str]
    said: str
    seconds: float

    def changed(self) -> dict[str, list[str]]:
        """Node → the tasks that changed something (in a check: that would)."""
        return {name: node["changed"] for name, node in self.nodes.items() if node["changed"]}


class Operator:
    """Use as a context manager: the git server ends with it."""

    def __init__(self, base: Path, hosts: Hosts, wheels: Path | None = None) -> None:
        """`wheels`: those that were compiled already, for all nodes."""
        self.base = base
        self.checkout = base / "fleet"
        self._hosts = hosts
        self._remote = base / "served" / "fleet.git"
        self._environment = os.environ | {
            "XDG_CONFIG_HOME": str(base / "config"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{who}_{what}": "operator" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }
        base.mkdir(parents=True)
        self._variables = base / "vars.json"
        # The hosts' keys are known from the start, as if somebody had compared them; a recorded one outweighs that.
        ssh = [option.replace("UserKnownHostsFile", "GlobalKnownHostsFile") for option in hosts.ssh_options]
        compiled = {"skulk_engines_wheels": str(wheels)} if wheels is not None else {}
        self._variables.write_text(json.dumps({"ansible_ssh_common_args": " ".join(ssh), **compiled}))
        self._port = _free_port(hosts.address)
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Operator:
        self._remote.parent.mkdir(parents=True)
        self.git("init", "--quiet", "--bare", "--initial-branch=main", str(self._remote), cwd=self.base)
        self.git("init", "--quiet", "--initial-branch=main", str(self.checkout), cwd=self.base)
        # Nodes see it at the address of this machine; a push goes the short way.
        self.git("remote", "add", "origin", f"git://{self._hosts.address}:{self._port}/fleet.git")
        self.git("remote", "set-url", "--push", "origin", str(self._remote))
        serve = ["git", "daemon", "--export-all", "--reuseaddr", f"--base-path={self._remote.parent}"]
        self._server = subprocess.Popen(
            [*serve, f"--listen={self._hosts.address}", f"--port={self._port}"],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            os.killpg(self._server.pid, 15)
            self._server.wait()

    # --- git ------------------------------------------------------------------------------------------------

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=cwd or self.checkout,
            env=self._environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.checkout / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    def push(self, message: str) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        self.git("push", "--quiet", "origin", "main")
        return self.git("rev-parse", "HEAD")

    # --- skulk ----------------------------------------------------------------------------------------------

    def skulk(self, *arguments: str) -> str:
        """What a verb that needs no node says."""
        command = [sys.executable, "-m", "skulk.cli.main", *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[Run]:
        """`skulk bootstrap` under way."""
        command = [sys.executable, "-m", "skulk.cli.main", "bootstrap", "--path", str(self.checkout)]
        command += ["--vars", str(self._variables), "--output", "json", *arguments]
        run = Run(command, self._environment)
        try:
            yield run
        finally:
            run.end()

    def bootstrap(self, *arguments: str) -> Outcome:
        with self.running(*arguments) as run:
            return run.outcome()

    # --- the nodes' gateways --------------------------------------------------------------------------------

    def get(self, ip: str, path: str) -> Any:
        answer = httpx2.get(f"http://{ip}:52415{path}", headers={"Authorization": f"Bearer {API_KEY}"}, timeout=10.0)
        answer.raise_for_status()
        return answer.json()

    def settled(self, ip: str) -> bool:
        with contextlib.suppress(httpx2.HTTPError):
            return httpx2.get(f"http://{ip}:52415/readyz?settled", timeout=5.0).status_code == 200
        return False

    def serves(self, ip: str, model: str) -> bool:
        items = self.get(ip, "/fleet/v1/deployments")["items"]
        ready = {
            item["name"] for item in items for c in item["conditions"] if (c["type"], c["status"]) == ("Ready", "True")
        }
        return model in ready

    def ask(self, ip: str, model: str, question: str) -> str:
        answer = httpx2.post(
            f"http://{ip}:52415/v1/chat/completions",
            headers={"Authorization": f"Bearer {API_KEY}"},
            json={"model": model, "temperature": 0, "messages": [{"role": "user", "content": question}]},
            timeout=60.0,
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["message"]["content"])


class Run:
    """One `skulk bootstrap` process; what it says is read as it comes."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self.said = ""

    def until_said(self, words: str) -> None:
        """Read its progress up to a line with these words."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.said += line
            if words in line:
                return
        raise AssertionError(f"it never said {words!r}:\n{self.said}")

    def outcome(self) -> Outcome:
        out, said = self._process.communicate(timeout=RUN_SECONDS_MAX)
        self.said += said
        try:
            found = json.loads(out)
        except ValueError:
            raise AssertionError(f"exit {self._process.returncode}:\n{self.said}\n{out}") from None
        return Outcome(
            exit_code=self._process.returncode,
            nodes={node["name"]: node for node in found["nodes"]},
            changed_manifests=found["changedManifests"],
            said=self.said,
            seconds=time.monotonic() - self._began,
        )

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.communicate(timeout=60)


def fleet_files(nodes: dict[str, tuple[str, str, str]], version: str = "") -> dict[str, str]:
    """The manifests of a fleet with keys. `nodes`: name → (address, platform, backend)."""
    digest = hashlib.sha256(API_KEY.encode()).hexdigest()
    wanted = f"  version: {version}\n" if version else ""
    files = {
        "fleet/fleet.yaml": HEAD.format(kind="Fleet", name="machines")
        + f"  namespace: machines\n{wanted}  source: {{pollSeconds: 1}}\n  access:\n    keys:\n      - name: test\n"
        f"        sha256: {digest}\n        scopes: [inference, read, admin]\n"
    }
    for ordinal, (name, (address, platform, backend)) in enumerate(nodes.items(), 1):
        files[f"fleet/nodes/{name}.yaml"] = (
            HEAD.format(kind="Node", name=name)
            + f"  ordinal: {ordinal}\n  address: {address}\n  platform: {platform}\n  backends: [{backend}]\n"
            "  ssh: {user: ops}\n"
        )
    return files


def deployment(name: str, card: str, node: str) -> str:
    return (
        HEAD.format(kind="Deployment", name=name)
        + f"  model: {card}\n  contextTokens: 1024\n  placement:\n    selector:\n      skulk.dev/node: {node}\n"
    )


def models_layer(layer: Path, models: str, card: str) -> Path:
    """A directory tree that a machine has from the start: models that somebody put into its directory `models`."""
    shutil.copytree(ROOT / "cards" / card / "files", layer / models / card / "files")
    for path in (layer, *layer.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return layer


def until(true: Callable[[], bool], what: str, seconds: float = STEP_SECONDS_MAX) -> float:
    """Wait for it; return how long it took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"{what}: not within {seconds:g} s"
        time.sleep(0.2)
    return time.monotonic() - began


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
