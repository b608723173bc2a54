"""`skulk cordon`, `drain`, `suspend`, `resume`: one line of a manifest each, printed as a diff or written.

They change the checkout, not the fleet: the fleet changes when a person commits and pushes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from skulk.cli import changes
from skulk.core.domain.desired import Fleet
from skulk.core.domain.ids import DeploymentName, NodeName
from skulk.core.errors import CLI_USAGE, InvalidInput

CORDON_EXAMPLES = ("skulk cordon mac-1", "skulk cordon mac-1 --write")
DRAIN_EXAMPLES = ("skulk drain mac-1", "skulk drain mac-1 --write")
SUSPEND_EXAMPLES = ("skulk suspend chat", "skulk suspend chat --write")
RESUME_EXAMPLES = ("skulk resume mac-1 --write", "skulk resume chat", "skulk resume deployment/chat")

NodeArgument = Annotated[str, typer.Argument(metavar="NODE", show_default=False, help="Name of a Node manifest.")]
DeploymentArgument = Annotated[
    str, typer.Argument(metavar="DEPLOYMENT", show_default=False, help="Name of a Deployment manifest.")
]
NameArgument = Annotated[
    str,
    typer.Argument(metavar="NAME", show_default=False, help="A node or deployment; node/NAME or deployment/NAME."),
]
PathOption = Annotated[Path, typer.Option("--path", help="The folder that holds fleet/ and cards/.")]
WriteOption = Annotated[
    bool, typer.Option("--write/--dry-run", help="Change the file, instead of printing the difference.")
]


def cordon(node: NodeArgument, path: PathOption = Path(), write: WriteOption = False) -> None:
    """Keep what runs on a node, put nothing new there. Changes the manifest; `resume` takes it back."""
    _set(path, node, "Node", {"cordon": True}, "Cordon", write)


def drain(node: NodeArgument, path: PathOption = Path(), write: WriteOption = False) -> None:
    """Move everything off a node, then run nothing there. Changes the manifest; `resume` takes it back."""
    _set(path, node, "Node", {"drain": True}, "Drain", write)


def suspend(deployment: DeploymentArgument, path: PathOption = Path(), write: WriteOption = False) -> None:
    """Stop all replicas of a deployment and keep its manifest. `resume` takes it back."""
    _set(path, deployment, "Deployment", {"suspend": True}, "Suspend", write)


def resume(name: NameArgument, path: PathOption = Path(), write: WriteOption = False) -> None:
    """Take cordon and drain back from a node, or suspend from a deployment. Changes the manifest."""
    checkout = changes.read_checkout(path)
    kind, plain = _found(checkout.fleet, name, ("Node", "Deployment"))
    fields = {"suspend": False}
    if kind == "Node":
        node = checkout.fleet.nodes[NodeName(plain)]
        # only what is set: a field that is absent says false already
        fields = {field: False for field, is_set in (("cordon", node.cordon), ("drain", node.drain)) if is_set}
    elif not checkout.fleet.deployments[DeploymentName(plain)].suspend:
        fields = {}
    _finish(checkout, kind, plain, fields, "Resume", write)


def _set(path: Path, name: str, kind: str, fields: dict[str, bool], verb: str, write: bool) -> None:
    checkout = changes.read_checkout(path)
    _, plain = _found(checkout.fleet, name, (kind,))
    _finish(checkout, kind, plain, fields, verb, write)


def _finish(checkout: changes.Checkout, kind: str, name: str, fields: dict[str, bool], verb: str, write: bool) -> None:
    """Print the difference on stdout, or write it; what to do next goes to stderr, so that the diff can be piped."""
    change = checkout.edit(f"{kind}/{name}", [(("spec", field), value) for field, value in fields.items()])
    subject = f"{kind.lower()}/{name}"
    if change.is_empty:
        print(f"{subject}: nothing to change in {change.path}")
        return
    if not write:
        print(changes.diff(change), end="")
        print(f"not written: `skulk {verb.lower()} {subject} --write` does it", file=sys.stderr)
        return
    changes.write(checkout.root, change)
    print(f"wrote {change.path}; it counts when it is pushed:")
    for line in changes.git_lines(checkout.root, change, f"{verb} {name}"):
        print(f"  {line}")


def _found(fleet: Fleet, name: str, kinds: tuple[str, ...]) -> tuple[str, str]:
    """(kind, name) of what the person means. Raises InvalidInput CLI_USAGE when there is none, or one of each kind."""
    prefix, slash, rest = name.rpartition("/")
    known: dict[str, list[str]] = {"Node": [*fleet.nodes], "Deployment": [*fleet.deployments]}
    wanted = [kind for kind in kinds if not slash or prefix.lower() in (kind.lower(), f"{kind.lower()}s")]
    found = [kind for kind in wanted if rest in known[kind]]
    if len(found) == 1:
        return found[0], rest
    if found:
        raise InvalidInput(
            CLI_USAGE, f'"{name}" is a node and a deployment', fix=f"write node/{name} or deployment/{name}"
        )
    what = " or ".join(kind.lower() for kind in kinds)
    raise InvalidInput(CLI_USAGE, f'there is no {what} "{name}"', fix=_known(known, kinds))


def _known(names: dict[str, list[str]], kinds: Iterable[str]) -> str:
    there = [f"{kind.lower()}/{name}" for kind in kinds for name in sorted(names[kind])]
    return f"there are {', '.join(there[:20])}" if there else "there are none"
