"""Entry of a runner process: `<python of the environment> -I -B …/skulk/engines/run.py <placement directory>`.

The daemon has made a new session, put stdout and stderr into a file, opened the listening socket
(SKULK_SOCKET_FD) and locked the lock file (SKULK_LOCK_FD). This file puts the code directory it lies in first on
sys.path, so it imports nothing of Skulk at module level. Exit codes: 0 asked to or orphaned, 1 failure, 86 wedge.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from skulk.core.domain.runners import LastWords, Launch
    from skulk.engines.engine import Engine

log = logging.getLogger("skulk.runner")


def main(argv: list[str]) -> NoReturn:
    """Run until the end of the runner, then end the process hard: engine threads may never return."""
    # Importable is what lies here and what the environment holds; `-I` has already shut out everything else.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from skulk.core.domain.runners import LastWords
    from skulk.core.errors import RUN_START, SkulkError

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    faulthandler.enable()
    directory = Path(argv[1])
    try:
        words = asyncio.run(_run(directory))
    except SkulkError as error:
        words = LastWords(1, error.code.id, error.message)
    except Exception as error:
        log.exception("the runner failed")
        words = LastWords(1, RUN_START.id, f"{type(error).__name__}: {error}")
    _leave(directory, words)


async def _run(directory: Path) -> LastWords:
    from skulk.core.domain.runners import LastWords
    from skulk.core.errors import RUN_WEDGED
    from skulk.core.wire.launch import launch_from_json
    from skulk.engines.runner import Runner
    from skulk.engines.watchdog import STEP_DEADLINE_SECONDS, Activity, Watchdog

    launch = launch_from_json(json.loads((directory / "launch.json").read_text(encoding="utf-8")))
    log.info("runner %s of %s, engine %s", launch.uid, launch.deployment, launch.engine)
    listener = _inherited_descriptors()
    runner = Runner(launch, listener, _engine(launch))

    def wedged(message: str) -> None:
        words = LastWords(LastWords.WEDGE_EXIT_CODE, RUN_WEDGED.id, message)
        faulthandler.dump_traceback(all_threads=True)
        _leave(directory, words)

    deadlines = {
        Activity.WARMING: _seconds("SKULK_WARMUP_DEADLINE_SECONDS", launch.warmup_deadline_seconds),
        Activity.STEPPING: _seconds("SKULK_STEP_DEADLINE_SECONDS", STEP_DEADLINE_SECONDS),
    }
    # A template that never ends holds up every later request.
    deadlines[Activity.PREPARING] = deadlines[Activity.STEPPING]
    for pulse in (runner.pulse, runner.preparing):
        Watchdog(pulse, deadlines, wedged).start()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, runner.stop, f"stopped by {number.name}")
    return await runner.run()


def _inherited_descriptors() -> socket.socket:
    """The listening socket. The lock stays open for life; neither reaches a process that an engine starts (a
    compiler), or the lock would outlive the runner."""
    os.set_inheritable(int(os.environ["SKULK_LOCK_FD"]), False)
    descriptor = int(os.environ["SKULK_SOCKET_FD"])
    os.set_inheritable(descriptor, False)
    return socket.socket(fileno=descriptor)


def _engine(launch: Launch) -> Engine:
    """The engine that the launch names. Raises EngineFailure for an unknown one."""
    from skulk.core.errors import ENG_MISSING
    from skulk.engines.engine import EngineFailure

    match launch.engine:
        case "mlx":
            from skulk.engines.mlx.engine import MlxEngine

            return MlxEngine(launch)
        case "llama_cpp":
            from skulk.engines.llama_cpp.engine import LlamaCppEngine

            return LlamaCppEngine(launch)
        case "scripted":
            from skulk.engines.scripted import ScriptedEngine

            return ScriptedEngine(launch)
        case other:
            raise EngineFailure(ENG_MISSING, f"this version has no engine {other!r}")


def _seconds(variable: str, default: float) -> float:
    value = os.environ.get(variable)
    return float(value) if value else default


def _leave(directory: Path, words: LastWords) -> NoReturn:
    from skulk.engines.last_words import write_last_words

    write_last_words(directory, words)
    log.info("ends with %s: %s %s", words.exit_code, words.code or "", words.message)
    logging.shutdown()
    os._exit(words.exit_code if words.exit_code is not None else 1)


if __name__ == "__main__":
    main(sys.argv)
