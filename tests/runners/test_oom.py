"""Whether the kernel killed a runner for want of memory: by the count of its control group, or of the machine."""

from __future__ import annotations

import os
import signal
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from skulk.adapters.runners import RunnerProcesses
from skulk.adapters.runners.last_words import last_words
from skulk.adapters.runners.oom import WINDOW_SECONDS, OomWatch, group_of, oom_kills
from skulk.adapters.runners.places import Place
from skulk.core.domain import Link

EVENTS = "low 0\nhigh 0\nmax 12\noom 2\noom_kill {}\noom_group_kill 0\n"
PID = 4711


class Machine:
    """A Linux with one service, as files."""

    def __init__(self, root: Path) -> None:
        self.proc, self.cgroups = root / "proc", root / "cgroup"
        self.service = self.cgroups / "system.slice" / "skulk.service"
        (self.proc / str(PID)).mkdir(parents=True)
        self.service.mkdir(parents=True)
        self.now = 0.0
        self.group("/system.slice/skulk.service")
        self.vmstat(7)

    def group(self, path: str) -> None:
        (self.proc / str(PID) / "cgroup").write_text(f"12:pids:/x\n0::{path}\n")

    def events(self, kills: int, group: Path | None = None) -> Path:
        file = (group or self.service) / "memory.events"
        file.write_text(EVENTS.format(kills))
        return file

    def vmstat(self, kills: int) -> Path:
        file = self.proc / "vmstat"
        file.write_text(f"nr_free_pages 123\noom_kill {kills}\n")
        return file

    def watch(self) -> OomWatch:
        watch = OomWatch(lambda: self.now, proc=self.proc, cgroups=self.cgroups)
        watch.look(PID)
        return watch


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_kill_in_the_runners_group_is_seen_and_one_from_before_is_not(machine: Machine) -> None:
    machine.events(3)
    watch = machine.watch()
    machine.vmstat(8)
    assert watch.risen() is None, "somebody else's"
    file = machine.events(4)
    assert watch.risen() == file


def test_a_kill_of_long_ago_was_anothers(machine: Machine) -> None:
    machine.events(0)
    watch = machine.watch()
    file = machine.events(1)
    for _ in range(2):
        assert watch.risen() == file
        machine.now += WINDOW_SECONDS
        watch.look(PID)
    assert watch.risen() is None


def test_a_look_after_the_kill_does_not_hide_it(machine: Machine) -> None:
    machine.events(0)
    watch = machine.watch()
    file = machine.events(1)
    machine.now += WINDOW_SECONDS
    watch.look(PID)  # a heartbeat that lay unread
    assert watch.risen() == file


def test_where_the_group_has_no_memory_controller_the_one_above_counts(machine: Machine) -> None:
    machine.events(0, machine.service.parent)
    watch = machine.watch()
    file = machine.events(1, machine.service.parent)
    assert watch.risen() == file


@pytest.mark.parametrize("group", ["/", "/../other", "/system.slice/skulk.service"])
def test_without_any_memory_controller_the_machine_counts(machine: Machine, group: str) -> None:
    machine.group(group)
    watch = machine.watch()
    assert watch.risen() is None
    file = machine.vmstat(8)
    assert watch.risen() == file


def test_a_runner_in_a_group_of_its_own_that_moved_there(machine: Machine) -> None:
    machine.events(5)
    watch = machine.watch()
    own = machine.cgroups / "runner.scope"
    own.mkdir()
    machine.events(0, own)
    machine.group("/runner.scope")
    machine.now += WINDOW_SECONDS
    watch.look(PID)
    assert watch.risen() is None
    file = machine.events(1, own)
    assert watch.risen() == file
    file.unlink()
    assert watch.risen() is None, "the group went with its process"


def test_what_we_did_ourselves_is_no_kill_for_want_of_memory(machine: Machine) -> None:
    machine.events(0)
    watch = machine.watch()
    machine.events(1)
    watch.forget()
    assert watch.risen() is None


def test_a_system_without_counts_says_nothing(tmp_path: Path) -> None:
    watch = OomWatch(lambda: 0.0, proc=tmp_path / "proc", cgroups=tmp_path / "cgroup")
    watch.look(PID)
    watch.look(None)
    assert watch.risen() is None


@pytest.mark.parametrize(
    ("text", "kills"),
    [(EVENTS.format(3), 3), ("oom 1\noom_group_kill 2\n", None), ("", None), ("oom_kill many\n", None)],
)
def test_counts_are_read_by_name(text: str, kills: int | None) -> None:
    assert oom_kills(text) == kills


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("0::/\n", PurePosixPath("/")),
        ("4:memory:/a\n0::/user.slice/b.scope\n", PurePosixPath("/user.slice/b.scope")),
        ("4:memory:/a\n", None),
        ("0::/../b\n", None),
        ("", None),
    ],
)
def test_the_group_of_version_2_is_found(text: str, group: PurePosixPath | None) -> None:
    assert group_of(text) == group


@pytest.mark.parametrize("code", [-signal.SIGKILL, None])
def test_the_report_names_the_cause_and_the_count(tmp_path: Path, code: int | None) -> None:
    words = last_words(Place(tmp_path, ""), code, Path("/sys/fs/cgroup/x/memory.events"))
    assert words.code == "SK-RUN-007"
    assert words.exit_code == code
    assert "the kernel killed it because memory ran out" in words.message
    assert "/sys/fs/cgroup/x/memory.events" in words.message


def test_a_runner_that_dies_while_the_count_rises_ran_out_of_memory(site: Any, machine: Machine) -> None:
    async def story(host: RunnerProcesses) -> None:
        for uid, rises, ours in (("one", True, False), ("two", False, False), ("three", True, True)):
            await host.start(site.launch(uid))
            facts = await site.ready(host, uid)
            machine.events(0)
            host._links[facts.launch.uid]._oom = machine.watch()
            machine.events(int(rises))
            if ours:
                await host.stop(facts.launch.uid, force=True)
            else:
                os.kill(facts.pid, signal.SIGKILL)
            dead = await site.linked(host, Link.DEAD, uid)
            assert dead.last_words is not None
            assert dead.last_words.code == ("SK-RUN-007" if rises and not ours else "SK-RUN-001"), uid

    site.run(story)
