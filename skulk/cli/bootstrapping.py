"""A running bootstrap on the screen: a line for each task that changed something or failed, and on a terminal, below
them, one line per node that says where it is now. All of it on stderr; the result is printed by the verb.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from skulk.cli.terminal import Ink, paint
from skulk.core.bootstrap import Event, HostBegan, HostDone, Outcome, Picture, TaskBegan, fold, read_event

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

# The seconds of the running tasks are drawn; more often nobody reads them.
REDRAWS_PER_SECOND = 2

_INK = {
    Outcome.OK: Ink.GOOD,
    Outcome.CHANGED: Ink.CAUTION,
    Outcome.FAILED: Ink.BAD,
    Outcome.UNREACHABLE: Ink.BAD,
    Outcome.SKIPPED: Ink.DIM,
}


class Progress:
    """Takes events; `picture` is what came out of them so far."""

    def __init__(self, nodes: Sequence[str], *, verbose: bool) -> None:
        self.picture = Picture()
        self._nodes = nodes
        self._width = max(map(len, nodes), default=0)
        self._verbose = verbose
        self._role = ""
        self._began: dict[str, float] = {}
        self._live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """While this is open, a terminal has the nodes' lines at its lower end."""
        if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            yield
            return
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True, highlight=False)
        with Live(
            console=console,
            get_renderable=self._screen,
            refresh_per_second=REDRAWS_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as self._live:
            yield
        self._live = None

    def take(self, raw: Mapping[str, object]) -> None:
        """One event of ansible-runner."""
        event = read_event(raw)
        if event is None:
            return
        self.picture = fold(self.picture, event)
        if isinstance(event, HostBegan):
            self._began[event.host] = time.monotonic()
        for line in self._lines(event):
            self.say(line)

    def say(self, line: str) -> None:
        if self._live is None:
            print(line, file=sys.stderr, flush=True)
        else:
            from rich.text import Text

            self._live.console.print(Text.from_ansi(line), soft_wrap=True)

    def _lines(self, event: Event) -> Iterator[str]:
        if isinstance(event, TaskBegan):
            role = event.task.role
            # a pipe has no line that moves: without this, minutes of unchanged tasks would be silence
            if self._live is None and role and role != self._role:
                yield f"▸ role {role}"
            self._role = role
        elif isinstance(event, HostDone):
            quiet = event.outcome in (Outcome.OK, Outcome.SKIPPED)
            if self._verbose or not (quiet or event.ignored):
                word = "failed, which does not matter" if event.ignored else event.outcome.value
                painted = paint(word, Ink.DIM if event.ignored else _INK[event.outcome], stream=sys.stderr)
                yield f"▸ {event.host.ljust(self._width)}  {event.task.title}  {painted}"

    def _screen(self) -> Text:
        from rich.text import Text

        now = time.monotonic()
        screen = Text(no_wrap=True, overflow="ellipsis")
        for number, name in enumerate(self._nodes):
            node = self.picture.nodes.get(name)
            line = "waiting"
            if node is not None and node.failures and node.at is None:
                line = node.failures[-1].outcome.value
            elif node is not None:
                counted = ", ".join(f"{count} {outcome}" for outcome, count in node.counts.items())
                seconds = f"{now - self._began.get(name, now):.0f} s"
                at = f"{node.at.title}  {seconds}" if node.at is not None else "between tasks"
                line = f"{at}  ({counted})" if counted else at
            screen.append(("\n" if number else "") + f"  {name.ljust(self._width)}  ")
            screen.append(line, style="dim")
        return screen
