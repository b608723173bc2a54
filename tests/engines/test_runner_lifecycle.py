"""How a runner process begins and ends: phases, exit codes, last words, daemons that come and go."""

from __future__ import annotations

import fcntl
import os
import re
import signal
from pathlib import Path

import pytest

from skulk.core.domain import BootId, Finish, NodeName, Owner
from skulk.core.wire.runner import (
    AcceptedFrame,
    Attach,
    RefusedFrame,
    Report,
    Step,
    Stop,
    Unknown,
)


def test_hello_comes_at_once_while_the_model_is_loading(scripted):
    runner = scripted(load_seconds=600)
    hello = runner.connect().attach()
    assert hello.phase in ("starting", "loading")
    assert (hello.uid, hello.launch_hash) == (runner.launch.uid, runner.launch.launch_hash)
    assert hello.pid == runner.process.pid
    assert hello.skulk_version


def test_phases_are_reported_in_order_with_the_share_that_is_loaded(scripted):
    daemon = scripted(load_seconds=2, warmup_seconds=0.2).connect()
    daemon.attach()
    daemon.ready()
    reports = [m for m in daemon.seen if isinstance(m, Report)]
    phases = list(dict.fromkeys(r.phase for r in reports))
    assert phases[-3:] == ["loading", "warming", "ready"]
    shares = [r.share for r in reports if r.phase == "loading"]
    assert shares == sorted(shares)
    assert len(set(shares)) > 3


def test_a_second_hello_tells_the_engine_version(scripted):
    runner = scripted()
    runner.attached()
    assert runner.connect().attach().engine_version == "1"


@pytest.mark.parametrize("phase", ["loading", "ready"])
def test_stop_ends_it_with_exit_code_0(scripted, phase):
    runner = scripted(load_seconds=600 if phase == "loading" else 0)
    daemon = runner.connect()
    daemon.attach()
    daemon.wait_for(Report, lambda r: r.phase == phase)
    daemon.send(Stop())
    assert runner.exit_code() == 0
    assert runner.last_words() == {"exitCode": 0, "code": None, "message": "stopped by the daemon"}


@pytest.mark.parametrize("how", ["stop", "sigterm"])
def test_stopping_ends_every_stream_with_a_reason(scripted, ask, how):
    runner = scripted(tokens=100_000, step_seconds=0.05)
    daemon = runner.attached()
    running, queued = daemon.generate(ask()), daemon.generate(ask())
    daemon.tokens(running, at_least=2)
    if how == "stop":
        daemon.send(Stop())
    else:
        os.kill(runner.process.pid, signal.SIGTERM)
    assert runner.exit_code() == 0
    daemon.read_to_end()
    assert daemon.tokens(running)[-1].finish is Finish.CANCELLED
    assert daemon.first_frame(queued).refusal.retriable


@pytest.mark.parametrize(
    ("options", "code"),
    [({"fail_load": "no such tensor"}, "SK-ENG-003"), ({"memory_error": "load"}, "SK-RUN-007")],
)
def test_a_failed_load_is_reported_and_leaves_last_words(scripted, options, code):
    runner = scripted(load_seconds=0.5, **options)
    daemon = runner.connect()
    daemon.attach()
    failed = daemon.wait_for(Report, lambda r: r.phase == "failed")
    assert failed.code == code
    assert runner.exit_code() == 1
    words = runner.last_words()
    assert (words["exitCode"], words["code"]) == (1, code)
    assert words["message"] == failed.detail


def test_memory_that_runs_out_while_generating_ends_the_process_and_its_streams(scripted, ask):
    runner = scripted(memory_error="step")
    daemon = runner.attached()
    frames = daemon.tokens(daemon.generate(ask()))
    assert frames[-1].finish is Finish.ERROR
    assert "SK-RUN-007" in str(frames[-1].error)
    assert runner.exit_code() == 1
    assert runner.last_words()["code"] == "SK-RUN-007"


def test_an_engine_whose_steps_all_fail_gives_up(scripted, ask):
    runner = scripted(fail_step_every=1)
    daemon = runner.attached()
    for _ in range(3):
        assert daemon.tokens(daemon.generate(ask()))[-1].finish is Finish.ERROR
    assert runner.exit_code() == 1
    assert runner.last_words()["code"] == "SK-ENG-004"


def test_an_unknown_engine_is_named_in_the_last_words(scripted):
    runner = scripted({"engine": "steam"})
    assert runner.exit_code() == 1
    assert runner.last_words()["code"] == "SK-ENG-001"
    assert "steam" in str(runner.last_words()["message"])


