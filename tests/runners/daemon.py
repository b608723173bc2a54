"""A daemon in a process of its own, to be killed: starts one runner, may stream from it, tells what it sees.

usage: daemon.py RUN_DIR CODE_DIR LAUNCH_JSON started|loading|ready|streaming
Prints the pid of the runner when it is as far as asked and then waits for its end.
"""

import asyncio
import json
import sys
from pathlib import Path

from skulk.adapters.runners import RunnerProcesses
from skulk.core.domain import (
    BootId,
    GenerationRequest,
    Link,
    Message,
    NodeName,
    Owner,
    RequestId,
    RunnerReport,
    Sampling,
)
from skulk.core.wire.launch import launch_from_json


async def main(run_dir: str, code_dir: str, launch_json: str, until: str) -> None:
    changed = asyncio.Event()
    owner = Owner(NodeName("here"), BootId("boot-of-the-killed"))
    host = RunnerProcesses(
        Path(run_dir),
        owner,
        interpreter=lambda launch: Path(sys.executable),
        code_dir=Path(code_dir),
        wake=changed.set,
        load_changed=changed.set,
    )
    await host.take_stock()
    launch = launch_from_json(json.loads(launch_json))
    await host.start(launch)

    def reached() -> bool:
        facts = host.observe()[launch.uid]
        if until == "started":
            return True
        if until == "loading":
            return facts.link is Link.CONNECTED and facts.report is RunnerReport.LOADING
        return facts.link is Link.CONNECTED and facts.report is RunnerReport.READY

    while not reached():
        await changed.wait()
        changed.clear()
    if until == "streaming":
        request = GenerationRequest(
            RequestId("of-the-killed"), "m", (Message("user", "x"),), Sampling(seed=1), max_tokens=50_000
        )
        generation = await host.generate(launch.uid, request, owner)
        await generation.follow(lambda first: False)
    print(host.observe()[launch.uid].pid, flush=True)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
