"""One decision at a time: which facts lead to which actions, waits and phases."""

from dataclasses import replace

import pytest
from worlds import BUILD, CARD, CONTENT, GIB, dead, facts, observed, part, placement

from skulk.core.domain import LastWords, Link, PlacementUid, Reason, Retiring, RunnerReport, WeightsFacts
from skulk.core.reconcile import limits
from skulk.core.reconcile.actions import Adopt, Clear, Drain, Fetch, Forget, Kill, Start, Stop
from skulk.core.reconcile.decide import decide
from skulk.core.reconcile.ledger import Ledger, Record, backoff_seconds
from skulk.core.reconcile.machine import Phase
from skulk.core.reconcile.observed import Part, part_for

A = PlacementUid("a")


def ledger(phase: Phase, uid: str = "a", **more: object) -> Ledger:
    return Ledger({PlacementUid(uid): replace(Record(PlacementUid(uid), phase), **more)})  # type: ignore[arg-type]


def reasons(decision):
    return {w.subject: w.reason for w in decision.waiting}


# --- starting -----------------------------------------------------------------------------------------------


def test_a_wanted_placement_with_everything_in_place_starts():
    decision = decide(part(placement()), observed(), Ledger(), 1.0)
    (start,) = decision.actions
    assert isinstance(start, Start)
    assert (start.launch.uid, start.launch.engine_digest, start.launch.model_dir) == ("a", "digest-1", "/models/fox")
    assert start.launch.load_deadline_seconds == limits.load_deadline_seconds(CARD.storage_bytes)
    assert decision.ledger.records[A].phase is Phase.STARTING


def test_it_is_not_started_twice_while_the_start_is_applied():
    first = decide(part(placement()), observed(), Ledger(), 1.0)
    again = decide(part(placement()), observed(in_flight=frozenset({"start/a"})), first.ledger, 1.1)
    assert again.actions == ()


def test_nothing_starts_before_stock_is_taken():
    decision = decide(part(placement()), observed(stock_taken=False), Ledger(), 1.0)
    assert decision.actions == ()
    assert reasons(decision) == {"a": Reason.WAITING_FOR_STOCK}


def test_files_are_fetched_before_a_start_and_once_for_two_replicas():
    decision = decide(part(placement("a"), placement("b")), observed(weights={}), Ledger(), 1.0)
    assert decision.actions == (Fetch(CARD, CONTENT, 0),)
    assert reasons(decision) == {"a": Reason.FETCHING, "b": Reason.FETCHING}


def test_a_missing_engine_is_waited_for_by_name():
    decision = decide(part(placement()), observed(builds=()), Ledger(), 1.0)
    assert reasons(decision) == {"a": Reason.ENGINE_MISSING}
    assert "mlx-cpu" in decision.waiting[0].message


def test_a_placement_that_does_not_fit_what_is_free_now_waits_with_the_arithmetic():
    decision = decide(part(placement(memory=4 * GIB)), observed(free_memory_bytes=3 * GIB), Ledger(), 1.0)
    assert decision.actions == ()
    assert decision.waiting[0].message == "needs 4.00 GiB, 3.00 GiB are free now"
    assert decision.ledger.records[A].refused_since == 1.0


def test_two_placements_never_share_the_same_free_memory():
    decision = decide(
        part(placement("a", memory=3 * GIB), placement("b", memory=3 * GIB)),
        observed(free_memory_bytes=5 * GIB),
        Ledger(),
        1.0,
    )
    assert [a.launch.uid for a in decision.actions] == ["a"]
    assert reasons(decision) == {"b": Reason.WAITING_FOR_MEMORY}


def test_memory_promised_to_a_loading_runner_is_not_free():
    loading = facts("a", RunnerReport.LOADING, memory=4 * GIB, resident_bytes=GIB)
    decision = decide(
        part(placement("a", memory=4 * GIB), placement("b", memory=2 * GIB)),
        observed(loading, free_memory_bytes=4 * GIB),
        ledger(Phase.LOADING),
        1.0,
    )
    assert decision.actions == ()
    assert decision.waiting[0].message == "needs 2.00 GiB, 1.00 GiB are free now"


def test_what_lives_here_counts_in_full_however_little_it_uses():
    idle = facts("a", memory=7 * GIB, resident_bytes=1)
    decision = decide(
        part(placement("a", memory=7 * GIB), placement("b", memory=2 * GIB)), observed(idle), ledger(Phase.READY), 1.0
    )
    assert reasons(decision) == {"b": Reason.WAITING_FOR_MEMORY}


