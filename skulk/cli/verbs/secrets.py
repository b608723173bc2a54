"""`skulk secrets …`: secrets in the repository, encrypted with age to the operators and the nodes' SSH host keys.

`install` runs on a node, the others in an operator's checkout. Only `get` prints a secret.
"""

from __future__ import annotations

import getpass
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skulk.cli import changes
from skulk.cli.exits import ExitCode
from skulk.cli.terminal import printable
from skulk.cli.verbs.states import PathOption
from skulk.core.errors import (
    CLI_USAGE,
    SEC_EDITOR,
    SEC_FILE,
    SEC_IDENTITY,
    SEC_RECIPIENTS,
    InvalidInput,
    Refused,
    SkulkError,
)

if TYPE_CHECKING:
    from skulk.adapters.secrets import Identity, SecretsFolder
    from skulk.core.recipients import Recipient

KEY_EXAMPLES = ("skulk secrets key", "skulk secrets key --identity ~/.ssh/id_ed25519 --comment ada")
EDIT_EXAMPLES = ("skulk secrets edit hub-token", "openssl rand -hex 32 | skulk secrets edit webhook --from -")
GET_EXAMPLES = ("skulk secrets get webhook",)
CHECK_EXAMPLES = ("skulk secrets check", "skulk secrets check --path my-fleet")
REKEY_EXAMPLES = ("skulk secrets rekey",)
INSTALL_EXAMPLES = (
    "skulk secrets install /etc/skulk/secrets.age /etc/skulk/secrets --owner skulk --check",
    "skulk secrets install /etc/skulk/secrets.age /etc/skulk/secrets --owner skulk webhook",
)

HOST_KEY = Path("/etc/ssh/ssh_host_ed25519_key")

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", show_default=False, help="The secret: fleet/secrets/NAME.age.")
]
IdentityOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--identity",
        metavar="FILE",
        show_default="~/.config/skulk/age.key, else ~/.ssh/id_ed25519",
        help="Your private key, of age or SSH; may be repeated.",
    ),
]


def key(
    path: PathOption = Path(),
    identity: Annotated[
        Path | None,
        typer.Option(
            "--identity",
            metavar="FILE",
            show_default="~/.config/skulk/age.key",
            help="A private key that is there, or where to make one.",
        ),
    ] = None,
    comment: Annotated[
        str | None, typer.Option("--comment", show_default="your user name", help="Whose key it is.")
    ] = None,
) -> None:
    """Make your key for secrets, if you have none, and add its public half to fleet/secrets/operators.txt.

    The private key stays outside the checkout. An SSH key of type ed25519 without a passphrase will do too.
    """
    from skulk.adapters.secrets import SecretsFolder, default_age_key, make_identity

    changes.read_checkout(path)
    folder = SecretsFolder(path)
    where = identity if identity is not None else default_age_key()
    if changes.is_inside(where, path):
        message = f"{where} lies inside the checkout: a commit would publish the private key"
        raise InvalidInput(SEC_IDENTITY, message, fix="keep it elsewhere")
    there = where.exists()
    public = _public_half(where) if there else make_identity(where)
    said = " ".join((comment if comment is not None else getpass.getuser()).split())
    added = folder.add_operator(public, said)
    print(f"identity  {where} ({'was there' if there else 'made now'}; keep a copy in a safe place)")
    print(f"public    {public}")
    print(f"operators {folder.operators_file}: {'added' if added else 'is there already'}")
    if added:
        change = changes.Change(str(folder.operators_file.relative_to(path)), None, "")
        for line in changes.git_lines(path, change, f"Add operator {said}".rstrip()):
            print(f"  {line}")
    if added and folder.names():
        print("next: whoever can read the secrets that are there runs `skulk secrets rekey` with this list")


