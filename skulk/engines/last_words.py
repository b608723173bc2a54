"""The file a runner leaves when it ends: an adopted runner is nobody's child, so its exit code is unknowable."""

from __future__ import annotations

import json
import os
from pathlib import Path

from skulk.core.domain.runners import LastWords

FILE = "last_words.json"
MESSAGE_CHARACTERS_MAX = 4000
"""Enough for an error with its cause; a condition shows it whole."""


def write_last_words(directory: Path, words: LastWords) -> None:
    """Write atomically. Never raises: a full disk must not keep a runner from ending."""
    body = {"exitCode": words.exit_code, "code": words.code, "message": words.message[:MESSAGE_CHARACTERS_MAX]}
    scratch = directory / f"{FILE}.{os.getpid()}"
    try:
        with scratch.open("w", encoding="utf-8", errors="replace") as file:
            json.dump(body, file)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(directory / FILE)
    except OSError:
        return
