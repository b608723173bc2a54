"""Plain values as YAML text that the strict reader takes back unchanged.

PyYAML's own emitter knows YAML 1.1: it leaves `0o17` unquoted, which 1.2 reads as 15. This one quotes whatever
is not plainly a word, and writes block style without anchors, tags or line folding.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TypeGuard

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*(?: [A-Za-z0-9_./-]+)*")
# Words that YAML 1.1 or 1.2 readers hold for something else than text.
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})

STEP = "  "


def to_yaml(value: Mapping[str, object]) -> str:
    """One document in block style, keys in the order given, ending with a newline.

    Takes mappings with text keys, sequences, text, integers, finite floats and booleans; raises TypeError for
    anything else.
    """
    return "".join(f"{line}\n" for line in _mapping(value, ""))


def _mapping(value: Mapping[str, object], indent: str) -> list[str]:
    lines: list[str] = []
    for key, child in value.items():
        lines += _entry(f"{indent}{_text(key)}:", child, indent)
    return lines


def _entry(head: str, child: object, indent: str) -> list[str]:
    if isinstance(child, Mapping) and child:
        return [head, *_mapping(child, indent + STEP)]
    if _is_list(child) and child:
        return [head, *_sequence(child, indent + STEP)]
    return [f"{head} {scalar_text(child)}"]


def _sequence(values: Sequence[object], indent: str) -> list[str]:
    lines: list[str] = []
    for child in values:
        if isinstance(child, Mapping) and child:
            first, *rest = _mapping(child, indent + STEP)
            lines += [f"{indent}- {first.lstrip()}", *rest]
        elif _is_list(child) and child:
            lines += [f"{indent}-", *_sequence(child, indent + STEP)]
        else:
            lines.append(f"{indent}- {scalar_text(child)}")
    return lines


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def scalar_text(value: object) -> str:
    """One value on one line, quoted where the reader would take it for something else; `{}` and `[]` for empty
    collections. Raises TypeError for what YAML has no word for."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value)
        case str():
            return _text(value)
        case Mapping():
            return "{}"
        case list() | tuple():
            return "[]"
    raise TypeError(f"no YAML for {type(value).__name__}")


def _text(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    # JSON's escapes are a part of YAML's; what JSON leaves bare but YAML forbids is escaped here.
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else _escape(c) for c in quoted)


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
