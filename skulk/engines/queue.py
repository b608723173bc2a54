"""Who may start, who waits, who is refused: the runner's bounded queue as a value. Pure; time is an argument.

A request is *waiting* until a slot is free and *running* until the engine has let go of it. Only running requests
have been accepted, so a waiting one can still be refused with a proper status.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from skulk.core.domain.ids import RequestId
from skulk.core.domain.requests import GenerationRequest, Owner, RunnerRefusal
from skulk.core.domain.runners import RunnerReport
from skulk.core.errors import REQ_CANCELLED, REQ_DEADLINE, REQ_DRAINING, REQ_NOT_READY, REQ_QUEUE_FULL

UNAVAILABLE = 503
GATEWAY_TIMEOUT = 504
CLIENT_CLOSED = 499
"""Not in the HTTP standard; what proxies log for a client that left. It reaches nobody but logs."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued request. `deadline` is on the runner's monotonic clock, seconds."""

    request: GenerationRequest
    owner: Owner
    deadline: float
    since: float = 0.0
    """On the same clock."""


@dataclass(frozen=True, slots=True)
class Queue:
    """`slots` run at once, at most `queue_max` more wait. Tenants take turns; each one's are first come first served.

    `served` has the tenants in the order of their last turn: one that fills the queue delays itself, not the others.
    """

    slots: int
    queue_max: int
    waiting: tuple[Waiting, ...] = ()
    running: frozenset[RequestId] = frozenset()
    served: tuple[str, ...] = ()

    def holds(self, request: RequestId) -> bool:
        return request in self.running or any(w.request.id == request for w in self.waiting)

    def offer(
        self, request: GenerationRequest, owner: Owner, phase: RunnerReport, now: float
    ) -> tuple[Queue, RunnerRefusal | None, Waiting | None]:
        """Queue a request, or say why not. `now`: monotonic seconds.

        In a full queue a tenant with less than others that wait takes the place of the last one of whoever has most:
        the third value, to be refused as `full` says.
        """
        if phase is RunnerReport.DRAINING:
            return self, draining(), None
        if phase is not RunnerReport.READY:
            refusal = RunnerRefusal(
                REQ_NOT_READY.id, f"the replica is {phase.value}, not ready", UNAVAILABLE, retriable=True
            )
            return self, refusal, None
        queue, displaced = self, None
        if len(self.running) + len(self.waiting) >= self.slots + self.queue_max:
            displaced = self._crowding(request.tenant)
            if displaced is None:
                return self, self.full(), None
            queue = self._without((displaced,))
        waiting = Waiting(request, owner, now + request.deadline_seconds, now)
        return replace(queue, waiting=(*queue.waiting, waiting)), None, displaced

    def full(self) -> RunnerRefusal:
        return RunnerRefusal(
            REQ_QUEUE_FULL.id,
            f"{len(self.running)} requests run and {len(self.waiting)} wait, the limit is"
            f" {self.slots} and {self.queue_max}",
            UNAVAILABLE,
            retriable=True,
        )

    def _crowding(self, tenant: str) -> Waiting | None:
        """The last request of the tenant that waits most, when that is more than `tenant` would with one more."""
        counts = Counter(w.request.tenant for w in self.waiting)
        most = max(counts, key=lambda name: counts[name], default=tenant)
        if counts[most] <= counts[tenant] + 1:
            return None
        return next(w for w in reversed(self.waiting) if w.request.tenant == most)

    def admit(self) -> tuple[Queue, tuple[Waiting, ...]]:
        """Move as many as there are free slots from waiting to running, a tenant at a time."""
        queue, starting = self, list[Waiting]()
        while queue.waiting and len(queue.running) < queue.slots:
            first = min(queue.waiting, key=lambda w: queue._last_turn(w.request.tenant))
            starting.append(first)
            queue = queue._start(first)
        return queue, tuple(starting)

    def _last_turn(self, tenant: str) -> int:
        return self.served.index(tenant) if tenant in self.served else -1

    def _start(self, first: Waiting) -> Queue:
        tenant = first.request.tenant
        waiting = tuple(w for w in self.waiting if w is not first)
        # Only the tenants that wait have turns: the list does not grow with every key that was ever used.
        others = {w.request.tenant for w in waiting} - {tenant}
        served = (*(name for name in self.served if name in others), tenant)
        return replace(self, waiting=waiting, running=self.running | {first.request.id}, served=served)

    def release(self, request: RequestId) -> Queue:
        """The engine has let go of a running request."""
        return replace(self, running=self.running - {request})

    def expire(self, now: float) -> tuple[Queue, tuple[Waiting, ...]]:
        """Take out those that waited past their deadline."""
        late = tuple(w for w in self.waiting if w.deadline <= now)
        return self._without(late), late

    def withdraw(self, request: RequestId) -> tuple[Queue, tuple[Waiting, ...]]:
        """Take out a waiting request; empty when it does not wait."""
        found = tuple(w for w in self.waiting if w.request.id == request)
        return self._without(found), found

    def empty(self) -> tuple[Queue, tuple[Waiting, ...]]:
        """Take out everything that waits."""
        return replace(self, waiting=()), self.waiting

    def _without(self, gone: tuple[Waiting, ...]) -> Queue:
        return replace(self, waiting=tuple(w for w in self.waiting if w not in gone)) if gone else self


def draining() -> RunnerRefusal:
    return RunnerRefusal(REQ_DRAINING.id, "the replica is draining", UNAVAILABLE, retriable=True)


def too_late(waiting: Waiting) -> RunnerRefusal:
    return RunnerRefusal(
        REQ_DEADLINE.id,
        f"the request waited in the queue for its whole deadline of {waiting.request.deadline_seconds:g} s",
        GATEWAY_TIMEOUT,
    )


def cancelled(reason: str) -> RunnerRefusal:
    return RunnerRefusal(REQ_CANCELLED.id, f"cancelled while queued: {reason}", CLIENT_CLOSED)
