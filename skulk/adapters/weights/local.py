"""Model files from local directories (port `Weights`): fetches in threads, facts for the loop.

Decides nothing: whether and when to try again is the node's rules'.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from skulk.adapters.weights.blobs import BlobStore
from skulk.adapters.weights.fetching import BlobLocks, Cancelled, Fetch
from skulk.core.domain import Card, CardName, WeightsFacts
from skulk.core.errors import Retry, SkulkError
from skulk.core.formats.content import content_key

FETCHES_AT_ONCE_MAX = 2
"""One large model must not hold up a small one; more would only make the disk seek."""
PROGRESS_SECONDS = 0.5
"""How often progress wakes the loop; a person watches it, nothing depends on it."""


@dataclass(slots=True)
class _Running:
    fetch: Fetch
    task: asyncio.Task[None]
    waiters: int = 0


class LocalWeights:
    """Brings the files of a card from `model_roots` into the content-addressed `store_dir`.

    `free_disk()` is bytes free where the store lies; `wake` is called on the event loop when facts changed; `clock`
    gives monotonic seconds. Constructing it cleans up after a crash and finds the models that are whole, so only
    one may exist per store.
    """

    def __init__(
        self,
        model_roots: Sequence[Path],
        store_dir: Path,
        free_disk: Callable[[], int],
        wake: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._roots = tuple(model_roots)
        self._store = BlobStore(store_dir)
        self._store.clean()
        self._free_disk = free_disk
        self._wake = wake
        self._clock = clock
        self._locks = BlobLocks()
        self._known_bad: dict[str, tuple[int, ...]] = {}
        self._facts: dict[str, WeightsFacts] = {}
        self._running: dict[str, _Running] = {}
        self._files: tuple[frozenset[str], frozenset[str]] | None = None
        self._threads = ThreadPoolExecutor(FETCHES_AT_ONCE_MAX, thread_name_prefix="fetch")
        for content, model, size in self._store.complete():
            self._facts[content] = self._whole(content, CardName(model), size)

    def observe(self) -> Mapping[str, WeightsFacts]:
        facts = dict(self._facts)
        for content, running in self._running.items():
            facts[content] = WeightsFacts(
                running.fetch.card.name,
                content,
                active=True,
                done_bytes=running.fetch.done_bytes,
                total_bytes=running.fetch.total_bytes,
            )
        return facts

    async def fetch(self, card: Card, content: str, *, keep_free_bytes: int) -> None:
        """Bring all files of the card here. A fetch of the same content that runs already is joined; when the last
        of its callers is cancelled, it stops within one chunk."""
        assert content == content_key(card), "the content key names the card's files"
        running = self._running.get(content)
        if running is None:
            running = self._begin(card, content, keep_free_bytes)
        running.waiters += 1
        try:
            await asyncio.shield(running.task)
        except asyncio.CancelledError:
            if running.waiters == 1:
                running.fetch.cancel()
            raise
        finally:
            running.waiters -= 1

    async def forget(self, content: str) -> None:
        """Drop a recorded failure, and look again whether a model that was whole still is."""
        facts = self._facts.pop(content, None)
        self._known_bad.clear()
        if facts is not None and facts.ready:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, self._store.whole, content)
            if found is not None:
                self._facts[content] = facts
        self._wake()

    def files(self) -> frozenset[str]:
        """sha256 of every file of the models that are whole (what a member says it has)."""
        ready = frozenset(content for content, facts in self._facts.items() if facts.ready)
        # The markers of a model directory do not change, so that they are read once.
        if self._files is None or self._files[0] != ready:
            self._files = ready, self._store.digests(ready)
        return self._files[1]

    async def close(self) -> None:
        """Stop what runs; drafts are removed."""
        running = list(self._running.values())
        for one in running:
            one.fetch.cancel()
        await asyncio.gather(*(one.task for one in running), return_exceptions=True)
        self._threads.shutdown()

    def _begin(self, card: Card, content: str, keep_free_bytes: int) -> _Running:
        loop = asyncio.get_running_loop()
        last = self._clock()

        def progressed() -> None:  # in the fetch's thread
            nonlocal last
            now = self._clock()
            if now - last >= PROGRESS_SECONDS:
                last = now
                loop.call_soon_threadsafe(self._wake)

        fetch = Fetch(
            card,
            content,
            roots=self._roots,
            store=self._store,
            locks=self._locks,
            free_disk=self._free_disk,
            keep_free_bytes=keep_free_bytes,
            known_bad=self._known_bad,
            progressed=progressed,
        )
        running = _Running(fetch, loop.create_task(self._follow(fetch), name=f"fetch {content}"))
        self._running[content] = running
        self._wake()
        return running

    async def _follow(self, fetch: Fetch) -> None:
        """Wait for the thread and record how it ended. Never raises for a failed fetch."""
        content, model = fetch.content, fetch.card.name
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, fetch.run)
        except Cancelled:
            self._facts.pop(content, None)
        except SkulkError as error:
            self._facts[content] = WeightsFacts(
                model,
                content,
                total_bytes=fetch.total_bytes,
                done_bytes=fetch.done_bytes,
                error_code=error.code.id,
                error=f"{error.message} ({error.fix})" if error.fix else error.message,
                retry=error.retry is Retry.BACKOFF,
                failed_at=self._clock(),
            )
        else:
            self._facts[content] = self._whole(content, model, fetch.total_bytes)
        finally:
            del self._running[content]
            self._wake()

    def _whole(self, content: str, model: CardName, size: int) -> WeightsFacts:
        directory = str(self._store.model_dir(content))
        return WeightsFacts(model, content, ready=True, model_dir=directory, done_bytes=size, total_bytes=size)
