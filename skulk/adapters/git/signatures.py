"""Checks the signatures of commits against the node's allowed signers (SSH) and keyring (OpenPGP).

What counts is `node.toml` alone: git's configuration, the mirror's included, is overridden, and without an
allowed-signers file or keyring nothing is trusted. git judges an SSH key's validity interval at the commit's own
date, which its author chooses: to revoke a key, take it out of the file.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skulk.adapters.git.command import git
from skulk.adapters.git.failures import mirror_error
from skulk.core.domain import CommitId, VerifyMode
from skulk.core.errors import CFG_INVALID, InvalidInput
from skulk.core.ports import Signature

# More commits than this between two polls are not checked one by one (11 ms each): they count as unsigned.
COMMITS_MAX = 1_000
# 1,000 commits at 11 ms take 11 s on an idle machine.
VERIFY_SECONDS_MAX = 120.0

# git's %G?: X and Y are expired, R is revoked, E cannot be checked, U is a key that is not trusted.
_MEANING = {
    "G": Signature.GOOD,
    "B": Signature.BAD,
    "U": Signature.UNTRUSTED,
    "X": Signature.UNTRUSTED,
    "Y": Signature.UNTRUSTED,
    "R": Signature.UNTRUSTED,
    "E": Signature.UNTRUSTED,
    "N": Signature.NONE,
}


@dataclass(frozen=True, slots=True)
class Keys:
    """Who may sign: an ssh allowed-signers file (see ssh-keygen(1)), a GnuPG home directory, either or both."""

    allowed_signers: Path | None = None
    gpg_home: Path | None = None

    def check(self) -> None:
        """Raises InvalidInput CFG_INVALID when a configured path or the program that checks is not there.

        Nothing would ever be trusted, and git would call good signatures bad.
        """
        if self.allowed_signers is not None:
            if not self.allowed_signers.is_file():
                raise _missing("allowedSigners", f"file {self.allowed_signers}")
            if shutil.which("ssh-keygen") is None:
                raise _missing("allowedSigners", "program ssh-keygen")
        if self.gpg_home is not None:
            if not self.gpg_home.is_dir():
                raise _missing("gpgHome", f"directory {self.gpg_home}")
            if shutil.which("gpg") is None:
                raise _missing("gpgHome", "program gpg")


async def unsigned_commits(
    mirror: Path,
    commit: CommitId,
    since: CommitId | None,
    mode: VerifyMode,
    keys: Keys,
    label: str,
    timeout_seconds: float,
) -> tuple[tuple[CommitId, Signature], ...]:
    """The commits of since..commit (EVERY) or `commit` alone (HEAD) without a good signature, newest first.

    Without `since` (first contact, or the history before it is gone) EVERY means the head: whoever sets the node
    up vouches for what came before. Beyond COMMITS_MAX the oldest one stands for the rest, as NONE. Raises
    InvalidInput CFG_INVALID (a configured key file is missing), Transient SRC_CORRUPT and SRC_TIMEOUT.
    """
    if mode is VerifyMode.OFF:
        return ()
    keys.check()
    commits: tuple[CommitId, ...] = (commit,)
    if mode is VerifyMode.EVERY and since is not None:
        commits = await _between(mirror, since, commit, label, timeout_seconds)
    found = await _check(mirror, commits[:COMMITS_MAX], keys, label)
    if len(commits) > COMMITS_MAX:
        found = (*found, (commits[COMMITS_MAX], Signature.NONE))
    return tuple((name, result) for name, result in found if result is not Signature.GOOD)


async def _between(
    mirror: Path, since: CommitId, commit: CommitId, label: str, timeout_seconds: float
) -> tuple[CommitId, ...]:
    output = await git(
        "rev-list", f"--max-count={COMMITS_MAX + 1}", commit, f"^{since}", "--",
        mirror=mirror, timeout_seconds=timeout_seconds,
    )  # fmt: skip
    if not output.ok:
        raise mirror_error(output, label)
    return tuple(CommitId(line) for line in output.stdout.decode("ascii").split())


async def _check(
    mirror: Path, commits: Sequence[CommitId], keys: Keys, label: str
) -> tuple[tuple[CommitId, Signature], ...]:
    if not commits:
        return ()
    settings = [
        f"gpg.ssh.allowedSignersFile={keys.allowed_signers or os.devnull}",
        "gpg.ssh.program=ssh-keygen",
        "gpg.ssh.revocationFile=",
        "gpg.minTrustLevel=undefined",
        # No S/MIME; and without a keyring of our own, not the user's either.
        "gpg.x509.program=false",
        f"gpg.openpgp.program={'gpg' if keys.gpg_home else 'false'}",
        f"gpg.program={'gpg' if keys.gpg_home else 'false'}",
    ]
    output = await git(
        "log", "--no-walk=unsorted", "--stdin", "--no-color", "--format=%H %G?",
        mirror=mirror,
        timeout_seconds=VERIFY_SECONDS_MAX,
        settings=settings,
        extra={"GNUPGHOME": str(keys.gpg_home or os.devnull)},
        stdin="".join(f"{commit}\n" for commit in commits).encode("ascii"),
    )  # fmt: skip
    results = dict(line.split(" ", 1) for line in output.stdout.decode("ascii").splitlines())
    if not output.ok or results.keys() != set(commits):
        raise mirror_error(output, label)
    signed = await _carry_signature(mirror, [c for c in commits if results[c] == "N"], label)
    return tuple(
        (c, Signature.UNTRUSTED if c in signed else _MEANING.get(results[c], Signature.UNTRUSTED)) for c in commits
    )


async def _carry_signature(mirror: Path, commits: Sequence[CommitId], label: str) -> set[CommitId]:
    """Which of them have a signature after all. git says "none" as well when the checking program is missing."""
    signed: set[CommitId] = set()
    for commit in commits:
        output = await git("cat-file", "commit", commit, mirror=mirror, timeout_seconds=VERIFY_SECONDS_MAX)
        if not output.ok:
            raise mirror_error(output, label)
        headers = output.stdout.partition(b"\n\n")[0]
        if any(line.startswith(b"gpgsig") for line in headers.split(b"\n")):
            signed.add(commit)
    return signed


def _missing(key: str, what: str) -> InvalidInput:
    return InvalidInput(
        CFG_INVALID, f"source.{key}: there is no {what}", fix=f"bring it there, or correct source.{key} in node.toml"
    )
