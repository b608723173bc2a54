"""Typed reading of JSON objects that came from outside, for every wire format.

Knows no message: it only turns "a JSON value of the wrong type" into TypeError and "missing" into KeyError, which
the format's decoder reports as its own error.
"""

from __future__ import annotations


class Fields:
    """Typed reading of a JSON object; a wrong type is a TypeError, a missing required key a KeyError."""

    def __init__(self, obj: object) -> None:
        if not isinstance(obj, dict):
            raise TypeError("an object is expected")
        self._obj = obj

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

    def number(self, key: str, default: float) -> float:
        value = self._obj.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise TypeError(f"{key} is not a number")
        return float(value)

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

    def mapping(self, key: str) -> dict[str, object]:
        value = self._obj.get(key, {})
        if not isinstance(value, dict):
            raise TypeError(f"{key} is not an object")
        return value

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
