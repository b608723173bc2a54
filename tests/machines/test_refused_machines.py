"""A machine that cannot be a node is refused with everything that is wrong, and left as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from hosts import Host, Hosts
from operator_machine import Operator, fleet_files

NODE, AWAY = "box", "away"


def untouched(host: Host) -> list[str]:
    """What a bootstrap would have made."""
    script = "ls -d /opt/skulk /var/lib/skulk /etc/systemd/system/skulk-node.service 2>/dev/null; id skulk 2>/dev/null"
    return host.run("sh", "-c", script, check=False).stdout.splitlines()


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_everything_that_is_wrong_is_said_at_once_and_nothing_is_changed(machines: Hosts, tmp_path: Path) -> None:
    host = machines.up(NODE, "trixie")
    nobody = f"{machines.net}.250"
    with Operator(tmp_path / "operator", machines) as operator:
        linux = "{os: linux, arch: x86_64}"
        operator.write(fleet_files({NODE: (host.ip, linux, "llama_cpp-cpu"), AWAY: (nobody, linux, "llama_cpp-cpu")}))
        operator.push("Declare a machine, and one that is not there")

        host.run("mv", "/etc/sudoers.d/ops", "/var/tmp/ops")
        refused = operator.bootstrap("--new-ca")
        assert refused.nodes[AWAY]["status"] == "unreachable", refused.nodes
        assert nobody in refused.nodes[AWAY]["failure"]["sentence"]
        failure = refused.nodes[NODE]["failure"]
        assert failure["task"].startswith("skulk_preflight"), failure
        assert "sudo" in failure["sentence"], failure
        assert "--ask-become-pass" in failure["fix"], failure
        assert refused.exit_code == 1
        assert untouched(host) == []
        host.run("mv", "/var/tmp/ops", "/etc/sudoers.d/ops")

        host.write("/etc/skulk/node.toml", 'name = "other"\n')
        host.write(
            "/usr/local/bin/date", '#!/bin/sh\n[ "$1" = +%s ] && exec echo 1700000000\nexec /usr/bin/date "$@"\n', 0o755
        )
        host.run("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", "/opt")
        host.run("touch", "/var/lib/dpkg/updates/0001")
        listen = "import socket, time; s = socket.create_server(('0.0.0.0', 52415)); time.sleep(600)"
        host.run("systemd-run", "--quiet", "--unit=taken", "python3", "-c", listen)
        host.run("sh", "-c", "until grep -qi ':CCBF ' /proc/net/tcp; do sleep 0.1; done")
        refused = operator.bootstrap(NODE, "--new-ca")
        assert (refused.exit_code, refused.nodes[NODE]["status"]) == (6, "failed"), refused
        said = refused.nodes[NODE]["failure"]["sentence"]
        for what in ("identity: ", "clock: ", "disk: ", "packages: ", "port: "):
            assert what in said, f"{what!r} is missing: {said}"
        assert untouched(host) == []
        assert refused.changed_manifests == []
        assert not (operator.base / "config" / "skulk" / "ca").exists(), "no authority either"
