"""A real wheelhouse of this checkout's wheel, kept between runs, and a node that follows a directory of manifests."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import platform
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from skulk.adapters.directory import DirectorySource
from skulk.adapters.release import make_release
from skulk.cli.main import app
from skulk.core.release import Release
from skulk.core.wheelhouse import PLATFORMS
from tests.conftest import kept_packages

NEXT = "9.9.9"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def this_platform() -> str:
    system = {"Darwin": "macos", "Linux": "linux"}.get(platform.system(), platform.system())
    return f"{system}/{platform.machine()}"


def skulk(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def reversioned(wheel: Path, version: str, into: Path) -> Path:
    """The same wheel under another version; its record is right."""
    old = wheel.name.split("-")[1]
    target = into / wheel.name.replace(old, version)
    record = []
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w") as made:
        for name in source.namelist():
            data, name = source.read(name), name.replace(f"skulk-{old}.dist-info", f"skulk-{version}.dist-info")
            if name.endswith(".dist-info/METADATA"):
                data = data.replace(f"\nVersion: {old}\n".encode(), f"\nVersion: {version}\n".encode())
            if name.endswith(".dist-info/RECORD"):
                record.append(f"{name},,")
                data = "\n".join(record).encode()
            else:
                digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                record.append(f"{name},sha256={digest},{len(data)}")
            made.writestr(name, data)
    return target


@dataclass(frozen=True)
class House:
    directory: Path
    first: Release
    next: Release


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """What `skulk node wheelhouse` makes for this very Python and machine, with two releases."""
    if this_platform() not in PLATFORMS:
        pytest.skip(f"no wheels are looked for on {this_platform()}")
    place = tmp_path_factory.mktemp("house")
    directory = place / "wheels"
    first, laid_out = make_release(place / "made")
    (wheel,) = laid_out.glob("*.whl")
    later = reversioned(wheel, NEXT, place)
    with kept_packages(directory, PYTHON):
        for file in (wheel, later):
            filled = skulk(
                "node", "wheelhouse", directory, "--wheel", file, "--python", PYTHON, "--platform", this_platform()
            )
            if "SK-REL-007" in filled.output:
                pytest.skip(f"no packages can be fetched: {filled.output}")
            assert filled.exit_code == 0, filled.output
    return House(directory, first, Release(NEXT, hashlib.sha256(later.read_bytes()).hexdigest()))


@dataclass(frozen=True)
class Machine:
    """A node's files as the bootstrap leaves them, with release `first`, which is just enough of one to go on from."""

    root: Path
    first: Release

    @property
    def program(self) -> Path:
        return self.root / "program"

    @property
    def config(self) -> Path:
        return self.root / "node.toml"

    @property
    def current(self) -> str:
        return (self.program / "current").readlink().name

    def supplied_by(self, wheelhouse: object, *, on_boot: bool = True) -> None:
        self.config.write_text(
            f'name = "node-1"\nstateDir = "state"\n[source]\ndirectory = "manifests"\n'
            f'[update]\nonBoot = {str(on_boot).lower()}\nwheelhouse = "{wheelhouse}"\nprogramDir = "program"\n'
        )

    def accepted(self, version: str | None) -> None:
        """The daemon accepted a commit whose Fleet wants that version."""
        fleet = self.root / "manifests" / "fleet" / "fleet.yaml"
        if not fleet.exists():
            assert skulk("init", self.root / "manifests", "--node", "node-1").exit_code == 0
        text = "\n".join(line for line in fleet.read_text().splitlines() if not line.startswith("  version:")) + "\n"
        fleet.write_text(text.replace("\nspec:\n", f"\nspec:\n  version: {version}\n") if version else text)
        source = DirectorySource(self.root / "manifests", keep_dir=self.root / "state" / "source", settle_seconds=0.01)
        commit = asyncio.run(source.head())
        (self.root / "state" / "journal.json").write_text(json.dumps({"accepted": commit}))

    def update(self, *options: str) -> Result:
        return skulk("node", "update", "--config", self.config, *options)

    def picture(self) -> list[str]:
        """Every path and link below the program directory, two levels deep."""
        found = (path for pattern in ("*", "*/*") for path in self.program.glob(pattern) if path.parent.name != "uv")
        return sorted(
            f"{path.relative_to(self.program)} {path.readlink() if path.is_symlink() else ''}" for path in found
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path, Release("0.1.0", "ab" * 32))
    release = made.program / "releases" / made.first.name
    (release / "bin").mkdir(parents=True)
    (release / "bin" / "python").symlink_to(getattr(sys, "_base_executable", sys.executable))
    facts = {"name": made.first.name, "version": made.first.version, "digest": made.first.digest, "wheel": "x.whl"}
    (release / "release.json").write_text(json.dumps(facts))
    (made.program / "dist").mkdir()
    (made.program / "current").symlink_to(release)
    return made
