"""The program around the verbs: its help, its reference page, exit codes, pipes, colour and start-up."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from skulk.cli import options, sse, table, terminal, values
from skulk.cli.exits import ExitCode, exit_code
from skulk.cli.main import GROUPS, VERBS, app
from skulk.cli.reference import reference
from skulk.core import errors
from skulk.core.errors import InvalidInput, Refused, RequestError, SkulkError, Terminal, Transient
from tests.cli.conftest import Skulk
from tests.cli.fake_node import FakeNode

DOCS = Path(__file__).parents[2] / "docs" / "reference"
COMMANDS = [(name, examples) for name, _, examples in VERBS] + [
    (f"{group} {name}", examples) for group, _, verbs in GROUPS for name, _, examples in verbs
]


def test_the_reference_page_is_the_programs_own() -> None:
    assert (DOCS / "cli.md").read_text(encoding="utf-8") == reference(), "run `python -m skulk.cli.reference`"


@pytest.mark.parametrize("name", [name for name, _ in COMMANDS])
def test_every_verb_has_a_heading_and_help(name: str, skulk: Skulk) -> None:
    assert re.search(rf"^##+ skulk {name}$", reference(), re.M)
    result = skulk(*name.split(), "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.stdout


@pytest.mark.parametrize(("name", "examples"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_every_example_is_a_command_that_the_program_takes(name: str, examples: tuple[str, ...]) -> None:
    for line in examples:
        ours = next(part for part in re.split(r"\||>", line) if part.strip().startswith("skulk "))
        words = shlex.split(re.sub(r"\$\([^)]*\)", "0" * 40, ours))
        assert words[1 : 1 + len(name.split())] == name.split()
        command = get_command(app)
        arguments = words[1:]
        context = typer.Context(command, info_name="skulk")
        for _ in name.split():
            command = command.commands[arguments.pop(0)]
            context = typer.Context(command, info_name="skulk", parent=context)
        command.parse_args(context, arguments)


def test_every_exit_code_is_documented() -> None:
    page = (DOCS / "exit-codes.md").read_text(encoding="utf-8")
    documented = {int(number) for number in re.findall(r"^\| (\d+) \|", page, re.M)}
    assert documented == {int(code) for code in ExitCode}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInput(errors.CLI_USAGE, ""), 2),
        (InvalidInput(errors.CFG_INVALID, ""), 2),
        (InvalidInput(errors.SRC_INVALID, ""), 3),
        (Transient(errors.CLI_UNREACHABLE, ""), 4),
        (Transient(errors.CLI_TIMEOUT, ""), 5),
        (Refused(errors.SRC_UNSIGNED, ""), 6),
        (Terminal(errors.CFG_EXPOSED, ""), 6),
        (Terminal(errors.CFG_PORT_TAKEN, ""), 1),
        (Terminal(errors.CLI_DRIFT, ""), 1),
        (RequestError(errors.REQ_NO_KEY, "", status=401), 6),
        (RequestError(errors.REQ_SCOPE, "", status=403), 6),
        (RequestError(errors.REQ_NOT_FOUND, "", status=404), 2),
        (RequestError(errors.CLI_REQUEST, "", status=503), 4),
        (RequestError(errors.CLI_REQUEST, "", status=500), 1),
    ],
)
def test_an_error_ends_in_its_exit_code(error: SkulkError, code: int) -> None:
    assert exit_code(error) == code


@pytest.mark.parametrize(
    "arguments", [("frobnicate",), ("get",), ("get", "nodes", "--frob"), ("get", "nodes", "-o", "xml")]
)
def test_wrong_usage_is_one_line_with_a_code(arguments: tuple[str, ...], skulk: Skulk) -> None:
    result = skulk(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: SK-CLI-001 ")
    assert "--help" in result.stderr


@pytest.mark.parametrize("arguments", [(), ("node",), ("card",)])
def test_nothing_to_do_prints_the_help_and_is_wrong_usage(arguments: tuple[str, ...], skulk: Skulk) -> None:
    result = skulk(*arguments)
    assert result.exit_code == 2
    assert "Commands:" in result.stderr


def test_a_reader_that_goes_away_ends_the_program_quietly(node: FakeNode) -> None:
    # more than a pipe holds, so that the program still writes when the reader has gone
    node.resources["nodes"] = [{"kind": "nodes", "name": f"node-{n}", "status": {}} for n in range(20_000)]
    command = [sys.executable, "-m", "skulk.cli.main", "get", "nodes", "--url", node.url]
    settings = {name: value for name, value in os.environ.items() if not name.startswith("SKULK_")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=settings) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        stderr = process.stderr.read()
        process.wait(timeout=60)
    assert process.returncode == ExitCode.BROKEN_PIPE
    assert stderr == b""


def test_light_verbs_load_no_heavy_libraries() -> None:
    code = (
        "import sys; from skulk.cli.main import app; "
        "print([m for m in ('pydantic', 'fastapi', 'uvicorn', 'jsonschema', 'watchfiles') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class _Screen:
    def __init__(self, tty: bool) -> None:
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty


@pytest.mark.parametrize(
    ("tty", "environment", "colour"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(tty: bool, environment: dict[str, str], colour: bool) -> None:
    assert terminal.has_colour(_Screen(tty), environment) is colour  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (24 * 1024**3, "24GiB"), (None, "-"), ("12", "-"), (True, "-")],
)
def test_sizes_read_at_a_glance(value: object, shown: str) -> None:
    assert values.size(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-5, "0s"), (59.9, "59s"), (60, "1m0s"), (3599, "59m59s"), (7500, "2h5m"), (90_000, "1d1h")],
)
def test_durations_show_two_units(seconds: float, shown: str) -> None:
    assert values.duration(seconds) == shown


def test_a_cell_is_one_line_without_control_characters() -> None:
    assert values.plain("a\n b\x1b[31m\x9b") == "a b[31m"
    assert values.plain(["a", True, 1.5]) == "a,yes,1.5"
    assert values.plain({}) == values.plain([]) == values.plain("") == values.plain(None) == "-"


def test_a_table_never_cuts_a_cell() -> None:
    long = "x" * 500
    assert table.lines([("A", "B"), (long, "1")]) == [f"{'A':<500}  B", f"{long}  1"]


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1.5m", 90), ("1h30m", 5400), ("250ms", 0.25)])
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert options.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "5x", "-5", "1 m", "m"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        options.seconds_of(text)


def test_server_sent_events_are_read_as_the_standard_says() -> None:
    text = ": hello\n\nevent: view\nid: 7\ndata: a\ndata: b\n\ndata:c\r\n\r\nevent: lost\n\ndata: cut off\n"
    assert list(sse.frames(text.splitlines())) == [
        sse.Frame(comment="hello"),
        sse.Frame("a\nb", "view", "7"),
        sse.Frame("c", "message", "7"),
    ]
