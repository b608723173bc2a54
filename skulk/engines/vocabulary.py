"""Token id → raw bytes, exactly: a character may be spread over several tokens, and the owner puts it together.

Read from the description of a Hugging Face tokenizer (`tokenizer.json`), by its decoder:

- *ByteLevel*: every character of a piece stands for one byte (the table of GPT-2's byte-level BPE);
- *pieces with byte fallback* (SentencePiece style): `▁` is a space, `<0xNN>` one byte, the rest is text.

Added tokens (`<think>`, `<tool_call>`) are their own text: the owner parses them. The mapping does not depend on the
position of a token, so a continuation elsewhere gives the same bytes; therefore the space that SentencePiece decoders
strip from the very beginning of a text is kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import cast

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE_PIECE = "▁"

Json = Mapping[str, object]


class UnknownDecoder(ValueError):
    """The tokenizer decodes in a way for which the bytes of single tokens are not known."""


class Vocabulary:
    """`data[id]` for every id; ids that the tokenizer does not know (padding rows of a model) have no bytes."""

    def __init__(
        self, pieces: Mapping[int, bytes], ids_of_added: Mapping[str, int], special: Collection[int] = ()
    ) -> None:
        self._pieces = pieces
        self._added = ids_of_added
        self._special = special

    def data(self, token: int) -> bytes:
        return self._pieces.get(token, b"")

    def special_ids(self) -> tuple[int, ...]:
        """Added tokens that are markers and no text."""
        tags = [token for text, token in self._added.items() if text.startswith("<") and text.endswith(">")]
        return tuple(sorted({*tags, *self._special}))

    def added_id(self, text: str) -> int | None:
        """The id of an added token such as `<|im_end|>`."""
        return self._added.get(text)


def vocabulary_from_json(text: str) -> Vocabulary:
    """From the content of a `tokenizer.json`. Raises UnknownDecoder or ValueError."""
    tokenizer = cast(Json, json.loads(text))
    to_bytes = _piece_reader(tokenizer.get("decoder"))
    pieces = {token: to_bytes(piece) for piece, token in _model_pieces(cast(Json, tokenizer["model"]))}
    added: dict[str, int] = {}
    special: set[int] = set()
    for entry in cast(list[Json], tokenizer.get("added_tokens") or []):
        content, token = str(entry["content"]), int(cast(int, entry["id"]))
        added[content] = token
        pieces[token] = content.encode("utf-8")
        if entry.get("special"):
            special.add(token)
    return Vocabulary(pieces, added, special)


def _model_pieces(model: Json) -> list[tuple[str, int]]:
    vocab = model["vocab"]
    if isinstance(vocab, Mapping):  # BPE: piece → id
        return [(str(piece), int(token)) for piece, token in vocab.items()]
    # Unigram: [piece, score] in the order of the ids
    return [(str(entry[0]), token) for token, entry in enumerate(cast(list[list[object]], vocab))]


def _piece_reader(decoder: object) -> Callable[[str], bytes]:
    names = _decoder_names(decoder)
    if "ByteLevel" in names:
        return _byte_level
    if "Metaspace" in names or {"Replace", "ByteFallback"} <= names:
        return _with_byte_fallback
    raise UnknownDecoder(f"the tokenizer's decoder {sorted(names) or 'none'} is not known")


def _decoder_names(decoder: object) -> set[str]:
    if not isinstance(decoder, Mapping):
        return set()
    nested = decoder.get("decoders")
    inner = set().union(*(_decoder_names(d) for d in nested)) if isinstance(nested, list) else set()
    return {str(decoder.get("type")), *inner}


def _byte_level(piece: str) -> bytes:
    try:
        return bytes(_BYTE_OF_CHARACTER[c] for c in piece)
    except KeyError:  # no byte-level piece: text that was put into the vocabulary by hand
        return piece.encode("utf-8")


def _with_byte_fallback(piece: str) -> bytes:
    found = _BYTE_PIECE.fullmatch(piece)
    return bytes([int(found[1], 16)]) if found else piece.replace(_SPACE_PIECE, " ").encode("utf-8")


def _byte_characters() -> dict[str, int]:
    """Printable Latin-1 characters stand for themselves, the other bytes for U+0100 upwards, in order (Radford et
    al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_characters()
