"""Nodes with networks and certificates of their own: who is cut off, who does not get in, and whose commit it is.

Keys, certificates and Node manifests come from `skulk node add`, `key` and `sign`, as an operator makes them.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_harness import (
    Fleet,
    Load,
    document,
    fleet_status,
    measured,
    only_on,
    wait_new_document,
    wait_one_document,
)
from harness import Node, alive, deployment, git, until
from network_ground import Networks, Walled, need_namespaces

pytestmark = pytest.mark.e2e

NAMES = ("a", "b", "c")
TEXT = "abcdefghij" * 2
STREAM = {"name": "scripted", "options": {"step_seconds": 0.1, "tokens": len(TEXT), "echo": "abcdefghij"}}
MANY = {"engine": STREAM, "concurrency": 16, "contextTokens": 512}


@pytest.fixture(scope="module")
def networks() -> Iterator[Networks]:
    need_namespaces()
    networks = Networks()
    yield networks
    networks.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, engines_dir: Path, networks: Networks) -> Iterator[Fleet]:
    base = tmp_path_factory.mktemp("walled")
    with Fleet(base / "fleet", engines_dir, ground=Walled(networks, base / "authority")) as fleet:
        for name in NAMES:
            fleet.add(name, engines=[])
        everywhere = deployment("everywhere", "parrot", replicas=3, placement={"spread": "node"}, **MANY)
        pinned = {f"on-{n}": deployment(f"on-{n}", "parrot", placement=only_on(n, NAMES), **MANY) for n in NAMES}
        commit = fleet.push_base(everywhere=everywhere, **pinned)
        fleet.start()
        fleet.wait_whole(commit)
        yield fleet


@pytest.fixture
def fleet(shared: Fleet) -> Fleet:
    shared.wait_whole()
    return shared


@pytest.fixture
def ground(shared: Fleet) -> Walled:
    assert isinstance(shared.ground, Walled)
    return shared.ground


def others(fleet: Fleet, name: str) -> list[Node]:
    return [fleet[other] for other in NAMES if other != name]


@pytest.mark.parametrize("who", ["coordinator", "another node"])
def test_both_sides_of_a_cut_serve_and_fold_back_into_one_document(fleet: Fleet, ground: Walled, who: str):
    coordinator = fleet_status(fleet["a"])["coordinator"]
    lost = coordinator if who == "coordinator" else next(name for name in NAMES if name != coordinator)
    pids, rest = fleet.pids(), others(fleet, lost)
    own = [(node, f"on-{node.base.name}") for node in fleet.nodes.values()]
    across = [(rest[0], f"on-{rest[1].base.name}"), (rest[1], f"on-{rest[0].base.name}")]
    with Load([*own, *across]) as load, Load([(node, "everywhere") for node in rest]) as spread:
        load.wait_flowing()
        crossing = [(rest[0], f"on-{lost}"), (fleet[lost], f"on-{rest[0].base.name}")]
        with Load(crossing) as broken:
            broken.wait_midstream({(node.base.name, model) for node, model in crossing})
            then, moment = time.monotonic(), time.time()
            ground.cut(lost)
            until(
                lambda: (
                    {(a.gateway, a.model) for a in list(broken.answers) if a.kind == "told"}
                    == {(node.base.name, model) for node, model in crossing}
                ),
                "both ends of the cut are told",
                context=lambda: broken.story(then),
            )
        told = max(a.ended for a in broken.answers if a.kind == "told" and a.began < then) - then
        measured("error event after a cut", told, 5)
        measured("new document after a cut", wait_new_document(rest, moment), 5)
        until(lambda: fleet_status(fleet[lost])["liveNodes"] == 1, "the lost node knows that it is alone")
        load.wait_flowing()
        spread.wait_flowing()
        assert all(alive(pid) for pid in pids.values())
        healed = time.time()
        ground.heal(lost)
        measured("one document after a heal", wait_one_document(list(fleet.nodes.values()), healed), 5)
        fleet.wait_whole()
        load.wait_flowing()
    assert load.failed() == []
    assert {answer.text for answer in load.answers} == {TEXT}
    # Only what the lost node itself was serving at that moment is told of; everything later goes elsewhere.
    assert all(a.began < then and a.kind == "told" for a in spread.failed())
    assert fleet.pids() == pids


def test_two_fleets_on_one_network_do_not_see_each_other(
    fleet: Fleet, ground: Walled, tmp_path: Path, engines_dir: Path
):
    """The other fleet has another namespace and the same authority: it could come in, and has no business here."""
    second = Walled(ground.networks, ground.authority, "other")
    before = document(fleet["a"])
    with Fleet(tmp_path / "other", engines_dir, ground=second) as other:
        for name in ("x", "y"):
            other.add(name, namespace="other", engines=[], planes={"seeds": [ground.endpoint("a")]})
        commit = other.push_base(theirs=deployment("theirs", "parrot", engine={"name": "scripted"}))
        other.start()
        other.wait_whole(commit)
        assert {n["name"] for n in other["x"].items("nodes")} == {"x", "y"}
        assert {n["name"] for n in fleet["a"].items("nodes")} == set(NAMES)
        assert {p["status"]["deployment"] for p in other["y"].items("placements")} == {"theirs"}
        for node, name in ((fleet["a"], "theirs"), (other["x"], "on-a")):
            assert node.http.post("/v1/chat/completions", json=chat(name)).status_code == 404
    fleet.wait_whole()
    assert document(fleet["a"]) == before


def chat(model: str) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "hello"}]}


def test_a_node_of_another_authority_stays_outside(fleet: Fleet, ground: Walled, tmp_path: Path, engines_dir: Path):
    """It has a copy of the repository, the namespace and a name of the fleet, and a certificate from elsewhere."""
    foreign = Walled(ground.networks, tmp_path / "authority", "stranger")
    with Fleet(tmp_path / "foreign", engines_dir, ground=foreign) as intruder:
        source = {"url": str(fleet.origin.remote)}
        node = intruder.add("z", engines=[], namespace="demo", planes={"seeds": [ground.endpoint("a")]}, source=source)
        node.launch()
        until(lambda: bool(node.log("planes_opened")), "it tries", context=node.tail)
        assert node.log("planes_opened")[-1]["dial"]
        # A friend that starts after it is in first: restarting one shows that the way is open to who may come.
        fleet["c"].end(signal.SIGTERM)
        fleet.start("c")
        fleet.wait_whole()
        assert document(node) is None or document(node)[1] == "z"
        assert {n["name"]: n["status"]["presence"] for n in fleet["a"].items("nodes")} == dict.fromkeys(NAMES, "live")


def test_planes_beyond_loopback_without_certificates_are_refused_at_the_start(fleet: Fleet, ground: Walled):
    config = (fleet["a"].base / "node.toml").read_text()
    plain = "".join(
        f"{line}\n" for line in config.splitlines() if line.split(" = ")[0] not in ("ca", "certificate", "key")
    )
    (fleet["a"].base / "plain.toml").write_text(plain.replace("tls/", "tcp/"))
    refused = fleet["a"].skulk("node", "run", "--config", "plain.toml")
    assert refused.returncode != 0
    assert "SK-PLN-001" in refused.stderr
    assert "plain.toml" in refused.stderr


def test_a_node_without_its_remote_gets_the_commit_from_a_member(fleet: Fleet):
    name = "on-b"
    remote = fleet["b"].base / "remote.git"
    remote.unlink()
    pid = next(r["status"]["pid"] for r in fleet["b"].items("runners") if r["status"]["deployment"] == name)
    try:
        said = {**STREAM, "options": {"echo": "from a member"}}
        changed = deployment(name, "parrot", placement=only_on("b", NAMES), engine=said, contextTokens=512)
        commit = fleet.origin.push({f"fleet/deployments/{name}.yaml": changed})
        fleet.wait_whole(commit)
        assert fleet["b"].log("commit_from_member")[-1]["commit"] == commit
        assert fleet["c"].ask(name, "hello") == "from a member"
        until(lambda: not alive(pid), "the old runner is gone")
        until(
            lambda: any(c["reason"] in ("SourceStale", "SourceUnreachable") for c in status_of(fleet["b"])),
            "it goes on saying that its remote is away",
        )
    finally:
        remote.symlink_to(fleet.origin.remote)
    until(
        lambda: not any(c["reason"] in ("SourceStale", "SourceUnreachable") for c in status_of(fleet["b"])),
        "the remote is back",
    )


def status_of(node: Node) -> list[dict[str, str]]:
    return list(node.get("/fleet/v1/status")["conditions"])


def test_a_commit_that_one_node_does_not_trust_is_blocked_by_name_until_a_trusted_one_comes(
    fleet: Fleet, tmp_path: Path
):
    key, signers, c = tmp_path / "signer", tmp_path / "signers", fleet["c"]
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    signers.write_text(f"test@skulk.invalid {key.with_suffix('.pub').read_text()}")
    config = c.base / "node.toml"
    trusting = config.read_text()
    pids, old = fleet.pids(), fleet_status(c)["inForce"]
    try:
        c.end(signal.SIGTERM)
        strict = f'[source]\nverify = "head"\nallowedSigners = "{signers}"\n'
        config.write_text(trusting.replace("[source]\n", strict))
        fleet.start("c")
        fleet.wait_whole(old)
        path, text = "fleet/deployments/everywhere.yaml", ""
        text = (fleet.origin.checkout / path).read_text()
        unsigned = fleet.origin.push({path: text + "  priority: 1\n"})

        def blocked(node: Node) -> bool:
            lines = [line for one in node.items("fleet") for line in one["waiting"]]
            return any(w["reason"] == "CommitBlocked" and "c" in w["message"] for w in lines)

        coordinator = fleet[fleet_status(c)["coordinator"]]
        until(lambda: blocked(coordinator), "the blocking node is named", context=lambda: coordinator.items("fleet"))
        assert c.log("commit_refused")[-1]["commit"] == unsigned
        assert {fleet_status(node)["inForce"] for node in fleet.nodes.values()} == {old}
        for name, value in (("user.signingKey", str(key)), ("gpg.format", "ssh"), ("commit.gpgSign", "true")):
            git("config", name, value, cwd=fleet.origin.checkout)
        signed = fleet.origin.push({path: text + "  priority: 2\n"})
        fleet.wait_whole(signed)
    finally:
        git("config", "commit.gpgSign", "false", cwd=fleet.origin.checkout)
        config.write_text(trusting)
    assert fleet.pids() == pids
