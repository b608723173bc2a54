"""The folder `fleet/secrets` of a checkout: encrypted files and the list of operators. No link in it is followed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from skulk.adapters.secrets.files import read_bounded, write_whole
from skulk.core.errors import CLI_USAGE, SEC_FILE, SEC_RECIPIENTS, InvalidInput
from skulk.core.recipients import (
    OPERATORS_FILE,
    SEALED_BYTES_MAX,
    SEALED_SUFFIX,
    SECRETS_FOLDER,
    Recipient,
    is_secret_name,
    parse_operators,
)

# Some ten people; a file of this size is something else.
_OPERATORS_BYTES_MAX = 256 * 1024
_PAGES = frozenset({".md"})


@dataclass(frozen=True, slots=True)
class SecretsFolder:
    """`fleet/secrets` below the folder that holds fleet/ and cards/."""

    root: Path

    @property
    def path(self) -> Path:
        return self.root / SECRETS_FOLDER

    @property
    def operators_file(self) -> Path:
        return self.path / OPERATORS_FILE

    def file(self, name: str) -> Path:
        """Where a secret stands. Raises InvalidInput: CLI_USAGE for a name that is none, SEC_FILE when the folder is a
        link."""
        if not is_secret_name(name):
            fix = "use 1 to 63 of a-z 0-9 . - and start and end with a letter or digit"
            raise InvalidInput(CLI_USAGE, f"{name[:80]!r} is no name of a secret", fix=fix)
        self.check()
        return self.path / f"{name}{SEALED_SUFFIX}"

    def check(self) -> None:
        """Raises InvalidInput SEC_FILE when the folder, or the one above, is a link: it could lead anywhere."""
        for folder in (self.path.parent, self.path):
            if folder.is_symlink():
                raise InvalidInput(SEC_FILE, f"{folder} is a link", fix="make it a folder of the checkout")

    def has(self, name: str) -> bool:
        """Whether something stands where the secret would, a link included."""
        path = self.file(name)
        return path.is_symlink() or path.exists()

    def names(self) -> list[str]:
        """The secrets that are there, by name."""
        return sorted(
            entry.name.removesuffix(SEALED_SUFFIX)
            for entry in self._entries()
            if entry.name.endswith(SEALED_SUFFIX) and is_secret_name(entry.name.removesuffix(SEALED_SUFFIX))
        )

    def strangers(self) -> list[str]:
        """Names of what stands there and is neither a secret, nor the list of operators, nor a page, nor empty."""
        known = {OPERATORS_FILE, *(f"{name}{SEALED_SUFFIX}" for name in self.names())}
        return sorted(
            entry.name
            for entry in self._entries()
            if entry.name not in known
            and entry.suffix not in _PAGES
            and (entry.is_symlink() or not entry.is_file() or entry.stat().st_size)
        )

    def _entries(self) -> Iterator[Path]:
        self.check()
        if self.path.is_dir():
            yield from self.path.iterdir()

    def read(self, name: str) -> bytes:
        """An encrypted secret as it stands there. Raises InvalidInput: CLI_USAGE when there is none, SEC_FILE."""
        path = self.file(name)
        if not self.has(name):
            there = self.names()
            fix = f"there are {', '.join(there[:20])}" if there else f"`skulk secrets edit {name}` makes it"
            raise InvalidInput(CLI_USAGE, f"there is no secret {name} in {self.path}", fix=fix)
        return read_bounded(path, SEALED_BYTES_MAX, SEC_FILE)

    def write(self, name: str, sealed: bytes) -> None:
        """Raises InvalidInput SEC_FILE."""
        path = self.file(name)
        self._make()
        write_whole(path, sealed, SEC_FILE)

    def operators(self) -> list[Recipient]:
        """Raises InvalidInput SEC_RECIPIENTS when there is no list, nobody on it, or a line is wrong."""
        path = self.operators_file
        found = parse_or_refuse(self._operators_text(), path)
        if not found:
            what = "lists no operator" if path.exists() else "is not there: it lists who may read secrets"
            raise InvalidInput(SEC_RECIPIENTS, f"{path} {what}", fix="`skulk secrets key` adds your key")
        return found

    def add_operator(self, key: str, comment: str) -> bool:
        """Append a public key to the list; False when it is there already. Raises InvalidInput SEC_RECIPIENTS."""
        path = self.operators_file
        text = self._operators_text()
        if any(recipient.key == key for recipient in parse_or_refuse(text, path)):
            return False
        self._make()
        before = text if not text or text.endswith("\n") else f"{text}\n"
        write_whole(path, f"{before}{f'{key} {comment}'.rstrip()}\n".encode(), SEC_RECIPIENTS)
        return True

    def _operators_text(self) -> str:
        self.check()
        path = self.operators_file
        if not path.is_symlink() and not path.exists():
            return ""
        return read_bounded(path, _OPERATORS_BYTES_MAX, SEC_RECIPIENTS).decode("utf-8", "replace")

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(SEC_FILE, f"{self.path} cannot be made: {error.strerror}") from None


def parse_or_refuse(text: str, path: Path) -> list[Recipient]:
    """The operators of a list. Raises InvalidInput SEC_RECIPIENTS with file and line."""
    try:
        return parse_operators(text, str(path))
    except ValueError as error:
        raise InvalidInput(SEC_RECIPIENTS, str(error)) from None
