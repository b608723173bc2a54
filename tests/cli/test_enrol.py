"""`skulk node add`, `key` and `sign`: from a new machine to a certificate that its daemon takes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from skulk.adapters.zenoh.certificates import load_key
from skulk.core.domain import NodeName
from skulk.core.wire.planes_roster import public_key_text
from skulk.node.config import load_config
from tests.cli.conftest import Skulk

PLAIN_GIT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


def git(directory: Path, *arguments: str) -> None:
    command = ["git", "-C", str(directory), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | PLAIN_GIT)


@pytest.fixture
def fleet(tmp_path: Path, skulk: Skulk, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with node mac-1, by an operator who keeps the authority below `config`."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name, value in PLAIN_GIT.items():
        monkeypatch.setenv(name, value)
    assert skulk("init", str(tmp_path / "home"), "--node", "mac-1").exit_code == 0
    return tmp_path / "home"


@pytest.fixture
def added(fleet: Path, tmp_path: Path, skulk: Skulk) -> Path:
    """The request of node mac-2, which the fleet declares; its node.toml names the files it will have."""
    assert skulk("node", "add", "mac-2", "--address", "127.0.0.1:52426", "--path", str(fleet)).exit_code == 0
    return requested(skulk, tmp_path / "machine", "mac-2")


def requested(skulk: Skulk, machine: Path, name: str) -> Path:
    machine.mkdir()
    (machine / "node.toml").write_text(
        f'name = "{name}"\nstateDir = "state"\n[source]\nurl = "/remote"\n'
        '[planes]\nlisten = ["tls/127.0.0.1:52426"]\n'
        f'ca = "tls/ca.pem"\ncertificate = "tls/{name}.pem"\nkey = "tls/{name}.key"\n'
    )
    result = skulk("node", "key", "--config", str(machine / "node.toml"))
    assert result.exit_code == 0, result.output
    return machine / "tls" / f"{name}.csr"


def manifest(fleet: Path, name: str = "mac-2") -> Path:
    return fleet / "fleet" / "nodes" / f"{name}.yaml"


# --- the whole way ------------------------------------------------------------------------------------------


def test_a_new_machine_becomes_a_member(fleet: Path, added: Path, tmp_path: Path, skulk: Skulk) -> None:
    result = skulk("node", "sign", str(added), "--path", str(fleet), "--new-ca")
    assert result.exit_code == 0, result.output
    config = load_config(tmp_path / "machine" / "node.toml", {})
    tls = config.plane_settings().tls
    assert tls is not None
    public = public_key_text(load_key(tls, NodeName("mac-2")).public_key().public_bytes_raw())
    assert f'  publicKey: "{public}"\n' in manifest(fleet).read_text()
    assert public in result.stdout
    assert skulk("validate", str(fleet)).exit_code == 0
    assert (tmp_path / "config/skulk/ca/home/ca.key").stat().st_mode & 0o777 == 0o600
    assert skulk("node", "key", "--config", str(tmp_path / "machine/node.toml")).stdout.count(public) == 1
    for file in fleet.rglob("*"):
        assert not file.is_file() or b"PRIVATE" not in file.read_bytes()


def test_doctor_knows_the_planes_files(fleet: Path, added: Path, tmp_path: Path, skulk: Skulk) -> None:
    def finding() -> str:
        lines = skulk("doctor", "--config", str(tmp_path / "machine/node.toml")).stdout.splitlines()
        return " ".join(line for line in lines if "planes" in line)

    assert "SK-PLN-002" in finding()
    skulk("node", "sign", str(added), "--path", str(fleet), "--new-ca")
    assert "valid for 824 days" in finding()


# --- add ----------------------------------------------------------------------------------------------------


def test_a_node_gets_the_next_ordinal_and_what_is_known(fleet: Path, skulk: Skulk) -> None:
    result = skulk("node", "add", "box-1", "--platform", "linux/x86_64", "--path", str(fleet))
    assert "ordinal 2" in result.stdout
    text = manifest(fleet, "box-1").read_text()
    assert text.startswith("# yaml-language-server: $schema=../../schemas/node.schema.json\n")
    assert "  ordinal: 2\n  platform:\n    os: linux\n    arch: x86_64\n" in text
    assert skulk("validate", str(fleet)).exit_code == 0


@pytest.mark.parametrize("spec", ["\nspec:\n  ordinal: 7\n", '\nspec: {"ordinal": 7}\n'])
def test_an_ordinal_of_a_removed_node_is_not_given_again(fleet: Path, skulk: Skulk, spec: str) -> None:
    head = "apiVersion: skulk.dev/v1alpha1\nkind: Node\nmetadata: {name: old}"
    manifest(fleet, "old").write_text(head + spec)
    git(fleet, "add", "--all")
    git(fleet, "commit", "-qm", "old")
    git(fleet, "rm", "-q", "fleet/nodes/old.yaml")
    git(fleet, "commit", "-qm", "gone")
    assert "ordinal 8" in skulk("node", "add", "mac-2", "--path", str(fleet)).stdout


def test_a_checkout_without_git_has_a_next_ordinal_too(fleet: Path, tmp_path: Path, skulk: Skulk) -> None:
    (tmp_path / "plain").mkdir()
    (fleet / "fleet").rename(tmp_path / "plain" / "fleet")
    assert "ordinal 2" in skulk("node", "add", "mac-2", "--path", str(tmp_path / "plain")).stdout


@pytest.mark.parametrize(
    ("arguments", "exit_code", "named"),
    [
        (["mac-1"], 2, "SK-CLI-004"),
        (["Mac 2"], 2, "SK-CLI-001"),
        (["mac-2", "--address", "a b"], 3, "fleet/nodes/mac-2.yaml:9:12"),
        (["mac-2", "--address", "http://x"], 3, "SK-MAN-114"),
        (["mac-2", "--platform", "macos"], 2, "OS/ARCH"),
        (["mac-2", "--platform", "amiga/68000"], 3, "SK-MAN-107"),
    ],
)
def test_a_node_that_cannot_be_added_leaves_no_file(
    arguments: list[str], exit_code: int, named: str, fleet: Path, skulk: Skulk
) -> None:
    before = sorted(fleet.rglob("*.yaml"))
    result = skulk("node", "add", *arguments, "--path", str(fleet))
    assert result.exit_code == exit_code
    assert named in result.stderr
    assert sorted(fleet.rglob("*.yaml")) == before


def test_an_invalid_fleet_is_corrected_first(fleet: Path, skulk: Skulk) -> None:
    manifest(fleet, "mac-1").write_text("kind: Node\n")
    result = skulk("node", "add", "mac-2", "--path", str(fleet))
    assert result.exit_code == 3
    assert "fleet/nodes/mac-1.yaml:1:1" in result.stderr
    assert not manifest(fleet).exists()


# --- key ----------------------------------------------------------------------------------------------------


def test_a_key_goes_below_the_state_directory_or_where_one_says(tmp_path: Path, skulk: Skulk) -> None:
    (tmp_path / "node.toml").write_text('name = "mac-2"\nstateDir = "state"\n[source]\nurl = "/remote"\n')
    assert skulk("node", "key", "--config", str(tmp_path / "node.toml")).exit_code == 0
    assert (tmp_path / "state/planes/mac-2.key").is_file()
    first = (tmp_path / "state/planes/mac-2.key").read_bytes()
    assert "stays" in skulk("node", "key", "--config", str(tmp_path / "node.toml")).stdout
    assert (tmp_path / "state/planes/mac-2.key").read_bytes() == first
    assert skulk("node", "key", "--name", "mac-3", "--out", str(tmp_path / "out")).exit_code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"mac-3.key", "mac-3.csr"}
    assert skulk("node", "key", "--name", "mac-3").exit_code == 2


# --- sign ---------------------------------------------------------------------------------------------------


def test_without_an_authority_nothing_is_signed(fleet: Path, added: Path, skulk: Skulk) -> None:
    before = manifest(fleet).read_text()
    result = skulk("node", "sign", str(added), "--path", str(fleet))
    assert result.exit_code == 2
    assert "SK-CRT-003" in result.stderr
    assert "--new-ca" in result.stderr
    assert manifest(fleet).read_text() == before
    assert not added.with_suffix(".pem").exists()


def test_a_second_authority_is_not_made_by_accident(fleet: Path, added: Path, tmp_path: Path, skulk: Skulk) -> None:
    assert skulk("node", "sign", str(added), "--path", str(fleet), "--new-ca").exit_code == 0
    assert "SK-CRT-005" in skulk("node", "sign", str(added), "--path", str(fleet), "--new-ca").stderr
    other = ["--path", str(fleet), "--new-ca", "--renew", "--ca", str(tmp_path / "other")]
    result = skulk("node", "sign", str(added), *other)
    assert "ca.pem exists already" in result.stderr


def test_the_authority_is_never_kept_in_the_checkout(fleet: Path, added: Path, skulk: Skulk) -> None:
    for place in (fleet / "ca", fleet / "fleet" / ".." / "keys"):
        result = skulk("node", "sign", str(added), "--path", str(fleet), "--new-ca", "--ca", str(place))
        assert result.exit_code == 2
        assert "a commit would publish" in result.stderr
    assert list(fleet.rglob("ca.key")) == []


def test_a_certificate_is_renewed_when_asked(fleet: Path, added: Path, skulk: Skulk) -> None:
    arguments = ["node", "sign", str(added), "--path", str(fleet)]
    assert skulk(*arguments, "--new-ca").exit_code == 0
    first, text = added.with_suffix(".pem").read_bytes(), manifest(fleet).read_text()
    assert "SK-CRT-005" in skulk(*arguments).stderr
    assert added.with_suffix(".pem").read_bytes() == first
    result = skulk(*arguments, "--renew")
    assert "publicKey is there already" in result.stdout
    assert added.with_suffix(".pem").read_bytes() != first
    assert manifest(fleet).read_text() == text


def test_another_key_for_a_known_node_needs_a_word(fleet: Path, added: Path, tmp_path: Path, skulk: Skulk) -> None:
    """Whoever can hand in a request must not become a member in somebody's name."""
    assert skulk("node", "sign", str(added), "--path", str(fleet), "--new-ca").exit_code == 0
    text = manifest(fleet).read_text()
    again = requested(skulk, tmp_path / "again", "mac-2")
    result = skulk("node", "sign", str(again), "--path", str(fleet))
    assert result.exit_code == 6
    assert "SK-CRT-002" in result.stderr
    assert "--new-key" in result.stderr
    assert manifest(fleet).read_text() == text
    assert skulk("node", "sign", str(again), "--path", str(fleet), "--new-key").exit_code == 0
    assert manifest(fleet).read_text() != text


