"""`skulk bootstrap`: the playbooks of a fleet, run on the machines that its Node manifests name."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skulk.cli import changes, table
from skulk.cli.exits import ExitCode
from skulk.cli.options import Report
from skulk.cli.printing import to_json
from skulk.cli.verbs.states import PathOption
from skulk.cli.worktree import read_worktree
from skulk.core.bootstrap import Ending, NodeReport, Picture, Status, Target, ending_of, reports
from skulk.core.domain.ids import NodeName
from skulk.core.errors import BST_PLAYBOOK, CLI_USAGE, InvalidInput, SkulkError, Terminal
from skulk.core.wire.planes_roster import host_and_port

if TYPE_CHECKING:
    from skulk.adapters.ansible import Order
    from skulk.core.ports import TreeFile

EXAMPLES = (
    "skulk bootstrap --check",
    "skulk bootstrap linux-1 mac-1 --ask-become-pass",
    "skulk bootstrap --playbook upgrade",
    "skulk bootstrap --export playbooks",
)

_EXITS = {
    Ending.DONE: ExitCode.DONE,
    Ending.CHANGES: ExitCode.FINDINGS,
    Ending.FAILED: ExitCode.FINDINGS,
    Ending.REFUSED: ExitCode.REFUSED,
    Ending.UNREACHABLE: ExitCode.UNREACHABLE,
    Ending.CANCELLED: ExitCode.INTERRUPTED,
}
_URL = re.compile(r"https?://")


def bootstrap(
    nodes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NODE]...", show_default=False, help="Names of Node manifests; none: all of them."),
    ] = None,
    playbook: Annotated[
        str,
        typer.Option("--playbook", metavar="NAME", help="bootstrap, upgrade, verify, uninstall, or one of your own."),
    ] = "bootstrap",
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; show what would change. Exit code 1 if anything would.")
    ] = False,
    path: PathOption = Path(),
    extra: Annotated[
        list[str] | None,
        typer.Option("-e", "--extra", metavar="KEY=VALUE", show_default=False, help="A variable for the playbooks."),
    ] = None,
    variables: Annotated[
        list[Path] | None,
        typer.Option("--vars", metavar="FILE", help="A YAML or JSON file of variables.", show_default=False),
    ] = None,
    ssh_key: Annotated[
        Path | None, typer.Option("--ssh-key", metavar="FILE", help="Private key to log in with.", show_default=False)
    ] = None,
    accept_new: Annotated[
        bool,
        typer.Option("--accept-new-host-keys", help="Trust a host that is met for the first time and not recorded."),
    ] = False,
    ask: Annotated[bool, typer.Option("--ask-become-pass", help="Ask for the password of sudo on the nodes.")] = False,
    wheel: Annotated[
        Path | None, typer.Option("--wheel", metavar="FILE", help="The release to install.", show_default=False)
    ] = None,
    wheelhouse: Annotated[
        str | None,
        typer.Option("--wheelhouse", metavar="DIR|URL", show_default=False, help="Where nodes get all packages from."),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option("--ca", metavar="DIR", show_default="~/.config/skulk/ca/NAMESPACE", help="The fleet's authority."),
    ] = None,
    new_ca: Annotated[bool, typer.Option("--new-ca", help="Make the fleet's authority: once.")] = False,
    passphrase_file: Annotated[
        Path | None,
        typer.Option(
            "--passphrase-file", metavar="FILE", help="Its first line opens the authority's key.", show_default=False
        ),
    ] = None,
    forks: Annotated[
        int | None, typer.Option("--forks", min=1, show_default="20", help="How many nodes at the same time.")
    ] = None,
    output: Annotated[Report, typer.Option("-o", "--output", help="Form of the result.")] = Report.TEXT,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show tasks that changed nothing, too.")] = False,
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="DIR", show_default=False, help="Copy the playbooks to DIR, run nothing."),
    ] = None,
) -> None:
    """Turn machines into nodes: run the fleet's playbooks over SSH. Repeat it as often as you like.

    Nodes are logged into as ssh does it, with your own configuration and known hosts; a host key that is recorded in
    spec.sshHostKey is the only one that is taken. A checkout with a playbooks/bootstrap.yml of its own has its
    playbooks used. Progress goes to stderr, the result to stdout.
    """
    from skulk.adapters import ansible

    if export is not None:
        ansible.export(export)
        print(f"wrote {export}; `skulk bootstrap` uses playbooks/ of a checkout, and so does")
        print(f"  ansible-playbook -i {export / 'inventory' / 'fleet'} {export / 'bootstrap.yml'}")
        return
    checkout = changes.read_checkout(path)
    declared = checkout.fleet.nodes
    chosen = _chosen(checkout, nodes or [], playbook, check)
    ansible.find_ansible()
    own = ansible.own_playbooks(path)
    order = ansible.Order(
        playbook=_playbook(own or ansible.playbooks_dir(), playbook),
        checkout=path.resolve(),
        nodes=chosen,
        variables=_variables(path, _file(wheel), wheelhouse, ca, new_ca, _file(passphrase_file)),
        given=_given(extra or []),
        variable_files=tuple(file for name in variables or () if (file := _file(name)) is not None),
        check=check,
        forks=forks,
        ssh_key=_file(ssh_key),
        become_password=typer.prompt("Password of sudo on the nodes", hide_input=True, err=True) if ask else None,
        host_keys={name: key for name in chosen if (key := declared[NodeName(name)].ssh_host_key) is not None},
        accept_new_host_keys=accept_new,
        # a node of that name must be chosen like any other
        plays_here="localhost" not in checkout.fleet.nodes,
    )
    if own is not None and own != ansible.playbooks_dir():
        print(f"▸ playbooks of the checkout: {own}", file=sys.stderr)
    ending = _run(order, checkout, output, verbose=verbose)
    if ending is not Ending.DONE:
        raise typer.Exit(int(_EXITS[ending]))


def _run(order: Order, checkout: changes.Checkout, output: Report, *, verbose: bool) -> Ending:
    from skulk.adapters.ansible import run
    from skulk.cli.bootstrapping import Progress

    progress = Progress(order.nodes, verbose=verbose)
    what = f"{order.playbook.stem}{', check only' if order.check else ''}"
    progress.say(f"▸ {what}: {', '.join(order.nodes)}")
    with progress.shown():
        done = run(order, progress.take)
    if done.cancelled:
        progress.say("▸ cancelled; what a node was in the middle of, it may still finish")
    targets = {name: _target(order, checkout, name) for name in order.nodes}
    found = reports(progress.picture, order.nodes, targets, cancelled=done.cancelled)
    ending = ending_of(found, check=order.check, cancelled=done.cancelled)
    if not done.ok and ending in (Ending.DONE, Ending.CHANGES):
        if progress.picture.nodes and output is Report.TEXT:
            _print(found, progress.picture, check=order.check)
        raise Terminal(BST_PLAYBOOK, _why(order, progress.picture))
    changed = _changed_files(checkout)
    if output is Report.JSON:
        print(to_json(_as_json(order, ending, found, progress.picture, changed)))
        return ending
    _print(found, progress.picture, check=order.check)
    if changed:
        print("\nmanifests were changed; they count when they are pushed:")
        for line in changes.commit_lines(checkout.root, changed, f"Enrol {', '.join(order.nodes)}"):
            print(f"  {line}")
    return ending


# --- what is run --------------------------------------------------------------------------------------------


def _chosen(checkout: changes.Checkout, names: Sequence[str], playbook: str, check: bool) -> tuple[str, ...]:
    declared = sorted(checkout.fleet.nodes)
    if not declared:
        raise InvalidInput(CLI_USAGE, f"no node is declared in {checkout.root}", fix="`skulk node add NAME` first")
    unknown = [name for name in names if name not in declared]
    if unknown:
        what = f"no node is called {', '.join(map(repr, unknown))}"
        raise InvalidInput(CLI_USAGE, what, fix=f"declared are: {', '.join(declared)}")
    if playbook == "uninstall" and not names and not check:
        # the one playbook that nobody wants to run everywhere by leaving a word out
        raise InvalidInput(
            CLI_USAGE, "uninstall needs the names of its nodes", fix=f"declared are: {' '.join(declared)}"
        )
    return tuple(dict.fromkeys(names or declared))


def _playbook(directory: Path, name: str) -> Path:
    there = sorted(file.stem for file in directory.glob("*.yml"))
    if name not in there:
        fix = f"there are: {', '.join(there) or 'none'}"
        raise InvalidInput(CLI_USAGE, f"there is no playbook {name!r} in {directory}", fix=fix)
    return directory / f"{name}.yml"


def _variables(
    path: Path, wheel: Path | None, wheelhouse: str | None, ca: Path | None, new_ca: bool, passphrase_file: Path | None
) -> dict[str, object]:
    """What roles read; a variable that nobody gave is left to the role's own default."""
    if wheelhouse is not None and not _URL.match(wheelhouse):
        if not Path(wheelhouse).is_dir():
            raise InvalidInput(
                CLI_USAGE, f"--wheelhouse: {wheelhouse} is no directory and no URL", fix="check the path"
            )
        wheelhouse = str(Path(wheelhouse).resolve())
    files = {"skulk_release_wheel": wheel, "skulk_enrol_ca": ca, "skulk_enrol_passphrase_file": passphrase_file}
    found: dict[str, object] = {name: str(file.resolve()) for name, file in files.items() if file is not None}
    if wheelhouse is not None:
        found["skulk_release_wheelhouse"] = wheelhouse
    return found | {"skulk_fleet_checkout": str(path.resolve()), "skulk_enrol_new_ca": new_ca}


