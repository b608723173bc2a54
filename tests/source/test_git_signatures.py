"""Who may sign: SSH keys of an allowed-signers file, OpenPGP keys of a keyring, and nobody else."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from skulk.adapters.git import GitRepo
from skulk.adapters.git import signatures as signatures_module
from skulk.core.domain import VerifyMode
from skulk.core.errors import CFG_INVALID
from skulk.core.ports import Signature

needs_ssh_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="the program ssh-keygen is missing")
needs_gpg = pytest.mark.skipif(shutil.which("gpg") is None, reason="the program gpg is missing")


@pytest.fixture
def ssh_keys(tmp_path):
    """Two key pairs, `ada` and `eve`, and an allowed-signers file that names ada alone."""
    for name in ("ada", "eve"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    (tmp_path / "allowed").write_text(f"ada@example.org {(tmp_path / 'ada.pub').read_text()}")
    return tmp_path


def _ssh(keys: Path, name: str) -> tuple[str, ...]:
    return ("-c", "gpg.format=ssh", "-c", f"user.signingKey={keys / name}.pub", "-c", "commit.gpgSign=true")


def _unsigned(repo: GitRepo, accepted: str | None, verify: VerifyMode):
    async def ask():
        commit = await repo.head()
        return (await repo.facts(commit, accepted, verify)).unsigned

    return asyncio.run(ask())


@needs_ssh_keygen
def test_a_commit_signed_by_an_allowed_ssh_key_is_good(seeded, mirror, ssh_keys):
    seeded.commit({"a": "b"}, *_ssh(ssh_keys, "ada"))
    seeded.push()
    repo = GitRepo(seeded.url, "main", mirror, allowed_signers=ssh_keys / "allowed")
    assert _unsigned(repo, None, VerifyMode.HEAD) == ()


@needs_ssh_keygen
@pytest.mark.parametrize(
    ("options", "result"), [((), Signature.NONE), (("eve",), Signature.UNTRUSTED), (("forged",), Signature.BAD)]
)
def test_unsigned_foreign_and_forged_commits_are_told_apart(seeded, mirror, ssh_keys, options, result):
    if options == ("forged",):
        seeded.commit({"a": "b"}, *_ssh(ssh_keys, "ada"), message="harmless")
        forged = seeded.git("cat-file", "commit", "HEAD").replace("harmless", "harmful!") + "\n"
        seeded.git("reset", "-q", seeded.git("hash-object", "-t", "commit", "-w", "--stdin", stdin=forged.encode()))
    else:
        seeded.commit({"a": "b"}, *(_ssh(ssh_keys, options[0]) if options else ()))
    seeded.push()
    repo = GitRepo(seeded.url, "main", mirror, allowed_signers=ssh_keys / "allowed")
    assert _unsigned(repo, None, VerifyMode.HEAD) == ((seeded.head(), result),)
    assert _unsigned(repo, None, VerifyMode.OFF) == ()


@needs_ssh_keygen
def test_an_allowed_ssh_key_whose_time_is_over_is_not_trusted(seeded, mirror, ssh_keys):
    (ssh_keys / "allowed").write_text(f'ada@example.org valid-before="20200101" {(ssh_keys / "ada.pub").read_text()}')
    seeded.commit({"a": "b"}, *_ssh(ssh_keys, "ada"))
    seeded.push()
    repo = GitRepo(seeded.url, "main", mirror, allowed_signers=ssh_keys / "allowed")
    assert _unsigned(repo, None, VerifyMode.HEAD) == ((seeded.head(), Signature.UNTRUSTED),)


@needs_ssh_keygen
def test_without_allowed_signers_no_signature_counts(seeded, mirror, ssh_keys):
    seeded.commit({"a": "b"}, *_ssh(ssh_keys, "ada"))
    seeded.push()
    assert _unsigned(GitRepo(seeded.url, "main", mirror), None, VerifyMode.HEAD) == (
        (seeded.head(), Signature.UNTRUSTED),
    )


@needs_ssh_keygen
def test_git_configuration_cannot_widen_the_trust(seeded, mirror, ssh_keys, tmp_path, monkeypatch):
    """Neither the user's configuration nor the mirror's own adds a signer or swaps the checking program."""
    wide = tmp_path / "wide"
    wide.write_text(f"eve@example.org {(ssh_keys / 'eve.pub').read_text()}")
    yes = tmp_path / "yes"
    yes.write_text('#!/bin/sh\necho "Good \\"git\\" signature for ada@example.org with ED25519 key SHA256:x"\n')
    yes.chmod(0o755)
    lax = f'[gpg "ssh"]\n\tallowedSignersFile = {wide}\n\tprogram = {yes}\n[log]\n\tshowSignature = true\n'
    config = tmp_path / "gitconfig"
    config.write_text(lax)
    seeded.commit({"a": "b"}, *_ssh(ssh_keys, "eve"))
    seeded.push()
    repo = GitRepo(seeded.url, "main", mirror, allowed_signers=ssh_keys / "allowed")
    asyncio.run(repo.head())
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    for number, (key, value) in enumerate((("gpg.ssh.allowedSignersFile", wide), ("gpg.ssh.program", yes))):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{number}", key)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", str(value))
        monkeypatch.setenv("GIT_CONFIG_COUNT", str(number + 1))
    with (mirror / "config").open("a") as file:
        file.write(lax)
    assert _unsigned(repo, None, VerifyMode.HEAD) == ((seeded.head(), Signature.UNTRUSTED),)


@needs_ssh_keygen
def test_head_looks_at_the_head_and_every_at_all_since_the_accepted_commit(seeded, mirror, ssh_keys):
    repo = GitRepo(seeded.url, "main", mirror, allowed_signers=ssh_keys / "allowed")
    accepted = seeded.head()
    foreign = seeded.commit({"a": "1"}, *_ssh(ssh_keys, "eve"))
    seeded.commit({"a": "2"}, *_ssh(ssh_keys, "ada"))
    seeded.git("checkout", "-q", "-b", "side", accepted)
    side = seeded.commit({"b": "1"})
    seeded.git("checkout", "-q", "main")
    seeded.git(*_ssh(ssh_keys, "ada"), "merge", "-q", "-m", "merge", "side")
    seeded.push()
    assert _unsigned(repo, accepted, VerifyMode.HEAD) == ()
    assert set(_unsigned(repo, accepted, VerifyMode.EVERY)) == {
        (foreign, Signature.UNTRUSTED),
        (side, Signature.NONE),
    }, "a merge brings the commits of the other side along"
    assert _unsigned(repo, None, VerifyMode.EVERY) == (), "first contact: the head alone"


@needs_ssh_keygen
def test_every_lists_newest_first_and_is_bounded(seeded, mirror, ssh_keys, monkeypatch):
    monkeypatch.setattr(signatures_module, "COMMITS_MAX", 3)
    repo = GitRepo(seeded.url, "main", mirror, allowed_signers=ssh_keys / "allowed")
    accepted = seeded.head()
    commits = [seeded.commit({"a": str(i)}, *_ssh(ssh_keys, "ada")) for i in range(3)]
    seeded.push()
    assert _unsigned(repo, accepted, VerifyMode.EVERY) == ()
    commits.append(seeded.commit({"a": "last"}, *_ssh(ssh_keys, "eve")))
    seeded.push()
    assert _unsigned(repo, accepted, VerifyMode.EVERY) == (
        (commits[3], Signature.UNTRUSTED),
        (commits[0], Signature.NONE),
    )


@pytest.mark.parametrize(("key", "program"), [("allowed_signers", "ssh-keygen"), ("gpg_home", "gpg")])
def test_a_missing_checking_program_is_named(seeded, mirror, tmp_path, key, program, monkeypatch, refused):
    (tmp_path / "allowed_signers").write_text("")
    (tmp_path / "gpg_home").mkdir()
    repo = GitRepo(seeded.url, "main", mirror, **{key: tmp_path / key})
    commit = asyncio.run(repo.head())
    only_git = tmp_path / "bin"
    only_git.mkdir()
    (only_git / "git").symlink_to(str(shutil.which("git")))
    monkeypatch.setenv("PATH", str(only_git))
    assert program in refused(repo.facts(commit, None, VerifyMode.HEAD), CFG_INVALID).message


@pytest.mark.parametrize("key", ["allowed_signers", "gpg_home"])
def test_a_configured_key_file_that_is_not_there_is_named(seeded, mirror, tmp_path, key, refused):
    repo = GitRepo(seeded.url, "main", mirror, **{key: tmp_path / "gone"})

    async def ask():
        await repo.facts(await repo.head(), None, VerifyMode.HEAD)

    assert str(tmp_path / "gone") in refused(ask(), CFG_INVALID).message


class Gpg:
    """A keyring in a short directory: the agent's socket path has a limit of about 100 characters."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        done = subprocess.run(
            ["gpg", "--batch", "--quiet", "--homedir", str(self.home), *arguments],
            input=stdin, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def trust(self, exported: bytes, fingerprint: str) -> None:
        """What docs/guides/source.md tells people to do."""
        self.run("--import", stdin=exported)
        self.run("--import-ownertrust", stdin=f"{fingerprint}:6:\n".encode())

    def key(self, name: str, *options: str, expires: str = "never") -> str:
        address = f"{name}@example.org"
        self.run(*options, "--passphrase", "", "--quick-gen-key", f"{name} <{address}>", "ed25519", "sign", expires)
        listing = self.run("--with-colons", "--list-keys", address).decode()
        return next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr"))


