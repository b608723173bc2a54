"""A request through a real runner process: frames, refusals, queue, cancel. The engine is scripted."""

from __future__ import annotations

import pytest

from skulk.core.domain import Finish, RequestId
from skulk.core.wire.runner import (
    AcceptedFrame,
    Ack,
    Cancel,
    Describe,
    Drain,
    Flight,
    Heartbeat,
    RefusedFrame,
    Report,
    Step,
)

TEXT = "Größe 東京 🦊 <think>x</think>"


def joined(frames):
    return b"".join(t.data for t in frames)


def test_an_answer_is_accepted_then_numbered_frames_whose_bytes_are_the_text(scripted, ask):
    daemon = scripted(echo=TEXT).attached()
    request = daemon.generate(ask("hi"))
    frames = daemon.tokens(request)
    first = daemon.first_frame(request)
    assert isinstance(first, AcceptedFrame)
    assert first.accepted.prompt_ids == tuple(b"user: hi\nassistant: ")
    assert first.accepted.prompt_tokens == len(first.accepted.prompt_ids)
    assert first.accepted.context_left == 4096 - first.accepted.prompt_tokens
    assert [t.number for t in frames] == list(range(1, len(frames) + 1))
    assert joined(frames) == TEXT.encode()
    assert sum(len(t.ids) for t in frames) == len(TEXT.encode())
    assert frames[-1].finish is Finish.STOP
    assert all(t.finish is None for t in frames[:-1])
    order = [type(m) for m in daemon.seen if isinstance(m, AcceptedFrame | Step)]
    assert order[0] is AcceptedFrame


def test_max_tokens_ends_with_length_on_the_last_token(scripted, ask):
    daemon = scripted(echo=TEXT).attached()
    frames = daemon.tokens(daemon.generate(ask(max_tokens=5)))
    assert frames[-1].finish is Finish.LENGTH
    assert joined(frames) == TEXT.encode()[:5]
    assert len(frames) == 5


def test_an_open_reasoning_block_at_the_end_of_the_prompt_is_told_by_the_first_frame(scripted, ask):
    runner = scripted({"reasoning_format": "token_delimited"})
    daemon = runner.attached()
    inside = daemon.generate(ask(template={"prefill": "<think>\n"}))
    assert daemon.first_frame(inside).accepted.in_reasoning
    closed = daemon.generate(ask(template={"prefill": "<think></think>"}))
    assert not daemon.first_frame(closed).accepted.in_reasoning


def test_a_model_without_reasoning_never_begins_inside_it(scripted, ask):
    daemon = scripted().attached()
    request = daemon.generate(ask(template={"prefill": "<think>\n"}))
    assert not daemon.first_frame(request).accepted.in_reasoning


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "words"),
    [
        ("x" * 200, None, "the prompt has 218 tokens, the context holds 100"),
        ("x", 90, "19 tokens and max_tokens is 90, together 109; the context holds 100"),
    ],
)
def test_what_does_not_fit_the_context_is_refused_with_the_numbers(scripted, ask, prompt, max_tokens, words):
    daemon = scripted({"context_tokens": 100}).attached()
    refused = daemon.first_frame(daemon.generate(ask(prompt, max_tokens=max_tokens)))
    assert isinstance(refused, RefusedFrame)
    assert (refused.refusal.code, refused.refusal.status) == ("SK-REQ-005", 400)
    assert not refused.refusal.retriable
    assert refused.refusal.message.startswith("context_length_exceeded: ")
    assert words in refused.refusal.message
    daemon.rewind()
    assert daemon.idle()


def test_without_max_tokens_the_rest_of_the_context_bounds_the_answer(scripted, ask):
    daemon = scripted({"context_tokens": 60}, tokens=1000).attached()
    request = daemon.generate(ask("x"))
    frames = daemon.tokens(request)
    assert frames[-1].finish is Finish.LENGTH
    assert len(frames) == daemon.first_frame(request).accepted.context_left


def test_requests_beyond_the_slots_wait_in_order(scripted, ask):
    daemon = scripted(echo="ab", step_seconds=0.01).attached()
    requests = [daemon.generate(ask()) for _ in range(4)]
    for request in requests:
        assert joined(daemon.tokens(request)) == b"ab"
    daemon.rewind()
    started = [m.request for m in daemon.seen if isinstance(m, AcceptedFrame)]
    assert started == requests


def test_several_slots_run_together_and_share_steps(scripted, ask):
    daemon = scripted({"concurrency": 3}, tokens=300, step_seconds=0.005).attached()
    requests = [daemon.generate(ask()) for _ in range(3)]
    assert {len(daemon.tokens(r)) for r in requests} == {301}
    shared = [m for m in daemon.seen if isinstance(m, Step) and len(m.entries) == 3]
    assert shared


