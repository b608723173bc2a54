"""A checkout with two nodes whose host keys are real, an operator with a key, and the program run in this process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from skulk.cli.main import app

SECRET = "hush-1234567890-never-shown"
NODES = ("mac-1", "box-1")


def ssh_keygen(path: Path, *, passphrase: str = "", kind: str = "ed25519", comment: str = "root@host") -> Path:
    """A key pair as sshd or a person makes it; returns the private half."""
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", comment, "-f", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


def public(key: Path) -> str:
    return key.with_name(f"{key.name}.pub").read_text().strip()


@dataclass(frozen=True)
class Ground:
    """`root` is the checkout; private host keys of the nodes by name; `age_key` is the operator's."""

    root: Path
    hosts: dict[str, Path]
    age_key: Path
    run: Callable[..., Result]

    @property
    def folder(self) -> Path:
        return self.root / "fleet" / "secrets"

    def skulk(self, *arguments: str, stdin: bytes | None = None, here: bool = True) -> Result:
        """`skulk secrets ARGUMENTS…`; nothing that is printed, but by `get`, may hold the secret."""
        path = ["--path", str(self.root)] if here else []
        result = self.run("secrets", *arguments, *path, stdin=stdin)
        if arguments[0] != "get":
            assert SECRET not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    def put(self, name: str = "webhook", text: str = SECRET) -> Path:
        result = self.skulk("edit", name, "--from", "-", stdin=text.encode())
        assert result.exit_code == 0, result.output
        return self.folder / f"{name}.age"

    def node(self, name: str, host_key: str | None) -> Path:
        ordinal = 1 + NODES.index(name) if name in NODES else 9
        key = "" if host_key is None else f'  sshHostKey: "{host_key}"\n'
        path = self.root / "fleet" / "nodes" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        head = f"apiVersion: skulk.dev/v1alpha1\nkind: Node\nmetadata: {{name: {name}}}\nspec:\n"
        path.write_text(f"{head}  ordinal: {ordinal}\n{key}")
        return path


@pytest.fixture(scope="session")
def host_keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("hosts")
    return {name: ssh_keygen(folder / name) for name in (*NODES, "stranger")}


@pytest.fixture
def bare(tmp_path: Path, host_keys: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Ground:
    """The checkout before anybody has a key."""
    for name in [name for name in os.environ if name.startswith("SKULK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "run").mkdir(mode=0o700)

    def run(*arguments: str, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=stdin, prog_name="skulk")

    ground = Ground(tmp_path / "fleet", host_keys, tmp_path / "config" / "skulk" / "age.key", run)
    (ground.root / "fleet").mkdir(parents=True)
    (ground.root / "fleet" / "fleet.yaml").write_text(
        "apiVersion: skulk.dev/v1alpha1\nkind: Fleet\nmetadata: {name: home}\nspec: {namespace: home}\n"
    )
    for name in NODES:
        ground.node(name, public(host_keys[name]))
    return ground


@pytest.fixture
def ground(bare: Ground) -> Ground:
    assert bare.skulk("key", "--comment", "ada").exit_code == 0
    return bare


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes `$VISUAL` a shell script with the file as $1; returns the folder in which secrets are edited."""

    def scripted(script: str) -> Path:
        path = tmp_path / "editor"
        path.write_text(f"#!/bin/sh\nset -e\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("VISUAL", str(path))
        return tmp_path / "run"

    return scripted
