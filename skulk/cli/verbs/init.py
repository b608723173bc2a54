"""`skulk init`: a new fleet repository that validates from the first moment."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from skulk.cli import scaffold
from skulk.cli.scaffold.model import name_from
from skulk.cli.verbs.schema import schema_files
from skulk.core.errors import CLI_EXISTS, CLI_USAGE, InvalidInput

EXAMPLES = ("skulk init my-fleet", "skulk init my-fleet --node mac-1 --model-dir ~/models/qwen3-4b-4bit")

# `git init`, `add` and `commit` of a dozen small files; more means that a hook or a prompt hangs.
GIT_SECONDS_MAX = 60.0
# Used when the user's git has no identity, so that the first commit never fails for that.
_IDENTITY = {"name": "skulk init", "email": "skulk@localhost"}


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", show_default=False, help="New or empty.")],
    name: Annotated[str | None, typer.Option("--name", show_default="from DIR", help="The fleet's name.")] = None,
    node: Annotated[
        str | None, typer.Option("--node", show_default="from the host name", help="This machine's node name.")
    ] = None,
    model_dir: Annotated[
        Path | None,
        typer.Option("--model-dir", show_default=False, help="A local MLX model to describe and deploy."),
    ] = None,
    git: Annotated[bool, typer.Option("--git/--no-git", help="Make it a git repository with a first commit.")] = True,
) -> None:
    """Make a fleet repository: manifests for this machine, schemas, editor settings, a CI check, a README."""
    _refuse_occupied(directory)
    fleet = _checked_name("--name", name) or name_from(directory.resolve().name)
    machine = _checked_name("--node", node) or name_from(platform.node().partition(".")[0] or "node")
    model = scaffold.model_facts(model_dir) if model_dir is not None else None
    for place, text in _files(fleet, machine, model).items():
        file = directory / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    print(f"fleet {fleet} with node {machine} in {directory}")
    if git:
        print(_make_repository(directory))
    if model is not None:
        print(f"model {model.name}: modelRoots in node.toml must contain {model.root}")
    print(f"next: read {directory / 'README.md'}, then `skulk validate {directory}`")


def _files(fleet: str, node: str, model: scaffold.ModelFacts | None) -> Mapping[str, str]:
    """Path → text of everything in the new repository."""
    files = {
        "README.md": scaffold.readme(fleet, node, model.name if model else None),
        ".gitignore": scaffold.gitignore(),
        ".vscode/settings.json": scaffold.editor_settings(),
        ".github/workflows/validate.yml": scaffold.workflow(),
        "fleet/fleet.yaml": scaffold.fleet_yaml(fleet),
        f"fleet/nodes/{node}.yaml": scaffold.node_yaml(node, 1),
        **{f"schemas/{name}": text for name, text in schema_files().items()},
    }
    if model is None:
        # git keeps no empty folders, and an empty folder says where things go
        return files | {"fleet/deployments/.gitkeep": "", "cards/.gitkeep": ""}
    return files | {
        f"cards/{model.name}/card.yaml": scaffold.card_yaml(model),
        f"fleet/deployments/{model.name}.yaml": scaffold.deployment_yaml(model.name, model.name),
    }


def _refuse_occupied(directory: Path) -> None:
    if directory.is_dir() and not any(directory.iterdir()):
        return
    if os.path.lexists(directory):
        raise InvalidInput(CLI_EXISTS, f"{directory} exists and is not an empty directory")


def _checked_name(option: str, name: str | None) -> str | None:
    if name is not None and name != name_from(name):
        fix = "use lower-case letters, digits, dots and dashes, at most 63"
        raise InvalidInput(CLI_USAGE, f'{option} "{name}" is no resource name', fix=fix)
    return name


def _make_repository(directory: Path) -> str:
    """A git repository with one commit; says so when that is not possible: the files are of use without it."""
    if shutil.which("git") is None:
        return "git is not installed: the files are there, the repository is not"
    steps = (
        ("init", "--quiet", "--initial-branch=main"),
        ("add", "--all"),
        ("commit", "--quiet", "-m", "Begin the fleet"),
    )
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
    for role in ("AUTHOR", "COMMITTER"):
        for key, value in _IDENTITY.items():
            if not _git(directory, "config", f"user.{key}").stdout.strip():
                environment.setdefault(f"GIT_{role}_{key.upper()}", value)
    for step in steps:
        try:
            done = _git(directory, *step, environment=environment)
        except subprocess.TimeoutExpired:
            return f"git {step[0]} did not end within {GIT_SECONDS_MAX:g} s, do it by hand"
        if done.returncode != 0:
            return f"git {step[0]} failed, do it by hand: {done.stderr.strip()}"
    return "git repository with a first commit on main"


def _git(
    directory: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(directory), *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=environment,
        timeout=GIT_SECONDS_MAX,
        check=False,
    )
