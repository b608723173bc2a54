"""Numbers, buffer and the three ways to end, without a process."""

import asyncio
from typing import Any

import pytest

from skulk.adapters.runners.streams import BUFFER_BYTES_MAX, Stream, error_of
from skulk.core.domain import Accepted, Finish, PlacementUid, RequestId, RunnerRefusal, Tokens
from skulk.core.errors import RequestError, RetriableRefusal
from skulk.core.wire.runner import Ack, Cancel, ToRunner
from tests.runners.reading import frames_of

ACCEPTED = Accepted((1, 2), 2, 0, False, 100)


class Line:
    """A stream and what it sent."""

    def __init__(self, *, accepted: bool = True) -> None:
        self.sent: list[ToRunner] = []
        self.over = 0
        self.stream = Stream(PlacementUid("p"), RequestId("r"), self.sent.append, self._over)
        if accepted:
            self.stream.on_accepted(ACCEPTED)

    def _over(self) -> None:
        self.over += 1

    def feed(self, *numbers: int, finish: Finish | None = None, data: bytes = b"x") -> None:
        for number in numbers:
            last = number == numbers[-1]
            self.stream.on_tokens(Tokens(number, (number,), data, finish if last else None))

    def read(self) -> tuple[list[int], RequestError | None]:
        """The numbers that come out, and the error that ends them."""

        async def main() -> tuple[list[int], RequestError | None]:
            numbers: list[int] = []
            try:
                async for frame in frames_of(self.stream):
                    numbers.append(frame.number)
            except RequestError as error:
                return numbers, error
            return numbers, None

        return asyncio.run(main())


def test_a_repeated_frame_is_dropped() -> None:
    line = Line()
    line.feed(1, 2, 2, 1, 3, finish=Finish.STOP)
    assert line.read() == ([1, 2, 3], None)
    assert line.sent == [Ack({"r": 3})]
    assert line.over == 1


def test_a_gap_ends_the_stream_and_is_never_passed_on() -> None:
    line = Line()
    line.feed(1, 3)
    line.feed(2)
    numbers, error = line.read()
    assert numbers == [1]
    assert error is not None
    assert error.code.id == "SK-RUN-009"
    assert "frame 3 where frame 2 was due" in error.message
    assert isinstance(line.sent[-1], Cancel)


def test_a_frame_before_the_answer_is_a_protocol_error() -> None:
    line = Line(accepted=False)
    line.feed(1)
    assert line.read()[1] is not None


def test_a_slow_reader_is_cut_off_with_a_reason_at_the_bound() -> None:
    line = Line()
    piece = b"x" * (BUFFER_BYTES_MAX // 4)
    line.feed(1, 2, 3, data=piece)
    assert line.over == 0, "below the bound nothing happens"
    line.feed(4, data=piece)
    numbers, error = line.read()
    assert numbers == []
    assert error is not None
    assert error.code.id == "SK-REQ-012"
    assert [type(message) for message in line.sent] == [Cancel]


def test_what_is_read_makes_room_again() -> None:
    async def main() -> None:
        line = Line()
        frames = frames_of(line.stream)
        piece = b"x" * (BUFFER_BYTES_MAX // 2)
        for number in range(1, 20):
            line.feed(number, data=piece)
            assert (await anext(frames)).number == number  # type: ignore[call-overload]

    asyncio.run(main())


def test_who_follows_takes_a_frame_in_the_turn_of_the_loop_in_which_it_comes() -> None:
    async def main() -> None:
        line, taken = Line(), list[int]()
        line.feed(1)
        following = asyncio.ensure_future(line.stream.follow(lambda frame: taken.append(frame.number) or True))
        await asyncio.sleep(0)
        line.feed(2, 3)
        assert taken == [1, 2, 3], "before anybody else had a turn"
        line.feed(4, finish=Finish.STOP)
        await following
        assert taken == [1, 2, 3, 4]

    asyncio.run(main())


def test_what_a_follower_raises_is_raised_by_follow_and_not_where_frames_come_from() -> None:
    async def main() -> None:
        line = Line()

        def take(frame: Tokens) -> bool:
            if frame.number == 2:
                raise ZeroDivisionError
            return True

        following = asyncio.ensure_future(line.stream.follow(take))
        await asyncio.sleep(0)
        line.feed(1, 2, 3)
        with pytest.raises(ZeroDivisionError):
            await following
        line.feed(4, finish=Finish.STOP)
        assert [frame.number async for frame in frames_of(line.stream)] == [3, 4], "the stream goes on"

    asyncio.run(main())


def test_frames_in_order_are_delivered_before_the_loss_is_told() -> None:
    line = Line()
    line.feed(1, 2)
    line.stream.lose("it ended")
    line.feed(3)
    numbers, error = line.read()
    assert numbers == [1, 2]
    assert error is not None
    assert (error.status, error.slug) == (502, "runner_lost")


def test_a_request_lost_before_its_answer_may_go_elsewhere() -> None:
    line = Line(accepted=False)
    line.stream.lose("it ended")
    with pytest.raises(RetriableRefusal):
        asyncio.run(line.stream.accepted())


def test_a_cancel_by_the_runner_is_an_error_not_a_short_answer() -> None:
    line = Line()
    line.feed(1)
    line.stream.on_tokens(Tokens(2, (), b"", Finish.CANCELLED, "the runner stops"))
    numbers, error = line.read()
    assert numbers == [1]
    assert error is not None
    assert "the runner stops" in error.message


def test_an_error_of_the_engine_is_passed_on_as_the_last_frame() -> None:
    line = Line()
    line.stream.on_tokens(Tokens(1, (), b"", Finish.ERROR, "a step failed"))
    assert line.read() == ([1], None)


def test_only_new_frames_are_acknowledged() -> None:
    line = Line()
    assert line.stream.acknowledgement() is None
    line.feed(1, 2)
    assert line.stream.acknowledgement() == 2
    line.stream.acknowledged = 2
    assert line.stream.acknowledgement() is None


@pytest.mark.parametrize(
    ("refusal", "status", "retriable", "slug"),
    [
        (RunnerRefusal("SK-REQ-006", "full", 503, True), 503, True, None),
        (RunnerRefusal("SK-REQ-005", "too long", 400), 400, False, "context_length_exceeded"),
        (RunnerRefusal("SK-NEW-001", "of a newer version", 400), 400, False, None),
        (RunnerRefusal("SK-REQ-006", "nonsense", 200, True), 502, True, None),
    ],
)
def test_refusals_become_errors(refusal: RunnerRefusal, status: int, retriable: bool, slug: Any) -> None:
    error = error_of(refusal)
    assert (error.status, error.slug, isinstance(error, RetriableRefusal)) == (status, slug, retriable)
    assert error.message == refusal.message
