"""One node's planes as a process of its own, for tests that end it the hard way. Arguments: one JSON object."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from skulk.adapters.zenoh import PlaneSettings, TlsFiles, open_planes
from skulk.core.domain import BootId, Life, NodeName
from skulk.node.clock import SystemClock
from tests.planes.planeworlds import CountingHost


async def main() -> None:
    given = json.loads(sys.argv[1])
    files = TlsFiles(*(Path(path) for path in given["tls"]))
    settings = PlaneSettings("demo", tuple(given["listen"]), tuple(given["dial"]), given["mode"], files)
    clock = SystemClock()
    life = Life(NodeName(given["node"]), BootId(os.urandom(8).hex()), given["life"])
    keys = {NodeName(name): bytes.fromhex(key) for name, key in given["keys"].items()}
    host = CountingHost(clock, pace=0.01)
    planes = await open_planes(settings, life, keys=keys, clock=clock, host=host, wake=lambda: None)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    # The end of standard input asks for a clean end; the exit code says whether it was one in time.
    os._exit(0 if await planes.close(5.0) else 3)


if __name__ == "__main__":
    asyncio.run(main())