def _file(path: Path | None) -> Path | None:
    """Absolute, because Ansible works in a directory of its own. Raises InvalidInput CLI_USAGE if it is not there."""
    if path is not None and not path.is_file():
        raise InvalidInput(CLI_USAGE, f"{path} is no file", fix="check the path")
    return None if path is None else path.resolve()


def _given(extra: Sequence[str]) -> dict[str, str]:
    found = {}
    for pair in extra:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise InvalidInput(CLI_USAGE, f'-e "{pair}" is not KEY=VALUE', fix="write it like -e ansible_user=root")
        found[key] = value
    return found


# --- SSH host keys ------------------------------------------------------------------------------------------


def _target(order: Order, checkout: changes.Checkout, name: str) -> Target:
    node = checkout.fleet.nodes[NodeName(name)]
    return Target(
        address=node.ssh.host or (name if node.address is None else host_and_port(node.address)[0]),
        key_file=None if order.ssh_key is None else str(order.ssh_key),
        host_key_place=_place(checkout, name) if name in order.host_keys else None,
    )


def _place(checkout: changes.Checkout, name: str) -> str:
    """`file:line` of the field, found as a person would: the first line below the document's start that names it."""
    file, _, line = checkout.fleet.places[f"Node/{name}"].rpartition(":")
    text = next((f.data for f in checkout.files if f.path == file), b"").decode(errors="replace")
    lines = enumerate(text.splitlines(), start=1)
    return f"{file}:{next((n for n, t in lines if n >= int(line) and 'sshHostKey' in t), line)}"


