"""On a node: decrypt the secrets that were copied here with the host's SSH key, into files for the daemon's user.

All are decrypted before the first is written. The target belongs to this module: what has no encrypted file any more
is removed. Every step is relative to the opened directory and follows no link in it.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
import stat
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from skulk.adapters.secrets.age import Identity, unseal
from skulk.adapters.secrets.files import read_bounded
from skulk.core.errors import CLI_USAGE, SEC_FILE, SEC_INSTALL, SEC_NOT_FOR, InvalidInput, Refused
from skulk.core.recipients import SEALED_BYTES_MAX, SEALED_SUFFIX, SECRET_BYTES_MAX, is_secret_name

SECRET_MODE = 0o400
# Root's: the daemon's user opens what it knows the name of, lists nothing and replaces nothing.
_DIRECTORY_MODE = 0o711
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REPLACING = re.compile(r"\.(.+)\.[0-9a-f]{16}\.part")


@dataclass(frozen=True, slots=True)
class Installation:
    """Names that were (or would be) written and removed."""

    changed: tuple[str, ...]
    removed: tuple[str, ...]


def install(
    source: Path,
    target: Path,
    identities: Sequence[Identity],
    *,
    owner: str | None = None,
    only: Sequence[str] = (),
    dry_run: bool = False,
) -> Installation:
    """Make `target` hold what `source` holds encrypted: NAME.age becomes NAME, mode 0400, of `owner` (default: who
    runs this). With `only`, other names are left alone.

    Raises InvalidInput: SEC_FILE for a file that cannot be used, SEC_INSTALL when something cannot be written;
    Refused SEC_NOT_FOR naming the first secret that is not for these identities. Then nothing was changed, except that
    SEC_INSTALL may come after some were written.
    """
    user = _ids(owner)
    plain = _decrypted(source, identities, only)
    try:
        if not os.path.lexists(target):
            _check_known(only, plain.keys(), source)
            if dry_run:
                return Installation(tuple(sorted(plain)), ())
            target.mkdir(parents=True)
            target.chmod(_DIRECTORY_MODE)
        descriptor = os.open(target, _DIRECTORY)
    except OSError as error:
        why = "it is a link" if target.is_symlink() else error.strerror
        raise InvalidInput(SEC_INSTALL, f"{target} cannot be opened: {why}") from None
    try:
        changed = tuple(name for name in sorted(plain) if not _is_there(descriptor, name, plain[name], user))
        removed = tuple(_superfluous(descriptor, plain.keys(), only))
        _check_known(only, {*plain, *removed}, source)
        if not dry_run:
            for name in changed:
                _write(descriptor, target / name, plain[name], user)
            for name in (*removed, *_left_behind(descriptor)):
                os.unlink(name, dir_fd=descriptor)
    except OSError as error:
        raise InvalidInput(SEC_INSTALL, f"{target} cannot be changed: {error.strerror}") from None
    finally:
        os.close(descriptor)
    return Installation(changed, removed)


def _ids(owner: str | None) -> tuple[int, int]:
    if owner is None:
        return os.geteuid(), os.getegid()
    try:
        entry = pwd.getpwnam(owner)
    except KeyError:
        raise InvalidInput(SEC_INSTALL, f"there is no user {owner!r} here", fix="name one with --owner") from None
    return entry.pw_uid, entry.pw_gid


def _decrypted(source: Path, identities: Sequence[Identity], only: Sequence[str]) -> dict[str, bytes]:
    for name in only:
        if not is_secret_name(name):
            raise InvalidInput(
                CLI_USAGE, f"{name[:80]!r} is no name of a secret", fix="name it without folder and .age"
            )
    if not source.is_dir():
        raise InvalidInput(SEC_FILE, f"{source} is no directory", fix="name the one with the encrypted files")
    plain = {}
    for path in sorted(source.iterdir()):
        name = path.name.removesuffix(SEALED_SUFFIX)
        if not path.name.endswith(SEALED_SUFFIX) or not is_secret_name(name) or (only and name not in only):
            continue
        sealed = read_bounded(path, SEALED_BYTES_MAX, SEC_FILE)
        try:
            plain[name] = unseal(sealed, identities, f"secret {name}").plain
        except Refused as error:
            key = identities[0].path
            message = f"{error.message}, the key of this host"
            fix = f"write {key}.pub into spec.sshHostKey of its Node manifest; `skulk secrets rekey` in the checkout; "
            raise Refused(SEC_NOT_FOR, message, fix=f"{fix}commit; run the bootstrap again") from None
        if len(plain[name]) > SECRET_BYTES_MAX:
            raise InvalidInput(SEC_FILE, f"secret {name} is larger than {SECRET_BYTES_MAX} bytes")
    return plain


def _check_known(only: Sequence[str], known: Collection[str], source: Path) -> None:
    unknown = [name for name in only if name not in known]
    if unknown:
        raise InvalidInput(CLI_USAGE, f"there is no secret {', '.join(unknown)} in {source}", fix="correct the name")


def _is_there(directory: int, name: str, plain: bytes, user: tuple[int, int]) -> bool:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return False
    # Not closed with the stream: for a directory there will be none.
    try:
        facts = os.fstat(descriptor)
        right = stat.S_ISREG(facts.st_mode) and stat.S_IMODE(facts.st_mode) == SECRET_MODE
        if not right or facts.st_nlink != 1 or (facts.st_uid, facts.st_gid) != user:
            return False
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            return stream.read(SECRET_BYTES_MAX + 1) == plain
    finally:
        os.close(descriptor)


def _write(directory: int, shown: Path, plain: bytes, user: tuple[int, int]) -> None:
    part = f".{shown.name}.{secrets.token_hex(8)}.part"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(part, flags, SECRET_MODE, dir_fd=directory)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                if user != (os.geteuid(), os.getegid()):
                    os.fchown(descriptor, *user)
                os.fchmod(descriptor, SECRET_MODE)
                stream.write(plain)
                stream.flush()
                os.fsync(descriptor)
            os.replace(part, shown.name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(part, dir_fd=directory)
            raise
    except OSError as error:
        raise InvalidInput(SEC_INSTALL, f"{shown} cannot be written: {error.strerror}") from None


def _superfluous(directory: int, wanted: Collection[str], only: Sequence[str]) -> list[str]:
    names = (name for name in os.listdir(directory) if is_secret_name(name))
    return sorted(
        name for name in names if name not in wanted and (not only or name in only) and _is_file(directory, name)
    )


def _left_behind(directory: int) -> list[str]:
    """What an installation that was killed left half written: plaintext that nobody would remove."""
    names = [name for name in os.listdir(directory) if _REPLACING.fullmatch(name)]
    return [name for name in names if _is_file(directory, name)]


def _is_file(directory: int, name: str) -> bool:
    return stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
