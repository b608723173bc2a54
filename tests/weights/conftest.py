"""A model root with a small model, its card, and a store."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from skulk.adapters.weights import LocalWeights
from skulk.core.domain import Card, CardFile, CardName, KvShape, LocalSource, WeightsFacts
from skulk.core.formats.content import content_key

FILES = {"config.json": b'{"a": 1}\n', "model.safetensors": bytes(range(256)) * 4096, "sub/tokenizer.json": b"{}"}


def card_of(files: dict[str, bytes], name: str = "tiny", source: str = "tiny/files") -> Card:
    return Card(
        name=CardName(name),
        model_id=f"example/{name}",
        source=LocalSource(source),
        revision="1",
        files=tuple(CardFile(p, len(d), hashlib.sha256(d).hexdigest()) for p, d in files.items()),
        storage_bytes=sum(len(d) for d in files.values()),
        layers=1,
        hidden_size=1,
        kv=KvShape(),
        context_length=128,
        compatible_backends=("mlx-cpu",),
    )


@dataclass
class Site:
    root: Path
    store: Path
    card: Card
    content: str
    free: int = 1 << 40
    wakes: list[None] = field(default_factory=list)

    @property
    def source(self) -> Path:
        return self.root / "tiny" / "files"

    def card_with(self, **files: bytes) -> Card:
        """A card named other whose source is `other/files`, written there as well."""
        named = {name.replace("__", "/"): data for name, data in files.items()}
        write(self.root / "other" / "files", named)
        return card_of(named, "other", "other/files")

    def weights(self, roots: list[Path] | None = None) -> LocalWeights:
        return LocalWeights(
            roots if roots is not None else [self.root],
            self.store,
            lambda: self.free,
            lambda: self.wakes.append(None),
        )

    def fetch(self, card: Card | None = None, *, keep_free: int = 0, **options: Any) -> WeightsFacts:
        """One fetch by a daemon of its own; the facts afterwards."""
        card = self.card if card is None else card

        async def story(weights: LocalWeights) -> WeightsFacts:
            await weights.fetch(card, content_key(card), keep_free_bytes=keep_free)
            return weights.observe()[content_key(card)]

        return self.run(story, **options)

    def run(self, story: Callable[[LocalWeights], Awaitable[Any]], **options: Any) -> Any:
        async def main() -> Any:
            weights = self.weights(**options)
            try:
                return await story(weights)
            finally:
                await weights.close()

        return asyncio.run(main())

    def with_file(self, path: str, /, **changes: Any) -> Card:
        files = tuple(replace(f, **changes) if f.path == path else f for f in self.card.files)
        return replace(self.card, files=files)

    def drafts(self) -> list[Path]:
        return list((self.store / "tmp").iterdir())

    def blobs(self) -> set[str]:
        return {path.name for path in (self.store / "blobs").iterdir()}


def write(directory: Path, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(data)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    card = card_of(FILES)
    site = Site(tmp_path / "models", tmp_path / "store", card, content_key(card))
    write(site.source, FILES)
    return site
