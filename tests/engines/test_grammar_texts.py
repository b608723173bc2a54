"""Grammars of requests, compiled by llguidance: what a model may write is accepted, the rest is not."""

import json

import pytest
from llguidance import LLMatcher, LLTokenizer

from skulk.core.dialects.grammar import JsonAnswer, Tool, ToolUse, grammar_of
from skulk.core.formats.grammar_rules import MARKERS, blamed_field, runner_rules

SPECIAL = tuple(MARKERS.values())
WEATHER = Tool(
    "get_weather",
    parameters={"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
)
REFERS = Tool(
    "refers",
    parameters={
        "$ref": "#/$defs/x",
        "$defs": {"x": {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}},
    },
    strict=True,
)
BARE = Tool("bare")
PARIS = '<tool_call>\n{"name": "get_weather", "arguments": {"location": "Paris"}}\n</tool_call>'
REFERRED = '<tool_call>\n{"name": "refers", "arguments": {"a": 3}}\n</tool_call>'
BARELY = '<tool_call>\n{"name": "bare", "arguments": {}}\n</tool_call>'
THOUGHT = "<think>\nI need two calls.\n</think>\n\n"


def byte_tokenizer():
    """A tokenizer of bytes, in Hugging Face's form, with the markers as special tokens behind them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    names = ("<|end|>", *SPECIAL)
    model = {"type": "BPE", "vocab": {letters[byte]: byte for byte in range(256)}, "merges": []}
    text = json.dumps(
        {
            "version": "1.0",
            "added_tokens": [{"id": 256 + n, "content": name, **flags} for n, name in enumerate(names)],
            "pre_tokenizer": level,
            "decoder": level,
            "model": model,
        }
    )
    return LLTokenizer(text, eos_token=256)


TOKENIZER = byte_tokenizer()


def ids(text, special):
    """Token ids; the markers as one token each, or as bytes."""
    if special:
        for number, name in enumerate(SPECIAL, 257):
            text = text.replace(name, chr(0xE000 + number))
    return [
        token for char in text for token in ([ord(char) - 0xE000] if 0xE100 < ord(char) < 0xE200 else [*char.encode()])
    ]


@pytest.fixture(params=[True, False], ids=["special", "plain"])
def accepts(request):
    """accepts(grammar, text, reasoning) → whether a whole answer may be the text."""
    markers = MARKERS if request.param else {name: f'"{text}"' for name, text in MARKERS.items()}

    def accepted(grammar, text, reasoning="optional"):
        lark = LLMatcher.grammar_from_lark(grammar + runner_rules(markers=markers, reasoning=reasoning))
        assert LLMatcher.validate_grammar(lark, TOKENIZER) == ""
        matcher = LLMatcher(TOKENIZER, lark)
        tokens = ids(text, request.param)
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()

    return accepted


TOOLS = (WEATHER, REFERS, BARE)
REQUIRED = grammar_of(ToolUse(TOOLS, required=True), None)
NAMED = grammar_of(ToolUse(TOOLS, required=True, named="refers"), None)
ONE = grammar_of(ToolUse(TOOLS, required=True, parallel=False), None)
FREE = grammar_of(ToolUse(TOOLS), None)
EITHER = grammar_of(ToolUse((WEATHER,)), JsonAnswer())
OBJECT = grammar_of(None, JsonAnswer())
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
STRICT = grammar_of(None, JsonAnswer({**SCHEMA, "additionalProperties": False}, strict=True))


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        (
            REQUIRED,
            [PARIS, REFERRED, BARELY, f"{PARIS}\n{REFERRED}", f"{THOUGHT}{PARIS}\n{PARIS}"],
            ["", "hi", f"{THOUGHT}hi", f"hi\n{PARIS}", f"{PARIS}\nhi", PARIS[:-12], PARIS.replace("get_", "set_")],
        ),
        (NAMED, [REFERRED, THOUGHT + REFERRED], [PARIS, f"{REFERRED}\n{REFERRED}", REFERRED.replace("3", '"3"')]),
        (ONE, [PARIS, THOUGHT + BARELY], [f"{PARIS}\n{PARIS}"]),
        (
            FREE,
            ["hi", "", f"{THOUGHT}hi {{", f"So:\n{PARIS}\n{REFERRED}", THOUGHT + BARELY],
            [REFERRED.replace("3", '"3"'), f"So: {PARIS} and", "<tool_call>x", BARELY.replace("{}", '{"a": 1}')],
        ),
        (EITHER, [PARIS, '{"a": [1, {"b": null}]}', THOUGHT + "{}"], ["hi", "[1]", f"{{}}\n{PARIS}", f"{PARIS}\n{{}}"]),
        (
            OBJECT,
            ["{}", '{"a": 1, "b": [1, 2]}', THOUGHT + '{"é": "漢"}'],
            ["", "1", "[]", '{"a":1}', '{"a": 1} ', "{ }"],
        ),
        (STRICT, ['{"name": "Mira"}'], ["{}", '{"name": 1}', '{"name": "Mira", "age": 3}']),
    ],
    ids=["required", "named", "one", "free", "either", "object", "strict"],
)
def test_answers_are_accepted_or_not(accepts, grammar, good, bad):
    assert [text for text in good if not accepts(grammar, text)] == []
    assert [text for text in bad if accepts(grammar, text)] == []


def test_reasoning_stands_before_the_answer_as_the_prompt_has_left_it(accepts):
    inside = THOUGHT.removeprefix("<think>")
    assert accepts(OBJECT, inside + "{}", "open")
    assert not accepts(OBJECT, "{}", "open")
    assert accepts(OBJECT, "{}", "none")
    assert not accepts(OBJECT, THOUGHT + "{}", "none")
    assert not accepts(OBJECT, "<think>x</think>" + "\n" * 9 + "{}")


def test_models_are_not_held_to_a_grammar_when_they_may_write_anything():
    assert grammar_of(None, None) == ""
    assert grammar_of(ToolUse((WEATHER,)), None) == ""


def complaint(use, answer):
    grammar = grammar_of(use, answer)
    lark = LLMatcher.grammar_from_lark(grammar + runner_rules(markers=MARKERS, reasoning="none"))
    error = LLMatcher.validate_grammar(lark, TOKENIZER)
    return error and blamed_field(grammar, error)


@pytest.mark.parametrize(
    ("schema", "lenient_too"),
    [
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, True),
        (
            {"type": "object", "properties": {"a": {"type": "integer", "minimum": 3, "maximum": 2}}, "required": ["a"]},
            True,
        ),
        ({"type": "object", "properties": {"a": {"pattern": "("}}}, True),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/nowhere"}}}, True),
        ({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}, False),
    ],
)
def test_what_cannot_be_compiled_is_blamed_on_its_field(schema, lenient_too):
    assert complaint(None, JsonAnswer(schema, strict=True)) == "response_format"
    tool = Tool("f", parameters=schema, strict=True)
    assert complaint(ToolUse((BARE, tool)), None) == "tools"
    assert complaint(ToolUse((tool,)), JsonAnswer()) == "tools"
    assert complaint(None, JsonAnswer(schema)) == ("response_format" if lenient_too else "")


def test_a_client_cannot_change_the_layout():
    grammar = grammar_of(None, JsonAnswer({"type": "object", "x-guidance": {"whitespace_flexible": True}}))
    assert '"whitespace_flexible": false' in grammar
    assert '"whitespace_flexible": true' not in grammar