@pytest.fixture
def gpg(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="g-", ignore_cleanup_errors=True) as home:
        Path(home).chmod(0o700)
        # Only the signing side finds its keys here; the reading side must use what it was given.
        monkeypatch.setenv("GNUPGHOME", home)
        yield Gpg(Path(home))
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False, capture_output=True)


@pytest.fixture
def keyring(gpg):
    """The node's keyring, empty."""
    with tempfile.TemporaryDirectory(prefix="k-", ignore_cleanup_errors=True) as home:
        Path(home).chmod(0o700)
        ring = Gpg(Path(home))
        yield ring
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False, capture_output=True)


def _gpg_sign(key: str, program: Path | None = None) -> tuple[str, ...]:
    extra = ("-c", f"gpg.program={program}") if program else ()
    return (*extra, "-c", f"user.signingKey={key}", "-c", "commit.gpgSign=true")


@needs_gpg
def test_gpg_keys_of_the_keyring_are_good_and_others_are_not(seeded, mirror, gpg, keyring):
    ada, eve = gpg.key("ada"), gpg.key("eve")
    keyring.trust(gpg.run("--export", ada), ada)
    repo = GitRepo(seeded.url, "main", mirror, gpg_home=keyring.home)
    seeded.commit({"a": "1"}, *_gpg_sign(ada))
    seeded.push()
    assert _unsigned(repo, None, VerifyMode.HEAD) == ()
    seeded.commit({"a": "2"}, *_gpg_sign(eve))
    seeded.push()
    assert _unsigned(repo, None, VerifyMode.HEAD) == ((seeded.head(), Signature.UNTRUSTED),)


