"""`make demo`: a node from a git repository of manifests, and a model that answers. Real parts only.

It makes a bare repository as the fleet's remote from `fleet/` and `cards/`, starts the daemon as a process of its
own, pushes, shows how the node converges, asks a question over HTTP and stays up until Ctrl-C. Then nothing is
left running. Everything it writes is below `.demo/`, the engine environment (a download) in the user's cache.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skulk.cli.chat import Channel, Piece, pieces, request_body
from skulk.cli.client import FleetClient
from skulk.cli.sse import frames
from skulk.core.errors import CFG_PORT_TAKEN, SkulkError, Terminal

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".demo"
QUESTION = "What is 9 * 7?"
MODEL = "chat"
# A fresh clone on an idle machine answers well within this; a loaded one may take longer.
READY_SECONDS_MAX = 300.0
# Without their daemon, runners of a demo have no purpose: they free their memory after this.
ORPHAN_SECONDS = 10
STOP_SECONDS_MAX = 60.0


def main() -> int:
    """Run the demo; return the exit code."""
    began = time.monotonic()
    # `kill` ends a demo as cleanly as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    port = int(os.environ.get("PORT", "52415"))
    try:
        _refuse_taken(port)
        _prepare(port)
        with _daemon(port) as process, FleetClient(f"http://127.0.0.1:{port}") as client:
            _wait_for_answer(client, process)
            commit = _push_manifests()
            say(f"pushed commit {commit[:12]} to .demo/remote.git")
            _show_convergence(client, process, commit)
            _ask(client, began)
            _print_lines(port)
            _stay(process)
        say("stopped: daemon and runners are gone")
    except SkulkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("stopped: daemon and runners are gone")
    return 0


def say(text: str) -> None:
    print(f"\033[1m▸\033[0m {text}" if sys.stdout.isatty() else f"▸ {text}", flush=True)


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            fix = "stop the other program, or choose another one: make demo PORT=52515"
            raise Terminal(CFG_PORT_TAKEN, f"port {port} is in use", fix=fix) from None


def _cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skulk"


def _prepare(port: int) -> None:
    """A fresh `.demo/`: the remote, a checkout to edit in, node.toml."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    git("init", "--quiet", "--bare", "--initial-branch=main", str(WORK / "remote.git"))
    checkout = WORK / "fleet"
    git("init", "--quiet", "--initial-branch=main", str(checkout))
    shutil.copytree(ROOT / "fleet", checkout / "fleet")
    for card in sorted((ROOT / "cards").glob("*/*.yaml")):
        target = checkout / card.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(card, target)
    shutil.copytree(ROOT / "schemas", checkout / "schemas")
    git("-C", str(checkout), "remote", "add", "origin", str(WORK / "remote.git"))
    # Whoever runs the demo may have no git identity; the demo's own commits need one, theirs keep theirs.
    git("-C", str(checkout), "config", "user.name", "Skulk demo")
    git("-C", str(checkout), "config", "user.email", "demo@skulk.invalid")
    git("-C", str(checkout), "config", "commit.gpgsign", "false")
    (WORK / "node.toml").write_text(
        f'name = "demo"\n'
        f'namespace = "demo"\n'
        f'stateDir = "state"\n'
        f'enginesDir = "{_cache_dir() / "engines"}"\n'
        f'modelRoots = ["{ROOT / "cards"}"]\n'
        f"orphanSeconds = {ORPHAN_SECONDS}\n"
        f"\n[listen]\nport = {port}\n"
        f'\n[source]\nurl = "{WORK / "remote.git"}"\nbranch = "main"\npollSeconds = 1.0\n'
    )


