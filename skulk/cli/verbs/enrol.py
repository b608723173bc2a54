"""`skulk node add`, `key` and `sign`: a machine becomes a member of the fleet, in the three places where that happens.

`add` and `sign` run in the operator's checkout, `key` on the new machine. Keys never travel: the request does, and
the certificate comes back.
"""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skulk.cli import changes
from skulk.cli.options import DEFAULT_CONFIG, ConfigOption
from skulk.cli.scaffold.manifests import node_yaml
from skulk.cli.scaffold.model import name_from
from skulk.cli.terminal import is_interactive, printable
from skulk.cli.verbs.states import PathOption
from skulk.cli.worktree import ordinals_of_history
from skulk.core.domain.desired import Node
from skulk.core.domain.ids import NodeName
from skulk.core.errors import (
    CLI_EXISTS,
    CLI_USAGE,
    CRT_AUTHORITY,
    CRT_PASSPHRASE,
    CRT_REQUEST,
    InvalidInput,
    Refused,
)
from skulk.core.wire.planes_roster import host_and_port, public_key_text

if TYPE_CHECKING:
    from skulk.adapters.certificates import Authority, Request
    from skulk.core.preflight import Probe

ADD_EXAMPLES = ("skulk node add mac-2 --address 10.0.0.12", "skulk node add box-1 --platform linux/x86_64")
KEY_EXAMPLES = ("skulk node key --config node.toml", "skulk node key --name mac-2 --out /etc/skulk")
AUTHORITY_EXAMPLES = ("skulk node authority", "skulk node authority --new --ca /media/stick/ca")
SIGN_EXAMPLES = ("skulk node sign mac-2.csr --new-ca", "skulk node sign mac-2.csr --ca /media/stick/ca -o out")

CaOption = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        metavar="DIR",
        show_default="~/.config/skulk/ca/NAMESPACE",
        help="Where the fleet's authority is kept: never in the checkout.",
    ),
]
PassphraseOption = Annotated[
    Path | None,
    typer.Option("--passphrase-file", show_default=False, help="Its first line opens the authority's key."),
]


def add(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="The new node's name.")],
    address: Annotated[
        str | None,
        typer.Option("--address", show_default=False, help="Where others reach its planes: HOST or HOST:PORT."),
    ] = None,
    platform: Annotated[
        str | None,
        typer.Option("--platform", metavar="OS/ARCH", show_default=False, help="Such as macos/arm64 or linux/x86_64."),
    ] = None,
    path: PathOption = Path(),
) -> None:
    """Write the manifest of a new node into a checkout, with the next ordinal. Run it where you commit."""
    if name != name_from(name):
        fix = "use lower-case letters, digits, dots and dashes, at most 63"
        raise InvalidInput(CLI_USAGE, f'"{name}" is no resource name', fix=fix)
    system, slash, machine = (platform or "").partition("/")
    if platform is not None and not (system and slash and machine):
        raise InvalidInput(CLI_USAGE, f'--platform "{platform}" is not OS/ARCH', fix="write it like macos/arm64")
    checkout = changes.read_checkout(path)
    if f"Node/{name}" in checkout.fleet.places:
        place = checkout.fleet.places[f"Node/{name}"]
        raise InvalidInput(
            CLI_EXISTS,
            f"node {name} exists already at {place}",
            fix="choose another name, or edit that manifest (`address` is what lets others reach it)",
        )
    # An ordinal says who dials whom and whose a document is: one that was somebody else's is not given again.
    taken = {node.ordinal for node in checkout.fleet.nodes.values()} | ordinals_of_history(path)
    ordinal = max(taken, default=0) + 1
    spec: dict[str, object] = {} if address is None else {"address": address}
    if platform is not None:
        spec["platform"] = {"os": system, "arch": machine}
    change = checkout.checked(changes.Change(f"fleet/nodes/{name}.yaml", None, node_yaml(name, ordinal, spec)))
    changes.write(path, change)
    print(f"wrote {change.path}, ordinal {ordinal}")
    if address is None:
        print("without --address nobody can dial it: it dials all others, and should have the highest ordinal")
    print(f"next, on {name}: skulk node key --config node.toml")
    print(f"then, here:     skulk node sign {name}.csr")


