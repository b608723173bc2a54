"""One session of hosts for all tests here: two ordinary hosts and a Mac that is none, booted side by side."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hosts import FAKEMAC, Host, Hosts, why_not
from settings import settings

FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
CLAIMS = Path("/run/skulk-testhosts")


@pytest.fixture(scope="session")
def kernel_settings() -> dict[str, str]:
    """As they are before the first host."""
    return settings()


@pytest.fixture(scope="session")
def hosts(testhosts_dir: Path, kernel_settings: dict[str, str]) -> Iterator[Hosts]:
    if reason := why_not():
        pytest.skip(reason)
    alone, before = not list(CLAIMS.glob("*.json")), FORWARDING.read_text()
    with Hosts(testhosts_dir) as hosts:
        yield hosts
    if alone and not list(CLAIMS.glob("*.json")):
        assert FORWARDING.read_text() == before


@pytest.fixture(scope="session")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that hosts see below their root."""
    layer = tmp_path_factory.mktemp("layer")
    layer.chmod(0o755)
    (layer / "srv").mkdir(mode=0o755)
    (layer / "srv" / "wheel").write_text("from the layer\n", "utf-8")
    return layer


@pytest.fixture(scope="session")
def booted(hosts: Hosts, layer: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Host]:
    uv = tmp_path_factory.mktemp("uv") / "uv"
    uv.write_text("#!/bin/sh\necho uv 0.0.0\n", "utf-8")
    uv.chmod(0o755)
    started = [
        hosts.start("one", "bookworm", layers=[layer]),
        hosts.start("two", "trixie"),
        hosts.start("mac", "bookworm", overlay=[FAKEMAC], files={"usr/local/fakemac/uv": uv}),
    ]
    for host in started:
        host.wait_up()
    return {host.name: host for host in started}


@pytest.fixture(scope="session")
def one(booted: dict[str, Host]) -> Host:
    return booted["one"]


@pytest.fixture(scope="session")
def two(booted: dict[str, Host]) -> Host:
    return booted["two"]


@pytest.fixture(scope="session")
def mac(booted: dict[str, Host]) -> Host:
    return booted["mac"]