@pytest.mark.parametrize(
    ("where", "variable"),
    [("warmup", "SKULK_WARMUP_DEADLINE_SECONDS"), ("step", "SKULK_STEP_DEADLINE_SECONDS")],
)
def test_an_engine_without_progress_is_a_wedge_while_the_daemon_still_hears_it(scripted, ask, where, variable):
    runner = scripted(_env={variable: "1"}, wedge=where)
    daemon = runner.connect()
    daemon.attach()
    if where == "step":
        daemon.ready()
        daemon.generate(ask())
    assert runner.exit_code() == 86
    words = runner.last_words()
    assert (words["exitCode"], words["code"]) == (86, "SK-RUN-005")
    assert "no progress for 1 s" in str(words["message"])
    assert "Thread" in runner.log()  # where it hung is in the log


def test_a_prompt_that_is_never_rendered_is_a_wedge(scripted, ask):
    runner = scripted(_env={"SKULK_STEP_DEADLINE_SECONDS": "1"})
    runner.attached().generate(ask(template={"wedge": True}))
    assert runner.exit_code() == 86
    assert "no progress for 1 s while preparing a prompt" in str(runner.last_words()["message"])


def test_an_idle_runner_is_no_wedge(scripted, ask):
    runner = scripted(_env={"SKULK_STEP_DEADLINE_SECONDS": "0.5"}, echo="abc")
    daemon = runner.attached()
    daemon.tokens(daemon.generate(ask()))
    daemon.idle()
    daemon.idle()  # a heartbeat later: two seconds without any progress
    assert daemon.tokens(daemon.generate(ask()))[-1].finish is Finish.STOP


def test_a_crash_leaves_the_lock_free_and_the_socket_closed(scripted, ask):
    runner = scripted(crash_after=3)
    daemon = runner.attached()
    daemon.generate(ask())
    daemon.read_to_end()
    assert runner.exit_code() == -signal.SIGKILL
    with runner.lock_path.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_lock_is_held_as_long_as_it_lives(scripted):
    runner = scripted()
    runner.attached()
    with runner.lock_path.open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_lock_and_socket_do_not_reach_a_process_that_an_engine_starts(scripted):
    runner = scripted()
    runner.attached()
    table = Path(f"/proc/{runner.process.pid}")
    if not table.exists():
        pytest.skip("this system has no /proc to read another process' descriptors from")
    (lock,) = [fd.name for fd in (table / "fd").iterdir() if fd.readlink() == runner.lock_path]
    sockets = [fd.name for fd in (table / "fd").iterdir() if str(fd.readlink()).startswith("socket:")]
    for descriptor in (lock, *sockets):
        (flags,) = re.findall(r"flags:\s+(\d+)", (table / "fdinfo" / descriptor).read_text())
        assert int(flags, 8) & os.O_CLOEXEC, descriptor


def test_without_a_daemon_it_frees_its_memory_after_the_orphan_deadline(scripted):
    runner = scripted({"orphan_seconds": 0.5})
    assert runner.exit_code() == 0
    assert "orphaned: no daemon for 0.5 s" in str(runner.last_words()["message"])


def test_a_daemon_that_left_starts_the_orphan_deadline_again(scripted):
    runner = scripted({"orphan_seconds": 1.0})
    daemon = runner.attached()
    daemon.idle()
    daemon.idle()  # longer than the deadline, with a daemon
    assert runner.process.poll() is None
    daemon.close()
    assert runner.exit_code() == 0
    assert "orphaned" in str(runner.last_words()["message"])


def test_the_newest_daemon_wins_and_the_older_one_is_closed(scripted, ask):
    runner = scripted(echo="abc")
    older, newer = runner.attached("boot-a"), runner.connect()
    assert newer.attach("boot-b").phase == "ready"
    older.read_to_end()
    assert newer.tokens(newer.generate(ask()))[-1].finish is Finish.STOP


def test_a_newer_life_of_the_daemon_ends_what_the_older_one_asked_for(scripted, ask):
    runner = scripted(tokens=100_000, step_seconds=0.05)
    older, newer = runner.attached("boot-a"), runner.connect()
    request = older.generate(ask())
    older.tokens(request, at_least=2)
    newer.attach("boot-b")  # while the older one is still connected
    assert isinstance(newer.first_frame(newer.generate(ask())), AcceptedFrame)
    assert request not in runner.connect().attach("boot-b").open