@needs_gpg
def test_a_gpg_key_that_was_imported_and_not_trusted_is_not_enough(seeded, mirror, gpg, keyring):
    ada = gpg.key("ada")
    keyring.run("--import", stdin=gpg.run("--export", ada))
    seeded.commit({"a": "1"}, *_gpg_sign(ada))
    seeded.push()
    repo = GitRepo(seeded.url, "main", mirror, gpg_home=keyring.home)
    assert _unsigned(repo, None, VerifyMode.HEAD) == ((seeded.head(), Signature.UNTRUSTED),)


@needs_gpg
def test_without_a_keyring_the_users_own_is_not_used(seeded, mirror, gpg):
    ada = gpg.key("ada")
    seeded.commit({"a": "1"}, *_gpg_sign(ada))
    seeded.push()
    repo = GitRepo(seeded.url, "main", mirror)
    assert _unsigned(repo, None, VerifyMode.HEAD) == ((seeded.head(), Signature.UNTRUSTED),)


@needs_gpg
def test_a_gpg_key_that_has_expired_is_not_trusted(seeded, mirror, gpg, keyring, tmp_path):
    key = gpg.key("old", "--faked-system-time", "20200101T000000!", expires="1y")
    past = tmp_path / "gpg-in-the-past"
    past.write_text('#!/bin/sh\nexec gpg --faked-system-time 20200601T000000! "$@"\n')
    past.chmod(0o755)
    keyring.trust(gpg.run("--export", key), key)
    seeded.commit({"a": "1"}, *_gpg_sign(key, past))
    seeded.push()
    repo = GitRepo(seeded.url, "main", mirror, gpg_home=keyring.home)
    assert _unsigned(repo, None, VerifyMode.HEAD) == ((seeded.head(), Signature.UNTRUSTED),)


@needs_gpg
def test_a_gpg_key_that_was_revoked_is_not_trusted(seeded, mirror, gpg, keyring):
    key = gpg.key("ada")
    seeded.commit({"a": "1"}, *_gpg_sign(key))
    seeded.push()
    repo = GitRepo(seeded.url, "main", mirror, gpg_home=keyring.home)
    keyring.trust(gpg.run("--export", key), key)
    assert _unsigned(repo, None, VerifyMode.HEAD) == ()
    certificate = (gpg.home / "openpgp-revocs.d" / f"{key}.rev").read_text().replace(":-----BEGIN", "-----BEGIN")
    keyring.run("--import", stdin=certificate.encode())
    assert _unsigned(repo, None, VerifyMode.HEAD) == ((seeded.head(), Signature.UNTRUSTED),)


@needs_gpg
@needs_ssh_keygen
def test_ssh_and_gpg_signers_work_side_by_side(seeded, mirror, gpg, keyring, ssh_keys):
    ada = gpg.key("ada")
    keyring.trust(gpg.run("--export", ada), ada)
    accepted = seeded.head()
    seeded.commit({"a": "1"}, *_gpg_sign(ada))
    seeded.commit({"a": "2"}, *_ssh(ssh_keys, "ada"))
    seeded.push()
    repo = GitRepo(seeded.url, "main", mirror, allowed_signers=ssh_keys / "allowed", gpg_home=keyring.home)
    assert _unsigned(repo, accepted, VerifyMode.EVERY) == ()
    assert os.environ["GNUPGHOME"] != str(keyring.home)
