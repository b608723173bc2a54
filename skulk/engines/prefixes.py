"""Which sequences of tokens are in the KV cache beyond their request, to be reused by the next one. Pure bookkeeping.

Kept are whole sequences, newest use last; the cache itself is the decoder's, known here by a handle. A sequence that
continues a kept one replaces it: a conversation is kept once, not once per turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

H = TypeVar("H")

Ids = Sequence[int]


def common_length(a: Ids, b: Ids) -> int:
    """How many ids the two have in common from the beginning. Both tuples, or both lists: slices are compared."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:  # a[:low] is common, a[:high] is not
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


@dataclass(eq=False, slots=True)
class Kept(Generic[H]):
    """A finished sequence whose cache is still there."""

    ids: tuple[int, ...]
    handle: H


class Prefixes(Generic[H]):
    """At most `entries_max` kept sequences. Whoever takes one out closes its handle."""

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._kept: list[Kept[H]] = []
        """Least recently used first."""

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, prompt: tuple[int, ...]) -> tuple[Kept[H] | None, int]:
        """The kept sequence that shares most with `prompt`, and how many tokens that is. It counts as used now."""
        best, length = None, 0
        for kept in self._kept:
            shared = common_length(kept.ids, prompt)
            if shared > length:
                best, length = kept, shared
        if best is not None:
            self._kept.remove(best)
            self._kept.append(best)
        return best, length

    def keep(self, ids: tuple[int, ...], handle: H) -> list[H]:
        """Keep a sequence; returns the handles that are no longer kept (maybe the new one itself)."""
        if self._entries_max == 0 or not ids or any(kept.ids[: len(ids)] == ids for kept in self._kept):
            return [handle]
        gone = [kept for kept in self._kept if ids[: len(kept.ids)] == kept.ids]
        self._kept = [kept for kept in self._kept if kept not in gone]
        self._kept.append(Kept(ids, handle))
        handles = [kept.handle for kept in gone]
        while len(self._kept) > self._entries_max:
            handles.append(self._kept.pop(0).handle)
        return handles

    def handles(self) -> list[H]:
        """Of all that is kept, least recently used first."""
        return [kept.handle for kept in self._kept]

    def take(self, handle: H) -> None:
        """Stop keeping this one: whoever takes it goes on with its handle."""
        self._kept = [kept for kept in self._kept if kept.handle is not handle]

    def oldest(self) -> H | None:
        """Stop keeping the least recently used one; None when none is kept."""
        return self._kept.pop(0).handle if self._kept else None
