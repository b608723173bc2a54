"""Lines of the runners' log files, for `skulk logs`. Reads files only."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from skulk.core.domain import PlacementUid, RunnerFacts

# How often a followed file is looked at: fast enough to feel live, cheap enough to forget.
FOLLOW_SECONDS = 0.25
# One line of a log is for people; a binary blob without newlines is cut.
LINE_CHARACTERS_MAX = 8192


class RunnerLogs:
    """`files(uid)` are a runner's log files, oldest first; `runners()` the ones that are known now."""

    def __init__(
        self,
        files: Callable[[PlacementUid], tuple[Path, ...]],
        runners: Callable[[], Mapping[PlacementUid, RunnerFacts]],
    ) -> None:
        self._files = files
        self._runners = runners

    def known(self) -> tuple[PlacementUid, ...]:
        return tuple(self._runners())

    async def lines(self, uid: PlacementUid, lines: int, follow: bool) -> AsyncIterator[str]:
        """The last `lines` lines, then, when `follow`, every new one until the caller stops."""
        tail: deque[str] = deque(maxlen=max(0, lines))
        offset, newest = 0, None
        for path in self._files(uid):
            data, offset = await asyncio.to_thread(_read, path, 0)
            newest, rest = path, b""
            if follow:
                # The last line may be half written: the rest of it comes with what follows.
                data, newline, rest = data.rpartition(b"\n")
                data, offset = data + newline, offset - len(rest)
            tail.extend(_text(line) for line in data.splitlines())
        for text in tail:
            yield text
        rest = b""
        while follow:
            await asyncio.sleep(FOLLOW_SECONDS)
            files = self._files(uid)
            if not files:
                continue
            if files[-1] != newest:
                newest, offset, rest = files[-1], 0, b""
            data, offset = await asyncio.to_thread(_read, files[-1], offset)
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                yield _text(line)


def _read(path: Path, offset: int) -> tuple[bytes, int]:
    """What stands after `offset`, and the offset of its end; a file that was cut short is read from its start."""
    try:
        with path.open("rb") as file:
            file.seek(offset if offset <= file.seek(0, 2) else 0)
            data = file.read()
            return data, file.tell()
    except OSError:
        return b"", offset


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace")[:LINE_CHARACTERS_MAX]
