"""Typed reading of JSON objects that came from outside, for every wire format.

Knows no message: it only turns "a JSON value of the wrong type" into TypeError and "missing" into KeyError, which
the format's decoder reports as its own error.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_COMPACT = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)

COUNT_MAX = 2**63 - 1
"""Nothing that is counted comes near; more does not fit other readers of JSON and breaks arithmetic with floats."""
_HALF_A_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape that may stand alone, and then is no text that could be written anywhere as UTF-8."""


def parse(data: bytes, bytes_max: int) -> Fields:
    """The JSON object in `data`: UTF-8, of at most `bytes_max` bytes, every number finite, every string real text.

    Raises ValueError, TypeError or RecursionError.
    """
    if len(data) > bytes_max:
        raise ValueError(f"{len(data)} bytes are more than the {bytes_max} allowed")
    obj = json.loads(data.decode(), parse_float=_finite, parse_constant=_finite)
    if _HALF_A_CHARACTER.search(data):
        json.dumps(obj, ensure_ascii=False).encode()
    return Fields(obj)


def dump(obj: object) -> bytes:
    """Canonical JSON: equal objects give equal bytes. Half a character (a file's name in a message) becomes `?`."""
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def compact(obj: object) -> bytes:
    """JSON for a peer of our own, which reads it with `peers_json`. Raises ValueError for a number that is none.

    A lone surrogate cannot be UTF-8; the dialects escape it long before, but it must never break a message.
    """
    return _COMPACT.encode(obj).encode("utf-8", "surrogatepass")


def peers_json(data: bytes) -> Fields:
    """The object in a message of such a peer. Raises ValueError, TypeError or RecursionError."""
    return Fields(json.loads(data.decode("utf-8", "surrogatepass")))


def _finite(literal: str) -> float:
    value = float(literal)
    if not math.isfinite(value):
        raise ValueError(f"{literal} is not a finite number")
    return value


class Fields:
    """Typed reading of a JSON object; a wrong type is a TypeError, a missing required key a KeyError."""

    def __init__(self, obj: object) -> None:
        if not isinstance(obj, dict):
            raise TypeError("an object is expected")
        self._obj = obj

    def require(self, *keys: str) -> None:
        """A KeyError when one is missing: for what must not be taken for empty."""
        for key in keys:
            self._obj[key]

    def absent(self, key: str) -> bool:
        """It is missing or null."""
        return self._obj.get(key) is None

    def text(self, key: str, default: str | None = None) -> str:
        value = self._obj[key] if default is None else self._obj.get(key, default)
        if not isinstance(value, str):
            raise TypeError(f"{key} is not a string")
        return value

    def text_or_none(self, key: str) -> str | None:
        value = self._obj.get(key)
        return None if value is None else self.text(key)

    def whole(self, key: str, default: int | None = None) -> int:
        value = self._obj[key] if default is None else self._obj.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{key} is not an integer")
        return value

    def whole_or_none(self, key: str) -> int | None:
        return None if self._obj.get(key) is None else self.whole(key)

    def count(self, key: str, default: int | None = None) -> int:
        """An integer from 0 to COUNT_MAX; another one is a ValueError."""
        value = self.whole(key, default)
        if not 0 <= value <= COUNT_MAX:
            raise ValueError(f"{key} is out of range")
        return value

    def count_or_none(self, key: str) -> int | None:
        return None if self._obj.get(key) is None else self.count(key)

    def number(self, key: str, default: float) -> float:
        value = self._obj.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise TypeError(f"{key} is not a number")
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{key} is out of range") from None

    def flag(self, key: str, default: bool = False) -> bool:
        value = self._obj.get(key, default)
        if not isinstance(value, bool):
            raise TypeError(f"{key} is not a boolean")
        return value

    def items(self, key: str) -> list[object]:
        value = self._obj.get(key, [])
        if not isinstance(value, list):
            raise TypeError(f"{key} is not a list")
        return value

    def each(self, key: str, make: Callable[[Fields], T]) -> tuple[T, ...]:
        """A list of objects."""
        return tuple(make(Fields(item)) for item in self.items(key))

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        values: list[str] = []
        for value in self.items(key):
            if not isinstance(value, str):
                raise TypeError(f"{key} is not a list of strings")
            values.append(value)
        return tuple(values)

    def mapping(self, key: str) -> dict[str, object]:
        value = self._obj.get(key, {})
        if not isinstance(value, dict):
            raise TypeError(f"{key} is not an object")
        return value

    def mapping_or_none(self, key: str) -> dict[str, object] | None:
        return None if self._obj.get(key) is None else self.mapping(key)

    def counters(self, key: str) -> dict[str, int]:
        fields = Fields(self.mapping(key))
        return {name: fields.whole(name) for name in fields._obj}

    def ids(self, key: str) -> tuple[int, ...]:
        """A list of token ids."""
        values: list[int] = []
        for value in self.items(key):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{key} is not a list of integers")
            values.append(value)
        return tuple(values)

    def inner(self, key: str) -> Fields:
        return Fields(self._obj[key])
