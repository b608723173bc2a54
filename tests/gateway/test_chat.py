"""What a client of OpenAI's API sees when all goes well: its own library is the driver."""

import asyncio
import json
from dataclasses import replace

import openai
from gateway_fakes import CARD, DEADLINE_SECONDS, MODEL, VIEW, FakeServing, Gate, says, says_then_waits

from skulk.core.domain import Accepted, Finish, Reasoning

QUESTION = [{"role": "user", "content": "hi"}]


def test_an_answer_in_one_piece_has_text_finish_and_usage(gateway):
    with gateway.client() as client:
        answer = client.chat.completions.create(model="tiny", messages=QUESTION)
    assert answer.choices[0].message.content == "Hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 2, 5)
    assert answer.usage.prompt_tokens_details.cached_tokens == 1


def test_a_stream_gives_the_same_text_piece_by_piece(gateway):
    with gateway.client() as client:
        chunks = list(client.chat.completions.create(model="tiny", messages=QUESTION, stream=True))
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["Hel", "lo", None]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, "stop"]
    assert all(chunk.usage is None for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1


def test_usage_of_a_stream_comes_in_a_last_chunk_when_asked_for(gateway):
    with gateway.client() as client:
        chunks = list(
            client.chat.completions.create(
                model="tiny", messages=QUESTION, stream=True, stream_options={"include_usage": True}
            )
        )
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 2
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_the_asynchronous_client_streams_too(gateway):
    async def ask():
        async with openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key="x", max_retries=0) as client:
            stream = await client.chat.completions.create(model="chat", messages=QUESTION, stream=True)
            return [chunk.choices[0].delta.content async for chunk in stream]

    assert asyncio.run(ask()) == ["Hel", "lo", None]


def test_many_clients_at_once_each_get_their_own_answer(serving, gateway):
    async def one(client, number):
        answer = await client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": str(number)}], stream=number % 2 == 0
        )
        if number % 2:
            return answer.choices[0].message.content
        return "".join([chunk.choices[0].delta.content or "" async for chunk in answer])

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key="x", max_retries=0) as client:
            return await asyncio.gather(*(one(client, number) for number in range(20)))

    serving.script = echo
    assert asyncio.run(all_of_them()) == [str(number) * 3 for number in range(20)]


async def echo(generation):
    text = generation.request.messages[0].content
    async for tokens in says(text, text, text)(generation):
        await asyncio.sleep(0)
        yield tokens


def test_text_is_shown_before_the_answer_is_whole(serving, gateway):
    gate = Gate()
    serving.script = says_then_waits("early", gate=gate)
    with gateway.client() as client:
        stream = client.chat.completions.create(model="tiny", messages=QUESTION, stream=True)
        assert next(stream).choices[0].delta.content == "early"
        gate.open()
        assert [chunk.choices[0].finish_reason for chunk in stream] == ["stop"]


def test_the_fields_of_a_request_reach_the_runner(serving, listen):
    gateway = listen(serving, new_seed=lambda: 99, wall=lambda: 1234.5)
    with gateway.client() as client:
        client.chat.completions.create(
            model="org/tiny",
            messages=[{"role": "developer", "content": "be brief"}, *QUESTION],
            temperature=0.5,
            top_p=0.9,
            max_completion_tokens=7,
            stop=["END"],
            extra_body={"top_k": 4, "min_p": 0.1, "enable_thinking": False},
            extra_headers={"X-Skulk-Deadline-Seconds": "12.5"},
        )
    request = serving.submitted.result(DEADLINE_SECONDS)
    assert [(m.role, m.content) for m in request.messages] == [("system", "be brief"), ("user", "hi")]
    assert (request.sampling.temperature, request.sampling.top_p) == (0.5, 0.9)
    assert (request.sampling.top_k, request.sampling.min_p, request.sampling.seed) == (4, 0.1, 99)
    assert (request.max_tokens, request.stop, request.template) == (7, ("END",), {"enable_thinking": False})
    assert (request.now, request.deadline_seconds, request.model) == (1234.5, 12.5, "org/tiny")


