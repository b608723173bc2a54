"""`skulk plan`: golden pages of whole stories, exit codes, and that a live node's facts mean what they say.

Pages live in `golden/plan/`; SKULK_UPDATE_GOLDEN=1 rewrites them. Commits are replaced by their place in the history.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from skulk.cli.live import read_live
from skulk.cli.proposal_markdown import COMMENT_CHARACTERS_MAX
from skulk.core.domain import FleetView
from skulk.gateway.resources import resource_json
from skulk.sim.clock import run as run_virtual
from skulk.sim.node import SimNode
from tests.cli.conftest import Skulk
from tests.cli.fake_node import FakeNode

GOLDEN = Path(__file__).parent / "golden" / "plan"
PLAIN_GIT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
HEAD = "apiVersion: skulk.dev/v1alpha1\nkind: {kind}\nmetadata:\n  name: {name}\nspec:\n"
GIB = 2**30


class Checkout:
    """A fleet's repository that a test edits."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self.git("init", "-q", "-b", "main")
        self.write("fleet/fleet.yaml", "Fleet", "home", "namespace: home")
        for ordinal, (name, memory, system) in enumerate(
            (("mac-1", 64, "macos"), ("mac-2", 64, "macos"), ("box", 16, "linux")), 1
        ):
            self.node(name, f"ordinal: {ordinal}", f"platform: {{os: {system}}}", f"hardware: {{memory: {memory}GiB}}")
        self.card("fox", 2, "1")
        self.card("bear", 20, "2")
        self.deployment("chat", "model: fox", "contextTokens: 4096", "replicas: 2")
        self.deployment("big", "model: bear", "contextTokens: 4096", "update: {strategy: stop-first}")

    def git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.root), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | PLAIN_GIT).stdout

    def write(self, path: str, kind: str, name: str, *lines: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(HEAD.format(kind=kind, name=name) + "".join(f"  {line}\n" for line in lines))

    def node(self, name: str, *lines: str) -> None:
        self.write(f"fleet/nodes/{name}.yaml", "Node", name, *lines)

    def deployment(self, name: str, *lines: str) -> None:
        self.write(f"fleet/deployments/{name}.yaml", "Deployment", name, *lines)

    def card(self, name: str, gib: int, digit: str) -> None:
        self.write(
            f"cards/{name}/card.yaml",
            "ModelCard",
            name,
            f"modelId: org/{name}",
            f"source: {{local: {name}}}",
            f"files: [{{path: model.safetensors, bytes: {gib * GIB}, sha256: '{digit * 64}'}}]",
            "nLayers: 32",
            "hiddenSize: 4096",
            "numKeyValueHeads: 8",
            "supportsTensor: false",
            "contextLength: 32768",
            "tasks: [TextGeneration]",
        )

    def commit(self, subject: str) -> str:
        self.git("add", "-A")
        self.git("commit", "-qm", subject)
        return self.git("rev-parse", "HEAD").strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """A committed fleet of three nodes and two deployments; the test stands in it."""
    for name, value in PLAIN_GIT.items():
        monkeypatch.setenv(name, value)
    made = Checkout(tmp_path / "home")
    made.commit("Begin")
    monkeypatch.chdir(made.root)
    return made


def nothing(_: Checkout) -> None:
    """As committed."""


def larger_context(checkout: Checkout) -> None:
    checkout.deployment("chat", "model: fox", "contextTokens: 8192", "replicas: 2")
    checkout.deployment("big", "model: bear", "contextTokens: 8192", "update: {strategy: stop-first}")


def rebuilt(checkout: Checkout) -> None:
    """A drained node, a removed and a new deployment, one that no node has room for, a node that says nothing."""
    checkout.node("mac-2", "ordinal: 2", "platform: {os: macos}", "hardware: {memory: 64GiB}", "drain: true")
    checkout.node("new", "ordinal: 9", "labels: {rack: one}")
    (checkout.root / "fleet/deployments/big.yaml").unlink()
    checkout.deployment("huge", "model: bear", "contextTokens: 32768", "concurrency: 16")
    checkout.deployment("small", "model: fox", "contextTokens: 1024", "priority: 5")


def crowded(checkout: Checkout) -> None:
    """No room beside the running one."""
    for name in ("mac-1", "mac-2"):
        checkout.node(
            name, f"ordinal: {name[-1]}", "platform: {os: macos}", "hardware: {memory: 40GiB}", "cordon: true"
        )
    checkout.deployment("big", "model: bear", "contextTokens: 16384")


def misspelt(checkout: Checkout) -> None:
    checkout.deployment("chat", "model: fix", "contextTokenz: 4096")


STORIES: dict[str, tuple[Callable[[Checkout], None], tuple[str, ...]]] = {
    "no-change": (nothing, ("plan",)),
    "first-commit": (nothing, ("plan", "HEAD")),
    "larger-context": (larger_context, ("plan",)),
    "larger-context-markdown": (larger_context, ("plan", "-o", "markdown")),
    "larger-context-json": (larger_context, ("plan", "-o", "json")),
    "rebuilt": (rebuilt, ("plan",)),
    "rebuilt-markdown": (rebuilt, ("plan", "-o", "markdown")),
    "crowded": (crowded, ("plan",)),
    "misspelt": (misspelt, ("plan",)),
    "unknown-revision": (nothing, ("plan", "nowhere")),
    "against-nothing": (nothing, ("plan", "--base", "none")),
}


def page(arguments: tuple[str, ...], result: Result, checkout: Checkout) -> str:
    text = f"$ skulk {' '.join(arguments)}\n{result.stdout}"
    if result.stderr:
        text += f"--- stderr\n{result.stderr}"
    text += f"--- exit {result.exit_code}\n"
    for number, commit in enumerate(checkout.git("rev-list", "--reverse", "--all").split(), 1):
        text = text.replace(commit, str(number) * 40).replace(commit[:12], str(number) * 12)
    return text


@pytest.mark.parametrize("name", STORIES)
def test_a_story_reads_as_recorded(name: str, checkout: Checkout, skulk: Skulk) -> None:
    edit, arguments = STORIES[name]
    edit(checkout)
    seen = page(arguments, skulk(*arguments), checkout)
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("SKULK_UPDATE_GOLDEN") == "1":
        file.write_text(seen, encoding="utf-8")
    assert seen == file.read_text(encoding="utf-8")


def test_every_recorded_story_is_told() -> None:
    assert {file.stem for file in GOLDEN.glob("*.txt")} == set(STORIES)


def test_a_commit_is_compared_with_its_parent_and_a_branch_with_what_is_asked(checkout: Checkout, skulk: Skulk) -> None:
    checkout.git("checkout", "-qb", "idea")
    larger_context(checkout)
    checkout.commit("More context")
    checkout.deployment("more", "model: fox", "contextTokens: 512")
    checkout.commit("One more")

    def actions(*arguments: str) -> dict[str, str]:
        report = json.loads(skulk("plan", *arguments, "-o", "json").stdout)
        return {f"{r['deployment']}/{r['replica']}": r["action"] for r in report["replicas"] if r["action"] != "stay"}

    assert actions("idea") == {"more/0": "start"}
    everything = {"more/0": "start", "chat/0": "replace", "chat/1": "replace", "big/0": "replace"}
    assert actions("idea", "--base", "main") == everything
    assert skulk("plan").exit_code == 0, "the working tree is as HEAD"
    assert skulk("plan", "--path", str(checkout.root), "idea").exit_code == 1


def test_before_the_first_commit_everything_is_new(checkout: Checkout, skulk: Skulk, tmp_path: Path) -> None:
    shutil.copytree(checkout.root, tmp_path / "plain", ignore=shutil.ignore_patterns(".git"))
    shutil.copytree(tmp_path / "plain", tmp_path / "unborn")
    subprocess.run(["git", "init", "-q", str(tmp_path / "unborn")], check=True, capture_output=True)
    for name in ("plain", "unborn"):
        result = skulk("plan", "--path", str(tmp_path / name))
        assert result.exit_code == 1, result.output
        assert "working tree against nothing" in result.stdout


def test_an_invalid_base_is_exit_3_and_named(checkout: Checkout, skulk: Skulk) -> None:
    misspelt(checkout)
    checkout.commit("Oops")
    checkout.git("checkout", "-q", "HEAD~1", "--", ".")
    result = skulk("plan")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "HEAD is invalid" in result.stderr
    assert skulk("plan", "--base", "HEAD~1").exit_code == 0


def test_without_declared_hardware_there_is_no_offline_plan(checkout: Checkout, skulk: Skulk) -> None:
    for number, name in enumerate(("mac-1", "mac-2", "box"), 1):
        checkout.node(name, f"ordinal: {number}")
    checkout.commit("Bare nodes")
    result = skulk("plan")
    assert result.exit_code == 2
    assert "skulk node probe" in result.stderr


def test_hardware_that_the_change_itself_declares_counts_for_both_sides(checkout: Checkout, skulk: Skulk) -> None:
    checkout.node("box", "ordinal: 3")
    checkout.commit("Forget")
    checkout.node("box", "ordinal: 3", "platform: {os: linux}", "hardware: {memory: 16GiB}")
    report = json.loads(skulk("plan", "-o", "json").stdout)
    assert [m["node"] for m in report["memory"]] == ["mac-1", "mac-2", "box"]
    assert {r["action"] for r in report["replicas"]} == {"stay"}


def test_the_end_of_a_shallow_clone_is_not_taken_for_the_first_commit(
    checkout: Checkout, skulk: Skulk, tmp_path: Path
) -> None:
    checkout.deployment("more", "model: fox", "contextTokens: 512")
    checkout.commit("One more")
    checkout.git("clone", "-q", "--depth", "1", checkout.root.as_uri(), str(tmp_path / "shallow"))
    result = skulk("plan", "HEAD", "--path", str(tmp_path / "shallow"))
    assert result.exit_code == 2
    assert "fetch-depth" in result.stderr


def test_markdown_cannot_be_broken_out_of_and_stays_below_what_a_comment_holds(
    checkout: Checkout, skulk: Skulk, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout.deployment("odd", "model: fox", "placement: {selector: {tier: a_b.c}}")
    text = skulk("plan", "-o", "markdown").stdout
    assert "a\\_b.c" in text
    for number in range(200):
        checkout.deployment(f"d{number:03}", "model: fox", "contextTokens: 32768", "replicas: 4")
    long = skulk("plan", "-o", "markdown").stdout
    assert len(long) <= COMMENT_CHARACTERS_MAX + 200
    assert long.count("<details>") == long.count("</details>")
    assert long.rstrip().endswith("too long for a comment.*")


# --- live -------------------------------------------------------------------------------------------------------


def sim_tree(checkout: Checkout) -> dict[str, str]:
    files = [*checkout.root.glob("fleet/**/*.yaml"), *checkout.root.glob("cards/**/*.yaml")]
    return {file.relative_to(checkout.root).as_posix(): file.read_text() for file in files}


@pytest.fixture
def one_node(checkout: Checkout) -> str:
    """A fleet of one node without declared hardware. Returns its commit."""
    for name in ("mac-1", "mac-2", "box"):
        (checkout.root / f"fleet/nodes/{name}.yaml").unlink()
    checkout.write("fleet/fleet.yaml", "Fleet", "demo", "namespace: demo")
    checkout.node("demo", "ordinal: 1")
    (checkout.root / "fleet/deployments/big.yaml").unlink()
    checkout.deployment("chat", "model: fox")
    return checkout.commit("One node")


def show(node: FakeNode, checkout: Checkout, commit: str) -> FleetView:
    """Let the real loop of a simulated node converge on the checkout, and `node` show its view."""

    async def story() -> FleetView:
        sim = SimNode(memory_bytes=16 * GIB)
        sim.repo.commit(sim_tree(checkout))
        await sim.boot()
        await sim.run_for(60)
        assert list(sim.serving) == ["chat"]
        assert sim.loop is not None
        return sim.loop.view

    view = run_virtual(story())
    node.accepted = commit
    node.resources = {kind: [resource_json(item) for item in items] for kind, items in view.resources.items()}
    return view


def test_a_live_fleet_that_has_converged_changes_nothing(
    checkout: Checkout, one_node: str, node: FakeNode, skulk: Skulk
) -> None:
    show(node, checkout, one_node)
    result = skulk("plan", "--live", node.url, "-o", "json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["facts"], report["base"]["commit"]) == (0, "live", one_node)
    assert [(r["action"], r["before"]["node"]) for r in report["replicas"]] == [("stay", "demo")]


def test_live_downloads_leave_out_what_the_node_has(
    checkout: Checkout, one_node: str, node: FakeNode, skulk: Skulk
) -> None:
    view = show(node, checkout, one_node)
    assert view.resources["nodes"][0].status["files"] == ["1" * 64]
    checkout.deployment("second", "model: fox", "contextTokens: 512")
    checkout.card("owl", 1, "3")
    checkout.deployment("owl", "model: owl", "contextTokens: 512")
    checkout.node("new", "ordinal: 2", "platform: {os: linux}", "hardware: {memory: 64GiB}")
    checkout.node("silent", "ordinal: 3", "labels: {rack: one}")
    result = skulk("plan", "--live", node.url, "-o", "json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    placed = {r["deployment"]: r["after"]["node"] for r in report["replicas"]}
    assert placed["chat"] == placed["second"] == "demo", "the files are there"
    assert [d["models"] for d in report["downloads"]] == [["owl"]]
    assert [r["node"] for r in report["leftOut"]] == ["silent"]
    assert [r["node"] for r in report["assumed"]] == ["new"]


def test_a_commit_in_force_that_this_repository_lacks_falls_back_to_head(
    checkout: Checkout, one_node: str, node: FakeNode, skulk: Skulk
) -> None:
    show(node, checkout, "f" * 40)
    report = json.loads(skulk("plan", "--live", node.url, "-o", "json").stdout)
    assert report["base"] == {"revision": "HEAD", "commit": one_node}


def test_a_node_that_is_away_keeps_what_it_runs_and_takes_nothing_new(
    checkout: Checkout, one_node: str, node: FakeNode, skulk: Skulk
) -> None:
    checkout.node("away", "ordinal: 2")
    show(node, checkout, checkout.commit("Two nodes"))
    (here,) = [n for n in node.resources["nodes"] if n["name"] == "demo"]
    away = {**here, "name": "away", "status": {**here["status"], "presence": "lost"}}
    node.resources["nodes"] = [away, here]
    checkout.deployment("chat", "model: fox", "replicas: 2")
    result = skulk("plan", "--live", node.url, "-o", "json")
    assert result.exit_code == 1, result.output
    report = json.loads(result.stdout)
    assert [(r["node"], r["message"]) for r in report["leftOut"]] == [
        ("away", "is lost: it keeps what it runs and takes nothing new")
    ]
    assert {r["after"]["node"] for r in report["replicas"]} == {"demo"}


def test_a_node_of_another_kind_is_no_change_but_exit_4(checkout: Checkout, node: FakeNode, skulk: Skulk) -> None:
    node.resources["nodes"][0]["status"]["builds"] = [{"backend": 7}]
    result = skulk("plan", "--live", node.url)
    assert result.exit_code == 4
    assert re.search(r"SK-CLI-002 no facts from .* backend that is no str", result.stderr)


def test_a_node_that_reports_no_builds_is_named() -> None:
    class Client:
        def get(self, path: str) -> object:
            return {"items": [{"name": "old", "status": {"backends": ["mlx"]}}] if path.endswith("nodes") else []}

    live = read_live(Client())  # type: ignore[arg-type]  # only `get` is used
    assert (live.members, [r.node for r in live.silent]) == ((), ["old"])
