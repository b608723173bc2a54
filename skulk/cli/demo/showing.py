"""What a person sees of the fleet: one line whenever something changes, as one node knows it. Asks nothing twice."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from skulk.cli.client import FleetClient
from skulk.cli.sse import frames
from skulk.cli.values import condition
from skulk.core.errors import ENG_TOOLCHAIN, SkulkError

Json = Mapping[str, Any]

# The watch stream carries a keep-alive every 10 s.
SILENCE_SECONDS_MAX = 30.0
AGAIN_SECONDS = 1.0
# Of a node that was not heard of yet, its problems tell.
_THERE = ("live", "unseen", None)
_TOOLCHAIN = """\
  llama.cpp is published as source, and there is no C++ compiler here. To see the second engine, install one:
    Debian, Ubuntu   sudo apt install g++
    Fedora           sudo dnf install gcc-c++
    Arch             sudo pacman -S gcc
    macOS            xcode-select --install
  {node} looks for it every minute and goes on by itself; meanwhile {deployment} waits, and everything else serves."""


def say(text: str) -> None:
    """One step, for people."""
    print(f"\033[1m▸\033[0m {text}" if sys.stdout.isatty() else f"▸ {text}", flush=True)


def views(client: FleetClient, look: Callable[[], None]) -> Iterator[Json]:
    """The newest view of the fleet, whenever it changes, for ever. `look` is called often, and when the node does not
    answer; it may raise."""
    while True:
        try:
            with client.stream("GET", "/fleet/v1/watch", silence=SILENCE_SECONDS_MAX) as response:
                for frame in frames(response.iter_lines()):
                    look()
                    if frame.event == "view" and frame.comment is None:
                        yield json.loads(frame.data)
        except SkulkError:
            pass
        look()
        time.sleep(AGAIN_SECONDS)


class Board:
    """Says what is new."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}

    def show(self, view: Json) -> None:
        for subject, line in _lines(view):
            self.once(subject, line)

    def once(self, subject: str, line: str) -> None:
        """Say it, unless it is what was said last of the subject."""
        if self._shown.get(subject) != line:
            self._shown[subject] = line
            say(line)

    def explain_compiler(self, view: Json, node: str, deployment: str) -> None:
        """What to install, once, when that is what a node lacks."""
        for resource in view["resources"]["nodes"]:
            if resource["name"] == node and any(
                ENG_TOOLCHAIN.id in problem for problem in resource["status"].get("problems") or ()
            ):
                self.once(
                    "compiler", f"{deployment} stays Waiting\n" + _TOOLCHAIN.format(node=node, deployment=deployment)
                )


def _lines(view: Json) -> Iterator[tuple[str, str]]:
    """What a watcher wants to know, subject by subject."""
    resources = view["resources"]
    for node in resources["nodes"]:
        yield f"node/{node['name']}", _node(node)
    for placement in resources["placements"]:
        status = placement["status"]
        where = f"placement {placement['name']} ({status['deployment']} on {status['node']}, {status['backend']})"
        waits = "".join(f"; waits for {w['on']}" for w in placement["waiting"])
        yield f"placement/{placement['name']}", f"{where}: {status['phase']}{waits}"
    placed = {placement["status"]["deployment"] for placement in resources["placements"]}
    for deployment in resources["deployments"]:
        # While it is placed and not ready yet, the lines of its placements say more.
        if ready(deployment) or deployment["name"] not in placed:
            yield f"deployment/{deployment['name']}", _deployment(deployment)


def _node(node: Json) -> str:
    status = node["status"]
    accepted = (status.get("accepted") or "none")[:12]
    if status.get("participation") == "management":
        offers = "runs no models"
    else:
        offers = f"backends {', '.join(status.get('backends') or ()) or 'none yet'}"
    # What to do about it is said elsewhere, in full.
    problems = "".join(f"; {problem.partition(' (')[0]}" for problem in status.get("problems") or ())
    presence = status.get("presence")
    away = f"; {presence}" if presence not in _THERE else ""
    return f"node {node['name']}: commit {accepted}, {offers}{problems}{away}"


def _deployment(deployment: Json) -> str:
    status = deployment["status"]
    state = "Ready" if ready(deployment) else f"Waiting ({status['phase']})"
    return f"deployment {deployment['name']}: {state}: {status['message']}"


def ready(resource: Json) -> bool:
    """Its Ready condition is true."""
    return (condition(resource, "Ready") or {}).get("status") == "True"


def lacks_engine(view: Json, node: str) -> bool:
    """The node offers nothing to run models with."""
    return any(n["name"] == node and not n["status"].get("backends") for n in view["resources"]["nodes"])


def serves(view: Json, deployment: str, commit: str) -> bool:
    """The deployment is Ready, and the commit in force."""
    found = [d for d in view["resources"]["deployments"] if d["name"] == deployment]
    return view["status"]["inForce"] == commit and bool(found) and ready(found[0])