def edit(
    name: NameArgument,
    path: PathOption = Path(),
    identity: IdentityOption = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="FILE", show_default=False, help="Take it from a file, or stdin (-)."),
    ] = None,
) -> None:
    """Make or change a secret in your editor, and encrypt it to the operators and nodes of the checkout.

    The editor ($VISUAL, $EDITOR, vi) gets a private file, in memory where the system has such a place; it is removed
    in any case. A secret that was not changed is not written.
    """
    from skulk.adapters.secrets import SecretsFolder, edited, seal, unseal
    from skulk.core.recipients import SECRET_BYTES_MAX

    folder = SecretsFolder(path)
    file = folder.file(name)
    recipients = _recipients(path, folder)
    seal(b"", recipients)  # a mistyped key is told before somebody has typed a secret
    sealed = folder.read(name) if folder.has(name) else None
    before = b"" if sealed is None else unseal(sealed, _identities(identity), f"secret {name}").plain
    after = edited(name, before, SECRET_BYTES_MAX) if from_ is None else _given(from_)
    if after == before:
        print(f"{file}: unchanged" if sealed is not None else f"nothing was written: {name} would be empty")
        if sealed is not None:
            _say_if_others(sealed, recipients)
        return
    if not after.strip():
        fix = f"to remove the secret: git rm {shlex.quote(str(file))}"
        raise InvalidInput(SEC_EDITOR, f"secret {name} would be empty; nothing was changed", fix=fix)
    if (folder.read(name) if folder.has(name) else None) != sealed:
        raise InvalidInput(SEC_FILE, f"{file} was changed by somebody else meanwhile", fix="edit it again")
    written = seal(after, recipients)
    folder.write(name, written)
    print(f"wrote {file}, for {_all_of(recipients)}")
    _note_if_unreadable(written, identity)
    change = changes.Change(str(file.relative_to(path)), None, "")
    for line in changes.git_lines(path, change, f"Set secret {name}"):
        print(f"  {line}")


def get(name: NameArgument, path: PathOption = Path(), identity: IdentityOption = None) -> None:
    """Decrypt a secret and print it on stdout, as it is."""
    from skulk.adapters.secrets import SecretsFolder, unseal

    sealed = SecretsFolder(path).read(name)
    plain = unseal(sealed, _identities(identity), f"secret {name}").plain
    sys.stdout.flush()
    sys.stdout.buffer.write(plain)
    sys.stdout.buffer.flush()


def check(path: PathOption = Path()) -> None:
    """Say which secrets are not encrypted to exactly the current operators and nodes. Needs no key.

    Exit code 1 when there is a finding. Of age keys (age1…) only the number can be seen, not whose they are.
    """
    from skulk.adapters.secrets import SecretsFolder, seal
    from skulk.core.formats.age import read_header
    from skulk.core.recipients import compared

    folder = SecretsFolder(path)
    names = folder.names()
    findings = [
        f"{printable(str(folder.path / name))}: is not encrypted, or no secret at all" for name in folder.strangers()
    ]
    recipients: tuple[Recipient, ...] | None = None
    try:
        if names or folder.operators_file.exists():
            recipients = _recipients(path, folder)
            seal(b"", recipients)  # finds keys that are mistyped
    except InvalidInput as error:
        if error.code is not SEC_RECIPIENTS:
            raise
        findings.append(f"{error.message} ({error.fix})")
    is_rekey_enough = not findings
    for name in names:
        file = folder.file(name)
        try:
            header = read_header(folder.read(name))
        except ValueError as error:
            findings.append(f"{file}: {error}; restore it from git, or set it anew and change it where it is used")
            is_rekey_enough = False
        except InvalidInput as error:
            findings.append(f"{error.message} ({error.fix})")
            is_rekey_enough = False
        else:
            if recipients is not None:
                findings += [f"{file}: {sentence}" for sentence in compared(header, recipients).sentences()]
    for finding in findings:
        print(finding)
    if findings:
        print(f"fix: {'' if is_rekey_enough else 'what is named above, then '}skulk secrets rekey", file=sys.stderr)
        raise typer.Exit(int(ExitCode.FINDINGS))
    for_whom = f", each for {_all_of(recipients)}" if recipients is not None else ""
    print(f"{len(names)} secret{'s' * (len(names) != 1)} in {folder.path}{for_whom}")


def rekey(path: PathOption = Path(), identity: IdentityOption = None) -> None:
    """Encrypt every secret anew to the current operators and nodes, where that is not so already.

    Nothing is written unless all can be decrypted. Who could read a secret before still knows it: change its content
    when somebody has left.
    """
    from skulk.adapters.secrets import SecretsFolder, seal, unseal
    from skulk.core.formats.age import read_header
    from skulk.core.recipients import compared, is_proven

    folder = SecretsFolder(path)
    recipients = _recipients(path, folder)
    names = folder.names()
    identities = _identities(identity) if names else []
    anew: dict[str, tuple[bytes, str]] = {}
    for name in names:
        sealed = folder.read(name)
        opened = unseal(sealed, identities, f"secret {name}")
        header = read_header(sealed)
        if not is_proven(header, recipients, opened.by.public):
            told = "; ".join(compared(header, recipients).sentences())
            why = f"it was {told}" if told else "age keys in a header have no names, so it may have been for others"
            anew[name] = (seal(opened.plain, recipients), why)
    for name, (sealed, why) in anew.items():
        folder.write(name, sealed)
        print(f"encrypted {folder.file(name)} anew: {why}")
    if not anew:
        print(f"nothing to do: {len(names)} secret{'s' * (len(names) != 1)}, for {_all_of(recipients)}")
        return
    print(f"for {_all_of(recipients)}; it counts when it is pushed and the bootstrap has run")


