"""A push and a signed delivery make a node converge that would look by itself an hour later only."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest
from harness import Node, until

pytestmark = pytest.mark.e2e

SECRET = "an-end-to-end-secret"
PATH = "/hooks/v1/git"


def signed(body: bytes, *, secret: str = SECRET, delivery: str) -> dict[str, str]:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"X-GitHub-Event": "push", "X-GitHub-Delivery": delivery, "X-Hub-Signature-256": f"sha256={digest}"}


def test_a_webhook_makes_a_push_come_into_force_and_nothing_else_does(node_at):
    node: Node = node_at(source={"pollSeconds": 3600})
    file = node.base / "webhook-secret"
    file.write_text(SECRET + "\n")
    file.chmod(0o600)
    first = node.push_base()
    node.start(SKULK_WEBHOOK__SECRET_FILE=str(file))
    until(lambda: node.get("/fleet/v1/status")["inForce"] == first, "the first commit", context=node.tail)

    second = node.push({"fleet/nodes/demo.yaml": (node.checkout / "fleet/nodes/demo.yaml").read_text() + "# more\n"})
    body = json.dumps({"ref": "refs/heads/main", "after": second}).encode()
    refused = node.http.post(PATH, content=body, headers=signed(body, secret="a-guess-of-a-stranger", delivery="d-0"))
    assert refused.status_code == 401
    # Everything else that could make it look: a turn of the loop, a reading client.
    generation = node.get("/fleet/v1/status")["generation"]
    node.skulk("get", "nodes")
    assert node.get("/fleet/v1/status")["attempted"] == first
    assert node.get("/fleet/v1/status")["generation"] >= generation

    taken = node.http.post(PATH, content=body, headers=signed(body, delivery="d-1"))
    assert (taken.status_code, taken.json()["outcome"]) == (202, "poke")
    until(lambda: node.get("/fleet/v1/status")["inForce"] == second, "the second commit", context=node.tail)
    assert node.http.post(PATH, content=body, headers=signed(body, delivery="d-1")).json()["outcome"] == "seen"
    assert SECRET not in (node.base / "daemon.log").read_text("utf-8", "replace")


def test_a_daemon_whose_webhook_secret_cannot_be_read_does_not_start_and_says_why(node_at):
    node: Node = node_at()
    file = node.base / "webhook-secret"
    file.write_text(SECRET)
    file.chmod(0o644)
    with (node.base / "node.toml").open("a") as config:
        config.write(f"[webhook]\nsecretFile = {json.dumps(str(file))}\n")
    done = node.skulk("node", "run", "--config", str(node.base / "node.toml"))
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "SK-CFG-001" in said
    assert f"chmod o-rwx {file}" in said
    assert SECRET not in said
