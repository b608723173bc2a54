"""A daemon that is told to end while something slow is under way."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Node, until

pytestmark = pytest.mark.e2e


def test_a_daemon_that_installs_an_engine_ends_at_once_and_takes_the_installer_along(
    node_at: Callable[..., Node], tmp_path: Path
):
    tools, pid_file = tmp_path / "bin", tmp_path / "pid"
    tools.mkdir()
    (tools / "uv").write_text(f"#!/bin/sh\necho $$ > {pid_file}.new && mv {pid_file}.new {pid_file}\nexec sleep 600\n")
    (tools / "uv").chmod(0o755)
    node = node_at(enginesDir=str(tmp_path / "engines"), installEngines=True)
    node.start(PATH=f"{tools}{os.pathsep}{os.environ['PATH']}")
    until(pid_file.exists, "the installer runs", context=node.tail)

    def told() -> bool:
        return any("being installed" in line for line in node.items("nodes")[0]["status"]["problems"])

    until(told, "the node says that an engine is being installed", context=node.tail)
    # The harness waits for far less than the installer would take.
    assert node.end(signal.SIGTERM) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)
