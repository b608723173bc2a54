"""Token bytes become text: the same however they are cut, without markers, ended by stop strings."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skulk.core.dialects.text import (
    LEADING_CHARS_MAX,
    Channel,
    ReasoningSplitter,
    StopStrings,
    TextAssembly,
    Utf8Text,
    held_chars,
)
from skulk.core.domain import Finish, Tokens
from skulk.core.errors import RequestError

# Alphabets that hit markers, stop strings and blank lines often, with characters of one to four bytes.
PARTS = [
    "<think>",
    "</think>",
    "<",
    "think",
    ">",
    "</",
    "\n",
    "\n\n",
    " ",
    "a",
    "END",
    "E",
    "ND",
    "é",
    "漢",
    "🙂",
    "\xa0",
]
TEXTS = st.lists(st.sampled_from(PARTS), max_size=14).map("".join)
STOPS = st.lists(st.sampled_from(["END", "ENDa", "NDa", "a", "<think>", "\n\n", "é漢"]), max_size=3)


def cut(data, places):
    """`data` in pieces, cut at the given places (taken modulo its length)."""
    marks = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(marks)] or [data]


def run(pieces, *, stop=(), reasoning_format="token_delimited", in_reasoning=False, finish=Finish.STOP):
    """Feed pieces as numbered frames; → (reasoning, content, assembly)."""
    assembly = TextAssembly(reasoning_format=reasoning_format, in_reasoning=in_reasoning, stop=stop)
    shown = []
    for number, piece in enumerate(pieces, 1):
        shown += assembly.feed(Tokens(number, (number,), piece))
    shown += assembly.feed(Tokens(len(pieces) + 1, (), b"", finish))
    assert all(piece.text for piece in shown)
    texts = {channel: "".join(p.text for p in shown if p.channel is channel) for channel in Channel}
    return texts[Channel.REASONING], texts[Channel.CONTENT], assembly


@given(st.binary(max_size=60) | TEXTS.map(str.encode), st.lists(st.integers(0, 100), max_size=8), STOPS, st.booleans())
def test_any_cut_of_the_bytes_gives_the_same_answer(data, places, stop, in_reasoning):
    whole = run([data], stop=stop, in_reasoning=in_reasoning)
    pieces = run(cut(data, places), stop=stop, in_reasoning=in_reasoning)
    assert pieces[:2] == whole[:2]
    assert pieces[2].matched_stop == whole[2].matched_stop
    assert run([data[i : i + 1] for i in range(len(data))], stop=stop, in_reasoning=in_reasoning)[:2] == whole[:2]


@given(st.binary(max_size=60), st.lists(st.integers(0, 100), max_size=8))
def test_text_is_what_decoding_the_whole_would_give(data, places):
    utf8 = Utf8Text()
    assert "".join(map(utf8.feed, cut(data, places))) + utf8.end() == data.decode("utf-8", "replace")


def test_a_cut_character_waits_and_only_at_the_end_becomes_a_replacement():
    utf8 = Utf8Text()
    assert utf8.feed("漢".encode()[:2]) == ""
    assert utf8.feed("漢".encode()[2:]) == "漢"
    assert utf8.feed(b"\xf0\x9f") == ""
    assert utf8.end() == "\ufffd"


@given(TEXTS, STOPS)
def test_shown_text_holds_no_stop_string_and_is_a_beginning(text, stops):
    matcher = StopStrings(stops)
    shown = "".join(map(matcher.feed, text)) + matcher.end()
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert (matcher.matched is None) == (shown == text)


@given(TEXTS, STOPS)
def test_no_more_is_held_back_than_a_stop_string_could_need(text, stops):
    length = held_chars(text, stops)
    suffixes = [n for n in range(len(text) + 1) if any(s != text[-n:] and s.startswith(text[-n:]) for s in stops if n)]
    assert length == max(suffixes, default=0)


@pytest.mark.parametrize(
    ("text", "stops", "shown", "matched"),
    [
        ("one END two", ["END"], "one ", "END"),
        ("abcd", ["abcd", "bc"], "a", "bc"),
        ("abc", ["abc", "bc"], "", "abc"),
        ("aab", ["ab"], "a", "ab"),
        ("EN", ["END"], "EN", None),
    ],
)
def test_the_first_stop_string_to_complete_wins(text, stops, shown, matched):
    matcher = StopStrings(stops)
    assert ("".join(map(matcher.feed, text)) + matcher.end(), matcher.matched) == (shown, matched)


def test_an_empty_stop_string_is_a_programming_error():
    with pytest.raises(ValueError, match="empty"):
        StopStrings([""])


@pytest.mark.parametrize(
    ("text", "in_reasoning", "reasoning", "content"),
    [
        ("<think>\nwhy\n</think>\n\nso", False, "why\n", "so"),
        ("\nwhy</think>\n\nso", True, "why", "so"),
        ("<think>\n\n</think>\n\nso", False, "", "so"),
        ("\n <think>why</think>so", False, "why", "so"),
        ("</think>so", True, "", "so"),
        ("<think>never closed", False, "never closed", ""),
        ("<think>half a </thi", False, "half a </thi", ""),
        ("no reasoning <think>here</think>", False, "", "no reasoning <think>here</think>"),
        ("  indented", False, "", "  indented"),
        ("<think>a</think>\n\n  indented", False, "a", "  indented"),
        ("<think>a</think>\n<think>b</think>c", False, "ab", "c"),
        ("<thin", False, "", "<thin"),
        ("<think>a</think>\n\n", False, "a", ""),
        ("a</think>b</think>", True, "a", "b</think>"),
        ("", True, "", ""),
    ],
)
def test_reasoning_is_told_apart(text, in_reasoning, reasoning, content):
    assert run([text.encode()], in_reasoning=in_reasoning)[:2] == (reasoning, content)


@pytest.mark.parametrize("start", ["", "<think>"])
@pytest.mark.parametrize("extra", [0, 1, 50])
def test_endless_white_space_is_not_held_back_for_ever(start, extra):
    text = start + " " * (LEADING_CHARS_MAX + extra) + "<think>x"
    splitter = ReasoningSplitter()
    assert bool(splitter.feed(start + " " * LEADING_CHARS_MAX)) is False
    assert [piece.text for piece in splitter.feed(" ")] == [" " * (LEADING_CHARS_MAX + 1)]
    splitter = ReasoningSplitter()
    by_char = [piece for char in text for piece in splitter.feed(char)] + splitter.end()
    whole = ReasoningSplitter()
    at_once = whole.feed(text) + whole.end()
    for channel in Channel:
        assert "".join(p.text for p in by_char if p.channel is channel) == "".join(
            p.text for p in at_once if p.channel is channel
        )


def test_a_model_without_reasoning_keeps_its_text():
    assert run([b"<think>x</think>\n y"], reasoning_format="none")[:2] == ("", "<think>x</think>\n y")


def test_stop_strings_are_not_searched_in_the_reasoning():
    reasoning, content, assembly = run([b"<think>END</think>", b"a END b"], stop=["END"])
    assert (reasoning, content, assembly.finish) == ("END", "a ", Finish.STOP)


def test_tokens_after_the_stop_string_are_not_counted():
    _, content, assembly = run([b"a", b"EN", b"D", b"b", b"c"], stop=["END"], finish=Finish.LENGTH)
    assert (content, assembly.completion_tokens, assembly.finish) == ("a", 3, Finish.STOP)


def test_reasoning_tokens_are_counted_with_their_markers():
    _, _, assembly = run([b"<think>", b"why", b"</think>", b"so", b"."])
    assert (assembly.reasoning_tokens, assembly.completion_tokens) == (3, 5)
    _, _, assembly = run([b"why", b"</think>so", b"."], in_reasoning=True)
    assert (assembly.reasoning_tokens, assembly.completion_tokens) == (2, 3)


def test_what_was_held_back_is_shown_at_the_end():
    assert run([b"a EN"], stop=["END"], finish=Finish.LENGTH)[1] == "a EN"


def test_a_frame_that_comes_twice_is_taken_once_and_a_gap_is_an_error():
    assembly = TextAssembly(reasoning_format="none", in_reasoning=False, stop=())
    assert [piece.text for piece in assembly.feed(Tokens(1, (1,), b"a"))] == ["a"]
    assert assembly.feed(Tokens(1, (1,), b"a")) == ()
    assert assembly.completion_tokens == 1
    with pytest.raises(RequestError, match="frame 2"):
        assembly.feed(Tokens(3, (1,), b"c"))


def test_nothing_changes_after_the_end():
    assembly = TextAssembly(reasoning_format="none", in_reasoning=False, stop=())
    assembly.feed(Tokens(1, (), b"", Finish.ERROR, "broken"))
    assert assembly.feed(Tokens(2, (1,), b"x", Finish.STOP)) == ()
    assert (assembly.finish, assembly.error, assembly.completion_tokens) == (Finish.ERROR, "broken", 0)
