"""A node per test; the engine environment is built once and kept outside the checkout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import Node


@pytest.fixture
def node_at(tmp_path: Path, engines_dir: Path) -> Iterator[Callable[..., Node]]:
    """Makes nodes; all are gone after the test."""
    made: list[Node] = []

    def make(name: str = "node", **config: object) -> Node:
        base = tmp_path / name
        base.mkdir()
        made.append(Node(base, engines_dir, **config))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for node in made:
        node.__exit__(None, None, None)


@pytest.fixture
def node(node_at: Callable[..., Node]) -> Node:
    return node_at()