def key(
    config: ConfigOption = DEFAULT_CONFIG,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", show_default="planes.key, else <stateDir>/planes", help="Where to."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", show_default="from node.toml", help="The node's name; needs --out.")
    ] = None,
) -> None:
    """Make this node's key and the request for its certificate. Run it on the node: the key never leaves it.

    A key that is there stays, so that the command can be repeated.
    """
    from skulk.adapters.certificates import make_key_and_request, read_request
    from skulk.node.config import load_config

    if name is not None and out is None:
        raise InvalidInput(CLI_USAGE, "--name needs --out", fix="name a directory, or leave both to node.toml")
    if name is not None and name != name_from(name):
        raise InvalidInput(CLI_USAGE, f'--name "{name}" is no resource name', fix="use the name of the Node manifest")
    if name is None or out is None:
        local = load_config(config)
        name = local.name
        key_file = local.planes.key if out is None and local.planes.key is not None else None
        out = out if out is not None else local.state_dir / "planes"
    else:
        key_file = None
    key_file = key_file if key_file is not None else out / f"{name}.key"
    request_file = key_file.with_name(f"{name}.csr")
    made = make_key_and_request(NodeName(name), key_file, request_file)
    print(f"key      {key_file} ({'made now' if made else 'was there, and stays'}; it never leaves this machine)")
    print(f"request  {request_file}")
    print(f"public   {public_key_text(read_request(request_file).public_key)}")
    print(f"next: copy the request into the operator's checkout, and there: skulk node sign {request_file.name}")


def sign(
    request_file: Annotated[
        Path, typer.Argument(metavar="CSR", show_default=False, help="The request that `skulk node key` made.")
    ],
    path: PathOption = Path(),
    ca: CaOption = None,
    new_ca: Annotated[
        bool, typer.Option("--new-ca", help="Make the fleet's authority: once, for the first node.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", show_default="beside the request", help="For the certificates."),
    ] = None,
    passphrase_file: PassphraseOption = None,
    renew: Annotated[bool, typer.Option("--renew", help="Replace the certificate that is there.")] = False,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="The node has another key than its manifest says, and is meant to.")
    ] = False,
    current: Annotated[
        Path | None,
        typer.Option(
            "--current", metavar="PEM", show_default=False, help="What the node has: nothing is signed if it is good."
        ),
    ] = None,
    ssh_host_key: Annotated[
        str | None, typer.Option("--ssh-host-key", show_default=False, help="The node's, for its manifest.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Say what would be done, and do nothing.")] = False,
) -> None:
    """Sign a node's request, and write its public key into its manifest. Run it in the checkout, with the authority.

    Compare the public key with what `skulk node key` printed on the node before you push.
    """
    from skulk.adapters.certificates import authority_files, read_request

    checkout = changes.read_checkout(path)
    request = read_request(request_file)
    node = _declared(checkout, request.node, request_file)
    public = public_key_text(request.public_key)
    host_key = None if ssh_host_key is None else " ".join(ssh_host_key.split()[:2])
    _check_key(checkout, node, public, host_key, new_key)
    fields = [(("spec", "publicKey"), public)]
    if host_key is not None:
        fields.append((("spec", "sshHostKey"), host_key))
    change = checkout.edit(f"Node/{node.name}", fields)
    directory = authority_dir(ca, checkout, path)
    hosts = [] if node.address is None else [host_and_port(node.address)[0]]
    now = datetime.datetime.now(datetime.UTC)
    reason = _why_signed(directory, current, request, hosts, now)

    print(f"public       {public}")
    where = output if output is not None else request_file.absolute().parent
    if not reason:
        print("certificate  good, stays")
    elif check:
        print(f"certificate  {where / f'{node.name}.pem'}, to be signed")
    else:
        if new_ca and any(other.public_key for other in checkout.fleet.nodes.values() if other.name != node.name):
            # Legitimate when an authority is replaced, a disaster when somebody only sits at another machine.
            print(
                "note: nodes that are enrolled already trust another authority; sign all of them anew", file=sys.stderr
            )
        signer = _authority(directory, checkout.fleet.namespace, new_ca, passphrase_file, now)
        # The file that was judged a moment ago is the one that is to be replaced.
        judged = current is not None and current.absolute() == (where / f"{node.name}.pem").absolute()
        _certify(signer, request, hosts, now, where, replace=renew or new_key or judged)
        key_file = authority_files(directory)[1]
        print(f"authority    {where / 'ca.pem'}, until {signer.not_after:%Y-%m-%d}; its key: {key_file}")
    if reason and current is not None:
        print(f"reason       {reason}")
    if not check:
        changes.write(path, change)
    state = "is there already" if change.is_empty else "to be written" if check else "written"
    print(f"manifest     {change.path}: publicKey {state}")
    if current is None:
        print(f"next: copy both .pem files to {node.name}, beside its key, and name them in [planes] of its node.toml")
        if not change.is_empty:
            for line in changes.git_lines(path, change, f"Enrol {node.name}"):
                print(f"  {line}")


