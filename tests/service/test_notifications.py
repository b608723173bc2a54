"""What a service manager hears from a node: over a real socket, as systemd listens on one."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from skulk.node.notify import ServiceManager
from skulk.sim.clock import VirtualClock, run


@pytest.fixture
def listener(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.setblocking(False)
        yield made


def heard(listener: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(listener.recv(4096).decode())
        except BlockingIOError:
            return found


def manager(listener: socket.socket, **more: str) -> ServiceManager:
    return ServiceManager({"NOTIFY_SOCKET": listener.getsockname(), **more}, 42)


def test_what_is_told_is_heard(listener: socket.socket):
    manager(listener).tell("READY=1\nSTATUS=here")
    assert heard(listener) == ["READY=1\nSTATUS=here"]


def test_without_a_manager_or_with_a_deaf_one_nothing_happens(tmp_path: Path):
    ServiceManager({}, 42).tell("READY=1")
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}, 42).tell("READY=1")


def test_the_abstract_namespace_is_reached():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind("\0skulk-test-notify")
        made.setblocking(False)
        ServiceManager({"NOTIFY_SOCKET": "@skulk-test-notify"}, 42).tell("READY=1")
        assert heard(made) == ["READY=1"]


def test_the_watchdog_is_kicked_twice_in_its_time_and_only_while_the_daemon_turns(listener: socket.socket):
    turning = True

    async def story() -> None:
        nonlocal turning
        clock = VirtualClock()
        watching = asyncio.create_task(manager(listener, WATCHDOG_USEC="60000000").watch(clock, lambda: turning))
        await clock.sleep(119.0)
        assert heard(listener) == ["WATCHDOG=1"] * 4
        turning = False
        await clock.sleep(300.0)
        assert heard(listener) == []
        turning = True
        await clock.sleep(60.0)
        assert heard(listener) == ["WATCHDOG=1"] * 2
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    run(story())


@pytest.mark.parametrize(
    "environment", [{}, {"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}]
)
def test_no_watchdog_is_kicked_that_is_not_meant_for_this_process(listener: socket.socket, environment: dict[str, str]):
    made = manager(listener, **environment)
    assert made.watchdog_seconds is None

    async def story() -> None:
        clock = VirtualClock()
        watching = asyncio.create_task(made.watch(clock, lambda: True))
        await clock.sleep(100.0)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    run(story())
    assert heard(listener) == []