def install(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE_DIR", show_default=False, help="The encrypted files, NAME.age.")
    ],
    target: Annotated[
        Path, typer.Argument(metavar="TARGET_DIR", show_default=False, help="Where NAME is written; Skulk's alone.")
    ],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", show_default=False, help="Only these, instead of all.")
    ] = None,
    identity: Annotated[
        Path, typer.Option("--identity", metavar="FILE", help="The private key of this host.")
    ] = HOST_KEY,
    owner: Annotated[
        str | None, typer.Option("--owner", metavar="USER", show_default="who runs it", help="Who may read them.")
    ] = None,
    check_: Annotated[bool, typer.Option("--check", help="Say what would change, and change nothing.")] = False,
) -> None:
    """On a node: decrypt secrets with the host's SSH key, mode 0400, and remove those that are gone.

    Prints `changed NAME` or `removed NAME` a line, or `unchanged`. When one cannot be decrypted nothing is changed.
    """
    from skulk.adapters.secrets import install as installed
    from skulk.adapters.secrets import load_identity

    host = load_identity(identity, "ssh-keygen -A")
    done = installed(source, target, host, owner=owner, only=names or (), dry_run=check_)
    for name in done.changed:
        print(f"changed {name}")
    for name in done.removed:
        print(f"removed {name}")
    if not done.changed and not done.removed:
        print("unchanged")


def _public_half(identity: Path) -> str:
    """The public key of an identity that is there; of an SSH key by the `.pub` file beside it."""
    from skulk.adapters.secrets import load_identity, read_bounded
    from skulk.core.formats.ssh_key import SSH_KEY_CHARACTERS_MAX, is_ssh_key, without_comment

    first = load_identity(identity)[0]
    if first.public is not None:
        return first.public
    beside = identity.with_name(f"{identity.name}.pub")
    text = read_bounded(beside, SSH_KEY_CHARACTERS_MAX, SEC_IDENTITY, follow=True).decode("utf-8", "replace").strip()
    if not is_ssh_key(text):
        raise InvalidInput(SEC_IDENTITY, f"{beside} is no public key of type ssh-ed25519", fix="name an ed25519 key")
    return without_comment(text)


def _identities(given: Sequence[Path] | None) -> list[Identity]:
    from skulk.adapters.secrets import default_identities, load_identity

    return [identity for file in given or default_identities() for identity in load_identity(file)]


def _recipients(path: Path, folder: SecretsFolder) -> tuple[Recipient, ...]:
    """Everybody whom secrets are for; says on stderr which nodes are not among them."""
    from skulk.core.recipients import recipients_of

    fleet = changes.read_checkout(path).fleet
    recipients = recipients_of(fleet, folder.operators())
    without = sorted(name for name, node in fleet.nodes.items() if node.ssh_host_key is None)
    if without:
        print(f"note: no secrets for {', '.join(without)}: no spec.sshHostKey in the manifest", file=sys.stderr)
    return recipients


def _all_of(recipients: Sequence[Recipient]) -> str:
    return ", ".join(recipient.owner for recipient in recipients)


def _given(source: str) -> bytes:
    from skulk.adapters.secrets import read_bounded
    from skulk.core.recipients import SECRET_BYTES_MAX

    if source != "-":
        return read_bounded(Path(source), SECRET_BYTES_MAX, CLI_USAGE, follow=True)
    data = sys.stdin.buffer.read(SECRET_BYTES_MAX + 1)
    if len(data) > SECRET_BYTES_MAX:
        raise InvalidInput(CLI_USAGE, f"stdin has more than {SECRET_BYTES_MAX} bytes", fix="a secret is smaller")
    return data


def _say_if_others(sealed: bytes, recipients: Sequence[Recipient]) -> None:
    from skulk.core.formats.age import read_header
    from skulk.core.recipients import compared

    for sentence in compared(read_header(sealed), recipients).sentences():
        print(f"note: {sentence}; `skulk secrets rekey` mends it", file=sys.stderr)


def _note_if_unreadable(sealed: bytes, identity: Sequence[Path] | None) -> None:
    """Whoever sets a secret without being on the list cannot read it again: fine for a script, a slip of a person."""
    from skulk.adapters.secrets import unseal

    try:
        unseal(sealed, _identities(identity), "it")
    except Refused:
        print("note: your own key is not among them; `skulk secrets key` adds it", file=sys.stderr)
    except SkulkError:
        return
