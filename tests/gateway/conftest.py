"""Makes `gateway_fakes` importable by the tests beside it, and gives each test its own listening gateway."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from gateway_fakes import FakeServing, Listener


@pytest.fixture
def serving():
    return FakeServing()


@pytest.fixture
def listen():
    """Start a gateway on a free port: `listen(serving, **settings)` → Listener; stopped after the test."""
    started = []

    def start(serving, **settings):
        started.append(Listener(serving, **settings))
        return started[-1]

    yield start
    for listener in started:
        listener.close()


@pytest.fixture
def gateway(listen, serving):
    return listen(serving)
