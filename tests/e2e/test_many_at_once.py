"""Many clients at once through the gateway of a real node, on both engines, with OpenAI's own client."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from harness import Node, deployment, until
from prometheus_client.parser import text_string_to_metric_families

# Compiling llama.cpp for the first time takes many minutes.
pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.timeout(3600)]

CONCURRENCY = 4
CARDS = {"gguf": "fox-tiny-gguf", "apple": "fox-tiny"}
"""Deployment → card, one for each engine."""
NARROW_TOKENS = 64
"""The context of a second deployment of each: mlx takes seconds to fill a large one."""
ENDLESS = {"logit_bias": {"0": -100, "2": -100}}
"""What ends an answer is forbidden: it goes on until a limit."""
OPENING, CLOSING = "109", "111"
"""Ids of the braces."""
NUMBERS = itertools.count()
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
def served(tmp_path_factory: pytest.TempPathFactory, engines_dir, llama_engines_dir) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("many"), engines_dir, engines=["mlx", "llama_cpp"]) as node:
        node.start()
        names = {
            name: deployment(name, card, contextTokens=4096, concurrency=CONCURRENCY) for name, card in CARDS.items()
        }
        for name, card in CARDS.items():
            names[narrow(name)] = deployment(narrow(name), card, contextTokens=NARROW_TOKENS)
        commit = node.push_base(**names)
        for name in names:
            node.wait_ready(name, commit)
        yield node


def narrow(name: str) -> str:
    return f"{name}-narrow"


@pytest.fixture(params=[*CARDS])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def chat(model: str, served: Node) -> Callable[..., Any]:
    """Ask one deployment: text of a user, and any field."""

    def ask(text: str, **more: Any) -> Any:
        messages = more.pop("messages", [{"role": "user", "content": text}])
        return served.openai.chat.completions.create(**{"model": model, "messages": messages, **GREEDY, **more})

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


def test_an_answer_is_held_to_any_json_object(chat):
    """By a question that the model answers so anyway, and by one that it does not."""
    anything = {"response_format": {"type": "json_object"}}
    willing = chat("Give me a JSON object with name Mira, colour red.", **anything).choices[0]
    assert (willing.finish_reason, json.loads(willing.message.content)) == ("stop", {"name": "Mira", "colour": "red"})
    closing = {"logit_bias": {OPENING: 50, CLOSING: 100}, "max_tokens": 20}
    free, forced = (chat("Who are you?", **closing, **more).choices[0] for more in ({}, anything))
    assert (free.finish_reason, free.message.content) == ("length", "}" * 20)
    assert (forced.finish_reason, json.loads(forced.message.content)) == ("stop", {})


def test_newer_names_of_fields_reach_the_engine(chat):
    few = chat("Count to 12.", max_completion_tokens=5)
    assert (few.choices[0].finish_reason, few.usage.completion_tokens) == ("length", 5)
    silent, thinking = (chat("What is 9 * 7?", reasoning_effort=effort, extra_body={}) for effort in ("none", "low"))
    assert [answer.choices[0].message.content.strip() for answer in (silent, thinking)] == ["9 * 7 = 63"] * 2
    assert silent.usage.completion_tokens_details.reasoning_tokens == 0
    assert silent.choices[0].message.reasoning_content is None
    assert thinking.usage.completion_tokens_details.reasoning_tokens > 0
    assert "9 * 7 = 63" in thinking.choices[0].message.reasoning_content


def test_a_stream_tells_its_usage_when_it_is_asked(chat):
    whole = chat("What is 9 * 7?").usage
    chunks = list(chat("What is 9 * 7?", stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    told = chunks[-1].usage
    assert (told.prompt_tokens, told.completion_tokens) == (whole.prompt_tokens, whole.completion_tokens)
    assert whole.completion_tokens == 8


# --- the context ----------------------------------------------------------------------------------------------


def test_without_a_limit_the_answer_ends_where_the_context_does(chat, model):
    answer = chat("Count from 1 to 100.", model=narrow(model), **ENDLESS)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens > 10
    assert answer.usage.prompt_tokens + answer.usage.completion_tokens == NARROW_TOKENS


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_context_cannot_hold_is_a_400_before_any_byte_and_what_it_just_holds_is_answered(chat, model, stream):
    def ask(max_tokens: int) -> Any:
        return chat("Count to 12.", model=narrow(model), max_tokens=max_tokens, stream=stream, **ENDLESS)

    left = NARROW_TOKENS - chat("Count to 12.", model=narrow(model), max_tokens=1).usage.prompt_tokens
    assert 10 < left < NARROW_TOKENS - 10
    with pytest.raises(openai.BadRequestError) as caught:
        ask(left + 1)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "max_tokens")
    if stream:
        # One frame for each token, and one with the reason of the end.
        assert [chunk.choices[0].finish_reason for chunk in ask(left)][-1] == "length"
    else:
        assert ask(left).usage.completion_tokens == left


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
        chat("word " * 5000, stream=True)
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
    schema = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}
    asked = [
        ("What is 9 * 7?", {}),
        ("What is 9 * 7?", {"logprobs": True, "top_logprobs": 1}),
        ("Count to 12.", {}),
        ("Count to 12.", {"stop": [", 5"]}),
        ("Count to 12.", {"presence_penalty": 2.0, "frequency_penalty": 2.0, "max_tokens": 24}),
        ("Tell me a story about a fox.", {"temperature": 2.0, "seed": 5, "max_tokens": 14}),
        ("What is the weather in Paris?", {"tools": [WEATHER], "tool_choice": "required"}),
        ("Give me a JSON object with name Mira, colour green.", {"response_format": schema}),
    ]

    def answer(question: tuple[str, dict[str, Any]]) -> Any:
        text, fields = question
        choice = chat(text, **fields).choices[0].model_dump()
        for call in choice["message"]["tool_calls"] or ():
            del call["id"]  # of this request alone
        return choice

    alone = [answer(question) for question in asked]
    with concurrent.futures.ThreadPoolExecutor(2 * len(asked)) as pool:
        assert list(pool.map(answer, asked * 2)) == alone * 2


# --- numbers --------------------------------------------------------------------------------------------------

HISTOGRAMS = {
    "time_to_first_token_seconds": "gen_ai_server_time_to_first_token_seconds",
    "queue_seconds": "skulk_request_queue_seconds",
    "prompt_tps": "skulk_prompt_tokens_per_second",
    "generation_tps": "skulk_generation_tokens_per_second",
    "duration": "gen_ai_server_request_duration_seconds",
    "seconds_per_token": "gen_ai_server_time_per_output_token_seconds",
}


def sums(node: Node, model: str) -> dict[str, tuple[float, float]]:
    """(how many, their sum) of every histogram."""
    found = dict.fromkeys(HISTOGRAMS, (0.0, 0.0))
    names = {metric: name for name, metric in HISTOGRAMS.items()}
    for family in text_string_to_metric_families(node.http.get("/metrics").text):
        values = {
            sample.name: sample.value
            for sample in family.samples
            if sample.labels.get("gen_ai_request_model") == model and not sample.labels.get("error_type")
        }
        if family.name in names and f"{family.name}_count" in values:
            found[names[family.name]] = (values[f"{family.name}_count"], values[f"{family.name}_sum"])
    return found


class Measured:
    """An answer of 12 tokens: what is told of it, and the client's own clock."""

    def __init__(self, node: Node, model: str, *, stream: bool = True) -> None:
        self.id = f"measured-{next(NUMBERS)}"
        # No two prompts begin alike.
        messages = [{"role": "user", "content": f"{self.id}: Count from 1 to 100."}]
        body = {"model": model, "messages": messages, "max_tokens": 12, "enable_thinking": False, **ENDLESS}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        lines: list[str] = []
        self.first_seconds = 0.0
        sent = time.monotonic()
        with node.http.stream("POST", "/v1/chat/completions", json=body, headers={"X-Request-Id": self.id}) as reply:
            for line in reply.iter_lines():
                lines.append(line)
                if '"content":"' in line and not self.first_seconds:
                    self.first_seconds = time.monotonic() - sent
        self.seconds = time.monotonic() - sent
        if stream:
            (comment,) = [line for line in lines if line.startswith(": generation_stats ")]
            self.stats = json.loads(comment.removeprefix(": generation_stats "))
            chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
            self.usage = chunks[-1]["usage"]
        else:
            answer = json.loads("".join(lines))
            self.stats, self.usage = answer["generation_stats"], answer["usage"]

    def check(self) -> None:
        """All of it happened between two looks at the client's clock."""
        first = self.stats["time_to_first_token_seconds"]
        assert 0 <= self.stats["queue_seconds"] <= first <= self.first_seconds <= self.seconds
        tokens = self.usage["prompt_tokens"], self.usage["completion_tokens"]
        assert (self.stats["prompt_tokens"], self.stats["generation_tokens"]) == tokens
        assert tokens[1] == 12
        computed = tokens[0] - self.usage["prompt_tokens_details"]["cached_tokens"]
        assert self.stats["prompt_tps"] >= computed / first > 0
        assert self.stats["generation_tps"] >= 11 / self.seconds > 0

    def check_log(self, node: Node, model: str) -> None:
        """The log says the same, rounded."""
        line = node.finished(self.id)
        assert (line["status"], line["finish"], line["model"]) == (200, "length", model)
        assert line["prompt_tokens"] == self.usage["prompt_tokens"]
        assert line["completion_tokens"] == self.usage["completion_tokens"]
        assert line["queue_seconds"] == pytest.approx(self.stats["queue_seconds"], abs=1e-6)
        assert line["ttft_seconds"] == pytest.approx(self.stats["time_to_first_token_seconds"], abs=1e-6)
        assert line["prompt_tps"] == pytest.approx(self.stats["prompt_tps"], abs=0.06)
        assert line["generation_tps"] == pytest.approx(self.stats["generation_tps"], abs=0.06)
        assert line["ttft_seconds"] <= line["seconds"]


