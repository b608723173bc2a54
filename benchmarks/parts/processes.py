"""Scripts of `parts` that run in an engine's own environment, and are asked by lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parts import ROOT
from parts.fleet import ENGINES
from parts.servers import preloads
from skulk.adapters.engine_envs import ensure
from skulk.adapters.runners import child_environment


@contextlib.contextmanager
def engine_process(engine: str, script: str, argument: str, base: Path) -> Iterator[subprocess.Popen[str]]:
    """`script` of `parts` with ROOT and `argument`; its log is in `base`."""
    with (base / "log").open("wb") as log:
        process = subprocess.Popen(
            [ensure(engine, ENGINES).python, "-I", "-B", ROOT / "benchmarks" / "parts" / script, ROOT, argument],
            cwd=base,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=child_environment(os.environ, preloads(engine)),
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def exchange(process: subprocess.Popen[str], order: object | None) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    if order is not None:
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the bare engine ended with {process.wait()}; see its log")
    return dict(json.loads(line))
