"""The frames of a generation, one at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from skulk.core.domain import Tokens
from skulk.core.ports import TakeTokens


class Followed(Protocol):
    async def follow(self, take: TakeTokens) -> None: ...


async def frames_of(generation: Followed) -> AsyncGenerator[Tokens, None]:
    """What `follow` gives, then what it raises. Each frame is asked for: one that nobody asks for is left in the
    generation, as by a reader that is slow."""
    frames: list[Tokens] = []

    def take(tokens: Tokens) -> bool:
        frames.append(tokens)
        return False

    while not frames or frames[-1].finish is None:
        before = len(frames)
        await generation.follow(take)
        if len(frames) == before:
            return
        yield frames[-1]


async def collect(generation: Followed) -> list[Tokens]:
    return [frame async for frame in frames_of(generation)]
