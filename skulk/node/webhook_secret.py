"""Reads the secret of the git forge's webhooks from where node.toml says it stands. Never logs or shows it."""

from __future__ import annotations

import os
import stat
from collections.abc import MutableMapping
from pathlib import Path

from skulk.core.errors import CFG_INVALID, InvalidInput
from skulk.core.webhooks import signing_key
from skulk.node.config import WebhookTable

# Shorter ones can be guessed from a recorded delivery; `openssl rand -hex 32` gives 64.
SECRET_CHARACTERS_MIN = 16
# A longer file is something else.
SECRET_BYTES_MAX = 4096


def webhook_secret(table: WebhookTable, environment: MutableMapping[str, str] = os.environ) -> bytes | None:
    """The secret, without blanks around it; None when none is configured.

    A variable is taken out of `environment`, so that no child process inherits it. Raises InvalidInput CFG_INVALID
    when the place is empty, unreadable, or readable by everybody.
    """
    if table.secret_file is not None:
        key, found = "webhook.secretFile", _from_file(table.secret_file)
    elif table.secret_env is not None:
        key, found = "webhook.secretEnv", environment.pop(table.secret_env, "").encode("utf-8", "surrogateescape")
        if not found:
            raise _invalid(f"{key}: the variable {table.secret_env} is not set", "set it for the daemon's process")
    else:
        return None
    secret = found.strip()
    if len(secret) < SECRET_CHARACTERS_MIN:
        raise _invalid(
            f"{key}: the secret has {len(secret)} characters; at least {SECRET_CHARACTERS_MIN} are needed",
            "make one with: openssl rand -hex 32",
        )
    try:
        signing_key(secret)
    except ValueError as error:
        raise _invalid(f"{key}: {error}", "copy the whole signing token") from None
    return secret


def _from_file(path: Path) -> bytes:
    try:
        # Not blocking: a pipe without a writer would hold up the start for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                raise _invalid(f"webhook.secretFile: {path} is no file", "name the file that holds the secret")
            if facts.st_mode & stat.S_IRWXO:
                raise _invalid(
                    f"webhook.secretFile: everybody on this machine has access to {path}", f"chmod o-rwx {path}"
                )
            data = file.read(SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise _invalid(
            f"webhook.secretFile: {path} cannot be read: {error.strerror}", "bring it there, readable by the daemon"
        ) from None
    if len(data) > SECRET_BYTES_MAX:
        raise _invalid(f"webhook.secretFile: {path} is too long for a secret", "put nothing but the secret into it")
    return data


def _invalid(message: str, fix: str) -> InvalidInput:
    return InvalidInput(CFG_INVALID, message, fix=fix)
