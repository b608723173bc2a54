"""A daemon dies, another takes over: what it finds, what it adopts, what it cleans."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from skulk.adapters.runners import RunnerProcesses
from skulk.core.domain import Finish, Launch, Link, RunnerReport
from skulk.core.errors import RequestError, RetriableRefusal
from skulk.core.wire.launch import launch_to_json
from tests.runners.reading import collect

UID = "0123456789abcdef"
DAEMON = Path(__file__).with_name("daemon.py")


def killed_daemon(site: Any, launch: Launch, until: str) -> int:
    """Run a daemon until its runner is that far, then kill -9 it. Returns the runner's pid."""
    arguments = [str(site.run_dir), str(site.code_dir), json.dumps(launch_to_json(launch)), until]
    daemon = subprocess.Popen([sys.executable, str(DAEMON), *arguments], stdout=subprocess.PIPE)
    try:
        assert daemon.stdout is not None
        pid = int(daemon.stdout.readline())
    finally:
        daemon.kill()
        daemon.communicate()
    return pid


def kill_unseen(site: Any, pid: int) -> None:
    """Kill a runner that nobody follows, and wait until it is gone."""
    from skulk.adapters.runners.places import Places

    os.kill(pid, signal.SIGKILL)
    place = Places(site.run_dir).place(UID)
    end = time.monotonic() + 30
    while place.is_held():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_runner_outlives_its_daemon_and_is_adopted_without_a_reload(site: Any) -> None:
    pid = killed_daemon(site, site.launch(), "ready")

    async def story(host: RunnerProcesses) -> None:
        found = host.observe()[UID]  # type: ignore[index]
        assert found.link is Link.UNCONNECTED
        assert found.pid == pid
        assert found.launch == site.launch()
        await host.start(site.launch())
        assert host.observe()[UID].link is Link.UNCONNECTED, "a start leaves it alone"  # type: ignore[index]
        await host.adopt(found.launch.uid)
        adopted = await site.linked(host, Link.CONNECTED)
        assert adopted.adopted
        assert adopted.report is RunnerReport.READY, "the hello says so, nothing was loaded again"
        frames = await collect(await host.generate(found.launch.uid, site.request(), site.owner))
        assert frames[-1].finish is Finish.STOP

    site.run(story)


def test_a_daemon_killed_mid_stream_frees_the_slot_of_its_request(site: Any) -> None:
    launch = site.launch(tokens=40_000, step_seconds=0.005)
    killed_daemon(site, launch, "streaming")

    async def story(host: RunnerProcesses) -> None:
        await host.adopt(launch.uid)
        await site.ready(host)
        # The only slot is free: the next request is accepted.
        generation = await host.generate(launch.uid, site.request(), site.owner)
        generation.cancel("enough")

    site.run(story)


def test_a_runner_is_adopted_while_it_still_loads(site: Any) -> None:
    launch = site.launch(load_seconds=3)
    pid = killed_daemon(site, launch, "loading")

    async def story(host: RunnerProcesses) -> None:
        await host.adopt(launch.uid)
        facts = await site.ready(host)
        assert facts.pid == pid
        assert facts.adopted

    site.run(story)


def test_a_daemon_killed_right_after_spawning_leaves_an_adoptable_runner(site: Any) -> None:
    launch = site.launch()
    pid = killed_daemon(site, launch, "started")

    async def story(host: RunnerProcesses) -> None:
        await host.adopt(launch.uid)
        assert (await site.ready(host)).pid == pid

    site.run(story)


def test_a_runner_that_died_unseen_is_dead_in_stock_and_is_started_anew(site: Any) -> None:
    pid = killed_daemon(site, site.launch(), "ready")
    kill_unseen(site, pid)

    async def story(host: RunnerProcesses) -> None:
        facts = host.observe()[UID]  # type: ignore[index]
        assert facts.link is Link.DEAD
        assert facts.last_words is not None
        assert facts.last_words.exit_code is None, "it was not our child"
        assert "an earlier daemon started it" in facts.last_words.message
        await host.start(site.launch())
        assert host.observe()[facts.launch.uid].link is Link.DEAD, "until it is cleared"
        await host.clear(facts.launch.uid)
        assert host.observe() == {}
        await host.start(site.launch())
        assert (await site.ready(host)).pid != pid

    site.run(story)


