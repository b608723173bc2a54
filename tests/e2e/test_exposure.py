"""Invariant: nothing listens beyond loopback without keys. In a network namespace of its own, with a second address."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from harness import HEAD, Node, deployment, until

OUTSIDE = "192.0.2.1"
KEY = "sk-test-4f9d1c"

pytestmark = pytest.mark.e2e


def _reachable(port: int) -> bool:
    try:
        with httpx2.Client(trust_env=False, timeout=5.0) as http:
            return http.get(f"http://{OUTSIDE}:{port}/livez").status_code == 200
    except httpx2.TransportError:
        return False


def story(base: Path, engines: Path) -> None:
    """Runs inside the namespace."""
    with Node(base, engines, listen={"host": "0.0.0.0"}) as node:
        node.start()
        open_fleet = HEAD.format(kind="Fleet", name="demo") + "  namespace: demo\n"
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        keys = (
            f"  access:\n    keys:\n      - name: test\n        scopes: [inference, read]\n        sha256: '{digest}'\n"
        )
        node.push_base(slow=deployment("slow", "parrot", engine={"name": "scripted"}))
        node.wait_ready("slow")
        assert not _reachable(node.port), "reachable from outside without keys"
        node.push({"fleet/fleet.yaml": open_fleet + keys})
        until(lambda: _reachable(node.port), "the keys open the door", context=node.tail)
        with httpx2.Client(base_url=f"http://{OUTSIDE}:{node.port}", trust_env=False, timeout=10.0) as http:
            assert http.get("/v1/models").status_code == 401
            assert http.get("/fleet/v1/nodes").status_code == 401
            allowed = {"Authorization": f"Bearer {KEY}"}
            assert http.get("/v1/models", headers=allowed).status_code == 200
            assert http.post("/fleet/v1/reset/slow", headers=allowed).status_code == 403
        node.push({"fleet/fleet.yaml": open_fleet})
        until(lambda: not _reachable(node.port), "the door closes with the last key", context=node.tail)
        assert node.ask("slow", "hello")


def test_the_gateway_leaves_loopback_only_while_the_fleet_has_keys(tmp_path: Path, engines_dir: Path):
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip("needs root, unshare (util-linux) and ip (iproute2)")
    (tmp_path / "node").mkdir()
    network = f"ip link set lo up && ip addr add {OUTSIDE}/32 dev lo"
    inside = f"{network} && exec {sys.executable} {__file__} {tmp_path}/node {engines_dir}"
    done = subprocess.run(["unshare", "--net", "sh", "-c", inside], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


if __name__ == "__main__":
    story(Path(sys.argv[1]), Path(sys.argv[2]))
