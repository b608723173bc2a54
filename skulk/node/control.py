"""`skulk node stop`: drain and stop the runners and the daemon of a state directory, and wait until they are gone.

The daemon is asked by a signal and does the work itself. When it is gone already (killed, crashed), its runners are
adopted and stopped by this process.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from skulk.core import errors
from skulk.core.reconcile import limits
from skulk.node.config import load_config
from skulk.node.lock import StateLock

# Streams may finish, then runners drain and stop, then the group is killed: all deadlines in a row, and some room.
STOP_SECONDS_MAX = limits.CLOSE_STREAMS_SECONDS_MAX + limits.DRAIN_SECONDS_MAX + limits.STOP_SECONDS_MAX + 20.0


def stop(config_path: Path) -> int:
    """Return the exit code: 0 when nothing of this node runs any more, 1 when a runner could not be stopped.

    Raises Terminal when the daemon does not end.
    """
    config = load_config(config_path)
    lock = StateLock(config.state_dir)
    pid = lock.holder()
    if pid is not None:
        os.kill(pid, signal.SIGUSR1)
        deadline = time.monotonic() + STOP_SECONDS_MAX
        while lock.holder() is not None:
            if time.monotonic() > deadline:
                raise errors.Terminal(
                    errors.CFG_STATE_LOCKED, f"the daemon (pid {pid}) did not stop", fix="read its log; kill it"
                )
            time.sleep(0.1)
        return 0
    if not config.state_dir.is_dir():
        return 0
    from skulk.node.daemon import stop_runners

    return stop_runners(config)
