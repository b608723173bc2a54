"""What clients read: complete answers, chunks, usage and the error envelope."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skulk.core.dialects.openai_encode import _SLUGS, Answer, PieceEvents, Usage, error_json, event, json_bytes
from skulk.core.dialects.text import Channel, Piece
from skulk.core.domain import Finish
from skulk.core.errors import CODES, REQ_MODEL, RequestError

ANSWER = Answer("id-1", 1760000000, "tiny")


def test_a_complete_answer_writes_its_nulls_out():
    reply = ANSWER.complete("Paris", "", Finish.STOP, Usage(12, 2, 3, 0))
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
    [choice] = ANSWER.complete("", "why", Finish.LENGTH, Usage(1, 0, 1, 1))["choices"]
    assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == ("", "why")


def test_a_chunk_carries_text_or_the_end():
    [text] = ANSWER.chunk(Piece(Channel.CONTENT, "a"))["choices"]
    [thought] = ANSWER.chunk(Piece(Channel.REASONING, "b"))["choices"]
    [end] = ANSWER.chunk(finish=Finish.LENGTH)["choices"]
    assert (text["delta"]["content"], text["delta"]["reasoning_content"]) == ("a", None)
    assert (thought["delta"]["content"], thought["delta"]["reasoning_content"]) == (None, "b")
    assert (end["delta"]["content"], end["finish_reason"]) == (None, "length")
    assert ANSWER.usage_chunk(Usage(1, 0, 2, 0))["choices"] == []


@given(
    text=st.text() | st.sampled_from(["", "text", '"text"', "\ud83e", "a\u2028\n\x00"]),
    model=st.text(max_size=8) | st.just("text"),
    channel=st.sampled_from(Channel),
)
def test_the_event_of_a_piece_is_the_event_of_its_chunk(text: str, model: str, channel: Channel):
    answer, piece = Answer(model, 1760000000, model), Piece(channel, text)
    assert PieceEvents(answer).event(piece) == event(answer.chunk(piece))


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