def test_a_full_queue_refuses_retriably(scripted, ask):
    daemon = scripted({"queue_max": 2}, tokens=100_000, step_seconds=0.05).attached()
    running = daemon.generate(ask())
    assert isinstance(daemon.first_frame(running), AcceptedFrame)
    daemon.generate(ask())
    daemon.generate(ask())
    refused = daemon.first_frame(daemon.generate(ask()))
    assert (refused.refusal.code, refused.refusal.status, refused.refusal.retriable) == ("SK-REQ-006", 503, True)


def test_a_request_that_waits_past_its_deadline_is_refused_with_504(scripted, ask):
    daemon = scripted(tokens=100_000, step_seconds=0.05).attached()
    daemon.first_frame(daemon.generate(ask()))
    refused = daemon.first_frame(daemon.generate(ask(deadline_seconds=0.2)))
    assert (refused.refusal.code, refused.refusal.status) == ("SK-REQ-007", 504)


def test_a_cancel_ends_a_running_request_and_frees_its_slot(scripted, ask):
    daemon = scripted(tokens=100_000, step_seconds=0.05).attached()
    request = daemon.generate(ask())
    daemon.tokens(request, at_least=3)
    daemon.send(Cancel(request, "client gone"))
    frames = daemon.tokens(request)
    assert (frames[-1].finish, frames[-1].error) == (Finish.CANCELLED, "client gone")
    assert [t.number for t in frames] == list(range(1, len(frames) + 1))
    assert isinstance(daemon.first_frame(daemon.generate(ask())), AcceptedFrame)


def test_a_cancel_of_a_queued_request_is_its_first_frame_and_the_next_one_starts(scripted, ask):
    daemon = scripted(tokens=100_000, step_seconds=0.05).attached()
    running, queued, behind = (daemon.generate(ask()) for _ in range(3))
    daemon.first_frame(running)
    daemon.send(Cancel(queued, "client gone"))
    assert daemon.first_frame(queued).refusal.code == "SK-REQ-016"
    daemon.send(Cancel(running, "client gone"))
    assert isinstance(daemon.first_frame(behind), AcceptedFrame)
    assert not [m for m in daemon.seen if isinstance(m, AcceptedFrame) and m.request == queued]


def test_cancelling_what_is_unknown_or_over_is_ignored(scripted, ask):
    daemon = scripted(echo="ab").attached()
    request = daemon.generate(ask())
    daemon.tokens(request)
    daemon.send(Cancel(request, "late"))
    daemon.send(Cancel(RequestId("never"), "wrong"))
    assert joined(daemon.tokens(daemon.generate(ask()))) == b"ab"
    assert len([m for m in daemon.seen if isinstance(m, RefusedFrame)]) == 0


def test_the_same_request_sent_twice_runs_once(scripted, ask):
    daemon = scripted(echo="abc").attached()
    request = ask()
    daemon.generate(request)
    daemon.generate(request)
    daemon.tokens(request.id)
    assert joined(daemon.tokens(daemon.generate(ask()))) == b"abc"
    assert len([m for m in daemon.seen if isinstance(m, AcceptedFrame) and m.request == request.id]) == 1


def test_before_it_is_ready_a_runner_refuses_retriably(scripted, ask):
    daemon = scripted(load_seconds=600).connect()
    assert daemon.attach().phase in ("starting", "loading")
    refused = daemon.first_frame(daemon.generate(ask()))
    assert (refused.refusal.code, refused.refusal.retriable) == ("SK-REQ-004", True)


def test_many_requests_abandoned_while_it_loads_leave_nothing(scripted, ask):
    runner = scripted(load_seconds=2.0, tokens=3)
    daemon = runner.connect()
    daemon.attach()
    requests = [ask() for _ in range(300)]
    for request in requests:
        daemon.generate(request)
        daemon.send(Cancel(request.id, "client gone"))
    assert {daemon.first_frame(request.id).refusal.code for request in requests} == {"SK-REQ-004"}
    assert len([m for m in daemon.seen if isinstance(m, RefusedFrame)]) == 300, "each is answered once"
    daemon.ready()
    assert daemon.attach().open == {}
    daemon.idle()
    assert daemon.tokens(daemon.generate(ask()))[-1].finish is not None


def test_drain_refuses_what_waits_and_what_comes_and_finishes_what_runs(scripted, ask):
    daemon = scripted(tokens=50, step_seconds=0.01).attached()
    running, queued = daemon.generate(ask()), daemon.generate(ask())
    daemon.first_frame(running)
    daemon.send(Drain())
    assert daemon.first_frame(queued).refusal.code == "SK-REQ-015"
    late = daemon.first_frame(daemon.generate(ask()))
    assert (late.refusal.code, late.refusal.status, late.refusal.retriable) == ("SK-REQ-015", 503, True)
    frames = daemon.tokens(running)
    assert (len(frames), frames[-1].finish) == (51, Finish.STOP)
    daemon.rewind()
    assert daemon.wait_for(Report, lambda r: r.phase == "draining")
    # It stays until it is told to stop.
    assert daemon.wait_for(Heartbeat, lambda h: h.phase == "draining" and h.running == 0)


