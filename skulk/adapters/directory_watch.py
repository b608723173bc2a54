"""Wakes up when files of a watched directory may have changed. Says nothing about what changed.

The *parent* is watched for swaps, removal and re-creation of the root itself: a watch through a link stays on what
the link pointed to before, and a watch on a removed directory is silent for ever. The two manifest folders are
watched in depth. Watches are made for each wait, so that they always follow the present root. Where the system
refuses a watch (limits, network file systems) the caller's slow rescan still finds the change.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from watchfiles import awatch

from skulk.adapters.git.selection import FOLDERS

# How long the watching thread gathers events before it reports: the caller settles by itself.
_DEBOUNCE_MILLISECONDS = 100
_STEP_MILLISECONDS = 20


@contextlib.asynccontextmanager
async def wait_for_events(root: Path) -> AsyncIterator[Callable[[float], Awaitable[None]]]:
    """Watch `root` inside the block. The value waits for an event, at most so many seconds."""
    stop, woken = asyncio.Event(), asyncio.Event()
    real = root.resolve()
    shallow = {root.parent, real, real.parent}
    deep = {real / name for name in FOLDERS}
    tasks = [
        asyncio.create_task(_watch([p for p in sorted(paths) if p.is_dir()], recursive, stop, woken))
        for paths, recursive in ((shallow, False), (deep, True))
    ]
    # Both tasks run up to their first wait, which is after their watches exist.
    await asyncio.sleep(0)

    async def event(seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await woken.wait()

    try:
        yield event
    finally:
        stop.set()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watch(paths: list[Path], recursive: bool, stop: asyncio.Event, woken: asyncio.Event) -> None:
    if not paths:
        return
    # The limit of inotify watches, or a directory that vanished in between: the rescan takes over.
    with contextlib.suppress(OSError, RuntimeError):
        async for _ in awatch(
            *paths,
            watch_filter=None,
            debounce=_DEBOUNCE_MILLISECONDS,
            step=_STEP_MILLISECONDS,
            stop_event=stop,
            recursive=recursive,
        ):
            woken.set()