def test_a_request_of_a_stranger_or_with_a_members_key_is_refused(
    fleet: Path, added: Path, tmp_path: Path, skulk: Skulk
) -> None:
    stranger = requested(skulk, tmp_path / "stranger", "mac-9")
    result = skulk("node", "sign", str(stranger), "--path", str(fleet), "--new-ca")
    assert (result.exit_code, "SK-CRT-002" in result.stderr) == (6, True)
    assert not (tmp_path / "config").exists()

    assert skulk("node", "sign", str(added), "--path", str(fleet), "--new-ca").exit_code == 0
    assert skulk("node", "add", "mac-9", "--path", str(fleet)).exit_code == 0
    stranger.unlink()
    key = stranger.with_suffix(".key")
    key.write_bytes(added.with_suffix(".key").read_bytes())
    assert skulk("node", "key", "--config", str(tmp_path / "stranger/node.toml")).exit_code == 0
    result = skulk("node", "sign", str(stranger), "--path", str(fleet))
    assert "is the key of node mac-2" in result.stderr


def test_a_passphrase_comes_from_a_file_that_only_its_owner_reads(
    fleet: Path, added: Path, tmp_path: Path, skulk: Skulk
) -> None:
    secret = tmp_path / "passphrase"
    secret.write_text("open sesame\n")
    arguments = ["node", "sign", str(added), "--path", str(fleet), "--renew"]
    secret.chmod(0o644)
    assert "chmod 600" in skulk(*arguments, "--new-ca", "--passphrase-file", str(secret)).stderr
    secret.chmod(0o600)
    assert skulk(*arguments, "--new-ca", "--passphrase-file", str(secret)).exit_code == 0
    assert b"ENCRYPTED" in (tmp_path / "config/skulk/ca/home/ca.key").read_bytes()
    assert "SK-CRT-004" in skulk(*arguments).stderr
    result = skulk(*arguments, "--passphrase-file", str(secret))
    assert result.exit_code == 0
    assert "open sesame" not in result.output


