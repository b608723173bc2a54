"""`skulk top`: in a pipe, as data, and on a real terminal. What it looks like is recorded in `golden/top*.txt`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import termios
from typing import Any

import pytest

from skulk.cli import gauges
from skulk.cli.verbs.top import fitting
from tests.cli.conftest import Skulk
from tests.cli.fake_node import GIB, UID, FakeNode, resource

TOP = [sys.executable, "-m", "skulk.cli.main", "top"]


def node_of(**status: Any) -> dict[str, Any]:
    return resource("nodes", "one", status)


def cells(node: dict[str, Any]) -> dict[str, str]:
    """Heading → cell of the only node."""
    heading, row = gauges.screen([node], [], [])[:2]
    starts = [heading.index(word) for word in heading.split()]
    ends = [*starts[1:], None]
    return {heading[a:b].strip(): row[a:b].strip() for a, b in zip(starts, ends, strict=True)}


def test_as_data_it_is_the_resources(node: FakeNode, skulk: Skulk) -> None:
    found = json.loads(skulk("top", "-o", "json", "--url", node.url).stdout)
    assert found == {"nodes": node.resources["nodes"], "runners": node.resources["runners"]}


def test_one_node_is_shown_with_its_own_runners(node: FakeNode, skulk: Skulk) -> None:
    node.resources["nodes"].append(resource("nodes", "other", {}))
    node.resources["runners"].append(resource("runners", "f" * 16, {"node": "other"}))
    found = json.loads(skulk("top", "--node", "other", "-o", "json", "--url", node.url).stdout)
    assert [[r["name"] for r in found[kind]] for kind in ("nodes", "runners")] == [["other"], ["f" * 16]]
    found = json.loads(skulk("top", "--node", "demo", "-o", "json", "--url", node.url).stdout)
    assert [r["name"] for r in found["runners"]] == [UID]


def test_an_empty_fleet_is_said_in_words(node: FakeNode, skulk: Skulk) -> None:
    node.resources |= {"nodes": [], "runners": []}
    assert skulk("top", "--url", node.url).stdout == "no nodes\n\nno runners\n"


def test_nobody_there_is_exit_4(skulk: Skulk) -> None:
    assert skulk("top", "--url", "http://127.0.0.1:9").exit_code == 4


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"readings": None, "health": None, "presence": None},
        {"readings": {"memory": None, "system": [], "accelerator": {"devices": None}, "disk": {"disks": [None, 1]}}},
        {"readings": {"memory": {"usedBytes": "many", "totalBytes": True}}, "health": {"findings": [{}]}},
        {"readings": {"memory": {"totalBytes": 0, "usedBytes": 0}}, "health": {"state": None, "findings": "x"}},
    ],
)
def test_what_is_not_told_is_a_dash_and_never_a_zero(status: dict[str, Any]) -> None:
    found = cells(node_of(**status))
    unknown = {name for name, cell in found.items() if cell == "-"}
    assert unknown >= {"PRESENCE", "HEALTH", "CPU", "ACCELERATOR", "POWER", "DISK-FREE", "AGE"}


def test_shared_memory_is_not_shown_twice_and_shared_power_not_counted_twice() -> None:
    gpu = {
        "name": "Apple M4 Pro",
        "utilisation": 0.5,
        "memoryTotalBytes": 64 * GIB,
        "powerWatts": 18.0,
        "unified": True,
    }
    found = cells(node_of(readings={"accelerator": {"devices": [gpu]}, "system": {"powerWatts": 21.0}}))
    assert (found["ACCELERATOR"], found["POWER"]) == ("50%", "21W")


def test_several_devices_stand_side_by_side() -> None:
    card = {"utilisation": 0.5, "memoryTotalBytes": 24 * GIB, "memoryUsedBytes": 512 * 1024**2, "unified": False}
    found = cells(node_of(readings={"accelerator": {"devices": [card, card | {"utilisation": None}]}}))
    assert found["ACCELERATOR"] == "50% 512MiB/24GiB, - 512MiB/24GiB"


@pytest.mark.parametrize(
    ("share", "cells"), [(0.0, 0), (0.04, 0), (0.5, 5), (0.96, 10), (1.0, 10), (7.0, 10), (-1.0, 0)]
)
def test_a_bar_is_as_full_as_what_it_shows(share: float, cells: int) -> None:
    assert gauges.bar(share).count("#") == cells
    assert len(gauges.bar(share)) == len(gauges.bar(0.3))


def test_a_node_cannot_drive_the_terminal(node: FakeNode, skulk: Skulk) -> None:
    finding = {"reason": "\x1b[2J", "message": "\x1b]0;x\x07", "remediation": "\x1b[H"}
    node.resources["nodes"][0]["status"]["health"] = {"state": "degraded\x1b[1m", "findings": [finding]}
    assert "\x1b" not in skulk("top", "--url", node.url).stdout


# --- on a terminal ------------------------------------------------------------------------------------------


def test_a_window_that_is_too_small_says_what_it_leaves_out() -> None:
    lines = [f"line {number}" for number in range(10)]
    assert fitting(lines, 80, 10) == lines
    shown = fitting(lines, 80, 4)
    assert shown[:3] == lines[:3]
    assert shown[3].startswith("… 7 more lines")


def test_a_wrapped_line_takes_the_rows_that_it_fills_and_colours_take_none() -> None:
    assert fitting(["x" * 25, "end"], 10, 4) == ["x" * 25, "end"]
    assert len(fitting(["x" * 25, "end"], 10, 3)) == 1
    coloured = "\x1b[32m" + "x" * 10 + "\x1b[0m"
    assert fitting([coloured, "end"], 10, 2) == [coloured, "end"]


def _until(descriptor: int, mark: bytes) -> bytes:
    """Everything up to and with the next `mark`; the suite's timeout ends a wait in vain."""
    seen = b""
    while not seen.endswith(mark):
        seen += os.read(descriptor, 1)
    return seen


def test_on_a_terminal_it_follows_the_fleet_until_ctrl_c(node: FakeNode) -> None:
    leader, follower = os.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
    settings = {k: v for k, v in os.environ.items() if not k.startswith("SKULK_")} | {"TERM": "xterm", "NO_COLOR": "1"}
    with (
        subprocess.Popen(
            [*TOP, "--url", node.url], stdin=follower, stdout=follower, stderr=follower, env=settings
        ) as process,
        contextlib.ExitStack() as on_failure,
    ):
        on_failure.callback(process.kill)  # leaving the block waits for the process
        os.close(follower)
        first = _until(leader, b"demo: DiskNearlyFull")
        assert b"\x1b[?1049h" in first
        node.resources["nodes"][0]["status"]["readings"]["system"]["cpuUtilisation"] = 0.77
        _until(leader, b"77%")
        node.stop()
        _until(leader, b"no answer for ")
        node.resources["nodes"][0]["status"]["readings"]["system"]["cpuUtilisation"] = 0.55
        node.start()
        _until(leader, b"55%")
        process.send_signal(signal.SIGINT)
        # What stands behind is the screen as it was, with a cursor.
        _until(leader, b"\x1b[?25h\x1b[?1049l")
        assert process.wait(timeout=60) == 0
        on_failure.pop_all()
    os.close(leader)
