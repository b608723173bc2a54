"""What clients read: complete answers, chunks, usage and the error envelope."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skulk.core.dialects.openai_encode import (
    _SLUGS,
    Answer,
    Choice,
    PieceEvents,
    Stats,
    Usage,
    error_json,
    event,
    json_bytes,
    stats_comment,
)
from skulk.core.dialects.text import Channel, Piece, ToolCall
from skulk.core.domain import Finish, TokenLogprob
from skulk.core.errors import CODES, REQ_MODEL, RequestError

ANSWER = Answer("id-1", 1760000000, "tiny")
STATS = Stats(None, 20.5, 12, 3, 0.25, 0.0)
CALL = ToolCall(0, "call_r_0", "f", '{"a": 1}')
LOGPROB = TokenLogprob(b"\xe6\xbc", -0.5, ((b"a", -0.5), (b"b", float("-inf"))))


def complete(content, reasoning, finish, usage):
    shown = [Piece(Channel.REASONING, reasoning), Piece(Channel.CONTENT, content)]
    return ANSWER.complete([Choice(0, shown, finish)], usage, STATS)


def test_a_complete_answer_writes_its_nulls_out():
    reply = complete("Paris", "", Finish.STOP, Usage(12, 2, 3, 0))
    assert (reply["id"], reply["object"], reply["created"], reply["model"]) == (
        "id-1",
        "chat.completion",
        1760000000,
        "tiny",
    )
    [choice] = reply["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "Paris",
        "reasoning_content": None,
        "refusal": None,
        "name": None,
        "tool_calls": None,
        "tool_call_id": None,
        "function_call": None,
    }
    assert (choice["finish_reason"], choice["logprobs"]) == ("stop", None)
    assert reply["usage"] == {
        "prompt_tokens": 12,
        "completion_tokens": 3,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def test_an_empty_answer_has_empty_content():
    [choice] = complete("", "why", Finish.LENGTH, Usage(1, 0, 1, 1))["choices"]
    assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == ("", "why")


def test_a_chunk_carries_text_or_the_end():
    [text] = ANSWER.chunk(Piece(Channel.CONTENT, "a"))["choices"]
    [thought] = ANSWER.chunk(Piece(Channel.REASONING, "b"))["choices"]
    [end] = ANSWER.chunk(finish=Finish.LENGTH)["choices"]
    assert (text["delta"]["content"], text["delta"]["reasoning_content"]) == ("a", None)
    assert (thought["delta"]["content"], thought["delta"]["reasoning_content"]) == (None, "b")
    assert (end["delta"]["content"], end["finish_reason"]) == (None, "length")
    assert ANSWER.usage_chunk(Usage(1, 0, 2, 0))["choices"] == []


def test_calls_are_in_the_message_and_the_reason_of_the_end():
    text = [Piece(Channel.CONTENT, "so: "), CALL]
    [choice] = ANSWER.complete([Choice(0, text, Finish.STOP)], Usage(1, 0, 1, 0), STATS)["choices"]
    [alone] = ANSWER.complete([Choice(0, [CALL], Finish.LENGTH)], Usage(1, 0, 1, 0), STATS)["choices"]
    written = {"id": "call_r_0", "index": 0, "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    assert (choice["message"]["content"], choice["message"]["tool_calls"]) == ("so: ", [written])
    assert (choice["finish_reason"], alone["finish_reason"]) == ("tool_calls", "length")
    assert alone["message"]["content"] is None
    [chunk] = ANSWER.chunk(CALL, index=2)["choices"]
    assert (chunk["index"], chunk["delta"]["tool_calls"], chunk["delta"]["content"]) == (2, [written], None)
    [end] = ANSWER.chunk(finish=Finish.STOP, called=True)["choices"]
    assert end["finish_reason"] == "tool_calls"


def test_log_probabilities_have_exact_bytes_and_finite_numbers():
    answer = Answer("id-1", 1, "tiny", logprobs=True)
    shown = [Piece(Channel.CONTENT, "x", (LOGPROB,)), Piece(Channel.CONTENT, "y", (LOGPROB,))]
    [choice] = answer.complete([Choice(0, shown, Finish.STOP)], Usage(1, 0, 1, 0), STATS)["choices"]
    first, _ = choice["logprobs"]["content"]
    assert (first["token"], first["bytes"], first["logprob"]) == ("\ufffd", [0xE6, 0xBC], -0.5)
    assert [(other["token"], other["logprob"]) for other in first["top_logprobs"]] == [("a", -0.5), ("b", -9999.0)]
    [empty] = answer.complete([Choice(0, [], Finish.STOP)], Usage(1, 0, 1, 0), STATS)["choices"]
    assert empty["logprobs"] == {"content": [], "refusal": None}
    [chunk] = answer.chunk(shown[0])["choices"]
    assert chunk["logprobs"] == {"content": [first], "refusal": None}


def test_stats_are_in_the_answer_or_a_comment():
    stats = complete("", "", Finish.STOP, Usage(1, 0, 1, 0))["generation_stats"]
    assert (stats["prompt_tps"], stats["generation_tps"], stats["time_to_first_token_seconds"]) == (None, 20.5, 0.25)
    assert json.loads(stats_comment(STATS).removeprefix(b": generation_stats ")) == stats


@given(
    text=st.text() | st.sampled_from(["", "text", '"text"', "\ud83e", "a\u2028\n\x00"]),
    model=st.text(max_size=8) | st.just("text"),
    channel=st.sampled_from(Channel),
    index=st.integers(0, 7),
    logprobs=st.sampled_from([(), (LOGPROB,)]),
)
def test_the_event_of_a_piece_is_the_event_of_its_chunk(text, model, channel, index, logprobs):
    answer, piece = Answer(model, 1760000000, model), Piece(channel, text, logprobs)
    assert PieceEvents(answer, index).event(piece) == event(answer.chunk(piece, index=index))
    assert PieceEvents(answer, index).event(CALL) == event(answer.chunk(CALL, index=index))


@pytest.mark.parametrize("finish", [Finish.ERROR, Finish.CANCELLED])
def test_a_failure_is_no_finish_reason(finish):
    with pytest.raises(ValueError, match="error"):
        ANSWER.chunk(finish=finish)


def test_an_error_names_thing_place_and_fix():
    error = RequestError(REQ_MODEL, "no such model", status=404, param="model")
    assert error_json(error, "r-1") == {
        "error": {
            "message": "no such model",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
            "skulk_code": "SK-REQ-003",
            "hint": REQ_MODEL.fix,
            "request_id": "r-1",
        },
        "detail": "no such model",
    }


def test_every_request_error_has_a_code_for_programs():
    assert {code for code in CODES if code.startswith("SK-REQ-")} <= set(_SLUGS)
    assert set(_SLUGS) <= set(CODES)
    assert len(set(_SLUGS.values())) == len(_SLUGS)


def test_bytes_are_utf8_on_one_line_whatever_the_text():
    data = event({"text": "a\n\r\u2028漢\ud800"})
    assert data.startswith(b"data: {")
    assert data.endswith(b"}\n\n")
    assert data.count(b"\n") == 2
    assert b"\r" not in data
    assert json.loads(data[6:])["text"] == "a\n\r\u2028漢?"


def test_numbers_that_are_none_are_not_written():
    with pytest.raises(ValueError, match="JSON"):
        json_bytes({"x": float("nan")})
