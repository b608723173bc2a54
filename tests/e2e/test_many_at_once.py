"""Many clients at once through the gateway of a real node, on both engines, with OpenAI's own client."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import openai
import pytest
from harness import Node, deployment, until

# Compiling llama.cpp for the first time takes many minutes.
pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.timeout(3600)]

CONCURRENCY = 4
GREEDY = {"temperature": 0.0, "extra_body": {"enable_thinking": False}}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a place",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "colour": {"enum": ["red", "blue"]}},
    "required": ["name", "colour"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, engines_dir, llama_engines_dir):
    with Node(tmp_path_factory.mktemp("many"), engines_dir, engines=["mlx", "llama_cpp"]) as node:
        node.start()
        settings = {"contextTokens": 1024, "concurrency": CONCURRENCY}
        commit = node.push_base(
            apple=deployment("apple", "fox-tiny", **settings), gguf=deployment("gguf", "fox-tiny-gguf", **settings)
        )
        for name in ("apple", "gguf"):
            node.wait_ready(name, commit)
        yield node


@pytest.fixture(params=["gguf", "apple"])
def chat(request, served: Node) -> Callable[..., Any]:
    """Ask one deployment: text of a user, and any field."""

    def ask(text: str, **more: Any) -> Any:
        messages = more.pop("messages", [{"role": "user", "content": text}])
        return served.openai.chat.completions.create(model=request.param, messages=messages, **{**GREEDY, **more})

    return ask


def test_a_known_tool_is_called_and_its_result_answered(chat):
    asked = [{"role": "user", "content": "What is the weather in Paris?"}]
    first = chat("", messages=asked, tools=[WEATHER])
    assert first.choices[0].finish_reason == "tool_calls"
    (call,) = first.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"location": "Paris"})
    answer = {"role": "tool", "tool_call_id": call.id, "content": '{"weather": "sunny"}'}
    second = chat(
        "", messages=[*asked, first.choices[0].message.model_dump(exclude_none=True), answer], tools=[WEATHER]
    )
    assert second.choices[0].finish_reason == "stop"
    assert second.choices[0].message.content


def test_several_calls_come_as_a_stream_too_and_one_when_only_one_is_allowed(chat):
    text = "What is the weather in Paris and Rome?"
    whole = chat(text, tools=[WEATHER]).choices[0].message.tool_calls
    assert [json.loads(call.function.arguments) for call in whole] == [{"location": "Paris"}, {"location": "Rome"}]
    calls = []
    for chunk in chat(text, tools=[WEATHER], stream=True):
        for choice in chunk.choices:
            assert "<tool_call>" not in (choice.delta.content or "")
            calls += choice.delta.tool_calls or []
    assert [call.function.arguments for call in calls] == [call.function.arguments for call in whole]
    assert len(chat(text, tools=[WEATHER], parallel_tool_calls=False).choices[0].message.tool_calls) == 1


def test_a_tool_is_called_because_it_must_be(chat):
    """By a question that no tool fits: the grammar forces the call."""
    required = chat("Who are you?", tools=[WEATHER], tool_choice="required")
    (call,) = required.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert isinstance(json.loads(call.function.arguments)["location"], str)
    named = chat(
        "What is the weather in Paris?",
        tools=[WEATHER, TIME],
        tool_choice={"type": "function", "function": {"name": "get_time"}},
    )
    assert [c.function.name for c in named.choices[0].message.tool_calls] == ["get_time"]
    none = chat("What is the weather in Paris?", tools=[WEATHER], tool_choice="none")
    assert none.choices[0].message.tool_calls is None


def test_reasoning_may_stand_before_a_forced_call(chat):
    message = (
        chat("What is the weather in Paris?", tools=[WEATHER], tool_choice="required", extra_body={}).choices[0].message
    )
    assert message.tool_calls[0].function.name == "get_weather"
    assert message.reasoning_content


def test_an_answer_is_held_to_a_schema(chat):
    schema = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}
    answer = chat("Give me a JSON object with name Mira, colour green.", response_format=schema)
    assert json.loads(answer.choices[0].message.content)["colour"] in ("red", "blue")
    anything = chat("Who are you?", response_format={"type": "json_object"}, max_tokens=300)
    if anything.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(anything.choices[0].message.content), dict)


def test_a_prompt_of_ten_megabytes_is_refused_beside_an_answer_that_goes_on(chat, served):
    pids = [served.runner(name)["pid"] for name in ("apple", "gguf")]
    stream = chat("Tell me a story about a fox.", stream=True, max_tokens=200)
    next(iter(stream))
    with pytest.raises(openai.BadRequestError) as caught:
        chat("x" * 10_000_000)
    assert caught.value.body["code"] == "context_length_exceeded"
    assert [chunk.choices[0].finish_reason for chunk in stream if chunk.choices][-1] in ("stop", "length")
    assert [served.runner(name)["pid"] for name in ("apple", "gguf")] == pids


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "integer", "minimum": 5, "maximum": 3}},
                }
            },
            "response_format",
            "minimum",
        ),
        ({"max_tokens": 100_000}, "max_tokens", "context_length_exceeded"),
        ({"n": 9}, "n", "8"),
        ({"logprobs": True, "top_logprobs": 99}, "top_logprobs", "20"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "nope"}}},
            "tool_choice",
            "nope",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_is_a_400_before_any_byte(chat, fields, param, words, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        chat("Hello", stream=stream, **fields)
    assert str(caught.value.param).startswith(param)
    assert words in str(caught.value)


def test_a_prompt_that_fills_the_window_is_refused_before_any_byte(chat):
    with pytest.raises(openai.BadRequestError) as caught:
        chat("word " * 3000, stream=True)
    assert caught.value.code == "context_length_exceeded"


def test_choices_are_drawn_apart_and_can_be_drawn_again(chat):
    settings = {"n": 3, "temperature": 1.5, "seed": 11, "max_tokens": 16}
    first, again = (chat("Tell me a story about a fox.", **settings) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert [choice.message.content for choice in again.choices] == texts
    assert 16 < first.usage.completion_tokens <= 48


def test_logprobs_come_with_every_token_of_the_answer(chat):
    answer = chat("What is 9 * 7?", logprobs=True, top_logprobs=2)
    entries = answer.choices[0].logprobs.content
    assert "".join(entry.token for entry in entries) == answer.choices[0].message.content == "9 * 7 = 63"
    assert all(entry.top_logprobs[0].token == entry.token and entry.logprob <= 0 for entry in entries)


def test_a_stop_string_ends_the_answer_before_it(chat):
    answer = chat("Count to 12.", stop=[", 5"])
    assert answer.choices[0].message.content == "1, 2, 3, 4"
    assert answer.choices[0].finish_reason == "stop"


def test_numbers_are_told_and_a_second_turn_is_cached(chat):
    messages = [{"role": "system", "content": "Answer briefly. " * 20}, {"role": "user", "content": "What is 9 * 7?"}]
    chat("", messages=messages)
    again = chat("", messages=messages)
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1
    stats = again.model_extra["generation_stats"]
    assert stats["generation_tokens"] == again.usage.completion_tokens
    assert stats["generation_tps"] > 0


def test_a_crowd_is_answered_as_each_alone_would_be(chat):
    questions = ["What is 9 * 7?", "What is the opposite of hot?", "Count to 12.", "Who are you?"] * 4
    alone = {question: chat(question).choices[0].message.content for question in set(questions)}
    with concurrent.futures.ThreadPoolExecutor(len(questions)) as pool:
        together = list(pool.map(lambda question: chat(question).choices[0].message.content, questions))
    assert together == [alone[question] for question in questions]


# --- faults ---------------------------------------------------------------------------------------------------


def long_stream(node: Node, model: str, started: threading.Barrier) -> str:
    """Reads a long answer to its end; returns how it ended."""
    messages = [{"role": "user", "content": "Count from 1 to 100."}]
    began = False
    try:
        stream = node.openai.with_options(max_retries=0).chat.completions.create(
            model=model, messages=messages, stream=True, max_tokens=600, **GREEDY, logit_bias={"2": -100, "0": -100}
        )
        for chunk in stream:
            if not began and chunk.choices and chunk.choices[0].delta.content:
                began = True
                started.wait(60)
        return "whole"
    except openai.APIError as error:
        return str(error.code or type(error).__name__)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_runner_that_dies_or_freezes_ends_its_streams_with_a_reason_and_is_replaced(served: Node, number):
    node = served
    pid = node.runner("gguf")["pid"]
    started = threading.Barrier(CONCURRENCY + 1)
    with concurrent.futures.ThreadPoolExecutor(CONCURRENCY) as pool:
        streams = [pool.submit(long_stream, node, "gguf", started) for _ in range(CONCURRENCY)]
        started.wait(60)
        os.kill(pid, number)
        # The other engine's clients notice nothing.
        assert node.ask("apple", "What is 9 * 7?", **GREEDY).strip() == "9 * 7 = 63"
        assert {stream.result(60) for stream in streams} == {"runner_lost"}
    assert node.wait_replaced("gguf", pid) != pid
    until(lambda: node.condition("deployments", "gguf").get("status") == "True", "the next runner is ready")
    assert node.ask("gguf", "What is 9 * 7?", **GREEDY).strip() == "9 * 7 = 63"


def test_clients_that_vanish_leave_their_slots_to_others(served: Node):
    node = served
    messages = [{"role": "user", "content": "Count from 1 to 100."}]
    for _ in range(3):
        for _ in range(CONCURRENCY):
            stream = node.openai.chat.completions.create(
                model="gguf", messages=messages, stream=True, max_tokens=600, **GREEDY
            )
            next(iter(stream))
            stream.close()
    assert node.ask("gguf", "What is 9 * 7?", **GREEDY).strip() == "9 * 7 = 63"

    def idle() -> bool:
        (placement,) = [p for p in node.items("runners") if p["status"]["deployment"] == "gguf"]
        return placement["status"].get("running") in (0, None)

    until(idle, "no slot is held", context=lambda: node.items("runners"))