def _why_signed(
    directory: Path, current: Path | None, request: Request, hosts: list[str], now: datetime.datetime
) -> str:
    """Why a certificate has to be signed; empty when the one that the node has is good."""
    from skulk.adapters.certificates import authority_certificate, renewal_reason

    if current is None or not current.exists():
        return "the node has none"
    return renewal_reason(authority_certificate(directory), current.read_bytes(), request, hosts, now)


def _certify(
    signer: Authority,
    request: Request,
    hosts: list[str],
    now: datetime.datetime,
    where: Path,
    *,
    replace: bool,
) -> None:
    from skulk.adapters.certificates import sign as sign_request
    from skulk.adapters.certificates import write_public

    signed = sign_request(signer, request, hosts, now)
    certificate_file = where / f"{request.node}.pem"
    write_public(where / "ca.pem", signer.pem, replace=False)
    write_public(certificate_file, signed.pem, replace=replace)
    print(f"certificate  {certificate_file}, until {signed.not_after:%Y-%m-%d}, for {', '.join(signed.names)}")


def authority(
    path: PathOption = Path(),
    ca: CaOption = None,
    new: Annotated[bool, typer.Option("--new", help="Make it if it is not there: once for a fleet.")] = False,
    passphrase_file: PassphraseOption = None,
    check: Annotated[bool, typer.Option("--check", help="Say what would be done, and do nothing.")] = False,
) -> None:
    """Show where the fleet's authority is, and until when it is valid; or make it. Run it in the checkout.

    A fleet has one: another one would be a stranger to every node that is enrolled.
    """
    from skulk.adapters.certificates import authority_certificate, authority_files

    checkout = changes.read_checkout(path)
    directory = authority_dir(ca, checkout, path)
    certificate_file, key_file = authority_files(directory)
    made = False
    if not certificate_file.exists() and new:
        enrolled = sorted(node.name for node in checkout.fleet.nodes.values() if node.public_key)
        if enrolled:
            message = f"{directory} holds no authority, but {', '.join(enrolled)} trust one already"
            raise InvalidInput(
                CRT_AUTHORITY,
                message,
                fix="name its directory with --ca; only to replace it: `skulk node sign CSR --new-ca`",
            )
        made = True
        if check:
            print(f"changed    an authority would be made in {directory}")
            return
        _authority(directory, checkout.fleet.namespace, True, passphrase_file, datetime.datetime.now(datetime.UTC))
    ends = authority_certificate(directory).not_valid_after_utc
    print(f"{'changed  ' if made else 'there    '}  {certificate_file}, until {ends:%Y-%m-%d}; its key: {key_file}")


