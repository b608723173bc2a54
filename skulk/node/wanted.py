"""Which version the Fleet wants, by the last commit that this node's daemon accepted and nobody but it verified.

`python -m skulk.node.wanted NODE_TOML` prints it as JSON, from the state directory alone: nothing is fetched, locked or
written, so a running daemon does not notice. A program of its own, because root asks and must not read that directory:
its files belong to the daemon's account, and git runs programs that the settings beside its objects name.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from skulk.core.errors import REL_WANTED, SkulkError, Terminal
from skulk.core.manifests import load
from skulk.core.update import VERSION
from skulk.node.config import NodeConfig, load_config
from skulk.node.journal import FileJournal
from skulk.node.repository import repository

READ_SECONDS_MAX = 120
"""A large fleet takes a second; a disk that wakes up takes longer."""
ANSWER_BYTES_MAX = 4096
_PASSED_ON = frozenset({"PATH", "LANG", "LC_ALL", "TZ"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """`version` is None when no commit was accepted yet, or when its Fleet names none."""

    commit: str | None
    version: str | None


async def read(config: NodeConfig) -> Wanted:
    """In this process, as this account. Raises SkulkError when the accepted commit cannot be read."""
    accepted = FileJournal(config.state_dir / "journal.json").load().accepted
    if accepted is None:
        return Wanted(None, None)
    loaded = load(await repository(config).tree(accepted), accepted)
    if loaded.fleet is None:
        raise Terminal(REL_WANTED, f"commit {accepted[:12]} was accepted, but this version cannot read its manifests")
    return Wanted(accepted, loaded.fleet.version)


def ask(config_path: Path, config: NodeConfig) -> Wanted:
    """In another process, which root starts as the owner of the state directory. Raises Terminal REL_WANTED."""
    try:
        owner = config.state_dir.stat()
    except OSError as error:
        raise Terminal(REL_WANTED, f"{config.state_dir}: {error.strerror}") from error
    variables = {name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith("SKULK_")}
    command = [sys.executable, "-I", "-m", "skulk.node.wanted", str(config_path.absolute())]
    drop = os.geteuid() == 0 and owner.st_uid != 0
    try:
        done = subprocess.run(
            command,
            env=variables | {"HOME": str(config.state_dir)},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            user=owner.st_uid if drop else None,
            group=owner.st_gid if drop else None,
            extra_groups=[] if drop else None,
        )
    except OSError as error:
        raise Terminal(REL_WANTED, f"{config.state_dir}: {error}") from error
    return _answer(done, config.state_dir)


def _answer(done: subprocess.CompletedProcess[bytes], state_dir: Path) -> Wanted:
    """What the other process says is not to be believed further than its form."""
    try:
        raw = json.loads(done.stdout[:ANSWER_BYTES_MAX]) if done.returncode == 0 else {}
        commit, version, error = raw.get("commit"), raw.get("version"), raw.get("error")
    except (ValueError, AttributeError):
        raw, commit, version, error = {}, None, None, None
    if not raw or error is not None:
        said = str(error) if error else done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise Terminal(REL_WANTED, f"{state_dir}: {said or 'no answer'}")
    if version is not None and (not isinstance(version, str) or VERSION.fullmatch(version) is None):
        raise Terminal(REL_WANTED, f"{state_dir}: the accepted commit wants {str(version)[:80]!r}, which is no version")
    return Wanted(commit if isinstance(commit, str) else None, version)


def main(arguments: list[str]) -> int:
    """Prints `{"commit", "version"}`, or `{"error"}`."""
    # By itself: who asks may have no right left to end a process of another account.
    signal.alarm(READ_SECONDS_MAX)
    try:
        found = asyncio.run(read(load_config(Path(arguments[0]))))
        answer: dict[str, str | None] = {"commit": found.commit, "version": found.version}
    except SkulkError as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
