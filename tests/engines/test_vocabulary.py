"""Token → bytes, for both families of tokenizers, from their published descriptions."""

from __future__ import annotations

import json

import pytest

from skulk.engines.vocabulary import UnknownDecoder, vocabulary_from_json

BYTE_LEVEL = {
    "added_tokens": [{"id": 7, "content": "<think>", "special": False}, {"id": 8, "content": "<｜é｜>"}],
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"Ġhello": 0, "Ã": 1, "©": 2, "ðŁ¦Ĭ": 3, "Ċ": 4, "!": 5, "<think>": 7}},
}
PIECES = {
    "added_tokens": [{"id": 5, "content": "</s>"}],
    "decoder": {
        "type": "Sequence",
        "decoders": [{"type": "Replace"}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip"}],
    },
    "model": {"type": "BPE", "vocab": {"▁hello": 0, "<0xC3>": 1, "<0xA9>": 2, "é": 3, "▁▁": 4}},
}


def data(description, *ids):
    vocabulary = vocabulary_from_json(json.dumps(description))
    return b"".join(vocabulary.data(token) for token in ids)


def test_byte_level_pieces_are_bytes_and_characters_may_be_split():
    assert data(BYTE_LEVEL, 0, 5) == b" hello!"
    assert data(BYTE_LEVEL, 1) == b"\xc3"
    assert data(BYTE_LEVEL, 1, 2).decode() == "é"
    assert data(BYTE_LEVEL, 3, 4).decode() == "🦊\n"


def test_added_tokens_are_their_own_text():
    assert data(BYTE_LEVEL, 7) == b"<think>"
    assert data(BYTE_LEVEL, 8).decode() == "<｜é｜>"
    assert vocabulary_from_json(json.dumps(BYTE_LEVEL)).added_id("<think>") == 7
    assert vocabulary_from_json(json.dumps(BYTE_LEVEL)).added_id("hello") is None


def test_pieces_with_byte_fallback():
    assert data(PIECES, 0, 4, 3).decode() == " hello  é"
    assert data(PIECES, 1, 2).decode() == "é"
    assert data(PIECES, 5) == b"</s>"


def test_unigram_vocabularies_are_lists():
    unigram = {"decoder": {"type": "Metaspace"}, "model": {"type": "Unigram", "vocab": [["<unk>", 0], ["▁a", -1]]}}
    assert data(unigram, 1) == b" a"


def test_rows_that_the_tokenizer_does_not_know_have_no_bytes():
    assert data(BYTE_LEVEL, 9999) == b""


@pytest.mark.parametrize("decoder", [None, {"type": "WordPiece"}])
def test_an_unknown_decoder_is_refused_rather_than_guessed(decoder):
    with pytest.raises(UnknownDecoder):
        data({"decoder": decoder, "model": {"vocab": {}}})
