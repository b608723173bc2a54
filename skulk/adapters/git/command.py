"""Runs one git command: own process group, deadline, bounded output, an environment without surprises.

Two kinds of command. *Network* commands (fetch, ls-remote) see the user's git configuration, because credential
helpers, proxies, CA bundles and ssh settings live there. *Local* commands see none of it, so that what a commit
contains and whether its signature counts depends on the mirror and on our arguments only. Neither runs hooks,
checks anything out, follows submodules or speaks a transport outside `PROTOCOLS`. Does not interpret what git
says: that is `failures`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skulk.adapters import child
from skulk.adapters.child import Child, Pipe
from skulk.core.errors import SRC_TIMEOUT, SRC_UNREACHABLE, Terminal, Transient

# Everything else is a remote helper, that is, a program of the user's choice (`ext::` runs a shell command).
PROTOCOLS = ("file", "git", "http", "https", "ssh")

# Between the polite and the hard signal: git removes its lock and temporary files on SIGTERM.
TERMINATE_GRACE_SECONDS = 1.0
# A killed group is gone in milliseconds; what hangs inside the kernel is not waited for.
REAP_SECONDS_MAX = 5.0

# Largest answer that a command may give: the manifests of the largest fleet (64 MiB) and headers fit.
STDOUT_BYTES_MAX = 96 * 1024 * 1024
# git's complaints are a few lines; a remote may send progress and banners without end.
STDERR_BYTES_MAX = 256 * 1024

_CHUNK_BYTES = 64 * 1024

# Set by a surrounding git process (a hook, for example): they would point us at another repository.
# The TRACE family prints credentials of HTTP requests to stderr. A graphical password prompt must not pop up.
_DROPPED = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
    "GIT_SHALLOW_FILE",
    "GIT_GRAFT_FILE",
    "GIT_REPLACE_REF_BASE",
    "GIT_QUARANTINE_PATH",
    "GIT_CONFIG",
    "GIT_CONFIG_PARAMETERS",
    "GIT_CURL_VERBOSE",
    "GIT_EXTERNAL_DIFF",
    "SSH_ASKPASS",
)
_DROPPED_PREFIXES = ("GIT_TRACE",)

# On the command line, so that no configuration file can undo them.
_ALWAYS = (
    f"core.hooksPath={os.devnull}",
    "core.fsmonitor=false",
    "protocol.ext.allow=never",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "fetch.writeCommitGraph=false",
    "transfer.bundleURI=false",
    "log.showSignature=false",
    # Unreachable objects stay: the accepted commit must outlive a force-push. Manifests are small.
    "gc.pruneExpire=never",
    # Housekeeping inside the command, under its deadline, rather than in a process nobody waits for.
    "gc.autoDetach=false",
    "maintenance.autoDetach=false",
)


@dataclass(frozen=True, slots=True)
class Output:
    """What a command left: exit status, standard output (bytes), error text (malformed bytes escaped)."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def ok(self) -> bool:
        return self.status == 0


def environment(*, network: bool, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a git command, from this process's own."""
    env = {
        key: value for key, value in os.environ.items() if key not in _DROPPED and not key.startswith(_DROPPED_PREFIXES)
    }
    if not network:
        env = {key: value for key, value in env.items() if not key.startswith("GIT_CONFIG_")}
        env |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    return env | {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": ":".join(PROTOCOLS),
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "SSH_ASKPASS_REQUIRE": "never",
        "LC_ALL": "C",
        "LANGUAGE": "",
        **(extra or {}),
    }


class AnswerTooLong(Transient):
    """git had more to say than the caller wanted to hear."""


async def git(
    *arguments: str,
    timeout_seconds: float,
    mirror: Path | None = None,
    network: bool = False,
    settings: Sequence[str] = (),
    extra: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    stdout_bytes_max: int = STDOUT_BYTES_MAX,
) -> Output:
    """Run `git [-c setting…] [--git-dir=mirror] arguments…` to its end.

    Raises Transient SRC_TIMEOUT past the deadline (the whole process group is gone by then), AnswerTooLong over
    `stdout_bytes_max`; Terminal SRC_UNREACHABLE when there is no git program. A non-zero status is no exception.
    """
    command = ["git"]
    for setting in (*_ALWAYS, *settings):
        command += ["-c", setting]
    if mirror is not None:
        command.append(f"--git-dir={mirror}")
    command += arguments
    try:
        # A session of its own: no terminal for ssh to prompt on, and one process group to end with all its children.
        process = child.start(
            command, environment=environment(network=network, extra=extra), cwd="/", feeds=stdin is not None
        )
    except FileNotFoundError:
        raise Terminal(
            SRC_UNREACHABLE, "the program git was not found", fix="install git and restart the node"
        ) from None
    with contextlib.closing(process):
        finished = False
        talk = (
            asyncio.ensure_future(_feed(process, stdin)),
            asyncio.ensure_future(_collect(process.stdout, stdout_bytes_max, overflow_ends=True)),
            asyncio.ensure_future(_collect(process.stderr, STDERR_BYTES_MAX, overflow_ends=False)),
        )
        try:
            async with asyncio.timeout(timeout_seconds):
                _, stdout, stderr = await asyncio.gather(*talk)
                status = await process.wait()
            finished = True
        except TimeoutError:
            raise Transient(SRC_TIMEOUT, f"git {arguments[0]} did not finish within {timeout_seconds:g} s") from None
        finally:
            if not finished:
                # One that failed leaves the others running, and nobody may hold a pipe that is closed.
                for part in talk:
                    part.cancel()
                await asyncio.gather(*talk, return_exceptions=True)
                await _end(process)
    return Output(status, stdout, stderr.decode("utf-8", "backslashreplace"))


async def _feed(process: Child, data: bytes | None) -> None:
    if data is None or process.stdin is None:
        return
    # A command that fails early stops reading; its own message says why.
    with contextlib.suppress(BrokenPipeError):
        await process.stdin.write(data)
    process.stdin.close()


async def _collect(pipe: Pipe, bytes_max: int, *, overflow_ends: bool) -> bytes:
    kept = bytearray()
    while chunk := await pipe.read(_CHUNK_BYTES):
        if len(kept) + len(chunk) <= bytes_max:
            kept += chunk
        elif overflow_ends:
            raise AnswerTooLong(SRC_UNREACHABLE, f"git answered more than {bytes_max} bytes")
    return bytes(kept)


async def _end(process: Child) -> None:
    """Make sure that nothing of the command is left: first politely, then hard."""
    process.signal(signal.SIGTERM)
    try:
        await _gone(process, TERMINATE_GRACE_SECONDS)
    finally:
        # Also when git itself is gone: its transport helper or ssh may ignore the polite signal.
        process.signal(signal.SIGKILL)
    await _gone(process, REAP_SECONDS_MAX)


async def _gone(process: Child, seconds: float) -> None:
    """Wait at most `seconds` for the end."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await process.wait()
