"""The runner processes of this node (port `RunnerHost`), and the way of a request into one of them.

Runners outlive the daemon: they are spawned detached, found again by `take_stock`, and let go by `close`. Nothing
here decides what should run.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from skulk.adapters.runners import processes
from skulk.adapters.runners.environment import child_environment
from skulk.adapters.runners.last_words import last_words
from skulk.adapters.runners.link import RunnerLink
from skulk.adapters.runners.places import Place, Places, read_record, write_private
from skulk.adapters.runners.streams import RunnerGeneration
from skulk.core.domain import GenerationRequest, Launch, Link, Owner, PlacementUid, RunnerFacts
from skulk.core.errors import REQ_NOT_FOUND, RUN_LOST, RUN_START, RequestError, RetriableRefusal, Terminal
from skulk.core.wire.launch import launch_from_json, launch_to_json
from skulk.core.wire.runner import FlightRecord

HELLO_SECONDS_MAX = 5.0
"""A process that runs answers on its local socket at once; after this long it is frozen or not ours."""
FIRST_HELLO_SECONDS_MAX = 30.0
"""A process that has just been spawned first starts an interpreter: under a second on an idle machine, many on one
whose disk is cold and whose cores are taken."""


class RunnerProcesses:
    """Implements `RunnerHost`, plus what the daemon's composition needs: stock, requests, logs, closing.

    `interpreter(launch)` is the Python of the launch's engine environment (raises SkulkError when there is none);
    `code_dir` holds the runner code (`place_runner_code`); `wake` is called when facts changed, `load_changed` some
    time after requests came or ended. `owner` is this daemon in this life. `clock` gives the monotonic seconds of the
    facts. Belongs to one event loop.
    """

    def __init__(
        self,
        run_dir: Path,
        owner: Owner,
        *,
        interpreter: Callable[[Launch], Path],
        code_dir: Path,
        wake: Callable[[], None],
        load_changed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        environment: Mapping[str, str] | None = None,
        hello_seconds: float = HELLO_SECONDS_MAX,
        first_hello_seconds: float = FIRST_HELLO_SECONDS_MAX,
    ) -> None:
        self._places = Places(run_dir)
        self._owner = owner
        self._interpreter = interpreter
        self._code_dir = code_dir
        self._wake = wake
        self._load_changed = load_changed
        self._clock = clock
        self._environment = child_environment(os.environ, environment)
        self._hello_seconds = hello_seconds
        self._first_hello_seconds = first_hello_seconds
        self._links: dict[PlacementUid, RunnerLink] = {}

    # --- the port -------------------------------------------------------------------------------------------

    def observe(self) -> Mapping[PlacementUid, RunnerFacts]:
        return {uid: link.facts for uid, link in self._links.items()}

    async def start(self, launch: Launch) -> None:
        """Spawn a runner and begin to connect; one of that uid that exists, dead or alive, is left alone.

        Raises Terminal(RUN_START) when the process cannot be started, and what `interpreter` raises; then nothing
        is left behind.
        """
        if launch.uid in self._links:
            return
        processes.collect_dead()
        try:
            place = self._places.place(launch.uid)
        except ValueError as error:
            raise Terminal(RUN_START, str(error), fix="report it: uids are made by the planner") from error
        command = processes.command_line(self._interpreter(launch), self._code_dir, place)
        try:
            place.path.mkdir(mode=0o700, exist_ok=True)
            place.sweep()
            place.path.mkdir(mode=0o700, exist_ok=True)
            write_private(place.launch, json.dumps(launch_to_json(launch), indent=1).encode())
            pid = processes.spawn(command, place, self._environment)
        except OSError as error:
            if not place.is_held():
                place.sweep()
            raise processes.start_error(place, error) from error
        link = self._link(place, RunnerFacts(launch, Link.CONNECTING, pid=pid, started_at=self._clock()))
        link.follow(self._first_hello_seconds)
        self._wake()

    async def adopt(self, uid: PlacementUid) -> None:
        link = self._links.get(uid)
        if link is None or link.facts.link is not Link.UNCONNECTED:
            return
        link.mark_adopted()
        link.follow(self._hello_seconds)

    async def drain(self, uid: PlacementUid) -> None:
        link = self._links.get(uid)
        if link is not None and link.facts.link is not Link.DEAD:
            link.drain()

    async def stop(self, uid: PlacementUid, *, force: bool) -> None:
        """Ask over the connection, or by SIGTERM when there is none; `force` kills the process group.

        Raises Transient(RUN_NO_HELLO) when the lock is held by a process that is not recognised.
        """
        link = self._links.get(uid)
        if link is None or link.facts.link is Link.DEAD:
            return
        if not force and link.stop():
            return
        number = signal.SIGKILL if force else signal.SIGTERM
        processes.signal_group(link.place, self._pids(link), number)
        link.poke()

    async def clear(self, uid: PlacementUid) -> None:
        """Remove what a dead runner left, its logs excepted (the newest logs are kept for people)."""
        link = self._links.get(uid)
        if link is None or link.facts.link is not Link.DEAD:
            return
        del self._links[uid]
        await link.close()
        processes.collect_dead()
        link.place.sweep()
        self._places.prune_logs()
        self._wake()

    # --- beyond the port ------------------------------------------------------------------------------------

    async def take_stock(self) -> None:
        """Find what earlier daemons left. To be called once, before anything else.

        A live runner becomes UNCONNECTED and waits for `adopt`; a dead one becomes DEAD with its last words; what
        a crash left between making the directory and spawning is removed; a live process whose launch cannot be
        read can never be adopted, so it is killed.
        """
        for place in self._places.all():
            if place.uid in self._links:
                continue
            launch = _read_launch(place)
            held = place.is_held()
            pid = processes.recorded_pid(place)
            if held and launch is None:
                processes.signal_group(place, [pid], signal.SIGKILL)
            elif held and launch is not None:
                facts = RunnerFacts(launch, Link.UNCONNECTED, pid=pid, started_at=self._clock())
                self._link(place, facts).watch()
            elif launch is None or pid is None:
                place.sweep()
            else:
                words = last_words(place, None)
                facts = RunnerFacts(launch, Link.DEAD, pid=pid, started_at=self._clock(), last_words=words)
                self._link(place, facts)
        self._places.prune_logs()
        self._wake()

    async def generate(self, uid: PlacementUid, request: GenerationRequest, owner: Owner) -> RunnerGeneration:
        """Send a request to a runner; return when it accepted.

        Raises RetriableRefusal when nothing was generated and another replica may take it (queue full, draining,
        not connected, lost before it answered), RequestError otherwise (504 at the deadline, 4xx by the runner).
        """
        link = self._links.get(uid)
        if link is None:
            raise RetriableRefusal(RUN_LOST, f"runner {uid} is gone", status=503, kind="server_error")
        return await link.generate(request, owner)

    async def describe(self, uid: PlacementUid) -> tuple[FlightRecord, ...]:
        """The runner's flight recorder, oldest first. Raises RequestError 404 (unknown) or 502 (no answer)."""
        link = self._links.get(uid)
        if link is None:
            raise RequestError(REQ_NOT_FOUND, f"there is no runner {uid} on this node", status=404)
        return await link.describe()

    def log_files(self, uid: PlacementUid) -> tuple[Path, ...]:
        """The log files of a runner, alive, dead or cleared, oldest first; empty when there are none."""
        try:
            return self._places.place(uid).logs
        except ValueError:
            return ()

    async def close(self) -> None:
        """Drop all connections. Runners live on; a later daemon adopts them."""
        links = list(self._links.values())
        self._links.clear()
        for link in links:
            await link.close()
        processes.collect_dead()
        self._places.close()

    def _link(self, place: Place, facts: RunnerFacts) -> RunnerLink:
        link = RunnerLink(
            place,
            facts,
            self._owner,
            clock=self._clock,
            wake=self._wake,
            load_changed=self._load_changed,
            hello_seconds=self._hello_seconds,
        )
        self._links[place.uid] = link
        return link

    def _pids(self, link: RunnerLink) -> tuple[int | None, ...]:
        return link.facts.pid, processes.recorded_pid(link.place)


def _read_launch(place: Place) -> Launch | None:
    """What the runner was started with; None when the file is missing, damaged or another runner's."""
    data = read_record(place.launch)
    if data is None:
        return None
    try:
        launch = launch_from_json(json.loads(data))
    except ValueError:
        return None
    return launch if launch.uid == place.uid else None