# --- what came out ------------------------------------------------------------------------------------------


def _changed_files(checkout: changes.Checkout) -> list[str]:
    """Manifests that are not as they were before the run: enrolment writes keys into them."""
    try:
        now = read_worktree(checkout.root)
    except SkulkError:
        return []
    return sorted({file.path for file in _difference(checkout.files, now)})


def _difference(before: Sequence[TreeFile], after: Sequence[TreeFile]) -> list[TreeFile]:
    known = {file.path: file for file in before}
    return [file for file in after if known.get(file.path) != file]


def _why(order: Order, picture: Picture) -> str:
    said = "\n".join(line for line in picture.said if line.strip())
    return f"{order.playbook}: {said or 'Ansible ended without a reason'}"


def _result(report: NodeReport, check: bool) -> str:
    if report.status is Status.CHANGED:
        return f"{'would change' if check else 'changed'} {len(report.changed)}"
    return report.status.value


def _print(found: Sequence[NodeReport], picture: Picture, *, check: bool) -> None:
    if check:
        for report in found:
            for change in report.changed:
                print(f"{report.node}: {change.task}" + (f"\n{change.diff}\n" if change.diff else ""))
        if any(report.changed for report in found):
            print()
    rows = [("NODE", "RESULT", "SECONDS")]
    rows += [(report.node, _result(report, check), f"{report.seconds:.1f}") for report in found]
    print("\n".join(table.lines(rows)))
    for report in found:
        if (failure := report.failure) is not None:
            at = f", at {report.task}" if report.status is Status.FAILED else ""
            print(f"\n{report.node}{at}: {failure.sentence}" + (f"\n  fix: {failure.fix}" if failure.fix else ""))
    if picture.notes:
        print()
    for note in picture.notes:
        print(f"note: {note}")


def _as_json(
    order: Order, ending: Ending, found: Sequence[NodeReport], picture: Picture, changed: Sequence[str]
) -> dict[str, object]:
    return {
        "playbook": order.playbook.stem,
        "check": order.check,
        "ending": ending.value,
        "nodes": [
            {
                "name": report.node,
                "status": report.status.value,
                "seconds": round(report.seconds, 3),
                "changed": [change.task for change in report.changed],
                "failure": None if report.failure is None else {"task": report.task, **asdict(report.failure)},
            }
            for report in found
        ],
        "notes": list(picture.notes),
        "changedManifests": list(changed),
    }
