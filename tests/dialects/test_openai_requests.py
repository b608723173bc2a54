"""OpenAI's request fields: each is honoured, changes nothing, or is refused by name."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skulk.core.dialects.openai import (
    HONOURED,
    STOP_CHARS_MAX,
    STOP_STRINGS_MAX,
    TRIVIAL,
    check_against_model,
    parse_chat,
)
from skulk.core.domain import (
    Card,
    CardName,
    GenerationRequest,
    KvShape,
    LocalSource,
    Message,
    Reasoning,
    RequestId,
    Sampling,
    ServedModel,
)
from skulk.core.errors import RequestError

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
CARD = Card(CardName("tiny"), "org/tiny", LocalSource("tiny"), "1", (), 1, 1, 1, KvShape(), 512, ("mlx",))


def parse(**fields):
    return parse_chat({**BODY, **fields}, request_id=RequestId("r"), seed=42, now=5.0, deadline_seconds=9.0)


def refused(**fields):
    with pytest.raises(RequestError) as caught:
        parse(**fields)
    assert caught.value.status == 400
    assert caught.value.param
    assert caught.value.param.split(".")[0].split("[")[0] in str(caught.value)
    return caught.value


def test_a_bare_request_has_the_documented_defaults():
    chat = parse()
    assert chat.generation == GenerationRequest(
        id=RequestId("r"),
        model="tiny",
        messages=(Message("user", "hi"),),
        sampling=Sampling(seed=42, temperature=1.0, top_p=1.0, top_k=0, min_p=0.0),
        max_tokens=None,
        now=5.0,
        deadline_seconds=9.0,
    )
    assert (chat.stream, chat.include_usage) == (False, False)


@pytest.mark.parametrize(
    ("fields", "read"),
    [
        ({"temperature": 0}, lambda g: g.sampling.temperature == 0),
        ({"temperature": 2}, lambda g: g.sampling.temperature == 2),
        ({"top_p": 0.25}, lambda g: g.sampling.top_p == 0.25),
        ({"top_k": 5}, lambda g: g.sampling.top_k == 5),
        ({"min_p": 0.5}, lambda g: g.sampling.min_p == 0.5),
        ({"seed": 0}, lambda g: g.sampling.seed == 0),
        ({"seed": 2**64 - 1}, lambda g: g.sampling.seed == 2**64 - 1),
        ({"max_tokens": 3}, lambda g: g.max_tokens == 3),
        ({"max_completion_tokens": 3}, lambda g: g.max_tokens == 3),
        ({"max_completion_tokens": 3, "max_tokens": 3}, lambda g: g.max_tokens == 3),
        ({"stop": "x"}, lambda g: g.stop == ("x",)),
        ({"stop": ["x", "y"]}, lambda g: g.stop == ("x", "y")),
        ({"stop": []}, lambda g: g.stop == ()),
        ({"enable_thinking": True}, lambda g: g.template == {"enable_thinking": True}),
        ({"frequency_penalty": -2}, lambda g: g.sampling.frequency_penalty == -2),
        ({"presence_penalty": 1.5}, lambda g: g.sampling.presence_penalty == 1.5),
        ({"repetition_penalty": 1.1}, lambda g: g.sampling.repetition_penalty == 1.1),
        ({"repetition_context_size": 0}, lambda g: g.sampling.repetition_context == 0),
        ({"logit_bias": {"7": -100, "0": 1.5}}, lambda g: g.sampling.logit_bias == ((0, 1.5), (7, -100.0))),
        ({"logprobs": True}, lambda g: g.logprobs == 0),
        ({"logprobs": True, "top_logprobs": 20}, lambda g: g.logprobs == 20),
        ({"logprobs": False, "top_logprobs": 0}, lambda g: g.logprobs is None),
        ({"response_format": {"type": "text"}}, lambda g: g.grammar == ""),
        ({"response_format": {"type": "json_object"}}, lambda g: g.grammar.startswith("start: reasoning json_answer")),
        ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, lambda g: g.template == {}),
        ({"reasoning_effort": "none"}, lambda g: g.template == {"enable_thinking": False}),
        ({"reasoning_effort": "low"}, lambda g: g.template == {"enable_thinking": True, "reasoning_effort": "low"}),
        ({"chat_template_kwargs": {"enable_thinking": False}}, lambda g: g.template == {"enable_thinking": False}),
        ({"user": "u", "safety_identifier": "s"}, lambda g: g.template == {}),
    ],
)
def test_an_honoured_field_has_its_effect(fields, read):
    assert read(parse(**fields).generation)


def test_stream_and_usage_are_read():
    assert parse(stream=True, stream_options={"include_usage": True}).include_usage
    assert parse(stream=True).stream
    assert not parse(stream_options={"include_usage": False, "include_obfuscation": False}).include_usage


BAD_NUMBERS = [math.nan, math.inf, -math.inf, -1, 10**400, 1e300, True, "1", [], {}]
BAD = {
    "temperature": [*BAD_NUMBERS[:6], 2.01, True, "1", [], {}],
    "top_p": [*BAD_NUMBERS[:6], 0, 1.01, True, "1", [], {}],
    "top_k": [*BAD_NUMBERS[:6], 1.5, True, "1", [], {}],
    "min_p": [*BAD_NUMBERS[:6], 1.01, True, "1", [], {}],
    "seed": [*BAD_NUMBERS[:6], 2**64, 1.5, True, "1", [], {}],
    "max_tokens": [*BAD_NUMBERS[:6], 0, 1.5, True, "1", [], {}],
    "max_completion_tokens": [*BAD_NUMBERS[:6], 0, 1.5, True, "1", [], {}],
    "stop": [1, "", [""], [1], ["x"] * (STOP_STRINGS_MAX + 1), "x" * (STOP_CHARS_MAX + 1), {}],
    "stream": [1, "true", []],
    "stream_options": [1, [], {"include_usage": 1}, {"other": True}, {"include_obfuscation": True}],
    "enable_thinking": [1, "true"],
    "frequency_penalty": [*BAD_NUMBERS[:3], 10**400, 1e300, 2.1, -2.1, True, "1", [], {}],
    "presence_penalty": [*BAD_NUMBERS[:3], 10**400, 1e300, 2.1, -2.1, True, "1", [], {}],
    "repetition_penalty": [*BAD_NUMBERS[:6], 0, 2.1, True, "1", [], {}],
    "repetition_context_size": [*BAD_NUMBERS[:6], 1.5, True, "1", [], {}],
    "logit_bias": [
        *([], "x", 1, {"a": 1}, {"-1": 1}, {"": 1}, {"1.5": 1}, {"9" * 5000: 1}, {str(2**31): 1}, {"²": 1}, {"1": "x"}),
        *({"1": 101}, {"1": math.nan}, {"1": True}, {"1": None}, {"1": 1, "01": 2}, {str(i): 0 for i in range(1025)}),
    ],
    "n": [*BAD_NUMBERS[:6], 0, 9, 1.5, True, "1", [], {}],
    "logprobs": [0, 1, "true", [], {}],
    "top_logprobs": [*BAD_NUMBERS[:6], 21, 3, 1.5, True, "1", [], {}],
    "response_format": ["json", 1, [], {}, {"type": 1}, {"type": "xml"}, {"type": "json_object", "x": 1}],
    "tools": [{}, "x", 1, [1], [{}], [{"type": "custom"}], [{"type": "function"}]],
    "tool_choice": [1, [], "any", "required", {}, {"type": "allowed_tools"}, {"type": "function"}],
    "parallel_tool_calls": [1, "true", []],
    "reasoning_effort": [1, "", "max", [], {}],
    "chat_template_kwargs": [1, [], {"x": 1}, {"enable_thinking": 1}, {"enable_thinking": "no"}],
    "user": [1, {}],
    "safety_identifier": [1],
    "model": ["", 1, [], "x" * 513],
    "messages": [[], {}, "hi", [1], [[]]],
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in BAD.items() for v in values])
def test_a_bad_value_is_refused_by_name(field, value):
    error = refused(**{field: value})
    assert error.param.startswith(field)
    json.dumps(str(error), allow_nan=False)


def test_every_honoured_field_has_its_bad_values_tested():
    assert set(BAD) == set(HONOURED)


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in TRIVIAL.items() for value in (*values, None)]
)
def test_a_value_that_asks_for_nothing_changes_nothing(field, value):
    assert parse(**{field: value}) == parse()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("functions", [{}]),
        ("function_call", {"name": "f"}),
        ("modalities", ["text", "audio"]),
        ("service_tier", "flex"),
        ("store", True),
        ("metadata", {"a": "b"}),
        ("verbosity", "low"),
        ("prediction", {}),
        ("audio", {}),
        ("web_search_options", {}),
        ("frobnicate", 0),
        ("", 1),
    ],
)
def test_what_would_change_the_answer_and_is_not_honoured_is_refused_by_name(field, value):
    with pytest.raises(RequestError) as caught:
        parse(**{field: value})
    assert (caught.value.status, caught.value.param) == (400, field)
    assert caught.value.code.id == "SK-REQ-002"


@given(
    st.dictionaries(
        st.sampled_from([*HONOURED, *TRIVIAL]) | st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_any_json_is_parsed_or_refused_with_a_field(fields):
    outcome = attempt(fields)
    if isinstance(outcome, RequestError):
        assert outcome.status == 400
        assert outcome.param is not None
    else:
        assert {key for key, value in fields.items() if value is not None} <= {*HONOURED, *TRIVIAL}


def attempt(fields):
    try:
        return parse(**fields)
    except RequestError as error:
        return error


def messages(*items):
    return parse(messages=list(items)).generation.messages


def test_roles_are_kept_and_developer_is_system():
    given_roles = ["system", "developer", "user", "assistant"]
    read = messages(*({"role": role, "content": role} for role in given_roles))
    assert [m.role for m in read] == ["system", "system", "user", "assistant"]
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    [_, _, tool] = messages(
        BODY["messages"][0],
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "4", "tool_call_id": "c1"},
    )
    assert (tool.role, tool.extra) == ("tool", {"tool_call_id": "c1"})


def test_text_parts_are_paragraphs():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert messages({"role": "user", "content": parts})[0].content == "a\nb"
    assert messages({"role": "user", "content": parts[0]})[0].content == "a"


def test_an_answer_can_be_sent_back_as_it_came():
    answer = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "reasoning_content": "hm",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}],
        "function_call": None,
    }
    read = messages(BODY["messages"][0], answer)[1]
    assert read.content == ""
    # Published templates write arguments with their own `tojson`, so they get the object.
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": [1]}}}
    assert read.extra == {"reasoning_content": "hm", "tool_calls": [call]}


@pytest.mark.parametrize("text", ["{", "[1]", "no", "[" * 5000])
def test_arguments_that_are_no_object_reach_the_template_as_they_are(text):
    call = {"id": "c", "function": {"name": "f", "arguments": text}}
    read = messages(BODY["messages"][0], {"role": "assistant", "tool_calls": [call]})[1]
    assert read.extra["tool_calls"][0]["function"]["arguments"] == text


@pytest.mark.parametrize("before", [[], [{"role": "assistant", "content": "a"}]])
def test_a_result_without_its_call_is_refused(before):
    result = {"role": "tool", "content": "4", "tool_call_id": "c1"}
    call = {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": "{}"}}]}
    place = len(before) + 1
    question = BODY["messages"][0]
    assert refused(messages=[question, *before, result]).param == f"messages[{place}].tool_call_id"
    assert refused(messages=[question, *before, result, call]).param == f"messages[{place}].tool_call_id"
    assert messages(question, call, result, result)


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({}, "messages[0].role"),
        ({"role": "function", "content": "x"}, "messages[0].role"),
        ({"role": "user", "content": 1}, "messages[0].content"),
        ({"role": "user", "content": [1]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}, "messages[0].content[0].x"),
        ({"role": "user", "content": "a", "tool_calls": [{}]}, "messages[0].tool_calls"),
        ({"role": "user", "content": "a", "reasoning_content": "x"}, "messages[0].reasoning_content"),
        ({"role": "user", "content": "a", "name": 1}, "messages[0].name"),
        ({"role": "user", "content": "a", "images": ["x"]}, "messages[0].images"),
        ({"role": "tool", "content": "a"}, "messages[0].tool_call_id"),
        ({"role": "assistant", "tool_calls": [1]}, "messages[0].tool_calls[0]"),
        ({"role": "assistant", "tool_calls": [{"type": "custom"}]}, "messages[0].tool_calls[0]"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "messages[0].tool_calls[0].function.name"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"role": "assistant", "tool_calls": [{"id": 1, "function": {"name": "f"}}]}, "messages[0].tool_calls[0].id"),
        ({"role": "user", "content": ""}, "messages"),
        ({"role": "user", "content": " \n"}, "messages"),
        ({"role": "assistant"}, "messages"),
    ],
)
def test_a_bad_message_is_refused_with_its_place(message, param):
    assert refused(messages=[message]).param == param


def test_lone_surrogates_are_replaced_everywhere():
    call = {"function": {"name": "f\udc00", "arguments": "\ud800"}}
    chat = parse(
        stop=["\ud800"],
        messages=[
            {"role": "user", "content": "a\ud800b", "name": "\udfff"},
            {"role": "assistant", "content": [{"type": "text", "text": "\ud800"}], "tool_calls": [call]},
        ],
    )
    assert "\ufffd" in chat.generation.messages[0].content
    json.dumps([m.content for m in chat.generation.messages], ensure_ascii=False).encode()
    json.dumps([dict(m.extra) for m in chat.generation.messages], ensure_ascii=False).encode()
    "".join(chat.generation.stop).encode()


def test_deep_or_endless_values_in_tool_calls_are_refused():
    deep: object = "x"
    for _ in range(20):
        deep = [deep]
    for value in (deep, math.nan):
        call = {"function": {"name": "f", "arguments": "{}"}, "more": value}
        error = refused(messages=[{"role": "assistant", "content": "a", "tool_calls": [call]}])
        assert error.param == "messages[0].tool_calls[0]"


def served(**card):
    return ServedModel(replace(CARD, **card), (), ("tiny",), (), max_context_tokens=100)


@pytest.mark.parametrize(
    ("format_", "toggle", "thinking", "allowed"),
    [
        ("none", False, False, True),
        ("none", False, True, False),
        ("token_delimited", False, True, True),
        ("token_delimited", False, False, False),
        ("token_delimited", True, False, True),
        ("token_delimited", True, True, True),
        ("none", False, None, True),
    ],
)
def test_thinking_is_switched_only_where_the_model_can(format_, toggle, thinking, allowed):
    chat, model = parse(enable_thinking=thinking), served(reasoning=Reasoning(format_, toggle))
    if allowed:
        check_against_model(chat, model)
    else:
        with pytest.raises(RequestError) as caught:
            check_against_model(chat, model)
        assert (caught.value.status, caught.value.param) == (400, "enable_thinking")


@pytest.mark.parametrize(
    ("format_", "toggle", "effort", "allowed"),
    [
        ("none", False, "none", True),
        ("none", False, "low", False),
        ("token_delimited", False, "high", True),
        ("token_delimited", False, "none", False),
        ("token_delimited", True, "none", True),
    ],
)
def test_effort_is_for_models_that_reason(format_, toggle, effort, allowed):
    chat, model = parse(reasoning_effort=effort), served(reasoning=Reasoning(format_, toggle))
    if allowed:
        check_against_model(chat, model)
    else:
        with pytest.raises(RequestError, match=f"cannot be {effort}") as caught:
            check_against_model(chat, model)
        assert (caught.value.status, caught.value.param) == (400, "reasoning_effort")


def test_fields_that_contradict_each_other_are_refused():
    assert refused(enable_thinking=True, reasoning_effort="none").param == "reasoning_effort"
    other = refused(enable_thinking=True, chat_template_kwargs={"enable_thinking": False})
    assert other.param == "chat_template_kwargs.enable_thinking"
    assert parse(enable_thinking=True, reasoning_effort="low").generation.template["reasoning_effort"] == "low"


def test_choices_differ_in_seed_and_id_alone():
    assert parse(n=1).generations == (parse().generation,)
    requests = parse(n=3, seed=2**64 - 2).generations
    assert [request.id for request in requests] == ["r-0", "r-1", "r-2"]
    assert [request.sampling.seed for request in requests] == [2**64 - 2, 2**64 - 1, 0]
    same = {"id": RequestId("r"), "sampling": Sampling(seed=0)}
    assert replace(requests[0], **same) == replace(requests[2], **same)


def test_the_tenant_is_the_callers():
    chat = parse_chat(BODY, request_id=RequestId("r"), seed=1, now=0, deadline_seconds=1, tenant="team")
    assert chat.generation.tenant == "team"


def test_more_tokens_than_the_context_are_refused():
    check_against_model(parse(max_tokens=100), served())
    with pytest.raises(RequestError, match="context_length_exceeded") as caught:
        check_against_model(parse(max_tokens=101), served())
    assert (caught.value.slug, caught.value.param) == ("context_length_exceeded", "max_tokens")


def test_a_model_for_other_tasks_is_refused():
    with pytest.raises(RequestError) as caught:
        check_against_model(parse(), served(tasks=("TextEmbedding",)))
    assert caught.value.param == "model"
