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
from typing import Any, Self

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
    with _Signals() as signals, _private_folder(environment) as folder:
        path = folder / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(plain)
        try:
            with subprocess.Popen([*command, str(path)]) as process:
                signals.reach(process)
                ended = process.wait()
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


class _Signals:
    """Ctrl-C is the editor's while it runs. Being told to end, or losing the terminal, ends the editor and raises
    SystemExit when the file is removed.

    Nothing is raised before: where the editor is being started, it would stay behind. Functions, not SIG_IGN: the
    editor would inherit that.
    """

    def __init__(self) -> None:
        self._told: int | None = None
        self._editor: subprocess.Popen[bytes] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            wanted = {signal.SIGINT: _left_to_the_editor, signal.SIGTERM: self._end, signal.SIGHUP: self._end}
            self._before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
        return self

    def reach(self, editor: subprocess.Popen[bytes]) -> None:
        """It ends with this process, or at once if this one was told to meanwhile."""
        self._editor = editor
        if self._told is not None:
            editor.kill()

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._told = number
        if self._editor is not None:
            self._editor.kill()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._told is not None:
            raise SystemExit(128 + self._told)


def _left_to_the_editor(number: int, frame: FrameType | None) -> None:
    pass
