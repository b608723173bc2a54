"""Wheels that are really built, and small ones made for a test."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from skulk.adapters.release import make_release, source_tree
from tests.cli.conftest import skulk

__all__ = ["skulk"]

METADATA = "Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n"

MakeWheel = Callable[..., Path]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release of this checkout: its directory."""
    if source_tree() is None:
        pytest.skip("not a checkout")
    if shutil.which("uv") is None:
        pytest.skip("uv is not on PATH")
    return make_release(tmp_path_factory.mktemp("releases"))[1]


@pytest.fixture
def wheel(tmp_path: Path) -> MakeWheel:
    """A wheel with what `read_wheel` looks at; `without` leaves members out, `filename` calls it something else."""

    def make(
        version: str = "1.2.3", *, name: str = "skulk", content: str = "", without: str = "\0", filename: str = ""
    ) -> Path:
        path = tmp_path / (filename or f"{name}-{version}-py3-none-any.whl")
        members = {
            "skulk/__init__.py": content,
            "skulk/requirements/daemon.txt": "anyio==1 \\\n    --hash=sha256:00\n",
            "skulk/requirements/uv.txt": "uv==0.1 \\\n    --hash=sha256:00\n",
            f"{name}.dist-info/METADATA": METADATA.format(name=name, version=version),
        }
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, text in members.items():
                if without not in member:
                    archive.writestr(member, text)
        return path

    return make
