"""What the runner keeps of every request so that no token is lost, repeated or skipped. Pure; time is an argument.

A record is opened when a request is accepted and kept, with all its frames, until the owner has acknowledged the
last frame, has cancelled, or has been away too long. Numbers are given here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from skulk.core.domain.ids import RequestId
from skulk.core.domain.requests import Accepted, Finish, Owner, TokenLogprob, Tokens

FINISHED_MAX = 1024
"""Finished requests that were never acknowledged: a daemon acknowledges every second, so this is a daemon that is
broken in a way of its own. The oldest go first."""


@dataclass(slots=True)
class Record:
    """One accepted request and every frame of it so far, numbered from 1 without gaps."""

    accepted: Accepted
    owner: Owner
    since: float
    """When it was accepted, monotonic seconds."""
    frames: list[Tokens] = field(default_factory=list)

    @property
    def number(self) -> int:
        """The highest number given; 0 before the first frame."""
        return len(self.frames)

    @property
    def finished(self) -> bool:
        return bool(self.frames) and self.frames[-1].finish is not None


class Records:
    def __init__(self) -> None:
        self._records: dict[RequestId, Record] = {}

    def __contains__(self, request: object) -> bool:
        return request in self._records

    def open(self, request: RequestId, accepted: Accepted, owner: Owner, at: float) -> None:
        self._records[request] = Record(accepted, owner, at)

    def append(
        self,
        request: RequestId,
        ids: tuple[int, ...],
        data: bytes,
        finish: Finish | None = None,
        error: str | None = None,
        logprobs: tuple[TokenLogprob, ...] = (),
        at: float | None = None,
    ) -> Tokens | None:
        """The next frame, numbered; `at`: when its tokens were there. None when the request is unknown or has ended (a
        late word of the engine)."""
        record = self._records.get(request)
        if record is None or record.finished:
            return None
        seconds = 0.0 if at is None else at - record.since
        tokens = Tokens(record.number + 1, ids, data, finish, error, logprobs, seconds)
        record.frames.append(tokens)
        if finish is not None:
            self._bound_finished()
        return tokens

    def acknowledge(self, numbers: Mapping[str, int]) -> None:
        """Drop finished records whose last frame was received."""
        for name, number in numbers.items():
            request = RequestId(name)
            record = self._records.get(request)
            if record is not None and record.finished and number >= record.number:
                del self._records[request]

    def frames_after(self, request: RequestId, number: int) -> tuple[Tokens, ...]:
        """All frames above `number`, in order; empty for an unknown request."""
        record = self._records.get(request)
        return () if record is None else tuple(record.frames[max(0, number) :])

    def accepted(self, request: RequestId) -> Accepted | None:
        record = self._records.get(request)
        return None if record is None else record.accepted

    def open_numbers(self) -> dict[str, int]:
        """Every request that is held → highest number given."""
        return {request: record.number for request, record in self._records.items()}

    def owned_by(self, owner: Owner) -> tuple[RequestId, ...]:
        return tuple(request for request, record in self._records.items() if record.owner == owner)

    def all(self) -> tuple[RequestId, ...]:
        return tuple(self._records)

    def unfinished(self) -> tuple[RequestId, ...]:
        return tuple(request for request, record in self._records.items() if not record.finished)

    def drop(self, requests: Iterable[RequestId]) -> None:
        for request in requests:
            self._records.pop(request, None)

    def _bound_finished(self) -> None:
        finished = [request for request, record in self._records.items() if record.finished]
        self.drop(finished[: max(0, len(finished) - FINISHED_MAX)])