def test_stop_first_waits_for_its_predecessor():
    new = placement("b", after=A)
    old = Retiring(A, new.deployment, new.ranks[0].node, Reason.SUPERSEDED, "a new version follows")
    decision = decide(part(new, retiring=(old,)), observed(facts("a")), ledger(Phase.READY), 1.0)
    assert decision.actions == (Drain(A),)
    assert reasons(decision)["b"] is Reason.WAITING_FOR_PREDECESSOR


# --- adoption and stock -------------------------------------------------------------------------------------


def test_a_live_runner_of_an_earlier_daemon_is_adopted_whether_wanted_or_not():
    found = facts("x", link=Link.UNCONNECTED)
    assert decide(part(), observed(found), Ledger(), 1.0).actions == (Adopt(PlacementUid("x")),)


def test_an_adopted_ready_runner_serves_at_once():
    decision = decide(part(placement()), observed(facts()), Ledger(), 1.0)
    assert decision.actions == ()
    assert decision.routable == {A}
    assert decision.settled


def test_without_an_accepted_blueprint_nothing_is_stopped_started_or_cleared():
    decision = decide(Part(), observed(facts("a"), dead("b")), Ledger(), 1.0)
    assert decision.actions == ()
    assert decision.routable == {A}


def test_a_runner_that_no_accepted_blueprint_lists_drains_then_stops_then_is_cleared():
    draining = decide(part(), observed(facts()), ledger(Phase.READY), 1.0)
    assert draining.actions == (Drain(A),)
    busy = decide(part(), observed(facts(report=RunnerReport.DRAINING, running=1)), draining.ledger, 2.0)
    assert busy.actions == ()
    idle = decide(part(), observed(facts(report=RunnerReport.DRAINING)), busy.ledger, 3.0)
    assert idle.actions == (Stop(A),)
    ended = decide(part(), observed(dead()), idle.ledger, 4.0)
    assert ended.actions == (Clear(A),)
    assert ended.ledger.records[A].phase is Phase.GONE
    assert decide(part(), observed(), ended.ledger, 5.0).ledger.records == {}


def test_a_drain_that_takes_too_long_ends():
    held = ledger(Phase.DRAINING, since=0.0)
    facts_ = facts(report=RunnerReport.DRAINING, running=1, now=limits.DRAIN_SECONDS_MAX)
    assert decide(part(), observed(facts_), held, limits.DRAIN_SECONDS_MAX + 0.1).actions == (Stop(A),)


def test_leaving_the_fleet_drains_everything():
    gone = part_for(placement().ranks[0].node, None, None, leaving=True)
    assert decide(gone, observed(facts()), ledger(Phase.READY), 1.0).actions == (Drain(A),)


def test_start_first_keeps_the_old_runner_until_the_new_one_is_ready():
    new = placement("b", replaces=A)
    old = Retiring(A, new.deployment, new.ranks[0].node, Reason.SUPERSEDED, "a new version follows", until=new.uid)
    wanted = part(new, retiring=(old,))
    both = {A: Record(A, Phase.READY), new.uid: Record(new.uid, Phase.WARMING)}
    before = decide(wanted, observed(facts("a"), facts("b", RunnerReport.WARMING)), Ledger(both), 1.0)
    assert before.actions == ()
    assert before.routable == {A}
    after = decide(wanted, observed(facts("a"), facts("b")), before.ledger, 2.0)
    assert after.actions == (Drain(A),)
    assert after.routable == {new.uid}


def test_an_old_runner_without_a_place_for_its_replacement_serves_on():
    old = Retiring(
        A, placement().deployment, placement().ranks[0].node, Reason.SURGE_DOES_NOT_FIT, "no room", keep=True
    )
    decision = decide(part(retiring=(old,)), observed(facts()), ledger(Phase.READY), 1.0)
    assert decision.actions == ()
    assert decision.routable == {A}


# --- failures -----------------------------------------------------------------------------------------------


def test_a_runner_that_dies_backs_off_and_comes_back():
    died = decide(part(placement()), observed(dead()), ledger(Phase.READY), 10.0)
    record = died.ledger.records[A]
    assert record.phase is Phase.BACKOFF
    assert record.retry_at == 10.0 + backoff_seconds("a", 1)
    assert died.actions == (Clear(A),)
    assert "SK-RUN-001" in died.waiting[0].message
    early = decide(part(placement()), observed(), died.ledger, 10.5)
    assert early.actions == ()
    due = decide(part(placement()), observed(), early.ledger, record.retry_at + 0.01)
    assert isinstance(due.actions[0], Start)


