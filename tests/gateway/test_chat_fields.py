"""Choices, tool calls, log-probabilities, numbers and tenants, as OpenAI's own client sees them."""

import asyncio
import hashlib
import json
from dataclasses import replace

import openai
import pytest
from gateway_fakes import CARD, DEADLINE_SECONDS, MODEL, VIEW, FakeServing, Gate, says, says_then_waits, wait_for

from skulk.core.domain import Accepted, Access, AccessKey, Finish, Scope, TokenLogprob, Tokens, Tooling
from skulk.core.errors import REQ_INVALID, REQ_QUEUE_FULL, RequestError

QUESTION = [{"role": "user", "content": "hi"}]
BODY = {"model": "tiny", "messages": QUESTION}
PATH = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
PARIS = '<tool_call>\n{"name": "get_weather", "arguments": {"location": "Paris"}}\n</tool_call>'
ROME = PARIS.replace("Paris", "Rome")


async def own_words(generation):
    """The request's number, twice, and its seed."""
    number = generation.request.id[-1]
    async for tokens in says(number, number, f" {generation.request.sampling.seed}")(generation):
        yield tokens


# --- choices ------------------------------------------------------------------------------------------------


def test_choices_are_requests_of_their_own_and_share_the_prompt(serving, gateway):
    serving.script = own_words
    with gateway.client() as client:
        answer = client.chat.completions.create(model="tiny", messages=QUESTION, n=3, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [choice.message.content for choice in answer.choices] == ["00 7", "11 8", "22 9"]
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 9, 12)
    ids = [generation.request.id for generation in serving.generations]
    assert ids == [f"{answer.id}-0", f"{answer.id}-1", f"{answer.id}-2"]


def test_choices_of_a_stream_are_told_apart_by_their_index(serving, gateway):
    serving.script = own_words
    with gateway.client() as client:
        chunks = list(client.chat.completions.create(model="tiny", messages=QUESTION, n=2, seed=7, stream=True))
    for index, text in enumerate(["00 7", "11 8"]):
        own = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert "".join(choice.delta.content or "" for choice in own) == text
        assert [choice.finish_reason for choice in own] == [None, None, None, "stop"]
    assert len({chunk.id for chunk in chunks}) == 1


class Reluctant(FakeServing):
    """Takes the first request, and refuses the second after it."""

    def __init__(self, *args):
        super().__init__(*args)
        self.took_one = asyncio.Event()

    async def submit(self, request):
        if request.id.endswith("-1"):
            await self.took_one.wait()
            raise RequestError(REQ_QUEUE_FULL, "full", status=503, retry_after_seconds=3)
        generation = await super().submit(request)
        self.took_one.set()
        return generation


@pytest.mark.parametrize("stream", [False, True])
def test_one_refusal_is_the_status_of_all_and_cancels_the_others(listen, stream):
    serving = Reluctant(VIEW, says_then_waits(gate=Gate()))
    with listen(serving).http() as http:
        reply = http.post(PATH, json={**BODY, "n": 2, "stream": stream})
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "queue_full"
    assert [generation.why_cancelled() for generation in serving.generations] == ["the request is over"]


class OneSlot(FakeServing):
    """The second request waits until the gate opens, as for the slot that the first one has."""

    def __init__(self, *args, second=None):
        super().__init__(*args)
        self.gate = Gate()
        self.second = second

    async def submit(self, request):
        if request.id.endswith("-1"):
            await self.gate.passed()
            if self.second is not None:
                raise self.second
        return await super().submit(request)


def test_a_choice_that_has_a_slot_is_streamed_while_another_waits_for_one(listen):
    serving = OneSlot(VIEW, says("a", "b"))
    with listen(serving).client() as client:
        stream = client.chat.completions.create(model="tiny", messages=QUESTION, n=2, stream=True)
        first = [next(stream).choices[0] for _ in range(3)]
        assert [(choice.index, choice.delta.content) for choice in first[:2]] == [(0, "a"), (0, "b")]
        assert first[2].finish_reason == "stop"
        serving.gate.open()
        rest = [chunk.choices[0] for chunk in stream]
    assert "".join(choice.delta.content or "" for choice in rest) == "ab"
    assert {choice.index for choice in rest} == {1}