def test_the_last_words_of_a_runner_that_failed_unseen_are_read(site: Any) -> None:
    launch = site.launch(load_seconds=0.5, fail_load="no such tensor")
    killed_daemon(site, launch, "started")

    async def story(host: RunnerProcesses) -> None:
        facts = await site.linked(host, Link.DEAD)  # found alive or dead: its end is noticed without adoption
        assert facts.last_words is not None
        assert facts.last_words.code == "SK-ENG-003"

    site.run(story)


def test_a_frozen_runner_is_silent_at_the_hello_deadline_and_can_be_killed(site: Any) -> None:
    pid = killed_daemon(site, site.launch(), "ready")
    os.kill(pid, signal.SIGSTOP)

    async def story(host: RunnerProcesses) -> None:
        uid = site.launch().uid
        await host.adopt(uid)
        silent = await site.linked(host, Link.SILENT)
        assert silent.last_words is not None
        assert silent.last_words.code == "SK-RUN-002"
        with pytest.raises(RetriableRefusal):
            await host.generate(uid, site.request(), site.owner)
        await host.stop(uid, force=True)
        await host.stop(uid, force=True)
        await site.linked(host, Link.DEAD)

    site.run(story, hello_seconds=0.3)


def test_a_runner_with_another_launch_hash_is_not_adopted(site: Any) -> None:
    killed_daemon(site, site.launch(), "ready")
    path = site.run_dir / UID / "launch.json"
    path.write_text(path.read_text().replace("launch-1", "launch-2"))

    async def story(host: RunnerProcesses) -> None:
        await host.adopt(site.launch().uid)
        silent = await site.linked(host, Link.SILENT)
        assert silent.last_words is not None
        assert silent.last_words.code == "SK-RUN-009"
        assert "launch-1" in silent.last_words.message

    site.run(story)


def test_a_live_runner_whose_launch_cannot_be_read_is_killed(site: Any) -> None:
    killed_daemon(site, site.launch(), "ready")
    (site.run_dir / UID / "launch.json").write_text("{")

    async def story(host: RunnerProcesses) -> None:
        assert host.observe() == {}
        from skulk.adapters.runners.places import Places

        await site.until(lambda: not Places(site.run_dir).place(UID).is_held())

    site.run(story)


def test_a_runner_without_a_pid_file_is_found_by_its_command_line(site: Any) -> None:
    """The daemon died between spawning and writing the pid."""
    killed_daemon(site, site.launch(), "ready")
    (site.run_dir / UID / "pid").unlink()

    async def story(host: RunnerProcesses) -> None:
        uid = site.launch().uid
        assert host.observe()[uid].pid is None
        await host.stop(uid, force=True)
        await site.linked(host, Link.DEAD)

    site.run(story)


@pytest.mark.parametrize("left", [(), ("launch.json",), ("launch.json", "lock", "socket"), (".pid.new",)])
def test_what_a_crash_left_before_spawning_is_cleaned(site: Any, left: tuple[str, ...]) -> None:
    place = site.run_dir / UID
    place.mkdir(parents=True)
    for name in left:
        (place / name).write_text(json.dumps(launch_to_json(site.launch())))

    async def story(host: RunnerProcesses) -> None:
        assert host.observe() == {}
        assert not place.exists()
        await host.start(site.launch())
        await site.ready(host)

    site.run(story)


def test_a_daemon_that_closes_ends_its_streams_with_a_reason_and_the_runner_lives(site: Any) -> None:
    launch = site.launch(tokens=40_000, step_seconds=0.005)

    async def story(host: RunnerProcesses) -> None:
        await host.start(launch)
        await site.ready(host)
        generation = await host.generate(launch.uid, site.request(), site.owner)
        reading = asyncio.create_task(collect(generation))
        await host.close()
        with pytest.raises(RequestError) as caught:
            await reading
        assert caught.value.slug == "node_restarting"

    site.run(story)

    async def next_life(host: RunnerProcesses) -> None:
        await host.adopt(launch.uid)
        assert (await site.ready(host)).adopted

    site.run(next_life)


def test_a_long_state_directory_works_through_a_short_link(site: Any, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 80) / ("e" * 80)
    site.run_dir = deep / "run"
    assert len(str(site.run_dir / UID / "socket")) > 155
    pid = killed_daemon(site, site.launch(), "ready")

    async def story(host: RunnerProcesses) -> None:
        await host.adopt(site.launch().uid)
        assert (await site.ready(host)).pid == pid
        short = host._places._short
        assert short is not None
        assert short.resolve() == site.run_dir
        assert short.parent.stat().st_mode & 0o777 == 0o700
        await host.close()
        assert not short.parent.exists()

    site.run(story)
