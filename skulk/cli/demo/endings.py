"""How the demo ends: the first Ctrl-C (or SIGTERM, or the end of the terminal) begins it, the next ones are ignored,
so that the cleaning is never cut short. What must not be torn apart is shielded: the signal waits for its end.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Endings:
    """Raises KeyboardInterrupt, once, in the main thread."""

    def __init__(self) -> None:
        self._shielded = False
        self._waiting = False

    def listen(self) -> None:
        """Take the signals from now on."""
        for number in SIGNALS:
            signal.signal(number, self._caught)

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """The signal is raised at the end of the block, if it comes inside."""
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False
        if self._waiting:
            self._waiting = False
            raise KeyboardInterrupt

    def begun(self) -> None:
        """The demo ends for another reason: nothing shall interrupt it any more."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self.begun()
        if self._shielded:
            self._waiting = True
        else:
            raise KeyboardInterrupt
