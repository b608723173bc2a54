"""Where the playbooks are: in a source tree, in the installed package, or a person's own copy in the checkout."""

from __future__ import annotations

import shutil
from pathlib import Path

import skulk
from skulk.core.errors import CLI_EXISTS, CLI_USAGE, InvalidInput

# What a wheel does not keep: scripts are made executable again when they are copied.
_SCRIPTS = ("inventory/fleet",)


def playbooks_dir() -> Path:
    """The playbooks that belong to this program."""
    package = Path(skulk.__file__).resolve().parent
    beside = package.parent / "playbooks"
    return beside if (beside / "ansible.cfg").is_file() else package / "_data" / "playbooks"


def own_playbooks(checkout: Path) -> Path | None:
    """The checkout's own playbooks, which are used instead, if there are any."""
    found = checkout / "playbooks"
    return found.resolve() if (found / "bootstrap.yml").is_file() else None


def export(target: Path) -> None:
    """Copy the playbooks into `target`, which must be new or empty. Raises InvalidInput: CLI_EXISTS, CLI_USAGE."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InvalidInput(CLI_EXISTS, f"{target} exists and is not empty", fix="name a new directory")
    ignored = shutil.ignore_patterns("__pycache__", ".gitkeep")
    try:
        shutil.copytree(playbooks_dir(), target, ignore=ignored, dirs_exist_ok=True)
        for name in _SCRIPTS:
            (target / name).chmod(0o755)
    except OSError as error:
        raise InvalidInput(CLI_USAGE, f"{target} cannot be written: {error}", fix="check the path") from error