def test_reasoning_is_separate_from_the_answer_and_counted(serving, gateway):
    serving.accepted = Accepted((1,), 1, 0, in_reasoning=True, context_left=9)
    serving.script = says("\nhm", "m</th", "ink>", "\n\n4", "2")
    with gateway.client() as client:
        answer = client.chat.completions.create(model="tiny", messages=QUESTION)
        chunks = list(client.chat.completions.create(model="tiny", messages=QUESTION, stream=True))
    message = answer.choices[0].message
    assert (message.reasoning_content, message.content) == ("hmm", "42")
    assert answer.usage.completion_tokens_details.reasoning_tokens == 3
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.reasoning_content or "" for delta in deltas) == "hmm"
    assert "".join(delta.content or "" for delta in deltas) == "42"
    assert all(delta.content is None for delta in deltas if delta.reasoning_content)


def test_a_model_without_reasoning_shows_markers_as_text(listen):
    model = replace(MODEL, card=replace(CARD, reasoning=Reasoning()))
    serving = FakeServing(replace(VIEW, models=(model,)), says("<think>x</think>y"))
    with listen(serving).client() as client:
        answer = client.chat.completions.create(model="tiny", messages=QUESTION)
    assert answer.choices[0].message.content == "<think>x</think>y"


def test_a_stop_string_across_frames_ends_the_answer_and_cancels_the_runner(serving, gateway):
    serving.script = says("one E", "N", "D two", "three", "four")
    with gateway.client() as client:
        answer = client.chat.completions.create(model="tiny", messages=QUESTION, stop="END")
    assert answer.choices[0].message.content == "one "
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 3
    assert "stop string" in serving.generations[0].why_cancelled()


def test_length_is_told_as_length(serving, gateway):
    serving.script = says("a", finish=Finish.LENGTH)
    with gateway.client() as client:
        answer = client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=1)
    assert answer.choices[0].finish_reason == "length"


def test_a_character_cut_between_frames_arrives_whole(serving, gateway):
    data = "né 漢 🙂".encode()
    serving.script = says(*(data[i : i + 1] for i in range(len(data))))
    with gateway.client() as client:
        chunks = client.chat.completions.create(model="tiny", messages=QUESTION, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "né 漢 🙂"


def test_the_raw_stream_has_its_comments_and_ends_with_done(serving, gateway):
    with gateway.http() as http:
        body = {"model": "tiny", "messages": QUESTION, "stream": True}
        reply = http.post("/v1/chat/completions", json=body, headers={"X-Request-Id": "abc-1"})
    lines = reply.text.split("\n\n")
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["x-request-id"] == "abc-1"
    assert lines[0] == ": keep-alive"
    assert lines[1] == f": command_id {serving.generations[0].request.id}"
    assert lines[-2:] == ["data: [DONE]", ""]
    first = json.loads(lines[2].removeprefix("data: "))
    assert first["id"] == serving.generations[0].request.id
    assert first["choices"][0]["delta"]["tool_calls"] is None


def test_a_silent_stream_is_kept_alive(serving, listen):
    gate = Gate()
    serving.script = says_then_waits("a", gate=gate)
    gateway = listen(serving, keep_alive_seconds=0.02)
    with (
        gateway.http() as http,
        http.stream(
            "POST", "/v1/chat/completions", json={"model": "tiny", "messages": QUESTION, "stream": True}
        ) as reply,
    ):
        seen = ""
        for text in reply.iter_text():
            seen += text
            if seen.count(": keep-alive") >= 4:
                gate.open()
    assert seen.endswith("data: [DONE]\n\n")


def test_models_are_listed_and_found_by_any_of_their_names(gateway):
    with gateway.client() as client, gateway.http() as http:
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.models.retrieve("org/tiny").id == "tiny"
        entry = http.get("/models/chat").json()
        assert http.get("/models?status=downloaded").json()["data"] == [entry]
        assert http.get("/models?status=else").json()["error"]["param"] == "status"
    assert entry["resolved_capabilities"]["supports_thinking_toggle"] is True
    assert entry["resolved_capabilities"]["supports_tool_calling"] is True
    assert entry["resolved_capabilities"]["tool_call_format"] == "generic"
    assert entry["tooling"]["supports_tool_calling"] is True
    assert entry["context_length"] == 512
    assert entry["storage_size_megabytes"] == 5
