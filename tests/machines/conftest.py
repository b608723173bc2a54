"""Bare machines, an operator's machine, and a git server, for one story."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "hosts"))
sys.path.insert(0, str(Path(__file__).parent))

from hosts import Hosts, why_not
from operator_machine import NEXT_VERSION, ROOT


@pytest.fixture
def machines(testhosts_dir: Path) -> Iterator[Hosts]:
    if reason := why_not():
        pytest.skip(reason)
    with Hosts(testhosts_dir) as hosts:
        yield hosts


@pytest.fixture
def next_wheel(tmp_path: Path) -> Path:
    """This source tree once more, as the next version."""
    tree = tmp_path / "next"
    list_files = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(list_files, cwd=ROOT, capture_output=True, check=True)
    parts = ("skulk", "schemas", "playbooks", "pyproject.toml", "README.md", "LICENSE")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if name.split("/")[0] in parts and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    for name, before in (("pyproject.toml", 'version = "0.1.0"'), ("skulk/__init__.py", '__version__ = "0.1.0"')):
        text = (tree / name).read_text()
        assert before in text
        (tree / name).write_text(text.replace(before, before.replace("0.1.0", NEXT_VERSION)))
    uv = shutil.which("uv")
    assert uv is not None, "uv is not on PATH"
    subprocess.run([uv, "build", "--quiet", "--wheel", "--out-dir", str(tmp_path / "dist"), str(tree)], check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    return wheel
