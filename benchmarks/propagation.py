"""How long a push takes to reach three nodes: `python benchmarks/propagation.py [PUSHES]`.

Each push changes one deployment on every node, so that each has something to do. From the moment `git push` returned
to: the first node that accepted the commit, the last one, the last node that accepted a document of that commit, and
the last node that began its first action of it; by the times in the nodes' own logs. In three ways:

- poll: every node asks the remote each half second
- announced: one node does, the others each minute; they learn of the commit from the first
- webhook: all ask each minute only; a delivery as GitHub signs it goes to one node when the push is done

For comparison, by hand in the same run: `git ls-remote` and `git fetch` of the same commit, one after the other.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from parts.figures import conditions, median, ms, row
from parts.fleet import ENGINES, Fleet, Node, deployment, git, only_on, seconds_of, until

PUSHES = 10
NAMES = ("one", "two", "three")
OFTEN_SECONDS, SELDOM_SECONDS = 0.5, 60.0
WAYS = {
    "poll": dict.fromkeys(NAMES, OFTEN_SECONDS),
    "announced": {**dict.fromkeys(NAMES, SELDOM_SECONDS), NAMES[0]: OFTEN_SECONDS},
    "webhook": dict.fromkeys(NAMES, SELDOM_SECONDS),
}
SECRET = "a-benchmark-secret"
STAGES = ("first commit accepted", "last commit accepted", "last document accepted", "last action begun")


def wanted(number: int, names: tuple[str, ...] = NAMES) -> dict[str, str | None]:
    """A deployment on each node; another number replaces the runners of all."""
    files: dict[str, str | None] = {}
    for name in names:
        engine = {"name": "scripted", "options": {"echo": f"number {number}"}}
        text = deployment(f"on-{name}", "parrot", engine=engine, placement=only_on(name, names), contextTokens=512)
        files[f"fleet/deployments/on-{name}.yaml"] = text
    return files


def pushed(fleet: Fleet, number: int) -> tuple[str, float, float]:
    """Push a change: the commit, the time of day when the push was done, and how long it took."""
    checkout = fleet.origin.checkout
    fleet.origin.write(wanted(number))
    git("commit", "--all", "--quiet", "--message", f"Change {number}", cwd=checkout)
    commit = git("rev-parse", "HEAD", cwd=checkout)
    began = time.monotonic()
    git("push", "--quiet", "origin", "main", cwd=checkout)
    return commit, time.time(), time.monotonic() - began


def fetched_by_hand(clone: Path) -> float:
    began = time.monotonic()
    git("ls-remote", "--quiet", "origin", "refs/heads/main", cwd=clone)
    git("fetch", "--quiet", "origin", "main", cwd=clone)
    return time.monotonic() - began


def deliver(node: Node, commit: str) -> None:
    body = json.dumps({"ref": "refs/heads/main", "after": commit}).encode()
    digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    headers = {"X-GitHub-Event": "push", "X-GitHub-Delivery": commit, "X-Hub-Signature-256": f"sha256={digest}"}
    taken = node.http.post("/hooks/v1/git", content=body, headers=headers)
    if taken.status_code != 202:
        raise RuntimeError(f"the webhook was not taken: {taken.status_code} {taken.text}")


def first(node: Node, event: str, after: float, **fields: str) -> float | None:
    """When the node first logged that event after that time of day."""
    for entry in node.log(event):
        if seconds_of(entry["ts"]) >= after and fields.items() <= entry.items():
            return seconds_of(entry["ts"])
    return None


def times(fleet: Fleet, commit: str) -> list[float] | None:
    """The moments of STAGES; None while one is missing."""
    accepted = [first(node, "commit_accepted", 0, commit=commit) for node in fleet.nodes.values()]
    documents = [first(node, "document_accepted", 0, commit=commit) for node in fleet.nodes.values()]
    actions = [first(n, "action_begun", d) for n, d in zip(fleet.nodes.values(), documents, strict=True) if d]
    all_known: list[list[Any]] = [accepted, documents, actions]
    if len(actions) < len(NAMES) or any(moment is None for moments in all_known for moment in moments):
        return None
    return [min(all_known[0]), *(max(moments) for moments in all_known)]


def wait_settled(fleet: Fleet, commit: str) -> None:
    """Wait until nothing of an earlier push is under way anywhere: what a node begins next is the next push's."""
    fleet.wait_whole(commit)

    def settled() -> bool:
        placements = [p["status"] for node in fleet.nodes.values() for p in node.items("placements")]
        return len(placements) == len(NAMES) ** 2 and all(
            p["phase"] == "Ready" and not p["retiring"] for p in placements
        )

    until(settled, "the runners are replaced", context=fleet.story)


def measure(way: str, pushes: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        secret = base / "secret"
        secret.write_text(SECRET)
        secret.chmod(0o600)
        with Fleet(base / "fleet", ENGINES) as fleet:
            for name, seconds in WAYS[way].items():
                fleet.add(name, engines=[], source={"pollSeconds": seconds})
            for node in fleet.nodes.values():
                node.launch(SKULK_WEBHOOK__SECRET_FILE=str(secret))
            fleet.origin.write(wanted(0))
            commit = fleet.push_base()
            for node in fleet.nodes.values():
                node.wait_started()
                deliver(node, commit)
            wait_settled(fleet, commit)
            clone = base / "clone"
            git("clone", "--quiet", str(fleet.origin.remote), str(clone), cwd=base)
            found: list[list[float]] = []
            hands, push_seconds = [], []
            for number in range(1, pushes + 1):
                commit, at, took = pushed(fleet, number)
                if way == "webhook":
                    deliver(fleet[NAMES[number % len(NAMES)]], commit)
                until(lambda commit=commit: times(fleet, commit) is not None, "actions", context=fleet.story)
                found.append([moment - at for moment in times(fleet, commit) or ()])
                wait_settled(fleet, commit)
                # Last, not to be in the nodes' way.
                hands.append(fetched_by_hand(clone))
                push_seconds.append(took)
    print(row(f"{way}, {pushes} pushes", "median", "max"))
    for stage, values in zip(STAGES, zip(*found, strict=True), strict=True):
        print(row(f"  {stage}", ms(median(values)), ms(max(values))))
    print(row("  by hand: ls-remote, fetch", ms(median(hands)), ms(max(hands))))
    print(row("  by hand: push", ms(median(push_seconds)), ms(max(push_seconds))))
    ratio = median([values[2] for values in found]) / median(hands)
    print(row("  last document / by hand", f"{ratio:.1f}"))


def main(pushes: int) -> None:
    print(f"propagation: {conditions()}; each node also started one runner for each push")
    for way in WAYS:
        measure(way, pushes)
    print(f"after the run: {conditions()}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else PUSHES)
