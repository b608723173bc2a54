"""The composition root: `skulk node run`. The only place that knows every adapter.

Life: node.toml and skulk.env → state lock → port → stock of runners → last accepted commit → loops → planes. SIGTERM
and SIGINT: close the gateway, let client streams end (30 s), end the rest with an error event, leave the runners
running, say goodbye to the other nodes. SIGUSR1 (what `skulk node stop` sends): the same, but drain and stop the
runners first. SIGHUP: look at the source now, and read again which engines node.toml wants.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import structlog
import uvloop

from skulk import __version__
from skulk.adapters.engine_envs import EngineCatalogue
from skulk.adapters.hardware import MachineProbe
from skulk.adapters.runners import RunnerProcesses, place_runner_code
from skulk.adapters.telemetry import MachineSampler, disks_of
from skulk.adapters.weights import LocalWeights
from skulk.core import errors
from skulk.core.domain import (
    BootId,
    CommitId,
    FleetView,
    Life,
    Link,
    NodeName,
    Owner,
)
from skulk.core.ports import Machine
from skulk.core.reconcile import limits
from skulk.core.reconcile.acceptance import SourcePolicy
from skulk.gateway import GatewaySettings, create_app
from skulk.node import legacy
from skulk.node.clock import SystemClock
from skulk.node.config import NodeConfig, effective_environment, load_config
from skulk.node.coordination import Coordination
from skulk.node.exchange import CommitExchange
from skulk.node.host import Host, reset_elsewhere
from skulk.node.installing import EngineInstaller, Wanted
from skulk.node.journal import FileJournal
from skulk.node.listen import Listener, is_loopback, permitted
from skulk.node.lock import StateLock
from skulk.node.logs import configure
from skulk.node.loop import NodeLoop, Ports
from skulk.node.network import FleetPlanes, Network, alone
from skulk.node.notify import ServiceManager
from skulk.node.repository import repository
from skulk.node.runner_logs import RunnerLogs
from skulk.node.serving import BEAT_SECONDS_MAX, NodeServing
from skulk.node.source import SourceLoop
from skulk.node.telemetry import Telemetry
from skulk.node.webhook_secret import webhook_secret

_log = structlog.get_logger(component="daemon")

# What is left of open responses after the streams were ended is only their last bytes.
GATEWAY_STOP_SECONDS = 5.0
# A goodbye takes milliseconds; closing a session with a dead link can hang for ever.
PLANES_CLOSE_SECONDS = 4.0
# Documents of several nodes arrive together.
PLANES_COALESCE_SECONDS = 0.05


def main(config_path: Path) -> int:
    """Run the daemon of `config_path` until it is told to end; return the exit code.

    Raises InvalidInput for a bad node.toml, Terminal for a taken port or state directory.
    """
    own = dict(os.environ)
    config = load_config(config_path, own)
    environment, old = effective_environment(config_path, own)
    # For what is no key of node.toml: the webhook secret, deadlines of runners, a proxy of git.
    os.environ.update(environment)
    configure(config.name, config.log_level or "info", config.log)
    legacy.warn(old, config_path)
    config = legacy.with_old_models(config)
    with _held(config):
        # uvloop passes a token on for less than asyncio's own loop does (docs/benchmarks.md).
        # With what the service manager gave: a line that has changed in skulk.env must not lose to its old self.
        uvloop.run(Daemon(config, lambda: load_config(config_path, own)).run())
    if config.planes.listen:
        # The messaging library's threads outlive its session, and now and then abort an interpreter that winds down.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


def stop_runners(config: NodeConfig) -> int:
    """Drain and stop the runners of a state directory that has no daemon any more; return the exit code."""
    configure(config.name, "warning")
    with _held(config):
        return uvloop.run(Daemon(config).sweep())


@contextlib.contextmanager
def _held(config: NodeConfig) -> Iterator[None]:
    lock = StateLock(config.state_dir)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


class Daemon:
    """Everything of one node, put together. `reread` gives node.toml as it is now."""

    def __init__(self, config: NodeConfig, reread: Callable[[], NodeConfig] | None = None) -> None:
        self._config = config
        self._reread = reread or (lambda: config)
        self._clock = SystemClock()
        self._owner = Owner(NodeName(config.name), BootId(secrets.token_hex(8)))
        self._code_dir = place_runner_code(config.engines_path)
        self._catalogue = EngineCatalogue(
            config.engines_path, self._code_dir, config.engines, scripted=config.scripted_engine
        )
        self._manager = ServiceManager(os.environ, os.getpid())
        self._end = asyncio.Event()

    # --- composition (needs a running event loop) -----------------------------------------------------------

    def _compose(self) -> None:
        config, node = self._config, self._owner.node
        self._waking: asyncio.TimerHandle | None = None
        self._runners = RunnerProcesses(
            config.state_dir / "run",
            self._owner,
            interpreter=self._catalogue.python_for,
            code_dir=self._code_dir,
            wake=self._wake,
            load_changed=lambda: self._loop.look_at_load(),
            clock=self._clock.now,
        )
        self._probe = _InstallingProbe(
            self._catalogue,
            config.state_dir,
            memory_cap_bytes=config.memory_cap,
            reserved_by_runners=self._reserved_bytes,
        )
        wanted = _wanted(config)
        self._installer = EngineInstaller(config.engines_path, wanted, lambda: self._loop.look_at_machine())
        self._probe.installer = self._installer
        self._weights = LocalWeights(
            config.model_roots,
            config.state_dir / "weights",
            self._probe.free_disk_bytes,
            self._wake,
            clock=self._clock.now,
        )
        journal = FileJournal(config.state_dir / "journal.json")
        repo = repository(config)
        self._coordination = Coordination(node, journal, self._clock, self._wake, obtain=self._obtain)
        self._exchange = CommitExchange(repo, self._clock, hold=self._coordination.hold_bundles)
        self._source = SourceLoop(
            repo,
            journal,
            self._clock,
            SourcePolicy(
                namespace=config.namespace,
                node=self._owner.node,
                verify=config.source.verify,
                allow_force_push=config.source.allow_force_push,
            ),
            jitter=random.random,
            wake=self._wake,
            poll_seconds=config.source.poll_seconds,
            in_force=lambda: self._coordination.in_force,
            announce=self._exchange.announce,
            bundle_of=self._exchange.bundle_of,
        )
        self._network = self._compose_network(journal)
        self._loop = NodeLoop(
            self._owner.node,
            self._owner.boot,
            Ports(self._runners, self._weights, self._probe, self._clock),
            lambda: self._source.state,
            self._coordination,
            orphan_seconds=config.orphan_seconds,
            publish=self._publish,
            problems=self._problems,
            readings=lambda: self._telemetry.readings(),
            plain=config.planes.allow_plain and config.planes.certificate is None,
        )
        self._telemetry = Telemetry(
            MachineSampler(disks_of(config.state_dir, config.model_roots)),
            self._clock,
            report=self._report,
            wake=self._loop.wake,
        )
        self._serving = NodeServing(
            self._owner,
            self._runners,
            RunnerLogs(self._runners.log_files, self._runners.observe),
            self._clock,
            reset=self._loop.reset,
            beat_age=lambda: self._loop.beat_age_seconds,
            data=lambda: self._planes,
            poke=self._source.poke,
            reset_elsewhere=lambda name: reset_elsewhere(self._planes, name),
        )

    def _compose_network(self, journal: FileJournal) -> Network | None:
        """The planes of node.toml, not opened yet; None without. Raises InvalidInput for certificates that cannot be
        used, before anything runs."""
        if not self._config.planes.listen:
            return None
        # Not at the top: a node without planes does without the messaging library.
        from skulk.adapters.zenoh import identity, open_planes, use_threads

        settings = self._config.plane_settings()
        identity(settings, Life(self._owner.node, self._owner.boot, 0))

        def new_life() -> Life:
            # Ordered also when the clock was set back, and when the journal was lost.
            above = self._network.superseded if self._network is not None else 0
            number = max(journal.load().life + 1, int(self._clock.wall()), above + 1)
            journal.save(replace(journal.load(), life=number))
            return Life(self._owner.node, self._owner.boot, number)

        async def opener(dial: tuple[str, ...], keys: Mapping[NodeName, bytes]) -> FleetPlanes:
            fleet = self._source.state.fleet
            use_threads(len(fleet.nodes) if fleet is not None else 0)
            host = Host(self._serving, self._coordination, self._exchange)
            wake = self._wake_soon
            opened = replace(settings, dial=dial)
            return await open_planes(opened, new_life(), keys=keys, clock=self._clock, host=host, wake=wake)

        return Network(
            self._owner.node,
            opener,
            self._clock,
            lambda: self._source.state.fleet,
            tls=settings.tls is not None,
            seeds=self._config.planes.seeds,
            joined=self._joined,
            left=self._left,
            sighted=self._coordination.sighted,
        )

    @property
    def _planes(self) -> FleetPlanes | None:
        return self._network.planes if self._network is not None else None

    def _joined(self, planes: FleetPlanes) -> None:
        self._loop.join(planes)
        self._exchange.join(planes)
        self._wake()

    def _left(self) -> None:
        self._loop.part()
        self._exchange.part()

    def _report(self, kind: str, values: Mapping[str, object]) -> None:
        if self._planes is not None:
            self._planes.report(kind, values)

    def _problems(self) -> tuple[str, ...]:
        if self._network is None:
            return alone(self._source.state.fleet)
        return (self._network.problem,) if self._network.problem else ()

    def _obtain(self, commit: CommitId, holders: tuple[NodeName, ...]) -> None:
        self._source.obtain(commit, holders)

    def _wake_soon(self) -> None:
        """The planes have news: documents come in bursts, and one look is enough for all of one."""
        if self._waking is None:
            self._waking = asyncio.get_running_loop().call_later(PLANES_COALESCE_SECONDS, self._woken_by_planes)

    def _woken_by_planes(self) -> None:
        self._waking = None
        for commit in self._exchange.hints():
            self._source.hint(commit)
        self._wake()

    def _wake(self) -> None:
        if hasattr(self, "_loop"):
            self._loop.wake()

    def _publish(self, view: FleetView) -> None:
        self._serving.publish(view)

    def _reserved_bytes(self) -> int:
        return sum(f.launch.memory_bytes for f in self._runners.observe().values() if f.link is not Link.DEAD)

    # --- life -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        self._compose()
        self._listen_for_signals()
        config = self._config
        app = create_app(self._serving, GatewaySettings(webhook_secret=webhook_secret(config.webhook)))
        listener = Listener(app, config.listen.host, config.listen.port)
        await self._runners.take_stock()
        self._loop.stock_taken = True
        await self._source.restore()
        self._refuse_exposed()
        await listener.start()
        _log.info("daemon_started", address=listener.address, boot=self._owner.boot, version=__version__)
        self._manager.tell(f"READY=1\nSTATUS=node {self._owner.node} at {listener.address}")
        tasks = [
            asyncio.create_task(self._manager.watch(self._clock, self._turns), name="watchdog"),
            asyncio.create_task(self._loop.run(), name="loop"),
            asyncio.create_task(self._source.run(), name="source"),
            asyncio.create_task(self._installer.run(), name="engines"),
            asyncio.create_task(self._follow_fleet(listener), name="fleet"),
            asyncio.create_task(self._telemetry.run(), name="telemetry"),
        ]
        if self._network is not None:
            tasks.append(asyncio.create_task(self._network.run(), name="network"))
        ended = asyncio.create_task(self._end.wait())
        try:
            done, _ = await asyncio.wait({*tasks, ended}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {ended}:
                # A loop that ends is a mistake of ours; the service manager restarts us, the runners live on.
                task.result()
            await self._finish(listener)
        finally:
            for task in (*tasks, ended):
                task.cancel()
            await asyncio.gather(*tasks, ended, return_exceptions=True)
            await listener.stop(GATEWAY_STOP_SECONDS)
            closed = self._network is None or await self._network.close(PLANES_CLOSE_SECONDS)
            await self._exchange.close()
            await self._runners.close()
            _log.info("daemon_ended", runners_left=not self._loop.stopping)
            if not closed:
                # The library hangs in its close. Everything of ours is done, and nobody waits for it.
                _log.warning("planes_not_closed", seconds=PLANES_CLOSE_SECONDS)
                os._exit(1 if sys.exc_info()[0] else 0)

    def _turns(self) -> bool:
        return self._loop.beat_age_seconds < BEAT_SECONDS_MAX

    async def _finish(self, listener: Listener) -> None:
        """Streams first, then (when stopping) the runners. A second signal cuts the waiting short."""
        self._manager.tell("STOPPING=1")
        self._serving.close()
        self._loop.closing = not self._loop.stopping
        # The others hear of it with the next round, and send nothing here any more.
        self._loop.wake()
        cut = await self._serving.finish(limits.CLOSE_STREAMS_SECONDS_MAX)
        if cut:
            _log.warning("streams_cut", count=cut)
        if self._loop.stopping:
            await self._until_empty()
            self._loop.closing = True

    async def _until_empty(self) -> bool:
        deadline = self._clock.now() + limits.DRAIN_SECONDS_MAX + limits.STOP_SECONDS_MAX + 10.0
        while not self._loop.empty and self._clock.now() < deadline:
            await self._clock.sleep(0.05)
        return self._loop.empty

    async def sweep(self) -> int:
        """Adopt, drain and stop what an earlier daemon left. 0 when nothing lives here any more, else 1."""
        self._compose()
        await self._runners.take_stock()
        self._loop.stock_taken = self._loop.stopping = True
        rounds = asyncio.create_task(self._loop.run())
        try:
            return 0 if await self._until_empty() else 1
        finally:
            rounds.cancel()
            await asyncio.gather(rounds, return_exceptions=True)
            await self._runners.close()

    # --- signals --------------------------------------------------------------------------------------------

    def _listen_for_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end.set)
        loop.add_signal_handler(signal.SIGUSR1, self._stop_everything)
        loop.add_signal_handler(signal.SIGHUP, self._look_again)

    def _look_again(self) -> None:
        self._source.poke()
        try:
            config = self._reread()
        except errors.SkulkError as error:
            _log.warning("config_not_read", code=error.code.id, error=error.message)
            return
        self._catalogue.engines = config.engines
        self._installer.follow(_wanted(config))

    def _stop_everything(self) -> None:
        self._loop.stopping = True
        self._end.set()

    # --- around the loops -----------------------------------------------------------------------------------

    def _refuse_exposed(self) -> None:
        """A node that would be open to the network by what it last accepted does not start. One that has not
        accepted anything yet, or whose Fleet loses its keys later, listens on loopback."""
        fleet = self._source.state.fleet
        host = self._config.listen.host
        if fleet is not None and not is_loopback(host) and not permitted(fleet.access):
            raise errors.Refused(
                errors.CFG_EXPOSED, f"listen.host is {host} and Fleet {fleet.name!r} has no keys in spec.access"
            )

    async def _follow_fleet(self, listener: Listener) -> None:
        """Node-local facts of the accepted Fleet apply at once: who may call from where, and how much is logged."""
        level = self._config.log_level or "info"
        async for view in self._serving.changes(-1):
            await listener.follow(view.access)
            fleet = self._source.state.fleet
            wanted = self._config.log_level or (fleet.log_level if fleet else level)
            if wanted != level:
                level = wanted
                configure(self._config.name, level, self._config.log)
                _log.info("log_level_changed", to=level)


class _InstallingProbe(MachineProbe):
    """The machine, with a line for every engine that is being installed or could not be."""

    installer: EngineInstaller

    async def machine(self) -> Machine:
        machine = await super().machine()
        return replace(machine, engine_problems=(*self.installer.problems(machine.builds), *machine.engine_problems))


def _wanted(config: NodeConfig) -> Wanted:
    return Wanted(config.engines, config.install_engines)
