"""From spawn to the last words, with real processes."""

import asyncio
import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from skulk.adapters.runners import RunnerProcesses, processes
from skulk.adapters.runners.places import LOG_BYTES_MAX
from skulk.core.domain import Finish, Link, RunnerReport, Tokens
from skulk.core.errors import RUN_START, RequestError, RetriableRefusal, SkulkError
from tests.runners.reading import collect, frames_of

UID = "0123456789abcdef"
TEXT = "The quick brown fox jumps over the lazy dog. Größe, 東京, 🦊."


def text_of(frames: list[Tokens]) -> str:
    return b"".join(frame.data for frame in frames).decode()


def test_a_started_runner_becomes_ready_and_answers(site: Any) -> None:
    async def story(host: RunnerProcesses) -> None:
        await host.start(site.launch())
        facts = await site.ready(host)
        assert facts.pid is not None
        assert not facts.adopted
        generation = await host.generate(facts.launch.uid, site.request(), site.owner)
        assert generation.placement == UID
        assert generation.accepted.prompt_tokens == len(generation.accepted.prompt_ids)
        frames = await collect(generation)
        assert text_of(frames) == TEXT
        assert [frame.number for frame in frames] == list(range(1, len(frames) + 1))
        assert frames[-1].finish is Finish.STOP
        assert all(frame.finish is None for frame in frames[:-1])
        assert await collect(generation) == [], "a second reading finds the end"
        await site.until(lambda: host.observe()[facts.launch.uid].running == 0)
        assert site.wakes

    site.run(story)


def test_the_last_frame_is_acknowledged_so_that_the_runner_forgets_the_request(site: Any) -> None:
    async def story(host: RunnerProcesses) -> None:
        await host.start(site.launch())
        facts = await site.ready(host)
        await collect(await host.generate(facts.launch.uid, site.request(), site.owner))
        # The engine lets go of a request after its last frame; of the first before the second begins, in the only slot.
        await collect(await host.generate(facts.launch.uid, site.request("r2"), site.owner))
        # So only a record that is still held would make the same id a repetition.
        again = await host.generate(facts.launch.uid, site.request(), site.owner)
        assert text_of(await collect(again)) == TEXT

    site.run(story)


def test_a_second_start_of_the_same_uid_is_left_alone(site: Any) -> None:
    async def story(host: RunnerProcesses) -> None:
        await host.start(site.launch())
        pid = (await site.ready(host)).pid
        await host.start(site.launch())
        assert host.observe()[UID].pid == pid  # type: ignore[index]

    site.run(story)


def test_a_runner_that_is_killed_is_dead_at_once_and_its_stream_ends_with_a_reason(site: Any) -> None:
    async def story(host: RunnerProcesses) -> None:
        await host.start(site.launch(tokens=40_000, step_seconds=0.005))
        facts = await site.ready(host)
        generation = await host.generate(facts.launch.uid, site.request(), site.owner)
        frames = frames_of(generation)
        await anext(frames)
        os.kill(facts.pid, signal.SIGKILL)
        with pytest.raises(RequestError, match="ended") as caught:
            async for _ in frames:
                pass
        assert caught.value.code.id == "SK-RUN-008"
        assert not isinstance(caught.value, RetriableRefusal), "tokens have been shown"
        dead = await site.linked(host, Link.DEAD)
        assert dead.last_words is not None
        assert dead.last_words.exit_code == -signal.SIGKILL
        assert "SIGKILL" in dead.last_words.message
        assert not psutil.pid_exists(facts.pid), "the zombie is collected"
        assert (dead.running, dead.waiting) == (0, 0)
        with pytest.raises(RetriableRefusal):
            await host.generate(facts.launch.uid, site.request("r2"), site.owner)

    site.run(story)


def test_a_failed_load_leaves_its_last_words(site: Any) -> None:
    async def story(host: RunnerProcesses) -> None:
        await host.start(site.launch(fail_load="no such tensor"))
        dead = await site.linked(host, Link.DEAD)
        assert dead.last_words is not None
        assert dead.last_words.exit_code == 1
        assert dead.last_words.code == "SK-ENG-003"
        assert "no such tensor" in dead.last_words.message

    site.run(story)


def test_a_process_that_dies_before_its_hello_shows_the_end_of_its_log(site: Any, tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / "skulk" / "engines").mkdir(parents=True)
    (code / "skulk" / "engines" / "run.py").write_text("raise SystemExit('the library is broken')")
    site.code_dir = code

    async def story(host: RunnerProcesses) -> None:
        await host.start(site.launch())
        dead = await site.linked(host, Link.DEAD)
        assert dead.last_words is not None
        assert dead.last_words.exit_code == 1
        assert dead.last_words.message.endswith("its log ends: the library is broken")

    site.run(story)


