"""A daemon under a service manager: it says when it is ready, that it lives, and when it ends."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

from harness import DEADLINE_SECONDS, Node


def hear_until(listener: socket.socket, wanted: str) -> list[str]:
    """Messages up to the one that begins with `wanted`."""
    found: list[str] = []
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        found.append(listener.recv(4096).decode())
        if found[-1].startswith(wanted):
            return found
    raise AssertionError(f"no {wanted} among {found}")


def test_a_service_manager_hears_of_the_start_the_life_and_the_end(tmp_path: Path, engines_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(DEADLINE_SECONDS)
        (tmp_path / "node").mkdir()
        with Node(tmp_path / "node", engines_dir) as node:
            node.start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="1000000")
            assert hear_until(listener, "READY=1")[-1].endswith(f"STATUS=node demo at 127.0.0.1:{node.port}")
            hear_until(listener, "WATCHDOG=1")
            assert node.end(signal.SIGTERM) == 0
            hear_until(listener, "STOPPING=1")