def test_a_failed_step_ends_its_request_with_an_error_and_the_next_one_runs(scripted, ask):
    daemon = scripted(echo="abcdef", fail_step_every=10).attached()
    assert joined(daemon.tokens(daemon.generate(ask()))) == b"abcdef"
    frames = daemon.tokens(daemon.generate(ask()))
    assert frames[-1].finish is Finish.ERROR
    assert frames[-1].error is not None
    assert frames[-1].error.startswith("SK-ENG-004")
    assert "as scripted" in frames[-1].error
    assert joined(daemon.tokens(daemon.generate(ask()))) == b"abcdef"


def test_failed_steps_with_tokens_between_are_the_requests_not_the_engines(scripted, ask):
    daemon = scripted(fail_step_every=2).attached()
    for _ in range(5):
        frames = daemon.tokens(daemon.generate(ask()))
        assert [t.finish for t in frames] == [None, Finish.ERROR]
    assert daemon.idle()


def test_a_runner_drained_while_loading_never_takes_a_request(scripted, ask):
    daemon = scripted(load_seconds=1).connect()
    daemon.attach()
    daemon.send(Drain())
    daemon.wait_for(Heartbeat)
    daemon.wait_for(Heartbeat)  # loaded meanwhile
    refused = daemon.first_frame(daemon.generate(ask()))
    assert refused.refusal.code == "SK-REQ-015"
    assert not [m for m in daemon.seen if isinstance(m, Report) and m.phase == "ready"]


def test_a_final_acknowledgement_frees_the_record(scripted, ask):
    runner = scripted(echo="abc")
    daemon = runner.attached()
    kept, freed = daemon.generate(ask()), daemon.generate(ask())
    daemon.tokens(kept)
    last = daemon.tokens(freed)[-1].number
    daemon.send(Ack({kept: 1, freed: last}))
    hello = runner.connect().attach()
    assert hello.open == {kept: 4}


def test_heartbeats_go_on_while_a_step_takes_long_and_count_progress(scripted, ask):
    daemon = scripted(step_seconds=5).attached()
    daemon.generate(ask())
    beats = [daemon.wait_for(Heartbeat, lambda h: h.running == 1) for _ in range(2)]
    assert all(b.phase == "ready" for b in beats)
    later = daemon.wait_for(Heartbeat, lambda h: h.progress > beats[0].progress)
    assert later.resident_bytes is None or later.resident_bytes > 1_000_000


def test_the_flight_recorder_tells_what_happened_without_what_was_said(scripted, ask):
    daemon = scripted(echo="answer").attached()
    request = daemon.generate(ask("a secret"))
    daemon.tokens(request)
    for _ in range(60):
        daemon.tokens(daemon.generate(ask("a secret")))
    daemon.send(Describe())
    records = daemon.wait_for(Flight).records
    assert len(records) == 128
    assert {"task_submission", "prompt_build", "decode_stream", "completion"} <= {r.phase for r in records}
    assert [r.at for r in records] == sorted(r.at for r in records)
    assert "secret" not in str(records)


def test_no_text_of_a_request_reaches_the_log(scripted, ask):
    runner = scripted(echo="an answer", fail_step_every=3)
    daemon = runner.attached()
    daemon.tokens(daemon.generate(ask("a secret")))
    assert "as scripted" in runner.log()
    assert "secret" not in runner.log()
    assert "an answer" not in runner.log()


def test_a_prompt_that_takes_long_to_render_holds_up_nobody_who_generates(scripted, ask):
    daemon = scripted({"concurrency": 2}, step_seconds=0.01).attached()
    running = daemon.generate(ask())
    daemon.tokens(running, at_least=1)
    stuck = daemon.generate(ask(template={"wedge": True}))
    assert daemon.tokens(running)[-1].finish is Finish.STOP
    daemon.send(Cancel(stuck, "gone"))
    assert daemon.first_frame(stuck).refusal.code == "SK-REQ-016"


def test_a_request_that_is_cancelled_while_it_is_rendered_frees_its_slot(scripted, ask):
    runner = scripted(echo="abc")
    daemon = runner.attached()
    first, second = (daemon.generate(ask(template={"render_seconds": 0.5})) for _ in range(2))
    for request in (first, second):
        daemon.send(Cancel(request, "gone"))
        assert daemon.first_frame(request).refusal.code == "SK-REQ-016"
    assert joined(daemon.tokens(daemon.generate(ask()))) == b"abc"
    daemon.idle()


def test_tokens_carry_the_time_since_the_acceptance(scripted, ask):
    daemon = scripted(echo="abcdef", step_seconds=0.02).attached()
    frames = daemon.tokens(daemon.generate(ask()))
    times = [t.seconds for t in frames if t.ids]
    assert times == sorted(times)
    assert times[0] >= 0.02
    assert times[-1] - times[0] >= 5 * 0.02
