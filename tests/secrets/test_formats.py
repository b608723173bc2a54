"""What is read without a key: headers of age files made by the library, tags of SSH keys, the list of operators."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pyrage
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skulk.core.domain import CommitId
from skulk.core.formats.age import AgeHeader, read_header
from skulk.core.formats.ssh_key import is_ssh_key, tag_of, without_comment
from skulk.core.manifests import load
from skulk.core.ports import TreeFile
from skulk.core.recipients import (
    Difference,
    Recipient,
    compared,
    is_proven,
    is_secret_name,
    parse_operators,
    recipients_of,
)
from tests.secrets.conftest import public, ssh_keygen

AGE = pyrage.x25519.Identity.generate()
AGE_KEY = str(AGE.to_public())
POINT = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43


def sealed(ssh: int = 1, age: int = 1, plain: bytes = b"x", armored: bool = False) -> bytes:
    """Encrypted to one SSH key and one age key, so and so many times."""
    keys = [pyrage.ssh.Recipient.from_str(POINT)] * ssh + [AGE.to_public()] * age
    data: bytes = pyrage.encrypt(plain, keys, armored=armored)
    return data


# --- headers ------------------------------------------------------------------------------------------------


@given(st.integers(0, 12), st.integers(0, 12), st.binary(max_size=300), st.booleans())
def test_every_file_of_the_library_is_understood(ssh: int, age: int, plain: bytes, armored: bool) -> None:
    """The library adds a stanza with a random name and body each time, which is no finding."""
    if not ssh and not age:
        age = 1
    header = read_header(sealed(ssh, age, plain, armored))
    assert header == AgeHeader((tag_of(POINT),) * ssh, age)


@given(st.binary(max_size=400))
@example(b"age-encryption.org/v1\n--- " + b"A" * 43 + b"\n" + b"p" * 40)
@example(b"-----BEGIN AGE ENCRYPTED FILE-----")
@example(b"-----BEGIN AGE ENCRYPTED FILE-----\nYQ=\n-----END AGE ENCRYPTED FILE-----")
@example(b"age-encryption.org/v1\n-> ssh-ed25519\n\n--- " + b"A" * 43 + b"\n")
def test_anything_else_is_refused_with_a_reason(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(it|its) \w"):
        read_header(data)


@pytest.mark.parametrize("armored", [False, True])
def test_a_file_that_is_cut_off_anywhere_in_its_header_is_refused(armored: bool) -> None:
    whole = sealed(armored=armored).rstrip(b"\n" if armored else b"")
    # In binary the payload follows the header, and only its first 32 bytes must be there.
    lengths = len(whole) if armored else whole.index(b"\n--- ") + 49 + 31
    for length in range(lengths):
        with pytest.raises(ValueError, match=r"cut off|begin|damaged"):
            read_header(whole[:length])
    read_header(whole[: lengths + 1])


def test_a_file_for_a_passphrase_is_told_apart() -> None:
    assert read_header(pyrage.passphrase.encrypt(b"x", "pass")).others == ("scrypt",)


def test_the_fingerprint_of_ssh_keygen_begins_with_the_tag(tmp_path: Path) -> None:
    key = ssh_keygen(tmp_path / "key")
    shown = subprocess.run(["ssh-keygen", "-lf", str(key)], check=True, capture_output=True, text=True).stdout
    digest = base64.b64decode(shown.split()[1].removeprefix("SHA256:") + "=")
    assert base64.b64decode(tag_of(public(key)) + "==") == digest[:4]


def test_a_key_is_one_line_of_one_type(tmp_path: Path) -> None:
    line = public(ssh_keygen(tmp_path / "key", comment="ada of box 1"))
    assert is_ssh_key(line)
    assert without_comment(line) == " ".join(line.split()[:2])
    rsa = public(ssh_keygen(tmp_path / "rsa", kind="ecdsa"))
    for wrong in (
        rsa,
        f"host {line}",
        f"{line}\n",
        f"{line}\n{line}",
        line.split()[1],
        line[:70],
        "",
        f"{line} {'c' * 300}",
    ):
        assert not is_ssh_key(wrong), wrong


# --- who may read -------------------------------------------------------------------------------------------


def test_operators_are_one_a_line_with_comments() -> None:
    text = f"# who may read\n\n{AGE_KEY} ada\n  {POINT} bo of team 2  \n"
    assert parse_operators(text) == [Recipient(AGE_KEY, "operator ada"), Recipient(POINT, "operator bo of team 2")]
    assert parse_operators(f"{AGE_KEY}\n")[0].owner == "operator of line 1"
    assert parse_operators("") == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (str(AGE), "private key"),
        (str(AGE).lower(), "private key"),
        (AGE_KEY[:-1], "no public key"),
        (AGE_KEY.upper(), "no public key"),
        ("ssh-rsa AAAAB3NzaC1yc2E= ada", "no public key"),
        (f'command="x" {POINT}', "no public key"),
        (f"{AGE_KEY} again", "already"),
    ],
    ids=["private", "private in lower case", "cut off", "upper case", "rsa", "with options", "twice"],
)
def test_a_wrong_line_is_named_by_its_place_and_not_repeated(line: str, told: str) -> None:
    with pytest.raises(ValueError, match=rf"operators\.txt:3: .*{told}") as caught:
        parse_operators(f"{AGE_KEY}\n\n{line}\n")
    assert line[20:] not in str(caught.value)


def test_a_key_of_an_operator_and_a_node_counts_once() -> None:
    head = "apiVersion: skulk.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n"
    texts = {
        "fleet/fleet.yaml": head.format(kind="Fleet", name="home") + "  namespace: home\n",
        "fleet/nodes/b.yaml": head.format(kind="Node", name="b") + f'  ordinal: 1\n  sshHostKey: "{POINT} root@b"\n',
        "fleet/nodes/a.yaml": head.format(kind="Node", name="a") + "  ordinal: 2\n",
    }
    files = tuple(TreeFile(path, text.encode(), size=len(text)) for path, text in texts.items())
    fleet = load(files, CommitId("1" * 40)).fleet
    assert fleet is not None
    ada = Recipient(AGE_KEY, "operator ada")
    assert recipients_of(fleet, [ada]) == (ada, Recipient(POINT, "node b"))
    assert recipients_of(fleet, [Recipient(POINT, "operator bo")]) == (Recipient(POINT, "operator bo"),)


ADA, BOX = Recipient(AGE_KEY, "operator ada"), Recipient(POINT, "node box")


@pytest.mark.parametrize(
    ("header", "difference", "told"),
    [
        (AgeHeader((tag_of(POINT),), 1), Difference(), ""),
        (AgeHeader((), 1), Difference(missing=("node box",)), "not encrypted to node box"),
        (AgeHeader((tag_of(POINT), "aaaaaa"), 1), Difference(superfluous_tags=("aaaaaa",)), "no recipients"),
        (AgeHeader((tag_of(POINT),) * 2, 1), Difference(superfluous_tags=(tag_of(POINT),)), "no recipients"),
        (AgeHeader((tag_of(POINT),), 0), Difference(age_keys_too_many=-1), "1 age key fewer"),
        (AgeHeader((tag_of(POINT),), 3), Difference(age_keys_too_many=2), "2 age keys more"),
        (AgeHeader((tag_of(POINT),), 1, ("scrypt",)), Difference(others=("scrypt",)), "scrypt"),
    ],
)
def test_a_header_is_compared_with_who_should_read(header: AgeHeader, difference: Difference, told: str) -> None:
    found = compared(header, [ADA, BOX])
    assert found == difference
    assert bool(found) == bool(told)
    assert told in "; ".join(found.sentences())


def test_a_header_proves_its_age_key_only_when_it_is_the_only_one_and_opened_the_file() -> None:
    header = AgeHeader((tag_of(POINT),), 1)
    assert is_proven(header, [ADA, BOX], AGE_KEY)
    assert not is_proven(header, [ADA, BOX], None), "opened by an SSH key: the age key may be another's"
    assert not is_proven(header, [ADA], AGE_KEY)
    assert is_proven(AgeHeader((tag_of(POINT),)), [BOX], None)
    cy = Recipient(str(pyrage.x25519.Identity.generate().to_public()), "operator cy")
    assert not is_proven(AgeHeader((tag_of(POINT),), 2), [ADA, cy, BOX], AGE_KEY)


@given(st.text(max_size=70))
@example("../x")
@example("a/b")
@example("..")
@example(".hidden")
@example("x\n")
def test_a_name_never_leaves_its_folder(name: str) -> None:
    if is_secret_name(name):
        assert Path(name).name == name
        assert name.isascii()
        assert not name.startswith((".", "-"))
