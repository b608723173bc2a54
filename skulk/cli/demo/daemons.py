"""The demo's three daemons: processes of their own, started together, and gone at the end whatever happened."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from skulk.cli.client import FleetClient
from skulk.cli.demo.endings import Endings
from skulk.cli.demo.layout import DemoNode, Site, shown
from skulk.core.errors import SkulkError
from skulk.node.lock import StateLock

# A daemon answers within a second or two; a loaded machine may take longer.
ANSWER_SECONDS_MAX = 120.0
# Streams get 30 s to end, runners drain and stop after them, and a compilation gets 5 s: less than all in a row.
STOP_SECONDS_MAX = 60.0
LOOK_SECONDS = 0.1
# Of a log in an error: enough for the reason, which comes last.
LOG_LINES = 5

_ENDED_WELL = (0, -signal.SIGUSR1)
"""The second: it was told to stop before it had begun."""


class Daemons:
    """What runs, by node."""

    def __init__(self, nodes: Iterable[DemoNode]) -> None:
        self._nodes = tuple(nodes)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, node: DemoNode) -> int:
        """Start a node's daemon; return its pid."""
        with node.log.open("wb") as log:
            self._processes[node.name] = subprocess.Popen(
                _skulk("node", "run", "--config", str(node.config)),
                cwd=node.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C reaches us alone, and we end them in order.
                start_new_session=True,
            )
        return self._processes[node.name].pid

    def wait_for_answers(self) -> None:
        """Until all answer. Raises SystemExit when one ends instead, or does not answer in time."""
        deadline = time.monotonic() + ANSWER_SECONDS_MAX
        for node in self._nodes:
            with FleetClient(node.url) as client:
                while not _answers(client):
                    self.refuse_ended()
                    if time.monotonic() > deadline:
                        raise SystemExit(f"error: the daemon of {node.name} does not answer; see {shown(node.log)}")
                    time.sleep(LOOK_SECONDS)

    def ended(self) -> Iterator[DemoNode]:
        """The nodes whose daemon, as it was started here, is not there any more."""
        return (node for node in self._nodes if self._processes[node.name].poll() is not None)

    def refuse_ended(self) -> None:
        """Raise SystemExit with the last lines of the first daemon that has ended."""
        for node in self.ended():
            lines = node.log.read_text("utf-8", "replace").strip().splitlines()[-LOG_LINES:]
            raise SystemExit(f"error: the daemon of {node.name} ended:\n  " + "\n  ".join(lines))

    def read_again(self, node: DemoNode) -> None:
        """Have a daemon read its node.toml."""
        self._processes[node.name].send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """Drain and stop everything: runners, daemons, what they compile. Returns when nothing is left."""
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + STOP_SECONDS_MAX
        for node in self._nodes:
            if node.name in self._processes:
                code = _ended_by(self._processes[node.name], deadline)
                # It crashed, or somebody killed it, perhaps to see what happens, and perhaps started another one.
                if code not in _ENDED_WELL or _lives(node.config):
                    stop_node(node.config)


def _ended_by(process: subprocess.Popen[bytes], deadline: float) -> int:
    """The exit code of a process that is given until `deadline` (monotonic)."""
    try:
        return process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


@contextmanager
def running(place: Site, endings: Endings) -> Iterator[Daemons]:
    """The daemons of all nodes; at the end nothing of them is left."""
    daemons = Daemons(place.nodes)
    try:
        for node in place.nodes:
            with endings.shielded():
                daemons.start(node)
        yield daemons
    finally:
        endings.begun()
        daemons.stop()


def stop_left_over(configs: Iterable[Path]) -> bool:
    """End the daemons of a demo that was killed; True when there was one."""
    alive = [config for config in configs if _lives(config)]
    for config in alive:
        stop_node(config)
    return bool(alive)


def stop_node(config: Path) -> None:
    """`skulk node stop`, which also stops runners that have lost their daemon."""
    subprocess.run(
        _skulk("node", "stop", "--config", str(config)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=2 * STOP_SECONDS_MAX,
        start_new_session=True,
    )


def _lives(config: Path) -> bool:
    return StateLock(config.parent / "state").holder() is not None


def _answers(client: FleetClient) -> bool:
    with contextlib.suppress(SkulkError):
        client.get("/fleet/v1/status")
        return True
    return False


def _skulk(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "skulk.cli.main", *arguments]