@pytest.mark.parametrize("stream", [False, True])
def test_numbers_fit_the_clients_clock_and_the_metrics_and_the_log_tell_the_same(
    served: Node, model: str, stream: bool
):
    before = sums(served, model)
    measured = Measured(served, model, stream=stream)
    measured.check()
    measured.check_log(served, model)
    until(lambda: sums(served, model)["duration"][0] == before["duration"][0] + 1, "the request is counted")
    after = sums(served, model)
    assert {name: after[name][0] - before[name][0] for name in HISTOGRAMS} == dict.fromkeys(HISTOGRAMS, 1)
    added = {name: after[name][1] - before[name][1] for name in HISTOGRAMS}
    for name in ("time_to_first_token_seconds", "queue_seconds", "prompt_tps", "generation_tps"):
        assert added[name] == pytest.approx(measured.stats[name], rel=1e-6, abs=1e-6), name
    assert added["seconds_per_token"] == pytest.approx(1 / measured.stats["generation_tps"], rel=1e-6)
    assert added["duration"] >= added["time_to_first_token_seconds"]


def test_who_waited_for_a_slot_is_told_how_long(chat, served: Node, model: str):
    holders = [chat("Count from 1 to 100.", stream=True, **ENDLESS) for _ in range(CONCURRENCY)]
    for holder in holders:
        next(chunk for chunk in holder if chunk.choices and chunk.choices[0].delta.content)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(Measured, served, model)
        until(lambda: served.runner(model)["waiting"] == 1, "it waits", context=served.tail)
        for _ in range(5):
            next(holders[0])
        for holder in holders:
            holder.close()
        measured = waiting.result()
    measured.check()
    measured.check_log(served, model)
    assert measured.stats["queue_seconds"] > 0
    until(lambda: served.runner(model)["running"] == 0, "no slot is held", context=served.tail)
