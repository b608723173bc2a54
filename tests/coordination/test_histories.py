"""What holds for every history of faults, on the real planner: nothing forbidden ever, one fleet again in the end."""

from __future__ import annotations

from coordination_worlds import deployment, fleet
from hypothesis import given, settings
from hypothesis import strategies as st

from skulk.core.domain import Fleet, Quorum
from skulk.sim.clock import run
from skulk.sim.fleet import SimFleet

# After the last fault: a poll, a term, then 2 s to load and half a second to drain, twice; measured 5.1 s at most over
# 300 random histories.
RECOVERY_SECONDS = 15.0
COUNT = 5
NAMES = [f"n{i + 1}" for i in range(COUNT)]
SWITCHES = ["crash", "power off", "boot", "freeze", "thaw", "full", "torn", "mute", "blind", "wary"]

name = st.sampled_from(NAMES)
desired = st.builds(
    lambda chat, code, revision, quorum: fleet(
        COUNT,
        deployment("chat", replicas=chat),
        *([deployment("code", replicas=code)] if code else []),
        revision=revision,
        quorum=quorum,
    ),
    st.integers(1, 4),
    st.integers(0, 2),
    st.sampled_from(["r1", "r2"]),
    st.sampled_from([Quorum.NONE, Quorum.NONE, Quorum.MAJORITY]),
)
fault = st.one_of(
    st.tuples(
        st.sampled_from(["crash", "power off", "boot", "freeze", "thaw", "full", "torn", "mute", "blind", "wary"]), name
    ),
    st.tuples(st.just("part"), st.sets(name, min_size=1, max_size=COUNT - 1)),
    st.tuples(st.just("cut"), st.tuples(name, name)),
    st.tuples(st.just("heal"), st.none()),
    st.tuples(st.just("loss"), st.sampled_from([0.0, 0.1, 0.5])),
    st.tuples(st.just("commit"), desired),
    st.tuples(st.just("invalid"), st.tuples(name, desired)),
)
histories = st.lists(st.tuples(fault, st.floats(0.0, 20.0)), max_size=10)


def happen(sim: SimFleet, what: str, how: object) -> None:
    """One fault, or the end of one."""
    match what, how:
        case "crash", str(at):
            sim[at].crash()
        case "power off", str(at):
            sim[at].power_off()
        case "boot", str(at):
            sim[at].boot()
        case "freeze" | "thaw", str(at):
            sim[at].frozen = what == "freeze" and sim[at].up
        case "full", str(at):
            sim[at].disk_full = not sim[at].disk_full
        case "torn", str(at):
            sim[at].torn = True
        case "mute", str(at):
            sim[at].mute = not sim[at].mute
        case "blind", str(at):
            sim[at].source_up = not sim[at].source_up
        case "wary", str(at):
            sim[at].verifies = not sim[at].verifies
        case "part", set(side):
            sim.network.part(side, set(NAMES) - side)
        case "cut", (str(a), str(b)):
            sim.network.part([a], [b])
        case "heal", None:
            sim.network.heal()
        case "loss", float(share):
            sim.network.loss = sim.network.doubling = share
        case "commit", Fleet() as wanted:
            sim.commit(wanted)
        case "invalid", (str(at), Fleet() as wanted):
            sim[at].refuses[sim.commit(wanted)] = "fleet/deployments/chat.yaml:7:3 a field this version lacks"


def calm(sim: SimFleet, wanted: Fleet) -> None:
    """The last fault is over."""
    sim.network.heal()
    sim.network.loss = sim.network.doubling = 0.0
    for node in sim.nodes.values():
        node.frozen = node.disk_full = node.torn = node.mute = False
        node.source_up = node.verifies = True
        node.boot()
    sim.commit(wanted)


async def play(history: list, last: Fleet, seed: int) -> SimFleet:  # type: ignore[type-arg]
    sim = SimFleet(fleet(COUNT), seed=seed)
    sim.boot()
    for (what, how), pause in history:
        await sim.run_for(pause)
        happen(sim, what, how)
    calm(sim, last)
    await sim.until(sim.settled, RECOVERY_SECONDS)
    await sim.run_for(5.0)
    assert sim.settled(), "it did not stay settled"
    return sim


@settings(max_examples=80, deadline=None)
@given(histories, desired, st.integers(0, 2**16))
def test_any_history_keeps_to_the_rules_and_ends_in_one_document_with_everything_placed(history, last, seed):
    """Fleet-wide: no two documents with one number, no epoch with two coordinators. Per node: documents and commits
    only go forward, and nothing stops without an accepted document that lists the node without it."""
    sim = run(play(history, last, seed))
    assert sim.watch.violations == []
    assert len(sim.coordinators) == 1


blips = st.lists(
    st.tuples(
        st.one_of(
            st.tuples(st.sampled_from(["crash", "freeze", "mute"]), name),
            st.tuples(st.just("part"), st.sets(name, min_size=1, max_size=COUNT - 1)),
            st.tuples(st.just("loss"), st.sampled_from([0.1, 0.3])),
        ),
        # Shorter than one is patient with a lost node, whoever coordinates.
        st.floats(0.1, 10.0),
    ),
    max_size=6,
)


async def blink(history: list, seed: int) -> tuple[SimFleet, int]:  # type: ignore[type-arg]
    sim = SimFleet(fleet(COUNT), seed=seed)
    sim.boot()
    await sim.until(sim.settled, RECOVERY_SECONDS)
    begun = len(sim.watch.starts)
    for (what, how), lasts in history:
        happen(sim, what, how)
        # A member that lives and does not answer is kept however long.
        await sim.run_for(4 * lasts if what == "mute" else lasts)
        sim.network.heal()
        sim.network.loss = sim.network.doubling = 0.0
        for node in sim.nodes.values():
            node.frozen = node.mute = False
            node.boot()
        await sim.until(sim.settled, RECOVERY_SECONDS)
    return sim, begun


@settings(max_examples=40, deadline=None)
@given(blips, st.integers(0, 2**16))
def test_faults_shorter_than_the_patience_start_nothing_and_stop_nothing(history, seed):
    """Daemons die and return, links and processes pause, coordinators change: what runs stays where it is."""
    sim, begun = run(blink(history, seed))
    assert sim.watch.starts[begun:] == []
    assert sim.watch.stops == []
    assert sim.watch.violations == []
