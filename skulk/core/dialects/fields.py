"""Typed reading of a client's JSON, one field at a time, with errors that name the field.

Shared by all dialects. A wrong value is a `RequestError` with status 400 and `param` set; `null` always means "not
set". Nothing here knows what a field is for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from skulk.core.errors import REQ_INVALID, REQ_UNSUPPORTED, RequestError

SHOWN_CHARS_MAX = 80
"""How much of a client's value an error repeats: enough to recognise it, never a whole prompt."""
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def invalid(param: str, message: str) -> RequestError:
    """A 400 about one field; `message` continues a sentence that begins with the field's name."""
    return RequestError(
        REQ_INVALID, f"{param} {message}", status=400, param=param, slug="invalid_value", fix="correct the field"
    )


def unsupported(param: str, message: str) -> RequestError:
    """A 400 about a field that would change the answer and that this version cannot honour."""
    return RequestError(REQ_UNSUPPORTED, f"{param} {message}", status=400, param=param, slug="unsupported_parameter")


def shown(value: object) -> str:
    """A short, printable form of a client's value for a message."""
    text = clean_text(repr(value) if not isinstance(value, str) else f'"{value}"')
    return text if len(text) <= SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 1] + "…"


def clean_text(text: str) -> str:
    """Lone surrogates become U+FFFD: JSON can carry them, UTF-8 and tokenizers cannot."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def clean_value(value: object, depth_max: int, param: str) -> object:
    """A JSON value with all its strings cleaned. Raises 400 for more than `depth_max` levels or NaN inside."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise invalid(param, "holds a number that is not finite")
    if isinstance(value, dict | list) and depth_max == 0:
        raise invalid(param, "is nested too deeply")
    if isinstance(value, dict):
        return {clean_text(str(key)): clean_value(item, depth_max - 1, param) for key, item in value.items()}
    if isinstance(value, list):
        return [clean_value(item, depth_max - 1, param) for item in value]
    return value


class Fields:
    """One JSON object of the request. `path` is its place, empty for the body: `messages[2]`."""

    def __init__(self, obj: Mapping[str, object], path: str = "") -> None:
        self._obj = obj
        self._path = path

    def param(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def raw(self, key: str) -> object:
        return self._obj.get(key)

    def text(self, key: str, *, chars_max: int | None = None) -> str | None:
        value = self._obj.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise invalid(self.param(key), f"must be a string, not {shown(value)}")
        if chars_max is not None and len(value) > chars_max:
            raise invalid(self.param(key), f"has {len(value)} characters, at most {chars_max} are allowed")
        return clean_text(value)

    def required_text(self, key: str, *, chars_max: int | None = None) -> str:
        value = self.text(key, chars_max=chars_max)
        if not value:
            raise invalid(self.param(key), "is required and must be a non-empty string")
        return value

    def flag(self, key: str) -> bool | None:
        value = self._obj.get(key)
        if value is None or isinstance(value, bool):
            return value
        raise invalid(self.param(key), f"must be true or false, not {shown(value)}")

    def whole(self, key: str, *, low: int, high: int) -> int | None:
        value = self._obj.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise invalid(self.param(key), f"must be an integer, not {shown(value)}")
        if not low <= value <= high:
            raise invalid(self.param(key), f"must be from {low} to {high}, not {shown(value)}")
        return value

    def number(self, key: str, *, low: float, high: float, above_low: bool = False) -> float | None:
        """A finite number in [low, high], or (low, high] with `above_low`."""
        value = self._obj.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid(self.param(key), f"must be a number, not {shown(value)}")
        # Comparing an int of any size is exact, converting it first could overflow.
        if not low <= value <= high or (above_low and value == low):
            bounds = f"above {low:g} and at most {high:g}" if above_low else f"from {low:g} to {high:g}"
            raise invalid(self.param(key), f"must be {bounds}, not {shown(value)}")
        return float(value)

    def items(self, key: str) -> list[object] | None:
        value = self._obj.get(key)
        if value is None or isinstance(value, list):
            return value
        raise invalid(self.param(key), f"must be a list, not {shown(value)}")

    def mapping(self, key: str) -> dict[str, object] | None:
        value = self._obj.get(key)
        if value is None or isinstance(value, dict):
            return value
        raise invalid(self.param(key), f"must be an object, not {shown(value)}")

    def set_keys(self) -> list[str]:
        """Names that the client gave a value other than null, in the order they came."""
        return [key for key, value in self._obj.items() if value is not None]
