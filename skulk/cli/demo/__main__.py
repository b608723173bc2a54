"""The order of the demo: start three nodes, push, watch, ask; then build the second engine, and stay until Ctrl-C."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from skulk.cli.client import FleetClient
from skulk.cli.demo import layout
from skulk.cli.demo.asking import ask, print_lines
from skulk.cli.demo.daemons import Daemons, running, stop_left_over
from skulk.cli.demo.endings import Endings
from skulk.cli.demo.layout import PORT, ROOT, Site, shown
from skulk.cli.demo.showing import Board, lacks_engine, say, serves, views
from skulk.core.errors import SkulkError

QUESTION = "What is 9 * 7?"
MODEL, SECOND_MODEL = "chat", "chat-gguf"
# A fresh clone on an idle machine answers well within this; a loaded one may take longer.
READY_SECONDS_MAX = 300.0
STOPPED = "stopped: daemons, runners and builds are gone"


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; return the exit code: 0 also when Ctrl-C ended it, 2 when something is in the way."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(prog="make demo", description="Three nodes, two engines, one fleet.")
    parser.add_argument("--port", type=int, default=PORT, help="the first of six ports (PORT=)")
    parser.add_argument("--dir", type=Path, default=ROOT / ".demo", help="where everything is written")
    options = parser.parse_args(arguments)
    endings = Endings()
    endings.listen()
    try:
        place = layout.site(options.dir.resolve(), options.port)
        with layout.held(place.work):
            _run(place, endings, began)
    except SkulkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        # Whoever read it is gone, and everything was ended; Python shall not complain about the rest of the output.
        sys.stdout = sys.stderr
        return 0
    say(STOPPED)
    return 0


def _run(place: Site, endings: Endings, began: float) -> None:
    if stop_left_over(layout.earlier_configs(place.work)):
        say("an earlier demo was killed; what it left was stopped")
    layout.refuse_taken(place)
    layout.prepare(place)
    with running(place, endings) as daemons, FleetClient(place.desk.url) as client:
        for node in place.nodes:
            say(f"node {node.name}: {node.url}, planes on {node.planes_port}, log {shown(node.log)}")
        daemons.wait_for_answers()
        commit = layout.push_manifests(place)
        say(f"pushed commit {commit[:12]} to {shown(place.remote)}")
        _Story(place, daemons, client, began, commit).tell()


class _Story:
    """What happens with the running fleet, in order, each step once."""

    def __init__(self, place: Site, daemons: Daemons, client: FleetClient, began: float, commit: str) -> None:
        self._place = place
        self._daemons = daemons
        self._client = client
        self._began = began
        self._commit = commit
        self._board = Board()
        self._asked = False
        self._asked_second = False

    def tell(self) -> None:
        """Show what happens, for ever."""
        tower = self._place.tower
        for view in views(self._client, self._look):
            self._board.show(view)
            if not self._asked and serves(view, MODEL, self._commit):
                self._asked = True
                self._ask_first()
                if lacks_engine(view, tower.name):
                    self._give_engine()
                print_lines(self._place)
            if self._asked:
                self._board.explain_compiler(view, tower.name, SECOND_MODEL)
            if self._asked and not self._asked_second and serves(view, SECOND_MODEL, self._commit):
                self._asked_second = True
                say(f"asking {SECOND_MODEL} through {self._place.desk.name}, {tower.name} answers: {QUESTION}")
                ask(self._client, SECOND_MODEL, QUESTION)
                say(f'both engines serve; try it: skulk run {SECOND_MODEL} "What is 6 * 7?"')

    def _ask_first(self) -> None:
        place = self._place
        say(f"asking {MODEL} through {place.desk.name}, which runs no model, {place.studio.name} answers: {QUESTION}")
        first: list[float] = []
        ask(self._client, MODEL, QUESTION, lambda: first.append(time.monotonic() - self._began))
        if first:
            say(f"first token {first[0]:.1f} s after the start of the demo")

    def _give_engine(self) -> None:
        """Only now: on a fresh machine the tower compiles for minutes, and the first answer goes first."""
        tower = self._place.tower
        layout.write_config(self._place, tower, install=True)
        self._daemons.read_again(tower)
        say(f"{tower.name} now gets llama.cpp, in the background, with low priority, and kept for the next time")

    def _look(self) -> None:
        """At the daemons: until there is an answer, the end of one is the end of the demo; later it is a test."""
        if not self._asked:
            self._daemons.refuse_ended()
            if time.monotonic() - self._began > READY_SECONDS_MAX:
                raise SystemExit(f"error: not ready in time; see {shown(self._place.work)}/*/daemon.log")
        for node in self._daemons.ended():
            config, log = shown(node.config), shown(node.log)
            self._board.once(
                f"daemon/{node.name}",
                f"the daemon of {node.name} has ended, log {log}; another one: skulk node run --config {config}",
            )


if __name__ == "__main__":
    sys.exit(main())
