"""The bare engine loop: our engine's code driven directly, with no socket, queue or gateway around it.

`<python of the engine's environment> -I -B bare_engine.py ROOT LAUNCH`: ROOT holds the package skulk, LAUNCH is the
file that a runner was started with. Loads and warms up, then answers each line on stdin, a JSON object with texts,
tokens, temperature and apart: the texts are generated together, as far as there are slots, each begun that many seconds
after the one before. One JSON line each on stdout, the first when it is ready. Imports nothing of Skulk before ROOT is
on the path.
"""

from __future__ import annotations

import collections
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def main(root: str, launch_file: str) -> None:
    sys.path.insert(0, root)
    # A library that prints must not come between the answers.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    engine = made(launch_file)
    engine.load(lambda share: None)
    engine.warm_up(lambda: None)
    print(json.dumps({"version": engine.version}), file=out)
    for number, line in enumerate(sys.stdin):
        order = json.loads(line)
        print(json.dumps(generated(engine, number, **order)), file=out)


def made(launch_file: str) -> Any:
    from skulk.core.wire.launch import launch_from_json

    launch = launch_from_json(json.loads(Path(launch_file).read_text("utf-8")))
    if launch.engine == "mlx":
        from skulk.engines.mlx.engine import MlxEngine

        return MlxEngine(launch)
    from skulk.engines.llama_cpp.engine import LlamaCppEngine

    return LlamaCppEngine(launch)


def generated(
    engine: Any, number: int, texts: list[str], tokens: int, temperature: float, apart: float
) -> dict[str, object]:
    """Seconds to the first token of each text from the moment when it was due, and what it cost altogether."""
    from skulk.core.domain.ids import RequestId
    from skulk.core.domain.requests import GenerationRequest, Message, Sampling
    from skulk.engines.engine import Job

    waiting = collections.deque(enumerate(texts))
    running: dict[RequestId, int] = {}
    first: dict[int, float] = {}
    count = 0
    cpu, began = time.process_time(), time.perf_counter()
    while waiting or running:
        while waiting and len(running) < engine.slots and time.perf_counter() >= began + waiting[0][0] * apart:
            index, text = waiting.popleft()
            name, sampling = RequestId(f"bare-{number}-{index}"), Sampling(seed=index, temperature=temperature)
            request = GenerationRequest(name, "", (Message("user", text),), sampling, max_tokens=tokens)
            engine.start(Job(name, engine.render(request).ids, sampling, tokens))
            running[name] = index
        if not running:
            time.sleep(max(0.0, began + waiting[0][0] * apart - time.perf_counter()))
            continue
        for emission in engine.step():
            index = running[emission.request]
            if emission.ids:
                count += len(emission.ids)
                first.setdefault(index, time.perf_counter() - (began + index * apart))
            if emission.finish is not None:
                del running[emission.request]
    return {
        "first": [first[index] for index in range(len(texts))],
        "tokens": count,
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - cpu,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
