"""One run of a playbook: what Ansible is given, its events as they come, and a cancelled run that is really over.

ansible-runner keeps artefacts, among them the environment and every event; here they are not written where that can be
avoided, and else live and end with the run's private directory. The password for sudo is only ever in memory.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from skulk.adapters.ansible.leftovers import MARK, end_connections, end_processes
from skulk.adapters.ansible.playbooks import playbooks_dir
from skulk.adapters.ansible.workplace import Workplace, workplace
from skulk.core.errors import BST_MISSING, InvalidInput

# How long it takes at most until a Ctrl-C is seen.
CANCEL_SECONDS = 0.3

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PROMPT = r"BECOME password.*:\s*?$"


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run, where, and with what. Paths are absolute."""

    playbook: Path
    checkout: Path
    nodes: tuple[str, ...]
    variables: Mapping[str, object] = field(default_factory=dict)
    """What the program says to roles; `given` outweighs it, and the files in between."""
    given: Mapping[str, str] = field(default_factory=dict)
    variable_files: tuple[Path, ...] = ()
    check: bool = False
    forks: int | None = None
    ssh_key: Path | None = None
    become_password: str | None = field(default=None, repr=False)
    host_keys: Mapping[str, str] = field(default_factory=dict)
    """Node → its recorded SSH host key (`ssh-ed25519 AAAA…`)."""
    accept_new_host_keys: bool = False
    plays_here: bool = True
    """Plays on localhost are run too, as they would be without a choice of nodes."""


@dataclass(frozen=True, slots=True)
class Run:
    """How it ended. `ok` is Ansible's word; which node failed is in the events."""

    ok: bool
    cancelled: bool


def find_ansible() -> Path:
    """`ansible-playbook`, best the one beside this interpreter. Raises InvalidInput BST_MISSING, also without
    ansible-runner."""
    beside = Path(sys.executable).parent / "ansible-playbook"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("ansible-playbook")
    if found is None:
        raise InvalidInput(BST_MISSING, f"there is no ansible-playbook in {beside.parent}, nor on PATH")
    _ansible_runner()
    return Path(found)


def _ansible_runner() -> Any:
    try:
        return importlib.import_module("ansible_runner")
    except ImportError as error:
        message = f"the package ansible-runner is not there for {sys.executable}"
        raise InvalidInput(BST_MISSING, message) from error


def run(order: Order, on_event: Callable[[Mapping[str, object]], None]) -> Run:
    """Run it to its end; SIGINT, SIGTERM and SIGHUP cancel it. Afterwards no process and no file of it is left.

    Raises InvalidInput BST_MISSING.
    """
    program, library = find_ansible(), _ansible_runner()
    with _signals() as cancelled, workplace() as place:
        trusting = tuple(n for n in order.nodes if n not in order.host_keys) if order.accept_new_host_keys else ()
        place.write_inventory(order.checkout, order.host_keys, trusting)
        configuration = library.RunnerConfig(
            private_data_dir=str(place.root),
            playbook=str(order.playbook),
            inventory=str(place.inventory),
            limit=",".join((*order.nodes, *(["localhost"] if order.plays_here else []))),
            cmdline=shlex.join(_arguments(order, place)),
            envvars=_environment(order, place),
            passwords=None if order.become_password is None else {_PROMPT: order.become_password},
            forks=order.forks,
            settings={"pexpect_timeout": CANCEL_SECONDS},
            quiet=True,
            suppress_output_file=True,
            suppress_ansible_output=True,
        )
        configuration.prepare()
        configuration.command[0] = str(program)

        def is_cancelled() -> bool:
            if cancelled.is_set():
                # before ansible-runner ends the main process: its workers would keep the terminal open
                end_processes(place.root)
            return cancelled.is_set()

        def take(event: Mapping[str, object]) -> bool:
            on_event(event)
            return False  # none is kept

        def forget(status: Mapping[str, object], **_: object) -> None:
            if status.get("status") == "running":
                # it holds the whole environment
                Path(configuration.artifact_dir, "command").unlink(missing_ok=True)

        runner = library.Runner(configuration, event_handler=take, cancel_callback=is_cancelled, status_handler=forget)
        try:
            runner.run()
        finally:
            end_connections(place.sockets)
            # After a success, what a task left running on this machine was left on purpose.
            if runner.status != "successful":
                end_processes(place.root)
        return Run(ok=runner.status == "successful", cancelled=cancelled.is_set())


def _arguments(order: Order, place: Workplace) -> list[str]:
    files = [
        place.write_variables("variables", {**order.variables, "skulk_controller_program": str(place.program)}),
        *order.variable_files,
        *([place.write_variables("given", order.given)] if order.given else []),
    ]
    arguments = [word for path in files for word in ("--extra-vars", f"@{path}")]
    if order.check:
        arguments += ["--check", "--diff"]
    if order.ssh_key is not None:
        arguments += ["--private-key", str(order.ssh_key)]
    if order.become_password is not None:
        arguments.append("--ask-become-pass")
    return arguments


def _environment(order: Order, place: Workplace) -> dict[str, str]:
    own, packaged = order.playbook.parent, playbooks_dir()
    has_own = (own / "ansible.cfg").is_file()
    return {
        MARK: str(place.root),
        "ANSIBLE_CONFIG": str((own if has_own else packaged) / "ansible.cfg"),
        # A playbook of the user's own may use the roles that come with the program.
        "ANSIBLE_ROLES_PATH": ":".join(dict.fromkeys((str(own / "roles"), str(packaged / "roles")))),
        "ANSIBLE_PIPELINING": "True",
        # ansible-runner would switch the check off
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(place.sockets),
        "ANSIBLE_LOCAL_TEMP": str(place.scratch),
        # for modules that run on this machine: one that is killed does not clean up
        "TMPDIR": str(place.scratch),
        "ANSIBLE_RETRY_FILES_ENABLED": "False",
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "True",
        "ANSIBLE_LOCALHOST_WARNING": "False",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_FORCE_COLOR": "0",
        # Ansible refuses to run in a locale of another encoding.
        "LC_ALL": "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8",
    }


@contextlib.contextmanager
def _signals() -> Iterator[threading.Event]:
    """Set by SIGINT, SIGTERM and SIGHUP while it is open; what was done about them before holds again afterwards."""
    seen = threading.Event()

    def remember(_number: int, _frame: FrameType | None) -> None:
        seen.set()

    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    before = {number: signal.signal(number, remember) for number in _ENDING}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