def is_enrolled(checkout: changes.Checkout, name: NodeName, probe: Probe, directory: Path) -> bool:
    """Whether nothing is left to do for the node's enrolment: certificate, and manifest, are as they would be made."""
    from skulk.adapters.certificates import authority_certificate, renewal_reason, request_in

    node = checkout.fleet.nodes[name]
    if not probe.request or not probe.certificate:
        return False
    hosts = [] if node.address is None else [host_and_port(node.address)[0]]
    try:
        request = request_in(probe.request.encode(), f"the request of {name}")
        trusted = authority_certificate(directory)
    except (InvalidInput, Refused):
        return False
    return (
        request.node == name
        and not renewal_reason(trusted, probe.certificate.encode(), request, hosts, datetime.datetime.now(datetime.UTC))
        and node.public_key == public_key_text(request.public_key)
        and (not probe.ssh_host_key or node.ssh_host_key == probe.ssh_host_key)
    )


def authority_dir(ca: Path | None, checkout: changes.Checkout, path: Path) -> Path:
    directory = ca if ca is not None else _default_ca(checkout.fleet.namespace)
    if changes.is_inside(directory, path):
        message = f"{directory} lies inside the checkout: a commit would publish the authority's key"
        raise InvalidInput(CRT_AUTHORITY, message, fix="keep it elsewhere, best on a medium of its own: --ca DIR")
    return directory


def _declared(checkout: changes.Checkout, name: NodeName, request_file: Path) -> Node:
    node = checkout.fleet.nodes.get(name)
    if node is None:
        message = (
            f'{request_file} asks for "{printable(name)[:80]}", but no Node manifest in {checkout.root} has that name'
        )
        raise Refused(CRT_REQUEST, message, fix="`skulk node add NAME` first, or correct `name` in its node.toml")
    return node


def _check_key(checkout: changes.Checkout, node: Node, public: str, ssh_host_key: str | None, new_key: bool) -> None:
    for other in checkout.fleet.nodes.values():
        if other.public_key == public and other.name != node.name:
            message = f"the key of this request is the key of node {other.name}"
            raise Refused(CRT_REQUEST, message, fix=f"make a key of its own on {node.name}: `skulk node key`")
    if ssh_host_key and node.ssh_host_key not in (None, ssh_host_key) and not new_key:
        place = checkout.fleet.places[f"Node/{node.name}"]
        message = f"node {node.name} has another sshHostKey at {place} than the machine that answered"
        raise Refused(CRT_REQUEST, message, fix="if the machine was installed anew and you know by whom: --new-key")
    if node.public_key is not None and node.public_key != public and not new_key:
        place = checkout.fleet.places[f"Node/{node.name}"]
        message = f"node {node.name} has another publicKey at {place} than this request"
        raise Refused(CRT_REQUEST, message, fix="if its key was made anew and you know by whom: --new-key")


def _authority(
    directory: Path, namespace: str, new: bool, passphrase_file: Path | None, now: datetime.datetime
) -> Authority:
    """The authority in `directory`, made now if asked. The passphrase comes from the file, else from the person."""
    from skulk.adapters.certificates import load_authority, make_authority, read_passphrase

    given = None if passphrase_file is None else read_passphrase(passphrase_file)
    if new:
        if given is None and is_interactive():
            text = typer.prompt(
                "Passphrase for the authority's key (empty: none)",
                default="",
                show_default=False,
                hide_input=True,
                confirmation_prompt=True,
            )
            given = text.encode() or None
        return make_authority(directory, namespace, given, now)
    try:
        return load_authority(directory, given)
    except InvalidInput as error:
        if error.code is not CRT_PASSPHRASE or given is not None or not is_interactive():
            raise
    text = typer.prompt(f"Passphrase of {directory}", hide_input=True)
    return load_authority(directory, text.encode())


def _default_ca(namespace: str) -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "skulk" / "ca" / namespace
