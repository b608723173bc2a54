"""Tool calls in a model's text: complete ones become calls, everything else stays text, however the bytes were cut."""

import json
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skulk.core.dialects.text import Channel, Piece, TextAssembly, ToolCall
from skulk.core.dialects.tools import BLANK_CHARS_MAX, CALL_CHARS_MAX, Called, CallSplitter, read_call
from skulk.core.domain import Finish, Tokens

NAMES = frozenset({"f", "get_weather"})
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
OTHER = '<tool_call>{"name": "get_weather", "arguments": {}}</tool_call>'
UNKNOWN = '<tool_call>{"name": "g", "arguments": {}}</tool_call>'
PARTS = [
    *(CALL, OTHER, UNKNOWN, "<tool_call>", "</tool_call>", "<tool", "</", '{"name": "f"}', '"', "\\", "{", "}"),
    *("\n", " ", " " * 40, "a", "END", "EN", "D", "é", "漢", "<think>", "</think>"),
]
TEXTS = st.lists(st.sampled_from(PARTS), max_size=10).map("".join)


def run(pieces, *, stop=(), one_call=False, in_reasoning=False, finish=Finish.STOP, reasoning="token_delimited"):
    """Feed pieces as frames; → what was shown, adjacent text of one channel joined, and the assembly."""
    assembly = TextAssembly(
        reasoning_format=reasoning,
        in_reasoning=in_reasoning,
        stop=stop,
        tools=NAMES,
        one_call=one_call,
        request_id="r",
    )
    shown = []
    for number, piece in enumerate(pieces, 1):
        shown += assembly.feed(Tokens(number, (number,), piece))
    shown += assembly.feed(Tokens(len(pieces) + 1, (), b"", finish))
    joined = []
    for item in shown:
        last = joined[-1] if joined else None
        if isinstance(item, Piece) and isinstance(last, Piece) and last.channel is item.channel:
            joined[-1] = Piece(item.channel, last.text + item.text)
        else:
            joined.append(item)
    return joined, assembly


def told(text, **options):
    """The same as short words: texts, and (name, arguments) of calls."""
    shown, _ = run([text.encode()], **options)
    return [(item.name, item.arguments) if isinstance(item, ToolCall) else item.text for item in shown]


F = ("f", '{"a": 1}')
WEATHER = ("get_weather", "{}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (CALL, [F]),
        (f"{CALL}\n{OTHER}\n", [F, WEATHER]),
        (f"Let me see.\n\n{CALL}", ["Let me see.", F]),
        (f"{CALL} and {OTHER}", [F, " and", WEATHER]),
        (f"{CALL}\nDone.", [F, "\nDone."]),
        (f"<think>{CALL}</think>\n\n{OTHER}", [CALL, WEATHER]),
        ("no call\n", ["no call\n"]),
        (f"\n{UNKNOWN}", ["\n" + UNKNOWN]),
        (f"{UNKNOWN} {CALL}", [UNKNOWN, F]),
        (CALL[:-3], [CALL[:-3]]),
        (f"<tool_call>{CALL}", ["<tool_call>", F]),
        ("a <tool_call>\nno JSON\n</tool_call> b", ["a <tool_call>\nno JSON\n</tool_call> b"]),
        ("a </tool_call> <tool", ["a </tool_call> <tool"]),
        (
            '<tool_call>{"name": "f", "arguments": {"a": "}</tool_call>"}}</tool_call>',
            [("f", '{"a": "}</tool_call>"}')],
        ),
        ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 2}"}</tool_call>', [("f", '{"a": 2}')]),
        ('<tool_call>{"arguments": {"x": 1.50}, "name": "f"}</tool_call>', [("f", '{"x": 1.50}')]),
        ('<tool_call>{"name": "f"}</tool_call>', [("f", "{}")]),
    ],
)
def test_calls_are_told_from_text(text, shown):
    assert told(text) == shown
    assert told(text, reasoning="none") == shown or "<think>" in text


@pytest.mark.parametrize(
    "body",
    [
        *("", "f", "[]", '{"name": 1}', '{"name": "f", "arguments": []}', '{"name": "f", "arguments": "x"}'),
        *(
            '{"name": "f", "arguments": {}, "more": 1}',
            '{"name": "f", "name": "f"}',
            '{"name": "f"} x',
            '{"name": "f",}',
        ),
        *(
            '{"name": "f", "arguments": {"a": NaN}}',
            '{"name": "f", "arguments": {"a": ' + "[" * 100_000,
            "{",
            '{"name"',
        ),
        *('{"name": "f", "arguments": {"a": ' + "1" * 5000 + "}}", '{"name": "f" "arguments": {}}', "{1: 2}"),
    ],
)
def test_what_is_no_call_stays_as_it_was(body):
    assert read_call(body, NAMES) is None
    text = f"<tool_call>{body}</tool_call>"
    assert told(text) == [text]


