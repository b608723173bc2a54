"""Log-probabilities are those of the tokens whose text is shown as content, with the piece that shows it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skulk.core.dialects.text import Channel, Piece, TextAssembly
from skulk.core.domain import Finish, TokenLogprob, Tokens

CALL = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'


def entry(data):
    return TokenLogprob(data, -1.0)


def run(frames, *, stop=(), in_reasoning=False, finish=Finish.STOP):
    """Frames as lists of tokens' bytes; → (text, bytes of its tokens) per piece of content."""
    assembly = TextAssembly(
        reasoning_format="token_delimited",
        in_reasoning=in_reasoning,
        stop=stop,
        tools=frozenset({"f"}),
        logprobs=True,
    )
    shown = []
    for number, tokens in enumerate([*frames, []], 1):
        end = finish if number == len(frames) + 1 else None
        ids = tuple(range(len(tokens)))
        shown += assembly.feed(Tokens(number, ids, b"".join(tokens), end, None, tuple(map(entry, tokens))))
    assert not any(item.logprobs for item in shown if isinstance(item, Piece) and item.channel is Channel.REASONING)
    return [
        (item.text, [one.data for one in item.logprobs])
        for item in shown
        if isinstance(item, Piece) and item.channel is Channel.CONTENT
    ]


@pytest.mark.parametrize(
    ("frames", "options", "shown"),
    [
        ([[b"a"], [b"b", b"c"]], {}, [("a", [b"a"]), ("bc", [b"b", b"c"])]),
        ([[b"<think>", b"x"], [b"</think>", b"\n\n"], [b"so"]], {}, [("so", [b"so"])]),
        ([[b"x"], [b"</think>"], [b"\n\n", b"so"]], {"in_reasoning": True}, [("so", [b"so"])]),
        ([[b"<th"], [b"ey"]], {}, [("<they", [b"<th", b"ey"])]),
        ([["漢".encode()[:2]], ["漢".encode()[2:]]], {}, [("漢", ["漢".encode()[:2], "漢".encode()[2:]])]),
        ([[b"\xff", b"a"]], {}, [("\ufffda", [b"\xff", b"a"])]),
        ([[b"\xf0"]], {}, [("\ufffd", [b"\xf0"])]),
        ([[b"a "], [b"E"], [b"ND"], [b"x"]], {"stop": ["END"]}, [("a ", [b"a "])]),
        ([[b"a E"], [b"ND"]], {"stop": ["END"]}, [("a ", [b"a E"])]),
        ([[b"a E"], [b"N"]], {"stop": ["END"]}, [("a ", [b"a E"]), ("EN", [b"N"])]),
        ([[b"so"], [b"\n"], [CALL.encode()], [b"\n"], [b"ok"]], {}, [("so", [b"so"]), ("\nok", [b"\n", b"ok"])]),
        ([[b"so"], [b"<tool_call>"], [b"x"]], {}, [("so", [b"so"]), ("<tool_call>x", [b"<tool_call>", b"x"])]),
        ([[b"a", b""]], {}, [("a", [b"a"])]),
    ],
)
def test_tokens_come_with_their_text(frames, options, shown):
    pieces = run(frames, **options)
    texts = "".join(text for text, _ in pieces)
    assert texts == "".join(text for text, _ in shown)
    assert [data for _, tokens in pieces for data in tokens] == [data for _, tokens in shown for data in tokens]
    if len(pieces) == len(shown):
        assert pieces == shown


@given(
    st.lists(
        st.sampled_from(["a", "é", "漢", "END", "E", "<think>", "</think>", "\n", CALL, "<tool_call>"]), max_size=8
    ),
    st.lists(st.integers(0, 200), max_size=12),
    st.sampled_from([(), ("END",)]),
    st.booleans(),
)
def test_every_token_of_shown_text_is_there_once_and_in_order(parts, places, stop, in_reasoning):
    data = "".join(parts).encode()
    marks = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    tokens = [data[a:b] for a, b in pairwise(marks)]
    pieces = run([[token] for token in tokens], stop=stop, in_reasoning=in_reasoning)
    found = [one for _, of_piece in pieces for one in of_piece]
    rest = iter(tokens)
    assert all(one in rest for one in found)
    text = "".join(text for text, _ in pieces)
    assert len(b"".join(found)) >= len(text.replace("\ufffd", "").encode())
    # A token a frame or all in one: the same tokens.
    assert [one for _, of_piece in run([tokens], stop=stop, in_reasoning=in_reasoning) for one in of_piece] == found


def test_a_frame_whose_tokens_do_not_add_up_stands_for_all_of_them():
    assembly = TextAssembly(reasoning_format="none", in_reasoning=False, stop=(), logprobs=True)
    [piece] = assembly.feed(Tokens(1, (1, 2), b"ab", None, None, (entry(b"x"), entry(b"y"))))
    assert (piece.text, [one.data for one in piece.logprobs]) == ("ab", [b"x", b"y"])