def git(*arguments: str) -> str:
    """Run git; its own words are the error. Raises Terminal."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"error: git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def _push_manifests() -> str:
    checkout = str(WORK / "fleet")
    git("-C", checkout, "add", "--all")
    git("-C", checkout, "commit", "--quiet", "--message", "Describe the demo fleet")
    git("-C", checkout, "push", "--quiet", "origin", "main")
    return git("-C", checkout, "rev-parse", "HEAD")


@contextlib.contextmanager
def _daemon(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The daemon as a process; at the end it drains, stops its runners and exits, whatever happened."""
    with (WORK / "daemon.log").open("wb") as log:
        command = [sys.executable, "-m", "skulk.cli.main", "node", "run", "--config", str(WORK / "node.toml")]
        # Its own session: Ctrl-C reaches us alone, and we end it in order.
        process = subprocess.Popen(
            command, cwd=WORK, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    say(f"daemon started, pid {process.pid}, port {port}, log .demo/daemon.log")
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    # A second Ctrl-C must not cut the cleaning short.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if process.poll() is None:
            process.send_signal(signal.SIGUSR1)
        process.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        signal.signal(signal.SIGINT, previous)


def _ended(process: subprocess.Popen[bytes]) -> SystemExit:
    lines = (WORK / "daemon.log").read_text("utf-8", "replace").strip().splitlines()[-5:]
    return SystemExit("error: the daemon ended:\n  " + "\n  ".join(lines))


def _wait_for_answer(client: FleetClient, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS_MAX
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise _ended(process)
        with contextlib.suppress(SkulkError):
            client.get("/fleet/v1/status")
            return
        time.sleep(0.1)
    raise SystemExit("error: the daemon does not answer; see .demo/daemon.log")


def _show_convergence(client: FleetClient, process: subprocess.Popen[bytes], commit: str) -> None:
    """One line per change until every deployment of the commit is Ready."""
    shown: dict[str, str] = {}
    deadline = time.monotonic() + READY_SECONDS_MAX
    with client.stream("GET", "/fleet/v1/watch", silence=30.0) as response:
        for frame in frames(response.iter_lines()):
            if process.poll() is not None:
                raise _ended(process)
            if time.monotonic() > deadline:
                raise SystemExit("error: not ready in time; see `skulk why chat` and .demo/daemon.log")
            if frame.event != "view":
                continue
            view = json.loads(frame.data)
            for subject, line in _lines(view):
                if shown.get(subject) != line:
                    shown[subject] = line
                    say(line)
            if _converged(view, commit):
                return


def _lines(view: Any) -> Iterator[tuple[str, str]]:
    """What a watcher wants to know, subject by subject."""
    resources = view["resources"]
    for node in resources["nodes"]:
        status = node["status"]
        accepted = (status.get("accepted") or "none")[:12]
        backends = ", ".join(status.get("backends") or ()) or "none yet"
        problems = "".join(f"; {problem}" for problem in status.get("problems") or ())
        yield f"node/{node['name']}", f"node {node['name']}: commit {accepted}, backends {backends}{problems}"
    for placement in resources["placements"]:
        status = placement["status"]
        where = f"placement {placement['name']} ({status['deployment']} on {status['node']}, {status['backend']})"
        waits = "".join(f"; waits for {w['on']}" for w in placement["waiting"])
        yield f"placement/{placement['name']}", f"{where}: {status['phase']}{waits}"
    for deployment in resources["deployments"]:
        yield f"deployment/{deployment['name']}", f"deployment {deployment['name']}: {deployment['status']['message']}"


def _converged(view: Any, commit: str) -> bool:
    deployments = view["resources"]["deployments"]
    ready = [d for d in deployments if any(c["type"] == "Ready" and c["status"] == "True" for c in d["conditions"])]
    return view["status"]["inForce"] == commit and bool(deployments) and len(ready) == len(deployments)


def _ask(client: FleetClient, began: float) -> None:
    say(f"asking {MODEL}: {QUESTION}")
    first: float | None = None
    body = request_body(
        MODEL,
        [{"role": "user", "content": QUESTION}],
        stream=True,
        max_tokens=None,
        temperature=0.0,
        seed=None,
        thinking=None,
    )
    channel = Channel.CONTENT
    for piece in pieces(client, body):
        if not isinstance(piece, Piece):
            continue
        if first is None:
            first = time.monotonic() - began
        if piece.channel is not channel:
            print("\n" if piece.channel is Channel.CONTENT else "(thinking) ", end="")
            channel = piece.channel
        print(piece.text, end="", flush=True)
    print()
    if first is not None:
        say(f"first token {first:.1f} s after the start of the demo")


def _print_lines(port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    print(
        f"""
Try it, from another terminal in this directory:

  curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "{MODEL}", "messages": [{{"role": "user", "content": "Name the capital of France."}}]}}'

  .venv/bin/python -c "from openai import OpenAI; print(OpenAI(base_url='{url}/v1', api_key='none') \\
    .chat.completions.create(model='{MODEL}', messages=[dict(role='user', content='Count to 12.')]) \\
    .choices[0].message.content)"

  export SKULK_URL={url}
  .venv/bin/skulk run {MODEL} "Tell me a story about a fox."
  .venv/bin/skulk get deployments
  .venv/bin/skulk why {MODEL}

Change what runs, by git alone: another quantisation, no failed request meanwhile:

  cd .demo/fleet
  sed -i.bak 's/model: fox-tiny$/model: fox-tiny-bf16/' fleet/deployments/{MODEL}.yaml && rm fleet/deployments/*.bak
  git commit -am 'Serve the bf16 weights' && git push origin main
  ../../.venv/bin/skulk wait deployment/{MODEL} --for=applied=$(git rev-parse HEAD) --for=Ready --timeout 2m
  git revert --no-edit HEAD && git push origin main

Ctrl-C ends the demo.""",
        flush=True,
    )


def _stay(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait()
    except KeyboardInterrupt:
        print()
        return
    raise _ended(process)


if __name__ == "__main__":
    sys.exit(main())