@given(
    TEXTS, st.lists(st.integers(0, 400), max_size=8), st.sampled_from([(), ("END",), ("\n",), ("a",)]), st.booleans()
)
@example(CALL + " " * 100 + OTHER, [40, 60, 90], (), False)
def test_any_cut_of_the_bytes_gives_the_same_answer(text, places, stop, one_call):
    data = text.encode()
    marks = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    whole, ended = run([data], stop=stop, one_call=one_call)
    by_place, _ = run([data[a:b] for a, b in pairwise(marks)], stop=stop, one_call=one_call)
    by_byte, last = run([data[i : i + 1] for i in range(len(data))], stop=stop, one_call=one_call)
    assert whole == by_place == by_byte
    assert (ended.finish, ended.matched_stop, ended.calls) == (last.finish, last.matched_stop, last.calls)


@given(TEXTS)
def test_nothing_is_lost_but_calls_and_blanks_around_them(text):
    splitter = CallSplitter(NAMES)
    parts = splitter.feed(text) + splitter.end()
    rest = text
    for part in parts:
        if isinstance(part, Called):
            rest = rest.lstrip(" \n")
            assert rest.startswith("<tool_call>")
            rest = rest[rest.index("</tool_call>") + len("</tool_call>") :]
        else:
            assert text[part.at : part.at + len(part.text)] == part.text
            assert rest.startswith(part.text)
            rest = rest[len(part.text) :]
    assert rest.strip(" \n") == ""


def test_a_call_is_shown_when_it_is_complete_and_never_before():
    assembly = TextAssembly(reasoning_format="none", in_reasoning=False, stop=(), tools=NAMES, request_id="r")
    shown = [assembly.feed(Tokens(n, (n,), byte.encode())) for n, byte in enumerate(CALL, 1)]
    assert not any(shown[:-1])
    assert shown[-1] == (ToolCall(0, "call_r_0", "f", '{"a": 1}'),)


def test_calls_are_numbered_and_named_after_the_request():
    shown, assembly = run([f"{CALL}{OTHER}".encode()])
    assert [(call.index, call.id) for call in shown] == [(0, "call_r_0"), (1, "call_r_1")]
    assert assembly.calls == 2


def test_without_tools_a_block_is_text():
    assembly = TextAssembly(reasoning_format="none", in_reasoning=False, stop=())
    assert assembly.feed(Tokens(1, (1,), CALL.encode())) == (Piece(Channel.CONTENT, CALL),)


def test_one_call_ends_the_answer_where_one_is_wanted():
    shown, assembly = run([CALL.encode(), b"\n", OTHER.encode()], one_call=True)
    assert [item.name for item in shown] == ["f"]
    assert (assembly.finish, assembly.completion_tokens) == (Finish.STOP, 1)
    assert "one tool call" in assembly.early_end


def test_stop_strings_are_searched_in_text_alone():
    call = '<tool_call>{"name": "f", "arguments": {"a": "END"}}</tool_call>'
    assert told(f"<think>END</think>{call} x END y", stop=["END"]) == ["END", ("f", '{"a": "END"}'), " x "]
    assert told(f"EN{OTHER}D", stop=["END"]) == ["EN", WEATHER, "D"]
    assert told(f"a END {OTHER}", stop=["END"]) == ["a "]
    assert told(f"<tool_call>END{OTHER}", stop=["END"]) == ["<tool_call>"]


@pytest.mark.parametrize("finish", [Finish.LENGTH, Finish.STOP])
def test_an_unfinished_block_is_text_at_the_end(finish):
    shown, assembly = run([b"so ", CALL[:30].encode()], finish=finish)
    assert [item.text for item in shown] == ["so " + CALL[:30]]
    assert (assembly.finish, assembly.calls) == (finish, 0)


def test_a_block_without_end_is_not_held_back_for_ever():
    splitter = CallSplitter(NAMES)
    assert splitter.feed("<tool_call>" + "x" * (CALL_CHARS_MAX - 1)) == []
    [marker, *rest] = splitter.feed("yy")
    assert marker.text == "<tool_call>"
    assert sum(len(part.text) for part in rest) == CALL_CHARS_MAX + 1


def test_blanks_are_held_back_only_as_far_as_they_may_be_dropped():
    splitter = CallSplitter(NAMES)
    [text] = splitter.feed("a" + " " * (BLANK_CHARS_MAX + 5))
    assert len(text.text) == 6
    assert [type(part) for part in splitter.feed(CALL)] == [Called]


@given(st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.text()), max_size=4))
def test_any_object_can_be_arguments(arguments):
    text = json.dumps(arguments)
    assert read_call(f'\n{{"name": "f", "arguments": {text}}}\n', NAMES) == Called("f", text)