def test_backoff_doubles_to_a_minute_with_bounded_jitter():
    waits = [backoff_seconds("x", n) for n in range(1, 12)]
    for n, wait in enumerate(waits):
        base = min(60.0, 2.0**n)
        assert base * 0.8 <= wait <= base * 1.2


def test_the_breaker_opens_at_the_third_failure_within_its_window():
    state = ledger(Phase.READY, failures=(1.0, 20.0), attempts=2)
    decision = decide(part(placement()), observed(dead()), state, 30.0)
    assert decision.ledger.records[A].phase is Phase.BROKEN
    assert decision.actions == ()
    assert "reset" in decision.waiting[0].on


def test_old_failures_do_not_open_the_breaker():
    state = ledger(Phase.READY, failures=(1.0, 20.0), attempts=2)
    assert decide(part(placement()), observed(dead()), state, 200.0).ledger.records[A].phase is Phase.BACKOFF


def test_a_slow_model_has_a_longer_breaker_window():
    state = ledger(Phase.READY, failures=(1.0, 150.0), attempts=2, load_seconds=100.0)
    assert decide(part(placement()), observed(dead()), state, 290.0).ledger.records[A].phase is Phase.BROKEN


def test_exit_86_is_a_wedge_and_is_not_tried_again_but_reset_clears_it():
    words = LastWords(86, "SK-RUN-005", "no progress for 300 s")
    wedged = decide(part(placement()), observed(dead(words=words)), ledger(Phase.WARMING), 1.0)
    assert wedged.ledger.records[A].phase is Phase.WEDGED
    assert wedged.actions == ()
    later = decide(part(placement()), observed(dead(words=words)), wedged.ledger, 1e6)
    assert later.ledger.records[A].phase is Phase.WEDGED
    again = decide(part(placement()), observed(dead(words=words)), later.ledger.reset(frozenset({A}), 2e6), 2e6)
    assert again.actions == (Clear(A),)
    assert isinstance(decide(part(placement()), observed(), again.ledger, 2e6 + 1).actions[0], Start)


def test_a_wedge_is_remembered_over_a_restart_of_the_daemon():
    words = LastWords(86, "SK-RUN-005", "no progress")
    decision = decide(part(placement()), observed(dead(words=words)), Ledger(), 1.0)
    assert decision.ledger.records[A].phase is Phase.WEDGED


def test_a_runner_found_dead_without_last_words_is_started_without_penalty():
    found = decide(part(placement()), observed(dead()), Ledger(), 1.0)
    assert found.actions == (Clear(A),)
    assert found.ledger.records[A].attempts == 0


def test_a_new_launch_hash_is_another_placement_with_a_clean_record():
    broken = ledger(Phase.BROKEN)
    decision = decide(part(placement("b")), observed(), broken, 1.0)
    assert [a.launch.uid for a in decision.actions] == ["b"]
    assert A not in decision.ledger.records


def test_a_start_that_failed_before_there_was_a_process_counts():
    from skulk.core.reconcile.ledger import Blame

    blame = Blame("SK-RUN-010", "no such interpreter")
    decision = decide(part(placement()), observed(failed_starts={A: blame}), ledger(Phase.STARTING), 1.0)
    assert decision.ledger.records[A].phase is Phase.BACKOFF
    assert "no such interpreter" in decision.waiting[0].message


@pytest.mark.parametrize(
    ("phase", "runner", "at", "code"),
    [
        pytest.param(Phase.STARTING, {"link": Link.SILENT}, 1.0, "SK-RUN-002", id="no-hello"),
        pytest.param(Phase.READY, {"last_heartbeat_at": 0.0}, 10.5, "SK-RUN-003", id="no-heartbeat"),
        pytest.param(
            Phase.LOADING, {"report": RunnerReport.LOADING, "last_heartbeat_at": 61.0}, 61.0, "SK-RUN-004", id="load"
        ),
        pytest.param(
            Phase.STARTING,
            {"report": RunnerReport.STARTING, "last_heartbeat_at": 121.0},
            121.0,
            "SK-RUN-004",
            id="mute",
        ),
        pytest.param(
            Phase.WARMING,
            {"report": RunnerReport.WARMING, "last_heartbeat_at": 316.0},
            316.0,
            "SK-RUN-005",
            id="warm-up",
        ),
        pytest.param(Phase.READY, {"running": 1, "last_heartbeat_at": 136.0}, 136.0, "SK-RUN-005", id="step"),
        pytest.param(Phase.STOPPING, {"last_heartbeat_at": 11.0}, 11.0, "SK-RUN-003", id="stop"),
    ],
)
def test_a_missed_deadline_kills_and_names_the_cause(phase, runner, at, code):
    decision = decide(part(placement()), observed(facts(**runner)), ledger(phase), at)
    kill = next(a for a in decision.actions if isinstance(a, Kill))
    assert kill.code == code
    after = decide(part(placement()), observed(dead()), decision.ledger, at + 1)
    if phase is not Phase.STOPPING:
        assert after.ledger.records[A].blame.code == code
        assert (after.ledger.records[A].phase is Phase.WEDGED) == (code == "SK-RUN-005")