def test_a_choice_that_is_refused_after_another_has_begun_ends_the_stream_with_its_error(listen):
    full = RequestError(REQ_QUEUE_FULL, "full", status=503, retry_after_seconds=3)
    serving = OneSlot(VIEW, says_then_waits("a", gate=Gate()), second=full)
    with listen(serving).client() as client:
        stream = client.chat.completions.create(model="tiny", messages=QUESTION, n=2, stream=True)
        assert next(stream).choices[0].delta.content == "a"
        serving.gate.open()
        with pytest.raises(openai.APIError, match="full"):
            list(stream)
    assert [bool(generation.why_cancelled()) for generation in serving.generations] == [True]


def test_a_cancel_by_the_command_id_ends_every_choice(serving, gateway):
    serving.script = says_then_waits("a", gate=Gate())
    with gateway.client() as client, gateway.http() as http:
        stream = client.chat.completions.create(model="tiny", messages=QUESTION, n=2, stream=True)
        assert http.post(f"/v1/cancel/{next(stream).id}").status_code == 200
        with pytest.raises(openai.APIError, match="cancelled"):
            list(stream)
    assert all("cancelled" in generation.why_cancelled() for generation in serving.generations)
    assert len(serving.generations) == 2


def test_a_choice_that_fails_ends_the_stream_with_its_error(serving, gateway):
    async def one_fails(generation):
        script = says("a") if generation.request.id.endswith("-0") else says("b", finish=Finish.ERROR, error="broken")
        async for tokens in script(generation):
            yield tokens

    serving.script = one_fails
    with gateway.http() as http:
        whole = http.post(PATH, json={**BODY, "n": 2})
        streamed = http.post(PATH, json={**BODY, "n": 2, "stream": True})
    assert (whole.status_code, whole.json()["error"]["code"]) == (500, "generation_failed")
    assert json.loads(streamed.text.split("data: ")[-2])["error"]["code"] == "generation_failed"


def test_a_stop_string_ends_only_its_own_choice(serving, gateway):
    async def one_stops(generation):
        async for tokens in says("a", "END" if generation.request.id.endswith("-0") else "b", "c")(generation):
            yield tokens

    serving.script = one_stops
    with gateway.client() as client:
        answer = client.chat.completions.create(model="tiny", messages=QUESTION, n=2, stop="END")
    assert [choice.message.content for choice in answer.choices] == ["a", "abc"]
    assert "stop string" in serving.generations[0].why_cancelled()
    assert not serving.generations[1].cancelled.done()


# --- tools --------------------------------------------------------------------------------------------------


def pieces(text):
    return [text[i : i + 3] for i in range(0, len(text), 3)]


def test_tool_calls_of_a_whole_answer(serving, gateway):
    serving.script = says(*pieces(f"Let me see.\n{PARIS}\n{ROME}"))
    with gateway.client() as client:
        answer = client.chat.completions.create(model="tiny", messages=QUESTION, tools=[TOOL])
    [choice] = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see.")
    assert [json.loads(call.function.arguments) for call in choice.message.tool_calls] == [
        {"location": "Paris"},
        {"location": "Rome"},
    ]
    assert [call.id for call in choice.message.tool_calls] == [f"call_{answer.id}_0", f"call_{answer.id}_1"]
    [request] = [generation.request for generation in serving.generations]
    assert request.template["tools"] == [TOOL]
    # What came back can be sent again, with the results.
    results = [{"role": "tool", "tool_call_id": call.id, "content": "18"} for call in choice.message.tool_calls]
    serving.script = says("18 and 18")
    with gateway.client() as client:
        client.chat.completions.create(model="tiny", messages=[*QUESTION, choice.message, *results], tools=[TOOL])