def test_an_interpreter_that_does_not_exist_is_named_and_nothing_is_left(site: Any) -> None:
    async def story(host: RunnerProcesses) -> None:
        with pytest.raises(SkulkError, match="/nowhere/python") as caught:
            await host.start(site.launch())
        assert caught.value.code is RUN_START
        assert host.observe() == {}
        assert not (site.run_dir / UID / "launch.json").exists()
        assert not (site.run_dir / UID / "lock").exists()

    site.run(story, interpreter=lambda launch: Path("/nowhere/python"))


def test_stop_ends_a_runner_politely(site: Any) -> None:
    async def story(host: RunnerProcesses) -> None:
        await host.start(site.launch())
        facts = await site.ready(host)
        await host.stop(facts.launch.uid, force=False)
        dead = await site.linked(host, Link.DEAD)
        assert dead.last_words is not None
        assert dead.last_words.exit_code == 0
        await host.stop(facts.launch.uid, force=False)
        await host.stop(facts.launch.uid, force=True)
        await host.drain(facts.launch.uid)

    site.run(story)


def test_a_stop_before_the_hello_ends_it_too(site: Any) -> None:
    async def story(host: RunnerProcesses) -> None:
        launch = site.launch(load_seconds=60)
        await host.start(launch)
        await host.stop(launch.uid, force=False)
        await site.linked(host, Link.DEAD)

    site.run(story)


def test_force_ends_a_frozen_runner_and_all_that_it_started(site: Any) -> None:
    async def story(host: RunnerProcesses) -> None:
        await host.start(site.launch())
        facts = await site.ready(host)
        os.kill(facts.pid, signal.SIGSTOP)
        await host.stop(facts.launch.uid, force=True)
        await site.linked(host, Link.DEAD)

    site.run(story)


def test_a_drained_runner_finishes_what_runs_and_refuses_the_rest_for_another_replica(site: Any) -> None:
    async def story(host: RunnerProcesses) -> None:
        await host.start(site.launch(tokens=300, step_seconds=0.01))
        facts = await site.ready(host)
        uid = facts.launch.uid
        running = await host.generate(uid, site.request("r1"), site.owner)
        queued = asyncio.create_task(host.generate(uid, site.request("r2"), site.owner))
        await site.facts(host, uid, lambda f: f.running == 1 and f.waiting == 1)
        await host.drain(uid)
        await host.drain(uid)
        with pytest.raises(RetriableRefusal):
            await queued
        await site.facts(host, uid, lambda f: f.report is RunnerReport.DRAINING)
        with pytest.raises(RetriableRefusal):
            await host.generate(uid, site.request("r3"), site.owner)
        assert (await collect(running))[-1].finish is Finish.STOP

    site.run(story)


def test_cancel_frees_the_slot_and_ends_the_reading_at_once(site: Any) -> None:
    async def story(host: RunnerProcesses) -> None:
        await host.start(site.launch(tokens=40_000, step_seconds=0.005))
        facts = await site.ready(host)
        uid = facts.launch.uid
        generation = await host.generate(uid, site.request("r1"), site.owner)
        frames = frames_of(generation)
        first = await anext(frames)
        generation.cancel("stop string")
        generation.cancel("again")
        rest = [frame async for frame in frames]
        assert [frame.finish for frame in rest] == [Finish.CANCELLED]
        assert (rest[0].number, rest[0].error) == (first.number + 1, "stop string")
        # One slot: the next request is accepted only because the first one left it.
        second = await host.generate(uid, site.request("r2"), site.owner)
        second.cancel("enough")

    site.run(story)


def test_a_request_that_is_not_accepted_by_its_deadline_ends_with_504(site: Any) -> None:
    async def story(host: RunnerProcesses) -> None:
        await host.start(site.launch(tokens=40_000, step_seconds=0.005))
        facts = await site.ready(host)
        uid = facts.launch.uid
        first = await host.generate(uid, site.request("r1"), site.owner)
        with pytest.raises(RequestError) as caught:
            await host.generate(uid, site.request("r2", deadline=0.3), site.owner)
        assert caught.value.status == 504
        first.cancel("enough")
        await site.facts(host, uid, lambda f: (f.running, f.waiting) == (0, 0))

    site.run(story)


def test_a_caller_that_goes_away_while_waiting_leaves_nothing_in_the_queue(site: Any) -> None:
    async def story(host: RunnerProcesses) -> None:
        await host.start(site.launch(tokens=40_000, step_seconds=0.005))
        facts = await site.ready(host)
        uid = facts.launch.uid
        first = await host.generate(uid, site.request("r1"), site.owner)
        waiting = asyncio.create_task(host.generate(uid, site.request("r2"), site.owner))
        await site.facts(host, uid, lambda f: f.waiting == 1)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        first.cancel("enough")
        await site.facts(host, uid, lambda f: (f.running, f.waiting) == (0, 0))

    site.run(story)


