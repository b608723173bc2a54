"""Ground for a fleet in which every node has a network of its own: namespaces on two bridges, and mutual TLS.

The nodes meet on the *fabric* (10.77.0.0/24); clients, the test among them, reach the gateways on another network
(10.78.0.0/24), so that cutting a node off from the others does not cut it off from its clients. All namespaces are held
by descriptors of the test process alone: when it ends, however it ends, the kernel removes them with everything in
them. Keys, certificates and Node manifests are made by the program's own commands.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from harness import HEAD, Node, Origin, Place

KEY = "sk-test-8c1d5e"
PLANES_PORT = 52416
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def need_namespaces() -> None:
    """Skip the test where the machine does not allow it."""
    if os.geteuid() != 0 or not shutil.which("nsenter") or not shutil.which("ip"):
        pytest.skip("needs root, nsenter (util-linux) and ip (iproute2)")


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _current() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _new_network() -> int:
    """A descriptor of a new, empty network namespace."""
    made: list[int] = []

    def make() -> None:
        _checked(_libc.unshare(_CLONE_NEWNET))
        made.append(_current())

    # A thread of its own: a namespace belongs to a thread, and this one's must stay.
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    (network,) = made
    return network


def _path(network: int) -> str:
    return f"/proc/{os.getpid()}/fd/{network}"


class Networks:
    """Two bridges that several fleets can share. While it is open, the calling thread stands on the clients' one."""

    def __init__(self) -> None:
        self._before = _current()
        self._switch = _new_network()
        self._hosts: dict[str, int] = {}
        _checked(_libc.setns(self._switch, _CLONE_NEWNET))
        self._ip("link set lo up")
        for bridge in ("fabric", "clients"):
            self._ip(f"link add {bridge} type bridge")
            self._ip(f"link set {bridge} up")
        self._ip("address add 10.78.0.254/24 dev clients")

    def _ip(self, arguments: str, host: str | None = None) -> None:
        enter = [] if host is None else self.enter(host)
        done = subprocess.run([*enter, "ip", *arguments.split()], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"ip {arguments}: {done.stderr}"

    def enter(self, host: str) -> list[str]:
        """The command that runs another one there."""
        return ["nsenter", f"--net={_path(self._hosts[host])}"]

    def add(self, host: str) -> int:
        """A host with an address on both networks; return its number, the last part of either."""
        self._hosts[host], number = _new_network(), len(self._hosts) + 1
        self._ip("link set lo up", host)
        for bridge, net, short in (("fabric", 77, "f"), ("clients", 78, "c")):
            self._ip(f"link add {short}{number} type veth peer name {bridge} netns {_path(self._hosts[host])}")
            self._ip(f"link set {short}{number} master {bridge}")
            self._ip(f"link set {short}{number} up")
            self._ip(f"address add 10.{net}.0.{number}/24 dev {bridge}", host)
            self._ip(f"link set {bridge} up", host)
        return number

    def _port(self, host: str) -> str:
        return f"f{list(self._hosts).index(host) + 1}"

    def cut(self, host: str) -> None:
        """Pull the host's cable out of the fabric."""
        self._ip(f"link set {self._port(host)} down")

    def heal(self, host: str) -> None:
        self._ip(f"link set {self._port(host)} up")

    def close(self) -> None:
        _checked(_libc.setns(self._before, _CLONE_NEWNET))
        for network in (*self._hosts.values(), self._switch, self._before):
            os.close(network)
        self._hosts.clear()


class Walled:
    """Port `Ground`: the nodes of one fleet on `networks`, with an authority of their own."""

    def __init__(self, networks: Networks, authority: Path, namespace: str = "demo", port: int = PLANES_PORT) -> None:
        self.networks = networks
        self.authority = authority
        self._namespace = namespace
        self._numbers: dict[str, int] = {}
        self._port = port

    def host(self, name: str) -> str:
        return f"{self._namespace}/{name}"

    def place(self, name: str) -> Place:
        number = self._numbers[name] = self.networks.add(self.host(name))
        return Place(f"10.78.0.{number}", tuple(self.networks.enter(self.host(name))), KEY)

    def address(self, name: str) -> str:
        return f"10.77.0.{self._numbers[name]}"

    def endpoint(self, name: str) -> str:
        return f"tls/{self.address(name)}:{self._port}"

    def tables(self, name: str, base: Path) -> dict[str, dict[str, object]]:
        keys = base / "keys"
        files = {"ca": keys / "ca.pem", "certificate": keys / f"{name}.pem", "key": keys / f"{name}.key"}
        return {
            "listen": {"host": f"10.78.0.{self._numbers[name]}"},
            "planes": {
                "listen": [self.endpoint(name)],
                "mode": "peer",
                **{key: str(path) for key, path in files.items()},
            },
        }

    def fleet(self) -> str:
        """The Fleet manifest: gateways beyond loopback need a key."""
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        return (
            HEAD.format(kind="Fleet", name="demo")
            + f"  namespace: {self._namespace}\n  network:\n    tlsRequired: true\n"
            + "  access:\n    keys:\n      - name: test\n        scopes: [inference, read, admin]\n"
            + f"        sha256: '{digest}'\n"
        )

    def enrol(self, node: Node, name: str, origin: Origin) -> None:
        """As the operator does it: add in the checkout, make the key on the node, sign in the checkout."""
        if not (origin.checkout / "fleet/fleet.yaml").exists():
            origin.write({"fleet/fleet.yaml": self.fleet()})
        checkout, keys = str(origin.checkout), node.base / "keys"
        self._run(node, "add", name, "--address", self.address(name), "--path", checkout)
        self._run(node, "key", "--config", str(node.base / "node.toml"))
        new = [] if self.authority.exists() else ["--new-ca"]
        self._run(node, "sign", str(keys / f"{name}.csr"), "--path", checkout, "--ca", str(self.authority), *new)

    def _run(self, node: Node, *arguments: str) -> None:
        done = node.skulk("node", *arguments)
        assert done.returncode == 0, done.stderr

    def cut(self, name: str) -> None:
        self.networks.cut(self.host(name))

    def heal(self, name: str) -> None:
        self.networks.heal(self.host(name))

    def close(self) -> None: ...
