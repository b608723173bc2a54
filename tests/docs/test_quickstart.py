"""The quick start, done as it is written: its commands in order against a real daemon, its outputs as it says."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import ROOT, Block, blocks

PAGE = ROOT / "docs" / "quickstart.md"
PORT_OF_THE_PAGE = "52415"
ENGINES_OF_THE_PAGE = "~/.cache/skulk/engines"
MARK = "=== block of line"
# It ends a hang; nothing is measured. Two loads of a tiny model and a few polls take well under a minute.
DEADLINE_SECONDS = 240.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def script(commands: list[Block], port: int, engines: Path) -> str:
    """One shell script of all commands, with a mark before each block, so that outputs can be told apart."""
    lines = ["set -euo pipefail"]
    for block in commands:
        text = block.text.replace(PORT_OF_THE_PAGE, str(port)).replace(ENGINES_OF_THE_PAGE, str(engines))
        lines += [f"echo '{MARK} {block.line}'", text]
    return "\n".join(lines)


@contextlib.contextmanager
def workplace(tmp_path: Path) -> Iterator[Path]:
    """A directory that looks like the checkout to the commands; nothing they started is left at the end."""
    checkout = tmp_path / "skulk"
    checkout.mkdir()
    (checkout / ".venv").symlink_to(sys.prefix)
    (checkout / "cards").symlink_to(ROOT / "cards")
    try:
        yield checkout
    finally:
        if (tmp_path / "first-fleet" / "node.toml").exists():
            stop = [sys.executable, "-m", "skulk.cli.main", "node", "stop", "--config", "node.toml"]
            subprocess.run(stop, cwd=tmp_path / "first-fleet", capture_output=True, check=False, timeout=120)


def environment(port: int) -> dict[str, str]:
    people = {f"GIT_{who}_{what}": "t@skulk.invalid" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    unset = {key: value for key, value in os.environ.items() if not key.startswith(("SKULK_", "GIT_"))}
    return {
        **unset,
        **people,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "SKULK_LISTEN__PORT": str(port),
        "SKULK_URL": f"http://127.0.0.1:{port}",
        "NO_COLOR": "1",
    }


def outputs(text: str) -> dict[int, str]:
    """Line of the page at which a block begins → what its commands printed."""
    parts = re.split(rf"^{MARK} (\d+)\n", text, flags=re.MULTILINE)
    return {int(line): output for line, output in zip(parts[1::2], parts[2::2], strict=True)}


def missing_lines(expected: str, printed: str) -> list[str]:
    """The lines of a text block that were not printed, in this order. `…` stands for anything, spaces for some."""
    rest = printed.splitlines()
    missing = []
    for line in expected.strip().splitlines():
        words = [re.escape(part).replace(r"\ ", r"\s+") for part in re.sub(r" +", " ", line).split("…")]
        pattern = re.compile(".*".join(words).replace(r"\s+.*", r"\s*.*") + r"\s*$")
        for index, candidate in enumerate(rest):
            if pattern.match(candidate):
                rest = rest[index + 1 :]
                break
        else:
            missing.append(line)
    return missing


@pytest.mark.e2e
@pytest.mark.engine
def test_the_commands_do_what_the_page_says(tmp_path: Path, engines_dir: Path) -> None:
    page = [block for block in blocks(PAGE) if block.language in ("console", "text")]
    port = free_port()
    with workplace(tmp_path) as checkout:
        text = script([block for block in page if block.language == "console"], port, engines_dir)
        # Files instead of pipes: the daemon in the background would keep a pipe open beyond the end of the shell.
        with (tmp_path / "out").open("wb") as out:
            shell = subprocess.Popen(
                ["bash", "-c", text],
                cwd=checkout,
                env=environment(port),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
            try:
                status = shell.wait(DEADLINE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(shell.pid, signal.SIGKILL)
                status = shell.wait()
        printed = (tmp_path / "out").read_text("utf-8", "replace")
        log = tmp_path / "first-fleet" / "daemon.log"
        assert status == 0, f"{printed}\n{log.read_text('utf-8', 'replace')[-4000:] if log.exists() else ''}"
        assert '"daemon_ended"' in log.read_text("utf-8", "replace")
    found = outputs(printed)
    before = 0
    for block in page:
        if block.language == "console":
            before = block.line
        else:
            assert missing_lines(block.text, found[before]) == [], f"line {block.line}:\n{found[before]}"
    assert "Paris" in printed


def test_a_changed_output_would_be_noticed() -> None:
    assert missing_lines("a  b …\n9 * 7 = 63\n", "x\na b  whatever\n9 * 7 = 63\n") == []
    assert missing_lines("9 * 7 = 63\n", "9 * 7 = 64\n") == ["9 * 7 = 63"]
    assert missing_lines("second\nfirst\n", "first\nsecond\n") == ["first"]
