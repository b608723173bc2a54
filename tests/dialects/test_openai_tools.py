"""Tools, their choice and the response format: what is read, and which field is named when it is wrong."""

from dataclasses import replace

import pytest

from skulk.core.dialects.grammar import JsonAnswer, Tool
from skulk.core.dialects.openai import check_against_model, parse_chat
from skulk.core.dialects.openai_tools import TOOLS_MAX
from skulk.core.dialects.schemas import SCHEMA_BYTES_MAX, SCHEMA_DEPTH_MAX
from skulk.core.domain import Card, CardName, KvShape, LocalSource, RequestId, ServedModel, Tooling
from skulk.core.errors import RequestError

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
CARD = Card(CardName("tiny"), "org/tiny", LocalSource("tiny"), "1", (), 1, 1, 1, KvShape(), 512, ("mlx",))
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def parse(**fields):
    return parse_chat({**BODY, **fields}, request_id=RequestId("r"), seed=42, now=5.0, deadline_seconds=9.0)


def refused(**fields):
    with pytest.raises(RequestError) as caught:
        parse(**fields)
    assert caught.value.status == 400
    return caught.value


def function(name="f", **fields):
    return {"type": "function", "function": {"name": name, **fields}}


def named(name):
    return {"type": "function", "function": {"name": name}}


def test_a_tool_is_read_and_handed_to_the_template_without_strict():
    tool = function("get_weather", description="Weather.", parameters=SCHEMA, strict=True)
    chat = parse(tools=[tool, function("now")])
    assert chat.tools.tools == (Tool("get_weather", "Weather.", SCHEMA, True), Tool("now"))
    assert chat.generation.template == {
        "tools": [function("get_weather", description="Weather.", parameters=SCHEMA), function("now")]
    }


@pytest.mark.parametrize(
    ("fields", "required", "name", "parallel"),
    [
        ({}, False, None, True),
        ({"tool_choice": "auto"}, False, None, True),
        ({"tool_choice": "required"}, True, None, True),
        ({"tool_choice": named("g")}, True, "g", True),
        ({"parallel_tool_calls": False}, False, None, False),
        ({"parallel_tool_calls": True}, False, None, True),
    ],
)
def test_the_choice_is_read(fields, required, name, parallel):
    use = parse(tools=[function("f"), function("g")], **fields).tools
    assert (use.required, use.named, use.parallel) == (required, name, parallel)


@pytest.mark.parametrize("fields", [{}, {"tools": []}, {"tools": [function()], "tool_choice": "none"}])
def test_without_tools_to_call_the_model_is_told_of_none(fields):
    chat = parse(**fields)
    assert (chat.tools, chat.generation.template, chat.generation.grammar) == (None, {}, "")


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([{"type": "function", "function": {}}], "tools[0].function.name"),
        ([function("")], "tools[0].function.name"),
        ([function("a b")], "tools[0].function.name"),
        ([function("é")], "tools[0].function.name"),
        ([function("\ud800")], "tools[0].function.name"),
        ([function("x" * 65)], "tools[0].function.name"),
        ([function("f"), function("f")], "tools[1].function.name"),
        ([function(description=1)], "tools[0].function.description"),
        ([function(strict="yes")], "tools[0].function.strict"),
        ([function(more=1)], "tools[0].function.more"),
        ([{**function(), "more": 1}], "tools[0].more"),
        ([{"type": "function", "function": []}], "tools[0].function"),
        ([{"type": "web_search"}], "tools[0].type"),
        ([function(parameters=[])], "tools[0].function.parameters"),
        ([function(parameters={"type": "array"})], "tools[0].function.parameters"),
        ([function(parameters={"type": "strng"})], "tools[0].function.parameters"),
        ([function(str(i)) for i in range(TOOLS_MAX + 1)], "tools"),
        ([function(str(i), description="x" * 30_000) for i in range(10)], "tools"),
    ],
)
def test_a_bad_tool_is_refused_with_its_place(tools, param):
    assert refused(tools=tools).param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": named("f")}, "tool_choice.function.name"),
        ({"tool_choice": named("g"), "tools": [function("f")]}, "tool_choice.function.name"),
        ({"tool_choice": {**named("f"), "x": 1}, "tools": [function("f")]}, "tool_choice.x"),
        ({"tool_choice": {"type": "function", "function": {"name": "f", "x": 1}}}, "tool_choice.function.x"),
    ],
)
def test_a_bad_choice_is_refused(fields, param):
    assert refused(**fields).param == param


