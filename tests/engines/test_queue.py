"""Who starts, who waits, who is refused."""

from __future__ import annotations

import pytest

from skulk.core.domain import BootId, NodeName, Owner, RunnerReport
from skulk.engines.queue import Queue, too_late

OWNER = Owner(NodeName("n"), BootId("b"))
READY = RunnerReport.READY


def offered(queue, *requests, now=0.0):
    refusals = []
    for request in requests:
        queue, refusal, displaced = queue.offer(request, OWNER, READY, now)
        assert displaced is None
        refusals.append(refusal)
    return queue, refusals


def test_first_come_first_served(ask):
    a, b, c = ask(), ask(), ask()
    queue, _ = offered(Queue(2, 8), a, b, c)
    queue, starting = queue.admit()
    assert [w.request for w in starting] == [a, b]
    assert queue.admit() == (queue, ())
    queue, starting = queue.release(b.id).admit()
    assert [w.request for w in starting] == [c]
    assert queue.running == {a.id, c.id}


def test_the_bound_counts_what_waits_beyond_the_slots(ask):
    queue, refusals = offered(Queue(1, 2), *(ask() for _ in range(4)))
    assert [r is None for r in refusals] == [True, True, True, False]
    assert refusals[-1].retriable
    queue, _ = queue.admit()
    assert offered(queue, ask())[1][0].code == "SK-REQ-006"


def test_a_queue_of_zero_takes_only_what_starts_at_once(ask):
    _, refusals = offered(Queue(1, 0), ask(), ask())
    assert [r is None for r in refusals] == [True, False]


@pytest.mark.parametrize(
    ("phase", "code"),
    [
        (RunnerReport.STARTING, "SK-REQ-004"),
        (RunnerReport.LOADING, "SK-REQ-004"),
        (RunnerReport.WARMING, "SK-REQ-004"),
        (RunnerReport.FAILED, "SK-REQ-004"),
        (RunnerReport.DRAINING, "SK-REQ-015"),
    ],
)
def test_only_a_ready_runner_takes_requests(ask, phase, code):
    queue, refusal, _ = Queue(1, 8).offer(ask(), OWNER, phase, 0.0)
    assert refusal.code == code
    assert refusal.retriable
    assert queue == Queue(1, 8)


def test_deadlines_count_from_the_offer_and_only_for_what_waits(ask):
    running, soon, later = (ask(deadline_seconds=s) for s in (1.0, 1.0, 5.0))
    queue, _ = offered(Queue(1, 8), running, soon, later, now=10.0)
    queue, _ = queue.admit()
    assert queue.expire(10.9) == (queue, ())
    queue, late = queue.expire(11.0)
    assert [w.request for w in late] == [soon]
    assert too_late(late[0]).status == 504
    assert [w.request for w in queue.waiting] == [later]
    assert queue.running == {running.id}


def test_what_is_withdrawn_is_gone_and_others_keep_their_place(ask):
    a, b, c = ask(), ask(), ask()
    queue, _ = offered(Queue(1, 8), a, b, c)
    queue, found = queue.withdraw(b.id)
    assert [w.request for w in found] == [b]
    assert [w.request for w in queue.waiting] == [a, c]
    assert queue.withdraw(b.id) == (queue, ())
    assert not queue.holds(b.id)
    assert queue.empty()[0].waiting == ()


def test_tenants_take_turns_and_each_ones_requests_keep_their_order(ask):
    flood = [ask(tenant="flood") for _ in range(4)]
    queue, _ = offered(Queue(1, 8), *flood)
    queue, _ = queue.admit()
    a, b = ask(tenant="a"), ask(tenant="b")
    queue, _ = offered(queue, a, b)
    order, running = [], flood[0]
    while queue.waiting:
        queue, (started,) = queue.release(running.id).admit()
        running = started.request
        order.append(running)
    assert order == [a, b, flood[1], flood[2], flood[3]]
    assert queue.served == ("flood",), "tenants that wait for nothing are forgotten"


def test_a_full_queue_is_shared_by_those_who_come_late(ask):
    flood = [ask(tenant="flood") for _ in range(4)]
    queue, _ = offered(Queue(0, 4), *flood)
    late = [ask(tenant="late") for _ in range(3)]
    outcomes = []
    for request in late:
        queue, refusal, displaced = queue.offer(request, OWNER, READY, 0.0)
        outcomes.append((refusal is None, None if displaced is None else displaced.request))
    assert outcomes == [(True, flood[3]), (True, flood[2]), (False, None)]
    assert [w.request for w in queue.waiting] == [*flood[:2], *late[:2]]
    _, refusal, displaced = queue.offer(ask(tenant="flood"), OWNER, READY, 0.0)
    assert (refusal.code, displaced) == ("SK-REQ-006", None)
