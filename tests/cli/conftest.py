"""Fixtures of the command-line tests: a fake node, and the program run in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner, Result

from skulk.cli.main import app
from tests.cli import fake_node

Skulk = Callable[..., Result]


@pytest.fixture
def node() -> Iterator[fake_node.FakeNode]:
    with fake_node.running() as node:
        yield node


@pytest.fixture
def skulk(monkeypatch: pytest.MonkeyPatch) -> Skulk:
    """Run `skulk ARGUMENTS…` in this process; the environment's own settings of the program are out of the way."""
    for name in [name for name in os.environ if name.startswith("SKULK_") and name != "SKULK_UPDATE_GOLDEN"]:
        monkeypatch.delenv(name)

    def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=stdin, prog_name="skulk")

    return run