@pytest.mark.parametrize(
    ("tooling", "words"),
    [
        (Tooling(), "does not call tools"),
        (Tooling(supports_calls=True, format="gpt_oss"), "gpt_oss, which is not in this version"),
        (Tooling(supports_calls=True), None),
    ],
)
def test_tools_are_for_models_whose_calls_can_be_read(tooling, words):
    model = ServedModel(replace(CARD, tooling=tooling), (), ("tiny",), ())
    check_against_model(parse(tools=[function()], tool_choice="none"), model)
    if words is None:
        check_against_model(parse(tools=[function()]), model)
        return
    with pytest.raises(RequestError, match=words) as caught:
        check_against_model(parse(tools=[function()]), model)
    assert (caught.value.status, caught.value.param) == (400, "tools")


def as_schema(schema, **fields):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **fields}}


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, JsonAnswer()),
        (as_schema(SCHEMA), JsonAnswer(SCHEMA)),
        (as_schema(SCHEMA, strict=True, description="A city."), JsonAnswer(SCHEMA, strict=True)),
        (as_schema(None, strict=False), JsonAnswer()),
        (as_schema({}), JsonAnswer({})),
    ],
)
def test_a_response_format_is_read(written, answer):
    chat = parse(response_format=written)
    assert chat.json_answer == answer
    assert bool(chat.generation.grammar) == (answer is not None)


@pytest.mark.parametrize(
    ("written", "param"),
    [
        ({"type": "json_schema"}, "json_schema"),
        ({"type": "json_schema", "json_schema": []}, "json_schema"),
        ({"type": "json_schema", "json_schema": {"schema": {}}}, "json_schema.name"),
        (as_schema({}, name="a b"), "json_schema.name"),
        (as_schema({}, strict=1), "json_schema.strict"),
        (as_schema({}, more=1), "json_schema.more"),
        (as_schema({}, description=1), "json_schema.description"),
        ({"type": "text", "json_schema": {}}, "json_schema"),
        (as_schema([]), "json_schema.schema"),
        (as_schema("{}"), "json_schema.schema"),
    ],
)
def test_a_bad_response_format_is_refused(written, param):
    assert refused(response_format=written).param == f"response_format.{param}"


def deep(levels):
    schema = {"type": "string"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "text"}, "unknown type at #"),
        ({"type": ["string", "nul"]}, "unknown type"),
        ({"type": []}, "unknown type"),
        ({"type": None}, "unknown type"),
        ({"properties": {"a": {"type": "x"}}}, "#/properties/a"),
        ({"properties": []}, "#/properties"),
        ({"properties": {"a": 1}}, "#/properties/a"),
        ({"$defs": {"a": {"anyOf": []}}}, "#/$defs/a/anyOf"),
        ({"anyOf": {}}, "#/anyOf"),
        ({"items": [{}, 1]}, "#/items/1"),
        ({"items": "x"}, "#/items"),
        ({"required": "a"}, "#/required"),
        ({"required": [1]}, "#/required"),
        ({"enum": []}, "#/enum"),
        ({"enum": "a"}, "#/enum"),
        ({"minimum": "1"}, "#/minimum"),
        ({"maxItems": -1}, "#/maxItems"),
        ({"maxItems": 1.5}, "#/maxItems"),
        ({"maxItems": True}, "#/maxItems"),
        ({"maxItems": -(10**400)}, "#/maxItems"),
        ({"pattern": 1}, "#/pattern"),
        ({"$ref": "https://example.com/x.json"}, "only #/"),
        ({"allOf": [{"$ref": "other.json#/a"}]}, "#/allOf/0"),
        ({"const": float("nan")}, "not finite"),
        ({"enum": ["x" * SCHEMA_BYTES_MAX]}, "bytes"),
        (deep(SCHEMA_DEPTH_MAX), "too deeply"),
    ],
)
def test_a_schema_that_is_none_is_refused_with_the_place_inside(schema, words):
    error = refused(response_format=as_schema(schema))
    assert error.param == "response_format.json_schema.schema"
    assert words in str(error)
    assert refused(tools=[function(parameters=schema)]).param == "tools[0].function.parameters"


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"type": {"type": "string"}, "$ref": {"type": "string"}}},
        {"type": ["string", "null"]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer", "minimum": 1, "exclusiveMaximum": True}}},
        {"items": True, "maxItems": 3.0, "maxLength": 10**400},
        {"items": [{}, False]},
        {"const": {"type": "anything"}, "default": {"enum": []}},
        {"x-of-somebody": {"type": 1}},
        deep(SCHEMA_DEPTH_MAX - 1),
    ],
)
def test_a_schema_is_left_as_it_is(schema):
    assert parse(response_format=as_schema(schema)).json_answer.schema == schema


def test_lone_surrogates_in_tools_are_replaced():
    chat = parse(tools=[function(description="\ud800", parameters={"description": "\udfff"})])
    assert chat.tools.tools[0].description == "\ufffd"
    chat.generation.grammar.encode()
    str(chat.generation.template).encode()
