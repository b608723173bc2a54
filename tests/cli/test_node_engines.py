"""`skulk node engines`: what node.toml names and is not there yet is installed, by a toy engine without a network."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from skulk.adapters.engine_envs import discover, environments
from tests.cli.conftest import Skulk


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node whose engine `mlx` is a wheel of three lines, pinned by hash."""
    wheel = tmp_path / "wheels" / "mlx-1.2-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("mlx/__init__.py", "answer = 42\n")
        archive.writestr("mlx-1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: mlx\nVersion: 1.2\n")
        archive.writestr("mlx-1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("mlx-1.2.dist-info/RECORD", "mlx/__init__.py,,\n")
    requirements = tmp_path / "mlx.txt"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    requirements.write_text(f"--no-index\n--find-links {wheel.parent}\nmlx==1.2 \\\n    --hash=sha256:{digest}\n")
    monkeypatch.setattr(environments, "requirements_file", lambda engine: requirements)
    monkeypatch.setattr("skulk.adapters.engine_envs.install.requirements_file", lambda engine: requirements)
    (tmp_path / "node.toml").write_text(
        f'name = "box"\nstateDir = "state"\nenginesDir = "{tmp_path}/engines"\nengines = ["mlx"]\n'
        '[source]\nurl = "/remote"\n'
    )
    return tmp_path / "node.toml"


def installed(config: Path) -> list[Path]:
    return [found.path for found in discover(config.parent / "engines").environments]


def test_what_is_missing_is_installed_once(config: Path, skulk: Skulk) -> None:
    check = skulk("node", "engines", "--config", str(config), "--check")
    assert check.exit_code == 0, check.output
    assert check.stdout.startswith("missing  mlx: ")
    assert installed(config) == []
    done = skulk("node", "engines", "--config", str(config))
    assert done.exit_code == 0, done.output
    (path,) = installed(config)
    assert done.stdout == f"changed  mlx: {path}\n"
    for arguments in ((), ("--check",)):
        again = skulk("node", "engines", "--config", str(config), *arguments)
        assert (again.exit_code, again.stdout, again.stderr) == (0, f"there    mlx: {path}\n", "")


def test_another_lock_asks_for_another_environment(config: Path, skulk: Skulk) -> None:
    assert skulk("node", "engines", "--config", str(config)).exit_code == 0
    (before,) = installed(config)
    requirements = config.parent / "mlx.txt"
    requirements.write_text("# another\n" + requirements.read_text())
    assert skulk("node", "engines", "--config", str(config), "--check").stdout.startswith("missing  mlx: ")
    assert skulk("node", "engines", "--config", str(config)).stdout.startswith("changed  mlx: ")
    assert set(installed(config)) > {before}


def test_a_node_without_engines_has_nothing_to_do(config: Path, skulk: Skulk) -> None:
    config.write_text(config.read_text().replace('["mlx"]', "[]"))
    done = skulk("node", "engines", "--config", str(config))
    assert (done.exit_code, done.stdout) == (0, "")


def test_what_cannot_be_installed_is_said(config: Path, skulk: Skulk) -> None:
    requirements = config.parent / "mlx.txt"
    requirements.write_text(requirements.read_text().replace("sha256:", "sha256:0")[:-2] + "\n")
    done = skulk("node", "engines", "--config", str(config))
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "SK-ENG-" in done.stderr
    requirements.write_text("other==1\n")
    done = skulk("node", "engines", "--config", str(config), "--check")
    assert done.exit_code != 0
    assert "do not pin mlx" in done.stderr


def test_an_engine_that_is_none_is_named(config: Path, skulk: Skulk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    config.write_text(config.read_text().replace('["mlx"]', '["nonsense"]'))
    done = skulk("node", "engines", "--config", str(config), "--check")
    assert done.exit_code == 2
    assert "nonsense" in done.stderr
