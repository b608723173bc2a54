"""Port `RunnerHost`: what the loop relies on, from the real adapter and from the simulator's alike."""

from __future__ import annotations

from typing import Any

from skulk.core.domain import Launch, Link, RunnerReport


def test_a_started_runner_reports_until_it_is_ready_and_a_second_start_changes_nothing(hosts: Any, a_launch: Launch):
    async def story(world: Any) -> None:
        host = await world.daemon()
        assert host.observe() == {}
        await host.start(a_launch)
        await world.until(lambda: host.observe()[a_launch.uid].report is RunnerReport.READY)
        facts = host.observe()[a_launch.uid]
        assert (facts.link, facts.launch) == (Link.CONNECTED, a_launch)
        await host.start(a_launch)
        assert host.observe()[a_launch.uid].pid == facts.pid
        await world.forsake(host)

    hosts.run(story)


def test_a_killed_runner_is_dead_until_it_is_cleared(hosts: Any, a_launch: Launch):
    async def story(world: Any) -> None:
        host = await world.daemon()
        await host.start(a_launch)
        await world.until(lambda: host.observe()[a_launch.uid].report is RunnerReport.READY)
        await host.clear(a_launch.uid)
        assert host.observe()[a_launch.uid].link is Link.CONNECTED, "a live one is left alone"
        world.kill(host, a_launch.uid)
        await world.until(lambda: host.observe()[a_launch.uid].link is Link.DEAD)
        await host.clear(a_launch.uid)
        await host.clear(a_launch.uid)
        assert host.observe() == {}
        await world.forsake(host)

    hosts.run(story)


def test_the_next_daemon_finds_it_unconnected_and_adopts_the_same_process(hosts: Any, a_launch: Launch):
    async def story(world: Any) -> None:
        first = await world.daemon()
        await first.start(a_launch)
        await world.until(lambda: first.observe()[a_launch.uid].report is RunnerReport.READY)
        pid = first.observe()[a_launch.uid].pid
        await world.forsake(first)
        second = await world.daemon()
        assert second.observe()[a_launch.uid].link is Link.UNCONNECTED
        assert second.observe()[a_launch.uid].launch == a_launch
        await second.adopt(a_launch.uid)
        await world.until(lambda: second.observe()[a_launch.uid].link is Link.CONNECTED)
        await world.until(lambda: second.observe()[a_launch.uid].report is RunnerReport.READY)
        assert second.observe()[a_launch.uid].pid == pid
        await world.forsake(second)

    hosts.run(story)


def test_drain_then_stop_ends_it(hosts: Any, a_launch: Launch):
    async def story(world: Any) -> None:
        host = await world.daemon()
        await host.start(a_launch)
        await world.until(lambda: host.observe()[a_launch.uid].report is RunnerReport.READY)
        await host.drain(a_launch.uid)
        await host.drain(a_launch.uid)
        await world.until(lambda: host.observe()[a_launch.uid].report is RunnerReport.DRAINING)
        assert host.observe()[a_launch.uid].running == 0
        await host.stop(a_launch.uid, force=False)
        await world.until(lambda: host.observe()[a_launch.uid].link is Link.DEAD)
        await world.forsake(host)

    hosts.run(story)


def test_what_does_not_exist_can_be_stopped_drained_adopted_and_cleared(hosts: Any, a_launch: Launch):
    async def story(world: Any) -> None:
        host = await world.daemon()
        await host.adopt(a_launch.uid)
        await host.drain(a_launch.uid)
        await host.stop(a_launch.uid, force=True)
        await host.clear(a_launch.uid)
        assert host.observe() == {}
        await world.forsake(host)

    hosts.run(story)
