"""The engine's thread with a toy engine: which steps begin together, and when failures are the engine's own."""

from __future__ import annotations

import queue
import threading
import time

import pytest

from skulk.core.domain import Finish
from skulk.engines.engine import Emission, Prompt
from skulk.engines.flight import FlightRecorder
from skulk.engines.preparing import Begin
from skulk.engines.watchdog import Pulse
from skulk.engines.worker import FAILED_STEPS_MAX, Broken, Stepped, Took, Worker

PATIENCE_SECONDS = 30.0


class Toy:
    """One token and the end in each step for everybody, or what `plan` says for the step of that number."""

    version = "1"
    slots = 8

    def __init__(self, *, reads_together=False, plan=None):
        self.reads_together = reads_together
        self.plan = plan or {}
        self.running = []
        self.steps = []
        """Who was there, step by step."""
        self.asked = []
        """When a prompt was to be rendered, in monotonic seconds."""
        self.rendering = threading.Semaphore(0)
        """One request is rendered for each release."""

    def load(self, progress):
        progress(1.0)

    def warm_up(self, progress):
        progress()

    def render(self, request):
        self.asked.append(time.monotonic())
        assert self.rendering.acquire(timeout=PATIENCE_SECONDS)
        return Prompt((1, 2, 3))

    def start(self, job):
        self.running.append(job.request)
        return 0

    def step(self):
        self.steps.append(list(self.running))
        emissions = tuple(self._one(request) for request in self.running)
        self.running.clear()
        return emissions

    def _one(self, request):
        match self.plan.get(len(self.steps) - 1, "token"):
            case "broken":
                return Emission(request, (), b"", Finish.ERROR, error="no kernel", engine_failed=True)
            case "unusable":
                return Emission(request, (), b"", Finish.ERROR, error="not a number")
            case _:
                return Emission(request, (7,), b"x", Finish.LENGTH)

    def cancel(self, request):
        pass

    def memory_bytes(self):
        return None


@pytest.fixture
def worker():
    """A started worker of a toy, and a function that waits for its next event of a kind."""

    def start(toy):
        events = queue.SimpleQueue()
        made = Worker(toy, 100, Pulse(), Pulse(), FlightRecorder(), events.put, 10)
        made.start()

        def next_of(kind):
            while not isinstance(event := events.get(timeout=PATIENCE_SECONDS), kind):
                pass
            return event

        return made, next_of

    return start


@pytest.fixture
def rested(worker, ask, monkeypatch):
    """A toy with three requests on their way, and the next event; a step waits for them as long as it takes."""
    monkeypatch.setattr("skulk.engines.worker.GATHER_SECONDS_MAX", PATIENCE_SECONDS)

    def start(**settings):
        toy = Toy(**settings)
        made, next_of = worker(toy)
        for _ in range(3):
            made.order(Begin(ask()))
        return toy, next_of

    return start


def test_prompts_that_are_on_their_way_are_read_in_the_first_step(rested):
    toy, next_of = rested(reads_together=True)
    for _ in range(3):
        toy.rendering.release()
    next_of(Stepped)
    assert [len(step) for step in toy.steps] == [3]


def test_where_reading_together_gains_nothing_the_first_waits_for_nobody(rested):
    toy, next_of = rested(reads_together=False)
    for _ in range(3):
        toy.rendering.release()
        next_of(Stepped)
    assert [len(step) for step in toy.steps] == [1, 1, 1]


def test_after_company_the_first_waits_for_who_may_follow_and_after_none_it_does_not(worker, ask, monkeypatch):
    monkeypatch.setattr("skulk.engines.worker.GATHER_SECONDS_MAX", PATIENCE_SECONDS)
    toy = Toy(reads_together=True)
    made, next_of = worker(toy)

    def would_wait(seconds):
        monkeypatch.setattr("skulk.engines.worker.COMPANY_SECONDS_MAX", seconds)

    def order(count):
        for _ in range(count):
            made.order(Begin(ask()))
        toy.rendering.release(count)

    def waits_in_vain():
        began = time.monotonic()
        order(1)
        next_of(Stepped)
        return time.monotonic() - began > PATIENCE_SECONDS / 2

    would_wait(PATIENCE_SECONDS)
    assert not waits_in_vain(), "nobody has had company yet"
    order(2)
    next_of(Stepped)
    would_wait(PATIENCE_SECONDS)
    order(1)
    next_of(Took)  # with the engine, and nobody else is on the way
    began = time.monotonic()
    order(1)
    next_of(Stepped)
    assert time.monotonic() - began < PATIENCE_SECONDS / 2, "as many are here as the last time"
    would_wait(0.05)
    assert not waits_in_vain(), "it waits a while and not for ever"
    would_wait(PATIENCE_SECONDS)
    assert not waits_in_vain(), "the last one had none"
    assert [len(step) for step in toy.steps] == [1, 2, 2, 1, 1]


def test_a_prompt_that_takes_long_to_prepare_holds_nobody_up(worker, ask):
    toy = Toy(reads_together=True)
    made, next_of = worker(toy)
    first, slow = ask(), ask()
    made.order(Begin(first))
    made.order(Begin(slow))
    toy.rendering.release()
    assert [e.request for e in next_of(Stepped).emissions] == [first.id], "before the other is rendered"
    toy.rendering.release()
    assert [e.request for e in next_of(Stepped).emissions] == [slow.id]


def test_the_time_behind_somebody_elses_prompt_is_told_as_time_in_the_queue(worker, ask):
    toy = Toy()
    made, next_of = worker(toy)
    first, second = ask(), ask()
    began = time.monotonic()
    made.order(Begin(first))
    made.order(Begin(second, queue_seconds=3.0))
    time.sleep(0.2)
    toy.rendering.release(2)
    own, behind = (next_of(Took).accepted.queue_seconds for _ in range(2))
    assert own <= toy.asked[0] - began, "rendering one's own prompt is none"
    assert 3.2 <= behind <= 3.0 + toy.asked[1] - began


def answered(worker, ask, plan):
    """The broken event of a worker whose steps go by `plan`, one request each; None when it goes on."""
    toy = Toy(plan=plan)
    made, next_of = worker(toy)
    for _ in plan:
        made.order(Begin(ask()))
        toy.rendering.release()
        next_of(Stepped)
    made.order(Begin(ask()))
    toy.rendering.release()
    event = next_of((Broken, Stepped))
    return event if isinstance(event, Broken) else None


def test_steps_that_fail_for_everybody_one_after_the_other_end_the_engine(worker, ask):
    broken = answered(worker, ask, dict.fromkeys(range(FAILED_STEPS_MAX), "broken"))
    assert broken is not None
    assert broken.code.id == "SK-ENG-004"
    assert "no kernel" in broken.message


@pytest.mark.parametrize(
    "plan",
    [
        {0: "broken", 1: "broken", 2: "token", 3: "broken", 4: "broken"},
        dict.fromkeys(range(2 * FAILED_STEPS_MAX), "unusable"),
    ],
    ids=["tokens between", "answers that are no choice"],
)
def test_failures_that_are_the_requests_own_do_not(worker, ask, plan):
    assert answered(worker, ask, plan) is None
