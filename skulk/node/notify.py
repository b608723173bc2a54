"""What the service manager is told: ready, stopping, and that the event loop turns (sd_notify(3), and
sd_watchdog_enabled(3)).

Without one (`NOTIFY_SOCKET` is not set) nothing happens. The watchdog is kicked by the event loop and only while the
node loop turns, so that a daemon that hangs is ended and started again; its runners live on.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Mapping

from skulk.core.ports import Clock

# Half of the time allowed, as the manual advises; and often enough to notice soon when there is no watchdog.
PAUSE_SECONDS_DEFAULT = 10.0


class ServiceManager:
    """Messages to the manager that started this process, if one did."""

    def __init__(self, environment: Mapping[str, str], pid: int) -> None:
        """`environment` is read for NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID."""
        self._address = environment.get("NOTIFY_SOCKET", "")
        meant = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        usec = environment.get("WATCHDOG_USEC", "")
        self.watchdog_seconds = int(usec) / 1e6 if meant and usec.isascii() and usec.isdecimal() else None

    def tell(self, state: str) -> None:
        """One message, such as `READY=1`. A manager that does not listen is no reason to fail."""
        if not self._address:
            return
        # A leading @ stands for the abstract namespace.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(state.encode(), address)

    async def watch(self, clock: Clock, turns: Callable[[], bool]) -> None:
        """Say that the daemon is alive, while `turns` says so. Never returns."""
        pause = PAUSE_SECONDS_DEFAULT if self.watchdog_seconds is None else self.watchdog_seconds / 2
        while True:
            if self.watchdog_seconds is not None and turns():
                self.tell("WATCHDOG=1")
            await clock.sleep(pause)
