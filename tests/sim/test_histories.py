"""Histories with lost, repeated and reordered events end in the same state, and never pass through a forbidden one."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simworlds import card, deployment, tree

from skulk.core.domain import ConditionType, Status
from skulk.sim.clock import run
from skulk.sim.node import SimNode

CARDS = {name: card(name, gib=size) for name, size in {"fox": 1.0, "owl": 2.0}.items()}

deployments = st.dictionaries(
    st.sampled_from(["chat", "code"]),
    st.tuples(
        st.sampled_from(["fox", "owl"]),
        st.sampled_from(["1024", "2048"]),
        st.sampled_from(["start-first", "stop-first"]),
        st.integers(0, 2),
    ),
    min_size=1,
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), deployments),
        st.tuples(st.just("invalid"), st.none()),
        st.tuples(st.just("crash"), st.integers(0, 3)),
        st.tuples(st.just("freeze"), st.integers(0, 3)),
        st.tuples(st.just("restart"), st.floats(0.0, 20.0)),
        st.tuples(st.just("remote"), st.booleans()),
        st.tuples(st.just("fetch fails"), st.booleans()),
    ),
    max_size=8,
)
pauses = st.lists(st.floats(0.0, 15.0), min_size=9, max_size=9)


def manifests(wanted: dict[str, tuple[str, str, str, int]]) -> dict[str, str]:
    texts = {
        name: deployment(name, model, contextTokens=context, replicas=str(replicas), update=f"{{strategy: {strategy}}}")
        for name, (model, context, strategy, replicas) in wanted.items()
    }
    return tree(texts, CARDS)


async def play(
    first: dict, history: list, waits: list[float], *, disturbed: bool, seed: int
) -> tuple[dict[str, list[str]], list[str], Status]:
    """End state, violations and the fleet's Ready after a history and ten quiet minutes."""
    sim = SimNode(seed=seed)
    if disturbed:
        sim.lost_wakes, sim.repeated_wakes, sim.host.stale_for = 0.5, True, 0.7
    sim.repo.commit(manifests(first))
    await sim.boot()
    await sim.run_for(waits[0])
    for (what, how), wait in zip(history, waits[1:], strict=False):
        uids = sorted(uid for uid, p in sim.host.processes.items() if p.alive)
        match what:
            case "commit":
                sim.repo.commit(manifests(how))
            case "invalid":
                sim.repo.commit({**manifests(first), "fleet/deployments/chat.yaml": "kind: ["})
                sim.repo.branch = sim.repo.parents[sim.repo.branch] if wait > 7 else sim.repo.branch
            case "crash" if uids:
                sim.host.crash(uids[how % len(uids)])
            case "freeze" if uids:
                sim.host.freeze(uids[how % len(uids)])
            case "restart":
                await sim.kill_daemon()
                await sim.clock.sleep(how)
                await sim.boot()
            case "remote":
                sim.repo.down = how
            case "fetch fails":
                sim.weights.failing = {"owl"} if how else set()
        await sim.run_for(wait)
    sim.repo.down, sim.weights.failing = False, set()
    last = next((how for what, how in reversed(history) if what == "commit"), first)
    sim.repo.commit(
        {**manifests(last), "fleet/nodes/demo.yaml": tree({}, {})["fleet/nodes/demo.yaml"] + "  labels: {end: 'yes'}\n"}
    )
    await sim.run_for(200)
    sim.loop.reset(frozenset(sim.loop._ledger.records))
    await sim.run_for(200)
    return sim.serving, sim.host.violations, sim.condition(ConditionType.READY)[0]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(deployments, steps, pauses, st.integers(0, 2**16))
def test_disturbed_histories_end_like_undisturbed_ones(first, history, waits, seed):
    quiet = run(play(first, history, waits, disturbed=False, seed=seed))
    noisy = run(play(first, history, waits, disturbed=True, seed=seed + 1))
    assert noisy[0] == quiet[0]
    assert quiet[1] == []
    assert noisy[1] == []
    assert quiet[2] is noisy[2] is Status.TRUE
