"""Numbers without gaps, kept until acknowledged."""

from __future__ import annotations

from skulk.core.domain import Accepted, BootId, Finish, NodeName, Owner, RequestId
from skulk.engines.records import FINISHED_MAX, Records

ACCEPTED = Accepted((1, 2), 2, 0, False, 10)
OWNER = Owner(NodeName("n"), BootId("b"))
R = RequestId("r")


def opened(*requests):
    records = Records()
    for request in requests or (R,):
        records.open(request, ACCEPTED, OWNER, 5.0)
    return records


def test_frames_are_numbered_from_one_and_replayed_as_they_were():
    records = opened()
    frames = [records.append(R, (n,), bytes([n])) for n in range(4)]
    frames.append(records.append(R, (), b"", Finish.STOP))
    assert [t.number for t in frames] == [1, 2, 3, 4, 5]
    assert records.frames_after(R, 0) == tuple(frames)
    assert records.frames_after(R, 3) == tuple(frames[3:])
    assert records.frames_after(R, 5) == ()
    assert records.frames_after(RequestId("other"), 0) == ()


def test_tokens_tell_how_long_after_the_acceptance_they_were_there():
    records = opened()
    assert records.append(R, (1,), b"a", at=5.25).seconds == 0.25
    assert records.append(R, (), b"", Finish.CANCELLED, "gone").seconds == 0.0


def test_nothing_follows_the_end():
    records = opened()
    records.append(R, (), b"", Finish.CANCELLED, "gone")
    assert records.append(R, (7,), b"x") is None
    assert records.open_numbers() == {R: 1}


def test_only_the_acknowledgement_of_the_last_frame_frees():
    records = opened()
    records.append(R, (1,), b"a")
    records.acknowledge({R: 1})
    assert R in records
    records.append(R, (), b"", Finish.STOP)
    records.acknowledge({R: 1, "unknown": 9})
    assert R in records
    records.acknowledge({R: 2})
    assert R not in records


def test_unacknowledged_ends_are_bounded_and_running_requests_are_not_dropped():
    names = [RequestId(f"r{n}") for n in range(FINISHED_MAX + 2)]
    records = opened(R, *names)
    for name in names:
        records.append(name, (), b"", Finish.STOP)
    assert R in records
    assert names[0] not in records
    assert names[1] not in records
    assert names[2] in records
    assert names[-1] in records


def test_owners_are_told_apart():
    records = opened(R)
    other = Owner(NodeName("n"), BootId("another life"))
    records.open(RequestId("s"), ACCEPTED, other, 5.0)
    assert records.owned_by(OWNER) == (R,)
    assert records.owned_by(other) == (RequestId("s"),)
