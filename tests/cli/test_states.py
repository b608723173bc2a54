"""`skulk cordon`, `drain`, `suspend`, `resume`: one field of one file, shown first, written when asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Skulk

NODE = """\
# the one under the desk
apiVersion: skulk.dev/v1alpha1
kind: Node
metadata: {name: mac-1}
spec:
  ordinal: 1  # never reused
  # more to come
"""
CARD = (
    "apiVersion: skulk.dev/v1alpha1\nkind: ModelCard\nmetadata: {name: fox}\nspec:\n  modelId: fox\n"
    "  source: {local: fox}\n  nLayers: 4\n  hiddenSize: 8\n"
    f'  files: [{{path: a, bytes: 1, sha256: "{"a" * 64}"}}]\n'
)
HEAD = "apiVersion: skulk.dev/v1alpha1\nkind: {}\nmetadata: {{name: {}}}\nspec: {}\n"


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    files = {
        "fleet/fleet.yaml": HEAD.format("Fleet", "home", "{namespace: home}"),
        "fleet/nodes/mac-1.yaml": NODE,
        "fleet/nodes/chat.yaml": HEAD.format("Node", "chat", "{ordinal: 2, cordon: true, drain: true}"),
        "fleet/deployments/chat.yaml": HEAD.format("Deployment", "chat", "{model: fox}"),
        "fleet/deployments/talk.yaml": HEAD.format("Deployment", "talk", "{model: fox, suspend: true}"),
        "cards/fox/card.yaml": CARD,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def texts(fleet: Path) -> dict[str, str]:
    return {str(file.relative_to(fleet)): file.read_text() for file in fleet.rglob("*.yaml")}


def test_without_a_word_nothing_is_written_and_the_diff_can_be_applied(fleet: Path, skulk: Skulk) -> None:
    before = texts(fleet)
    result = skulk("cordon", "mac-1", "--path", str(fleet))
    assert result.exit_code == 0
    assert texts(fleet) == before
    assert "+  cordon: true\n" in result.stdout
    assert "--write" in result.stderr
    quiet = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CEILING_DIRECTORIES": "/"}
    subprocess.run(["git", "apply", "-"], input=result.stdout, text=True, cwd=fleet, check=True, env=quiet)
    assert texts(fleet)["fleet/nodes/mac-1.yaml"] == NODE.replace("  # more", "  cordon: true\n  # more")


def test_odd_line_ends_survive_the_diff(fleet: Path, skulk: Skulk) -> None:
    file = fleet / "fleet/nodes/mac-1.yaml"
    before = NODE.replace("\n", "\r\n").encode().removesuffix(b"\r\n")
    file.write_bytes(before)
    # not by the runner, which reads line ends as it likes
    command = [sys.executable, "-m", "skulk.cli.main", "cordon", "mac-1"]
    patch = subprocess.run(command, cwd=fleet, check=True, capture_output=True).stdout
    quiet = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CEILING_DIRECTORIES": "/"}
    subprocess.run(["git", "apply", "--whitespace=nowarn", "-"], input=patch, cwd=fleet, check=True, env=quiet)
    assert file.read_bytes() == before.replace(b"  # more", b"  cordon: true\r\n  # more")


@pytest.mark.parametrize(
    ("arguments", "file", "old", "new"),
    [
        (["cordon", "mac-1"], "nodes/mac-1", "  # more", "  cordon: true\n  # more"),
        (["drain", "node/mac-1"], "nodes/mac-1", "  # more", "  drain: true\n  # more"),
        (["suspend", "chat"], "deployments/chat", "fox}", "fox, suspend: true}"),
        (["resume", "talk"], "deployments/talk", "suspend: true", "suspend: false"),
        (["resume", "node/chat"], "nodes/chat", "cordon: true, drain: true", "cordon: false, drain: false"),
    ],
)
def test_one_file_changes_by_one_state(
    arguments: list[str], file: str, old: str, new: str, fleet: Path, skulk: Skulk
) -> None:
    before = texts(fleet)
    path = f"fleet/{file}.yaml"
    result = skulk(*arguments, "--path", str(fleet), "--write")
    assert result.exit_code == 0, result.output
    assert texts(fleet) == before | {path: before[path].replace(old, new)}
    assert f"add {path}" in result.stdout
    assert sorted(p.name for p in (fleet / path).parent.iterdir() if p.name.startswith(".")) == []
    assert skulk("validate", str(fleet)).exit_code == 0
    again = skulk(*arguments, "--path", str(fleet), "--write")
    assert (again.exit_code, "nothing to change" in again.stdout) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["cordon", "mac-9"], "node/mac-1"),
        (["cordon", "talk"], "node/chat"),
        (["drain", "deployment/chat"], "there is no node"),
        (["suspend", "mac-1"], "deployment/talk"),
        (["resume", "chat"], "deployment/chat"),
        (["resume", "nobody"], "node/mac-1"),
    ],
)
def test_who_is_meant_must_be_clear(arguments: list[str], named: str, fleet: Path, skulk: Skulk) -> None:
    before = texts(fleet)
    result = skulk(*arguments, "--path", str(fleet), "--write")
    assert result.exit_code == 2
    assert named in result.stderr
    assert texts(fleet) == before


def test_an_invalid_fleet_is_left_alone(fleet: Path, skulk: Skulk) -> None:
    (fleet / "fleet/nodes/bad.yaml").write_text("kind: Node\n")
    before = texts(fleet)
    result = skulk("cordon", "mac-1", "--path", str(fleet), "--write")
    assert result.exit_code == 3
    assert "fleet/nodes/bad.yaml" in result.stderr
    assert texts(fleet) == before


def test_the_mode_of_a_file_stays(fleet: Path, skulk: Skulk) -> None:
    file = fleet / "fleet/nodes/mac-1.yaml"
    file.chmod(0o640)
    assert skulk("cordon", "mac-1", "--path", str(fleet), "--write").exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o640
