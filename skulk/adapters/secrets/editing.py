"""Lets a person's editor change a secret: in a private folder in memory where there is one, gone afterwards.

The folder goes with everything in it, so also what the editor leaves beside the file. Only SIGKILL or a power cut can
leave it behind, which is why a file system in memory is preferred.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from skulk.adapters.secrets.files import read_bounded
from skulk.core.errors import SEC_EDITOR, InvalidInput

_DEFAULT_EDITOR = "vi"
# As a shell says it for a program that was ended by Ctrl-C.
_INTERRUPTED = (-signal.SIGINT, 128 + signal.SIGINT)


def edited(name: str, plain: bytes, bytes_max: int, environment: Mapping[str, str] = os.environ) -> bytes:
    """What the person's editor ($VISUAL, $EDITOR, vi) makes of `plain`.

    Raises InvalidInput SEC_EDITOR when the editor cannot be started, fails, or leaves no file of at most `bytes_max`;
    KeyboardInterrupt when Ctrl-C ended it, SystemExit when this process is told to end meanwhile.
    """
    command = _command(environment)
    with _signals_turned_into_exits(), _private_folder(environment) as folder:
        path = folder / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(plain)
        try:
            ended = subprocess.run([*command, str(path)], check=False).returncode
        except OSError as error:
            raise InvalidInput(SEC_EDITOR, f"the editor {command[0]} cannot be started: {error.strerror}") from None
        if ended in _INTERRUPTED:
            raise KeyboardInterrupt
        if ended != 0:
            raise InvalidInput(SEC_EDITOR, f"the editor {command[0]} ended with {ended}; nothing was changed")
        try:
            return read_bounded(path, bytes_max, SEC_EDITOR)
        except InvalidInput as error:
            # Not the path: it is gone by the time that somebody reads this.
            what = error.message.replace(str(path), "what the editor left")
            raise InvalidInput(SEC_EDITOR, f"{what}; nothing was changed") from None


def _command(environment: Mapping[str, str]) -> list[str]:
    line = environment.get("VISUAL") or environment.get("EDITOR") or _DEFAULT_EDITOR
    try:
        command = shlex.split(line)
    except ValueError:
        command = []
    if not command:
        raise InvalidInput(SEC_EDITOR, f"{line!r} is no command; nothing was changed")
    return command


@contextmanager
def _private_folder(environment: Mapping[str, str]) -> Iterator[Path]:
    places = (environment.get("XDG_RUNTIME_DIR"), "/dev/shm")
    parent = next((place for place in places if place and os.access(place, os.W_OK | os.X_OK)), None)
    folder = Path(tempfile.mkdtemp(prefix="skulk-secret-", dir=parent))  # mode 0700
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def _signals_turned_into_exits() -> Iterator[None]:
    """Ctrl-C is the editor's while it runs; being told to end, or losing the terminal, still removes the file.

    Functions, not SIG_IGN: the editor would inherit that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = {signal.SIGINT: _left_to_the_editor, signal.SIGTERM: _exit, signal.SIGHUP: _exit}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _left_to_the_editor(number: int, frame: FrameType | None) -> None:
    pass


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