def test_a_refusal_carries_the_runners_status_and_slug(site: Any) -> None:
    async def story(host: RunnerProcesses) -> None:
        await host.start(site.launch())
        facts = await site.ready(host)
        with pytest.raises(RequestError) as caught:
            await host.generate(facts.launch.uid, site.request(text="x" * 200_000), site.owner)
        assert caught.value.status == 400
        assert caught.value.slug == "context_length_exceeded"
        assert not isinstance(caught.value, RetriableRefusal)

    site.run(story)


def test_the_flight_recorder_is_read_from_the_runner(site: Any) -> None:
    async def story(host: RunnerProcesses) -> None:
        await host.start(site.launch())
        facts = await site.ready(host)
        records = await host.describe(facts.launch.uid)
        assert records
        assert [record.at for record in records] == sorted(record.at for record in records)
        with pytest.raises(RequestError) as caught:
            await host.describe("no-such")  # type: ignore[arg-type]
        assert caught.value.status == 404

    site.run(story)


def test_everything_on_disk_is_private(site: Any) -> None:
    async def story(host: RunnerProcesses) -> None:
        await host.start(site.launch())
        await site.ready(host)
        for path in [site.run_dir, *site.run_dir.rglob("*")]:
            assert not path.lstat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), path

    old = os.umask(0o000)
    try:
        site.run(story)
    finally:
        os.umask(old)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_secret_of_the_daemon_reaches_the_runner(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "s3cret")
    monkeypatch.setenv("MLX_API_KEY", "s3cret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SKULK_STEP_DEADLINE_SECONDS", "77")

    async def story(host: RunnerProcesses) -> None:
        await host.start(site.launch())
        pid = (await site.ready(host)).pid
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"s3cret" not in environment
        assert b"OMP_NUM_THREADS=1\0" in environment
        assert b"HF_HUB_OFFLINE=1\0" in environment
        assert b"SKULK_STEP_DEADLINE_SECONDS=77\0" in environment

    site.run(story)


def test_a_large_log_is_set_aside_and_logs_outlive_the_runner(site: Any) -> None:
    place = site.run_dir / UID
    place.mkdir(parents=True)
    (place / "log").write_bytes(b"x" * (LOG_BYTES_MAX + 1))

    async def story(host: RunnerProcesses) -> None:
        await host.start(site.launch())
        facts = await site.ready(host)
        uid = facts.launch.uid
        assert [path.name for path in host.log_files(uid)] == ["log.1", "log"]
        await host.clear(uid)
        assert uid in host.observe(), "a live runner is not cleared"
        await host.stop(uid, force=True)
        await site.linked(host, Link.DEAD)
        await host.clear(uid)
        assert host.observe() == {}
        assert {path.name for path in place.iterdir()} == {"log", "log.1"}
        assert "scripted" in host.log_files(uid)[-1].read_text()

    site.run(story)


def test_a_cut_connection_is_made_again_and_the_open_stream_ends_with_a_reason(site: Any) -> None:
    async def story(host: RunnerProcesses) -> None:
        await host.start(site.launch(tokens=40_000, step_seconds=0.005))
        facts = await site.ready(host)
        uid = facts.launch.uid
        generation = await host.generate(uid, site.request(), site.owner)
        frames = frames_of(generation)
        await anext(frames)
        connection = host._links[uid]._connection
        assert connection is not None
        connection.drop()
        with pytest.raises(RequestError):
            async for _ in frames:
                pass
        back = await site.ready(host)
        assert back.pid == facts.pid
        again = await host.generate(uid, site.request("r2"), site.owner)
        again.cancel("enough")

    site.run(story)


def test_only_a_recognised_process_is_killed(site: Any) -> None:
    """A held lock and a pid file that names a bystander: nobody is signalled, and the error says why."""
    holder = (
        "import fcntl,os,sys,time\n"
        "f=os.open(sys.argv[1],os.O_RDWR|os.O_CREAT)\nfcntl.flock(f,fcntl.LOCK_EX)\n"
        "print('held',flush=True)\nsys.stdin.read()\n"
    )
    place = site.run_dir / UID
    place.mkdir(parents=True)
    bystander = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    lock = subprocess.Popen(
        [sys.executable, "-c", holder, str(place / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert lock.stdout is not None
        assert lock.stdout.readline() == b"held\n"
        found = processes.signal_group
        from skulk.adapters.runners.places import Places

        with pytest.raises(SkulkError, match="not recognised"):
            found(Places(site.run_dir).place(UID), [bystander.pid], signal.SIGKILL)
        assert bystander.poll() is None
        assert lock.poll() is None
    finally:
        for process in (bystander, lock):
            process.communicate(b"")
    assert not found(Places(site.run_dir).place(UID), [os.getpid()], signal.SIGKILL), "a free lock: no signal"


def test_launch_json_says_what_was_started(site: Any) -> None:
    async def story(host: RunnerProcesses) -> None:
        await host.start(site.launch(echo="x"))
        await site.ready(host)
        written = json.loads((site.run_dir / UID / "launch.json").read_text())
        assert written["launchHash"] == "launch-1"
        assert written["options"] == {"echo": "x"}

    site.run(story)
