"""Why a node failed, in one sentence with a fix: read from the messages of ssh, sudo and Ansible.

The texts were recorded from real runs (`tests/bootstrap/recorded`); whatever is not recognised is shown as it was said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from skulk.core.bootstrap.events import HostDone, Outcome, clean

PREFLIGHT_ROLE = "skulk_preflight"
"""A task of this role that fails refuses the machine, before anything was changed on it."""

# A compiler's last lines say what went wrong; whole logs belong into files.
STDERR_LINES_MAX = 5
SENTENCE_CHARACTERS_MAX = 2000

_WORDED = frozenset({"assert", "fail"})
_PREFIXES = ("Task failed: ", "Action failed: ", "Failed to connect to the host via ssh: ")


class Kind(StrEnum):
    """What went wrong, for scripts; docs/guides/bootstrap.md lists them."""

    CONNECTION_REFUSED = "connection-refused"
    TIMED_OUT = "timed-out"
    NO_ROUTE = "no-route"
    NAME_NOT_FOUND = "name-not-found"
    CONNECTION_CLOSED = "connection-closed"
    KEY_FILE = "key-file"
    LOGIN_REFUSED = "login-refused"
    HOST_KEY_UNKNOWN = "host-key-unknown"
    HOST_KEY_CHANGED = "host-key-changed"
    UNREACHABLE = "unreachable"
    SUDO_PASSWORD = "sudo-password"
    SUDO_WRONG_PASSWORD = "sudo-wrong-password"
    NO_SUDO = "no-sudo"
    NO_PYTHON = "no-python"
    NO_PACKAGES = "no-packages"
    DISK_FULL = "disk-full"
    REFUSED = "refused"
    TASK_FAILED = "task-failed"


@dataclass(frozen=True, slots=True)
class Failure:
    """`fix` is empty when the sentence says it itself, or when nobody but a reader can know."""

    kind: Kind
    sentence: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """What is known of the node that failed, so that a sentence can name it."""

    address: str
    """As given to ssh."""
    key_file: str | None = None
    """--ssh-key."""
    host_key_place: str | None = None
    """`file:line` of spec.sshHostKey; None: it is not recorded."""


def explain(done: HostDone, target: Target) -> Failure:
    """The reason of a task that failed, or of a node that was not reached."""
    message = said(done.result)
    if done.outcome is Outcome.UNREACHABLE:
        return _unreached(message, target)
    otherwise = Failure(Kind.REFUSED if done.task.role == PREFLIGHT_ROLE else Kind.TASK_FAILED, _cut(message))
    if done.task.action.rpartition(".")[2] in _WORDED:
        # somebody wrote this text for the person who reads it
        return otherwise
    return _become(message) or _machine(message, done.result) or otherwise


# --- reaching it --------------------------------------------------------------------------------------------

_BAD_KEY_FILE = re.compile(
    r"UNPROTECTED PRIVATE KEY FILE|Load key .*: |Identity file \S+ not accessible|invalid format", re.IGNORECASE
)


def _unreached(message: str, target: Target) -> Failure:
    where = target.address
    if "IDENTIFICATION HAS CHANGED" in message or (
        target.host_key_place is not None and "Host key verification failed" in message
    ):
        return _changed_host_key(message, target)
    if "Host key verification failed" in message:
        return Failure(
            Kind.HOST_KEY_UNKNOWN,
            f"the SSH host key of {where} is not known here",
            "write it as spec.sshHostKey into the Node manifest, accept it once by hand (`ssh` to it and compare the"
            " fingerprint), or trust the first contact with --accept-new-host-keys",
        )
    if _BAD_KEY_FILE.search(message):
        return Failure(
            Kind.KEY_FILE,
            f"ssh cannot use the key file: {_first(_BAD_KEY_FILE, message)}",
            "check the file's path and mode (0600), and load a key with a passphrase into ssh-agent first",
        )
    if "Permission denied (" in message or "Too many authentication failures" in message:
        return _login(message, target)
    if "Could not resolve hostname" in message:
        return Failure(
            Kind.NAME_NOT_FOUND,
            f"the name {_resolved(message) or where} is not known here",
            "correct spec.address of the Node manifest, or the name service of this machine",
        )
    port = _port(message)
    if "Connection refused" in message:
        return Failure(
            Kind.CONNECTION_REFUSED,
            f"{where} is there, but nothing listens for SSH on port {port}",
            "start sshd there (macOS: System Settings, Sharing, Remote Login), or name its port with"
            " -e ansible_port=PORT",
        )
    if re.search(r"timed? ?out", message, re.IGNORECASE):
        return Failure(
            Kind.TIMED_OUT,
            f"{where} did not answer on port {port}",
            "check that the machine is on, that its address is right, and the firewalls in between",
        )
    if re.search(r"No route to host|Network is unreachable|Host is down", message):
        return Failure(
            Kind.NO_ROUTE,
            f"there is no way from here to {where}",
            "check that the machine is on, spec.address of the Node manifest, and this machine's network",
        )
    if re.search(r"Connection (closed|reset)|kex_exchange_identification|Broken pipe", message):
        return Failure(
            Kind.CONNECTION_CLOSED,
            f"{where} closed the connection: {_last_line(message)}",
            "look into the log of its sshd; repeat the command once the machine is up",
        )
    return Failure(Kind.UNREACHABLE, f"{where} was not reached: {_last_line(message)}", "try `ssh` to it by hand")


def _changed_host_key(message: str, target: Target) -> Failure:
    shown = re.search(r"The fingerprint for the (\S+) key sent by the remote host is\s+(\S+?)\.?\s", message)
    key = f" ({shown[1]} {shown[2]})" if shown is not None else ""
    if target.host_key_place is not None:
        known = f"spec.sshHostKey at {target.host_key_place} says"
        fix = "if the machine was installed anew, write its new key there"
    else:
        file = re.search(r"Offending \S+ key in (\S+)", message)
        known = f"{file[1] if file is not None else 'known_hosts'} says"
        fix = "if the machine was installed anew, remove the old key with `ssh-keygen -R`"
    return Failure(
        Kind.HOST_KEY_CHANGED,
        f"{target.address} shows another SSH host key{key} than {known}: nothing was sent to it",
        f"{fix}; otherwise somebody may sit in between",
    )


def _login(message: str, target: Target) -> Failure:
    named = re.search(r"(\S+)@(\S+?): Permission denied \(([^)]*)\)", message)
    user, host = (named[1], named[2]) if named is not None else ("the user", target.address)
    key = f"the key {target.key_file}" if target.key_file is not None else "any key that ssh offers here"
    return Failure(
        Kind.LOGIN_REFUSED,
        f"{host} does not let {user} in with {key}",
        f"put the public key into ~/.ssh/authorized_keys of {user} there (`ssh-copy-id`), or name another key with"
        " --ssh-key FILE or another user with -e ansible_user=NAME",
    )


def _port(message: str) -> str:
    found = re.search(r"port (\d+)", message)
    return found[1] if found is not None else "22"


def _resolved(message: str) -> str | None:
    found = re.search(r"Could not resolve hostname ([^\s:]+)", message)
    return found[1] if found is not None else None


# --- on it --------------------------------------------------------------------------------------------------


def _become(message: str) -> Failure | None:
    if re.search(r"Missing sudo password|a password is required|privilege escalation prompt", message):
        return Failure(
            Kind.SUDO_PASSWORD,
            "sudo asks for a password there",
            "give it with --ask-become-pass, or let the user run sudo without one (NOPASSWD)",
        )
    if re.search(r"Incorrect sudo password|Sorry, try again|incorrect password attempt", message):
        return Failure(Kind.SUDO_WRONG_PASSWORD, "sudo does not take the password", "try again with --ask-become-pass")
    if found := re.search(r"(\S+) is not in the sudoers file|user (\S+) may not run sudo", message, re.IGNORECASE):
        return Failure(
            Kind.NO_SUDO,
            f"{found[1] or found[2]} may not use sudo there",
            "add the user to the group that may (sudo, wheel or admin), or log in as another with -e ansible_user=NAME",
        )
    if re.search(r"sudo: (command )?not found", message):
        return Failure(
            Kind.NO_SUDO, "there is no sudo on the machine", "install it, or log in as root with -e ansible_user=root"
        )
    return None


def _machine(message: str, result: Mapping[str, object]) -> Failure | None:
    interpreter = re.search(r"module interpreter '([^']+)' was not found", message)
    if interpreter or re.search(r"No python interpreters found|python[\d.]*: (command )?not found", message):
        discovered = interpreter[1] if interpreter is not None else _interpreter(result)
        return Failure(
            Kind.NO_PYTHON,
            f"there is no working Python on the machine{f' ({discovered})' if discovered else ''}",
            "install python3 there (Debian, Ubuntu: apt install python3; macOS: xcode-select --install), or name it"
            " with -e ansible_python_interpreter=PATH",
        )
    if "Failed to update apt cache" in message:
        return Failure(
            Kind.NO_PACKAGES,
            f"packages are missing there, and apt cannot fetch its lists: {_last_line(message).strip(' :')}",
            "let the machine reach its package mirror, or install by hand what docs/guides/air-gapped.md lists",
        )
    if "No space left on device" in message:
        return Failure(Kind.DISK_FULL, f"the disk is full there: {_last_line(message)}", "free space, and repeat")
    return None


def _interpreter(result: Mapping[str, object]) -> str | None:
    facts = result.get("ansible_facts")
    found = facts.get("discovered_interpreter_python") if isinstance(facts, Mapping) else None
    return found if isinstance(found, str) else None


# --- texts --------------------------------------------------------------------------------------------------


def said(result: Mapping[str, object]) -> str:
    """All that a result says of a failure: message, exit status, last lines of stderr; of a loop, its failed items."""
    return "\n".join(_said(result)) or "it failed and said nothing"


def _said(result: Mapping[str, object]) -> Iterator[str]:
    if "censored" in result:
        yield "what it said is hidden, because the task works with secrets (no_log)"
        return
    items = result.get("results")
    failed = [i for i in items if isinstance(i, Mapping) and i.get("failed")] if isinstance(items, list) else []
    for item in failed:
        label = item.get("_ansible_item_label", item.get("item"))
        yield from (f"item {label}: {text}" if number == 0 else text for number, text in enumerate(_said(item)))
    if failed:
        return
    message = result.get("msg")
    text = clean(message) if isinstance(message, str) else "" if message is None else str(message)
    for prefix in _PREFIXES:
        text = text.removeprefix(prefix)
    if isinstance(result.get("rc"), int) and result["rc"] != 0:
        text = f"{text} (exit status {result['rc']})"
    if text.strip():
        yield text.strip()
    for name in ("stderr", "module_stderr"):
        if isinstance(stderr := result.get(name), str):
            lines = [line.rstrip() for line in clean(stderr).splitlines() if line.strip()]
            yield from (line for line in lines[-STDERR_LINES_MAX:] if line not in text)


def _last_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing was said"


def _first(pattern: re.Pattern[str], message: str) -> str:
    return next((line.strip(" @") for line in message.splitlines() if pattern.search(line)), message)


def _cut(text: str) -> str:
    return text if len(text) <= SENTENCE_CHARACTERS_MAX else "…" + text[-SENTENCE_CHARACTERS_MAX:]