# --- sign again, as the bootstrap does at every run --------------------------------------------------------------


SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
OTHER_SSH_KEY = SSH_KEY[:-4] + "Hh8g"


@pytest.fixture
def again(fleet: Path, added: Path, skulk: Skulk) -> list[str]:
    """The command for a node that is enrolled already, and has its certificate beside the request."""
    assert skulk("node", "sign", str(added), "--path", str(fleet), "--new-ca").exit_code == 0
    current = ["--current", str(added.with_suffix(".pem"))]
    return ["node", "sign", str(added), "--path", str(fleet), *current]


def state(*folders: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_a_good_certificate_stays_and_needs_no_key_of_the_authority(
    fleet: Path, added: Path, tmp_path: Path, skulk: Skulk, again: list[str]
) -> None:
    (tmp_path / "config/skulk/ca/home/ca.key").unlink()
    before = state(fleet, added.parent)
    for more in ((), ("--check",), ("--renew",)):
        done = skulk(*again, *more)
        assert done.exit_code == 0, done.output
        assert "certificate  good, stays" in done.stdout
        assert "publicKey is there already" in done.stdout
        assert "next:" not in done.stdout
    assert state(fleet, added.parent) == before


def readdressed(fleet: Path) -> None:
    text = manifest(fleet).read_text()
    assert "127.0.0.1:52426" in text
    manifest(fleet).write_text(text.replace("127.0.0.1:52426", "127.0.0.9:52426"))


def test_a_new_address_gets_a_new_certificate_and_a_check_only_says_so(
    fleet: Path, added: Path, skulk: Skulk, again: list[str]
) -> None:
    readdressed(fleet)
    before = state(fleet, added.parent)
    check = skulk(*again, "--check")
    assert check.exit_code == 0, check.output
    assert "mac-2.pem, to be signed" in check.stdout
    assert "reason       it does not name 127.0.0.9" in check.stdout
    assert state(fleet, added.parent) == before
    done = skulk(*again)
    assert done.exit_code == 0, done.output
    assert "for 127.0.0.9, mac-2" in done.stdout
    assert "reason       it does not name 127.0.0.9" in done.stdout
    assert "good, stays" in skulk(*again).stdout


def test_a_certificate_of_another_authority_is_replaced(
    fleet: Path, added: Path, tmp_path: Path, skulk: Skulk, again: list[str]
) -> None:
    (tmp_path / "config/skulk/ca/home").rename(tmp_path / "old")
    assert "holds no ca.pem" in skulk(*again).stderr
    out = tmp_path / "out"
    assert skulk(*again[:-2], "--new-ca", "-o", str(out)).exit_code == 0
    done = skulk(*again, "-o", str(tmp_path / "later"))
    assert done.exit_code == 0, done.output
    assert "not signed by this fleet's authority" in done.stdout
    renewed = [*again[:-1], str(tmp_path / "later/mac-2.pem")]
    assert "good, stays" in skulk(*renewed).stdout


def test_a_node_without_a_certificate_gets_one(
    fleet: Path, added: Path, tmp_path: Path, skulk: Skulk, again: list[str]
) -> None:
    added.with_suffix(".pem").unlink()
    check = skulk(*again, "--check")
    assert "reason       the node has none" in check.stdout
    assert not added.with_suffix(".pem").exists()
    assert skulk(*again).exit_code == 0
    assert "good, stays" in skulk(*again).stdout


def test_a_key_that_was_made_anew_needs_a_word_here_too(
    fleet: Path, tmp_path: Path, added: Path, skulk: Skulk, again: list[str]
) -> None:
    fresh = requested(skulk, tmp_path / "again", "mac-2")
    command = ["node", "sign", str(fresh), "--path", str(fleet), "--current", again[-1]]
    before = state(fleet, fresh.parent)
    done = skulk(*command)
    assert (done.exit_code, "--new-key" in done.stderr) == (6, True)
    assert state(fleet, fresh.parent) == before
    done = skulk(*command, "--new-key")
    assert done.exit_code == 0, done.output
    assert "reason       it is for another key" in done.stdout


def test_the_host_key_goes_into_the_manifest_without_its_comment(
    fleet: Path, added: Path, skulk: Skulk, again: list[str]
) -> None:
    before = state(fleet, added.parent)
    check = skulk(*again, "--ssh-host-key", f"{SSH_KEY} root@mac-2", "--check")
    assert check.exit_code == 0, check.output
    assert "to be written" in check.stdout
    assert state(fleet, added.parent) == before
    assert skulk(*again, "--ssh-host-key", f"{SSH_KEY} root@mac-2").exit_code == 0
    assert f"  sshHostKey: {SSH_KEY}\n" in manifest(fleet).read_text()
    assert "is there already" in skulk(*again, "--ssh-host-key", SSH_KEY).stdout
    assert skulk("validate", str(fleet)).exit_code == 0


def test_another_host_key_than_the_recorded_one_is_refused(fleet: Path, skulk: Skulk, again: list[str]) -> None:
    """What answers at the address may be another machine."""
    assert skulk(*again, "--ssh-host-key", SSH_KEY).exit_code == 0
    text = manifest(fleet).read_text()
    for more in ((), ("--check",)):
        done = skulk(*again, "--ssh-host-key", OTHER_SSH_KEY, *more)
        assert done.exit_code == 6
        assert "fleet/nodes/mac-2.yaml:" in done.stderr
        assert "--new-key" in done.stderr
        assert manifest(fleet).read_text() == text
    assert skulk(*again, "--ssh-host-key", OTHER_SSH_KEY, "--new-key").exit_code == 0
    assert OTHER_SSH_KEY in manifest(fleet).read_text()


# --- authority ----------------------------------------------------------------------------------------------


def test_the_authority_is_made_once_and_shown_afterwards(fleet: Path, tmp_path: Path, skulk: Skulk) -> None:
    command = ["node", "authority", "--path", str(fleet)]
    ca = tmp_path / "config/skulk/ca/home"
    missing = skulk(*command)
    assert (missing.exit_code, "SK-CRT-003" in missing.stderr) == (2, True)
    check = skulk(*command, "--new", "--check")
    assert (check.exit_code, check.stdout.split()[0]) == (0, "changed")
    assert not ca.exists()
    made = skulk(*command, "--new")
    assert made.exit_code == 0, made.output
    assert made.stdout.startswith("changed ")
    assert str(ca / "ca.key") in made.stdout
    before = state(ca)
    for more in ((), ("--new",), ("--check",), ("--new", "--check")):
        shown = skulk(*command, *more)
        assert (shown.exit_code, shown.stdout.split()[0]) == (0, "there")
    assert state(ca) == before


def test_a_second_authority_beside_enrolled_nodes_is_refused(
    fleet: Path, tmp_path: Path, skulk: Skulk, again: list[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    for more in (("--new",), ("--new", "--check"), ()):
        done = skulk("node", "authority", "--path", str(fleet), "--ca", str(elsewhere), *more)
        assert (done.exit_code, "SK-CRT-003" in done.stderr) == (2, True)
        if more:
            assert "mac-2" in done.stderr
    assert not elsewhere.exists()


def test_an_authority_inside_the_checkout_is_refused(fleet: Path, skulk: Skulk) -> None:
    done = skulk("node", "authority", "--path", str(fleet), "--new", "--ca", str(fleet / "ca"))
    assert done.exit_code == 2
    assert "a commit would publish" in done.stderr
    assert not (fleet / "ca").exists()


def test_the_authoritys_key_is_closed_by_a_passphrase_from_a_file(fleet: Path, tmp_path: Path, skulk: Skulk) -> None:
    secret = tmp_path / "passphrase"
    secret.write_text("open sesame\n")
    secret.chmod(0o600)
    command = ["node", "authority", "--path", str(fleet)]
    assert skulk(*command, "--new", "--passphrase-file", str(secret)).exit_code == 0
    assert b"ENCRYPTED" in (tmp_path / "config/skulk/ca/home/ca.key").read_bytes()
    assert skulk(*command).exit_code == 0, "to look at it nothing has to be opened"