def test_an_idle_ready_runner_is_not_wedged_however_long_it_idles():
    decision = decide(part(placement()), observed(facts(last_heartbeat_at=9999.0)), ledger(Phase.READY), 10000.0)
    assert decision.actions == ()


def test_a_fetch_that_may_succeed_later_is_retried_with_backoff_and_one_that_may_not_is_not():
    def failed(at: float, retry: bool) -> dict[str, WeightsFacts]:
        return {
            CONTENT: WeightsFacts(
                CARD.name,
                CONTENT,
                error_code="SK-WGT-002",
                error="model.safetensors is missing",
                retry=retry,
                failed_at=at,
            )
        }

    first = decide(part(placement()), observed(weights=failed(5.0, True)), Ledger(), 5.0)
    assert first.actions == ()
    assert first.waiting[0].reason is Reason.FETCH_FAILED
    later = decide(part(placement()), observed(weights=failed(5.0, True)), first.ledger, 20.0)
    assert isinstance(later.actions[0], Fetch)
    final = decide(part(placement()), observed(weights=failed(5.0, False)), Ledger(), 5.0)
    assert decide(part(placement()), observed(weights=failed(5.0, False)), final.ledger, 1e6).actions == ()


def test_a_lost_connection_to_a_live_runner_stops_routing_but_changes_nothing_else():
    decision = decide(part(placement()), observed(facts(link=Link.CONNECTING)), ledger(Phase.READY), 1.0)
    assert decision.actions == ()
    assert decision.ledger.records[A].phase is Phase.READY


def test_the_same_facts_lead_to_the_same_decision():
    world = (part(placement("a"), placement("b")), observed(facts("b"), dead("c")), Ledger(), 3.0)
    assert decide(*world) == decide(*world)
    assert BUILD.digest == decide(*world).actions[-1].launch.engine_digest


@pytest.mark.parametrize("known", ["whole", "failed for good"])
def test_while_files_are_looked_at_again_what_was_known_of_them_counts_for_nothing(known: str):
    failed = WeightsFacts(CARD.name, CONTENT, error_code="SK-WGT-005", error="it leads out", failed_at=5.0)
    looking = frozenset({f"forget/{CONTENT}"})
    weights = {} if known == "whole" else {"weights": {CONTENT: failed}}
    decision = decide(part(placement()), observed(in_flight=looking, **weights), Ledger(), 10.0)
    assert decision.actions == ()
    assert dict(decision.ledger.fetches) == {}
    assert reasons(decision) == {A: Reason.FETCHING}
    # Looked at: the files are gone from the facts, and are fetched.
    (fetch,) = decide(part(placement()), observed(weights={}), decision.ledger, 10.1).actions
    assert isinstance(fetch, Fetch)


def test_silence_while_the_daemon_itself_stood_still_is_nobodys_fault():
    silent = facts(last_heartbeat_at=0.0)
    woken = decide(part(placement()), observed(silent, awake_since=60.0), ledger(Phase.READY), 60.0)
    assert woken.actions == ()
    later = decide(part(placement()), observed(silent, awake_since=60.0), ledger(Phase.READY), 71.0)
    assert isinstance(later.actions[0], Kill)


def test_the_files_of_a_model_that_cannot_be_loaded_are_looked_at_again():
    words = LastWords(1, "SK-ENG-003", "a tensor is missing")
    died = decide(part(placement()), observed(dead(words=words)), ledger(Phase.LOADING), 10.0)
    assert died.actions == (Clear(A), Forget(CONTENT))
    crashed = decide(part(placement()), observed(dead()), ledger(Phase.LOADING), 10.0)
    assert crashed.actions == (Clear(A),)