def test_tool_calls_of_a_stream_are_whole_and_numbered(serving, gateway):
    serving.script = says(*pieces(f"{PARIS}\n{ROME}"))
    with gateway.client() as client:
        chunks = list(client.chat.completions.create(model="tiny", messages=QUESTION, tools=[TOOL], stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    calls = [call for delta in deltas for call in delta.tool_calls or []]
    assert [(call.index, call.function.name) for call in calls] == [(0, "get_weather"), (1, "get_weather")]
    assert json.loads(calls[1].function.arguments) == {"location": "Rome"}
    assert all(delta.content is None for delta in deltas)
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, "tool_calls"]


def test_the_openai_client_assembles_a_stream_with_calls(serving, gateway):
    serving.script = says(*pieces(f"Hm. {PARIS}"))
    with (
        gateway.client() as client,
        client.chat.completions.stream(model="tiny", messages=QUESTION, tools=[TOOL]) as stream,
    ):
        [choice] = stream.get_final_completion().choices
    assert choice.message.tool_calls[0].function.name == "get_weather"
    assert choice.message.content == "Hm."


def test_one_call_is_enough_where_calls_are_not_parallel(serving, gateway):
    serving.script = says(PARIS, "\n", ROME)
    with gateway.client() as client:
        answer = client.chat.completions.create(
            model="tiny", messages=QUESTION, tools=[TOOL], parallel_tool_calls=False
        )
    assert len(answer.choices[0].message.tool_calls) == 1
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.usage.completion_tokens == 1
    assert "tool call" in serving.generations[0].why_cancelled()


def test_with_the_choice_none_calls_are_text(serving, gateway):
    serving.script = says(PARIS)
    with gateway.client() as client:
        answer = client.chat.completions.create(model="tiny", messages=QUESTION, tools=[TOOL], tool_choice="none")
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (PARIS, "stop")
    assert serving.generations[0].request.template == {}


def test_a_forced_call_and_a_schema_reach_the_runner_as_a_grammar(serving, gateway):
    with gateway.client() as client:
        client.chat.completions.create(model="tiny", messages=QUESTION, tools=[TOOL], tool_choice="required")
        client.chat.completions.create(model="tiny", messages=QUESTION, response_format={"type": "json_object"})
        client.chat.completions.create(model="tiny", messages=QUESTION)
    forced, structured, free = [generation.request.grammar for generation in serving.generations]
    assert forced.startswith("start: reasoning tool_open calls\n")
    assert structured.startswith("start: reasoning json_answer\n")
    assert free == ""


def test_tools_for_a_model_without_are_refused_by_name(listen):
    model = replace(MODEL, card=replace(CARD, tooling=Tooling()))
    with listen(FakeServing(replace(VIEW, models=(model,)))).http() as http:
        reply = http.post(PATH, json={**BODY, "tools": [TOOL]})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "tools")


def test_a_refusal_of_the_runner_names_the_field(serving, gateway):
    serving.refusal = RequestError(REQ_INVALID, "unsatisfiable", status=400, param="response_format")
    with gateway.http() as http:
        reply = http.post(PATH, json={**BODY, "response_format": {"type": "json_object"}, "stream": True})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "response_format")


# --- log-probabilities --------------------------------------------------------------------------------------


async def with_logprobs(generation):
    for number, text in enumerate(["<think>", "hm", "</think>", "é", "!"], 1):
        data = text.encode()
        entry = TokenLogprob(data, -0.25, ((data, -0.25), (b"\xc3", -2.0)))
        yield Tokens(number, (number,), data, None, None, (entry,))
    yield Tokens(6, (), b"", Finish.STOP)