def test_a_daemon_that_reconnects_in_the_same_life_keeps_its_requests(scripted, ask):
    runner = scripted(tokens=30, step_seconds=0.02)
    first, second = runner.attached(), runner.connect()
    request = first.generate(ask())
    before = first.tokens(request, at_least=3)
    second.attach(resume={request: before[-1].number})
    numbers = [t.number for t in (*before, *second.tokens(request))]
    assert numbers == list(range(1, 32))


def test_a_daemon_that_does_not_read_is_cut_off_and_may_resume(scripted, ask):
    runner = scripted({"context_tokens": 10_000_000}, tokens=100_000, step_seconds=0.05)
    daemon = runner.attached()
    request = daemon.generate(ask("x" * 3_000_000))  # its first frame is 12 MB
    daemon.first_frame(request)
    for _ in range(10):
        daemon.send(Attach(daemon.owner.node, daemon.owner.boot, resume={request: 0}))
    runner.wait_for_log("does not read")
    assert request in runner.connect().attach().open


def test_a_lost_daemon_loses_its_requests_and_the_runner_lives(scripted, ask):
    runner = scripted(tokens=100_000, step_seconds=0.05)
    daemon = runner.attached("boot-a")
    running, queued = daemon.generate(ask()), daemon.generate(ask())
    daemon.tokens(running, at_least=3)
    daemon.close()
    adopter = runner.connect()
    hello = adopter.attach("boot-b")
    assert (hello.phase, hello.pid) == ("ready", runner.process.pid)
    # The slot is free although the request was far from its end.
    assert isinstance(adopter.first_frame(adopter.generate(ask())), AcceptedFrame)
    assert queued not in hello.open


def test_requests_of_other_owners_go_on_without_a_daemon_and_are_replayed_gapless(scripted, ask):
    runner = scripted(tokens=40, step_seconds=0.01)
    daemon = runner.attached("boot-a")
    elsewhere = Owner(NodeName("node-b"), BootId("boot-z"))
    request = daemon.generate(ask(), elsewhere)
    before = daemon.tokens(request, at_least=5)
    received = before[-1].number
    daemon.close()
    adopter = runner.connect()
    hello = adopter.attach("boot-b", resume={request: received})
    assert hello.open[request] >= received
    after = adopter.tokens(request)
    assert after[-1].finish is Finish.STOP
    assert [t.number for t in (*before, *after)] == list(range(1, 42))
    whole = b"".join(t.data for t in (*before, *after))
    again = adopter.tokens(adopter.generate(ask()))
    assert whole == b"".join(t.data for t in again)


def test_a_resume_from_zero_begins_with_the_accepted_frame(scripted, ask):
    runner = scripted(echo="abc")
    request = ask()
    daemon = runner.attached()
    daemon.generate(request)
    frames = daemon.tokens(request.id)
    adopter = runner.connect()
    adopter.attach(resume={request.id: 0})
    assert adopter.tokens(request.id) == frames
    kinds = [type(m) for m in adopter.seen if isinstance(m, AcceptedFrame | Step)]
    assert kinds[0] is AcceptedFrame


def test_resuming_what_is_not_there_is_refused(scripted):
    runner = scripted()
    runner.attached()
    adopter = runner.connect()
    adopter.attach(resume={"request-from-a-former-life": 7})
    refused = adopter.wait_for(RefusedFrame)
    assert (refused.refusal.code, refused.refusal.status) == ("SK-RUN-008", 502)


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x02hi", b"GET / HTTP/1.1\r\n\r\n"])
def test_garbage_closes_its_connection_and_nothing_else(scripted, ask, garbage):
    runner = scripted(echo="abc")
    daemon = runner.attached()
    other = runner.connect()
    other.send_bytes(garbage)
    other.read_to_end()
    assert daemon.tokens(daemon.generate(ask()))[-1].finish is Finish.STOP


def test_whoever_does_not_say_who_it_is_gets_nothing(scripted, ask):
    runner = scripted(echo="abc")
    stranger = runner.connect()
    stranger.generate(ask())
    stranger.read_to_end()
    assert stranger.seen == []


def test_messages_of_a_newer_protocol_are_ignored(scripted, ask):
    daemon = scripted(echo="abc").attached()
    daemon.send(Unknown("sing"))
    assert daemon.tokens(daemon.generate(ask()))[-1].finish is Finish.STOP


def test_attaching_again_on_the_same_connection_is_a_new_hello(scripted, ask):
    daemon = scripted(tokens=30, step_seconds=0.01).attached()
    request = daemon.generate(ask())
    daemon.first_frame(request)
    daemon.send(Attach(daemon.owner.node, daemon.owner.boot))
    assert daemon.tokens(request)[-1].finish is Finish.STOP