def test_log_probabilities_are_those_of_the_content(serving, gateway):
    serving.script = with_logprobs
    asked = {"model": "tiny", "messages": QUESTION, "logprobs": True, "top_logprobs": 2}
    with gateway.client() as client:
        whole = client.chat.completions.create(**asked)
        chunks = list(client.chat.completions.create(**asked, stream=True))
    entries = whole.choices[0].logprobs.content
    assert [(entry.token, entry.bytes, entry.logprob) for entry in entries] == [
        ("é", [0xC3, 0xA9], -0.25),
        ("!", [0x21], -0.25),
    ]
    assert [other.bytes for other in entries[0].top_logprobs] == [[0xC3, 0xA9], [0xC3]]
    streamed = [chunk.choices[0] for chunk in chunks if chunk.choices[0].logprobs]
    assert [(choice.delta.content, choice.logprobs.content[0].token) for choice in streamed] == [("é", "é"), ("!", "!")]
    assert serving.generations[0].request.logprobs == 2


# --- numbers ------------------------------------------------------------------------------------------------


class Ticks:
    """A clock that is one second later at each look."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def test_numbers_are_in_the_answer_and_in_a_comment_of_the_stream(serving, listen):
    serving.accepted = Accepted((1,) * 9, 9, 4, in_reasoning=False, context_left=9, queue_seconds=0.75)
    serving.script = says("a", "b", "c")
    with listen(serving, monotonic=Ticks(), first_token_seconds=1000).http() as http:
        whole = http.post(PATH, json=BODY).json()["generation_stats"]
        text = http.post(PATH, json={**BODY, "stream": True}).text
    [comment] = [part for part in text.split("\n\n") if part.startswith(": generation_stats ")]
    streamed = json.loads(comment.removeprefix(": generation_stats "))
    assert text.endswith(f"{comment}\n\ndata: [DONE]\n\n")
    for stats in (whole, streamed):
        # Five tokens of the prompt were not cached, and the clock goes one second from frame to frame.
        assert (stats["prompt_tps"], stats["generation_tps"]) == (5.0, 1.0)
        assert (stats["prompt_tokens"], stats["generation_tokens"], stats["queue_seconds"]) == (9, 3, 0.75)
        assert stats["time_to_first_token_seconds"] >= 2


def test_what_was_not_measured_is_null(serving, gateway):
    serving.script = says("a")
    with gateway.http() as http:
        stats = http.post(PATH, json=BODY).json()["generation_stats"]
    assert stats["generation_tps"] is None


def test_queue_and_speed_are_metrics(serving, listen):
    serving.accepted = Accepted((1,) * 9, 9, 4, in_reasoning=False, context_left=9, queue_seconds=0.75)
    serving.script = says("a", "b", "c")
    with listen(serving, monotonic=Ticks(), first_token_seconds=1000).http() as http:
        http.post(PATH, json=BODY)
        wait_for(lambda: "skulk_request_queue_seconds_sum" in http.get("/metrics").text)
        text = http.get("/metrics").text
    labels = '{gen_ai_provider_name="skulk",gen_ai_request_model="tiny"}'
    assert f"skulk_request_queue_seconds_sum{labels} 0.75" in text
    assert f"skulk_prompt_tokens_per_second_sum{labels} 5.0" in text
    assert f"skulk_generation_tokens_per_second_sum{labels} 1.0" in text


# --- tenants ------------------------------------------------------------------------------------------------


def test_the_name_of_the_key_reaches_the_runner(serving, gateway):
    digest = hashlib.sha256(b"secret-key").hexdigest()
    with gateway.client() as client:
        client.chat.completions.create(model="tiny", messages=QUESTION, n=2)
    serving.publish(access=Access(keys=(AccessKey("team", digest, (Scope.INFERENCE,)),)))
    with gateway.client("secret-key") as client:
        client.chat.completions.create(model="tiny", messages=QUESTION, n=2)
    assert [generation.request.tenant for generation in serving.generations] == ["", "", "team", "team"]
    assert serving.submitted.result(DEADLINE_SECONDS).tenant == ""


def test_a_prompt_of_ten_million_characters_is_taken(serving, gateway):
    with gateway.http() as http:
        reply = http.post(PATH, json={**BODY, "messages": [{"role": "user", "content": "x" * 10_000_000}]})
    assert reply.status_code == 200
    assert len(serving.generations[0].request.messages[0].content) == 10_000_000
