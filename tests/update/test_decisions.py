"""What an update and a wheelhouse decide: where root may install from, which release, which packages."""

from __future__ import annotations

import json

import pytest

from skulk.core.release import Release
from skulk.core.update import (
    Installed,
    Listed,
    Stay,
    Switch,
    index_text,
    read_index,
    wheelhouse,
    without_wheelhouse,
)
from skulk.core.wheelhouse import Target, fits, needed, pip_options, platform_tags, read_requirements, target
from tests.conftest import ROOT

NOW, BEFORE, OTHER = Release("2.0", "a" * 64), Release("1.0", "b" * 64), Release("1.0", "c" * 64)
LINUX, MAC = Target((3, 12), "linux/x86_64"), Target((3, 11), "macos/arm64")
REQUIREMENTS = ROOT / "skulk" / "requirements"


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("/srv/wheels", "/srv/wheels"),
        ("https://wheels.example.com/skulk", "https://wheels.example.com/skulk/"),
        ("https://wheels.example.com:8443/", "https://wheels.example.com:8443/"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/"),
        ("http://[::1]/w", "http://[::1]/w/"),
    ],
)
def test_a_wheelhouse_is_a_directory_or_a_url_that_nobody_can_change_on_the_way(text: str, location: str):
    assert wheelhouse(text).location == location


@pytest.mark.parametrize(
    "text",
    [
        "http://wheels.example.com/",
        "http://127.0.0.1.example.com/",
        "http://localhost@example.com/",
        "https://user:secret@wheels.example.com/",
        "https://wheels.example.com/?token=1",
        "ftp://wheels.example.com/",
        "file:///srv/wheels",
        "wheels",
        "",
        "/srv/two\nlines",
    ],
)
def test_everything_else_is_no_place_that_root_installs_from(text: str):
    with pytest.raises(ValueError):
        wheelhouse(text)


def test_nothing_is_done_without_a_wanted_version_or_when_it_runs():
    there = Installed(NOW, BEFORE.name, (BEFORE,))
    assert isinstance(without_wheelhouse(None, there), Stay)
    assert isinstance(without_wheelhouse("2.0", there), Stay)


def test_a_reverted_version_is_gone_back_to_with_what_is_there_and_rather_with_what_ran_before():
    assert without_wheelhouse("1.0", Installed(NOW, BEFORE.name, (BEFORE, OTHER))) == Switch(BEFORE)
    assert without_wheelhouse("1.0", Installed(NOW, "", (OTHER,))) == Switch(OTHER)
    assert without_wheelhouse("3.0", Installed(NOW, BEFORE.name, (BEFORE,))) is None


def test_an_index_says_what_was_written_into_it():
    listed = [Listed(NOW, "skulk-2.0-py3-none-any.whl"), Listed(BEFORE, "skulk-1.0-py3-none-any.whl")]
    assert read_index(index_text(listed)) == {"1.0": listed[1], "2.0": listed[0]}


@pytest.mark.parametrize(
    "entry",
    [
        {"wheel": "../skulk-1.0-py3-none-any.whl", "sha256": "a" * 64},
        {"wheel": "other-1.0-py3-none-any.whl", "sha256": "a" * 64},
        {"wheel": "skulk-1.0-py3-none-any.whl", "sha256": "A" * 64},
        {"wheel": "skulk-1.0-py3-none-any.whl"},
        "skulk-1.0-py3-none-any.whl",
    ],
)
def test_an_index_that_leads_elsewhere_is_refused(entry: object):
    with pytest.raises(ValueError):
        read_index(json.dumps({"releases": {"1.0": entry}}))
    with pytest.raises(ValueError):
        read_index(json.dumps({"releases": {"--option": {"wheel": "skulk-1.0-py3-none-any.whl", "sha256": "a" * 64}}}))


def test_markers_are_judged_for_the_machine_that_gets_the_packages():
    text = "".join(
        f"{name} ; {marker} --hash=sha256:{'0' * 64}\n"
        for name, marker in (
            ("both==1", "python_version >= '3.11'"),
            ("mac==1", "sys_platform == 'darwin' and platform_machine == 'arm64'"),
            ("linux==1", "platform_system == 'Linux'"),
            ("old==1", "python_full_version < '3.12'"),
            ("patch==1", "python_full_version < '3.12.3'"),
            ("windows==1", "sys_platform == 'win32'"),
        )
    )
    pins = read_requirements(text)
    assert [pin.name for pin in needed(pins, LINUX)] == ["both", "linux", "patch"]
    assert [pin.name for pin in needed(pins, MAC)] == ["both", "mac", "old", "patch"]


def test_what_pip_is_told_has_no_marker_and_every_hash():
    (pin,) = read_requirements(f"A_b[x]==1.0 ; os_name == 'nt' \\\n    --hash=sha256:{'1' * 64}\n    # via c\n")
    assert pin.line == f"a-b==1.0 --hash=sha256:{'1' * 64}"


@pytest.mark.parametrize(
    "line", ["a==1", "a>=1 --hash=sha256:" + "0" * 64, "a==1 --hash=md5:00", "--no-index", "a @ u"]
)
def test_a_package_that_is_not_pinned_is_refused(line: str):
    with pytest.raises(ValueError):
        read_requirements(line)


@pytest.mark.parametrize("name", ["daemon.txt", "uv.txt"])
def test_our_own_requirements_can_be_read(name: str):
    pins = read_requirements((REQUIREMENTS / name).read_text("utf-8"))
    assert pins
    assert "colorama" not in {pin.name for pin in needed(pins, LINUX)}


@pytest.mark.parametrize(
    ("file", "where", "expected"),
    [
        ("a-1.0-py3-none-any.whl", LINUX, True),
        ("a-1-cp312-cp312-manylinux_2_28_x86_64.whl", LINUX, True),
        ("a-1.0-cp310-abi3-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", LINUX, True),
        ("a-1.0-cp311-cp311-manylinux_2_28_x86_64.whl", LINUX, False),
        ("a-1.0-cp312-cp312-manylinux_2_39_x86_64.whl", LINUX, False),
        ("a-1.0-cp312-cp312-musllinux_1_2_x86_64.whl", LINUX, False),
        ("a-1.0-cp312-cp312-manylinux_2_17_aarch64.whl", LINUX, False),
        ("a-1.1-py3-none-any.whl", LINUX, False),
        ("b-1.0-py3-none-any.whl", LINUX, False),
        ("a-1.0.tar.gz", LINUX, False),
        ("a-1.0-cp311-cp311-macosx_11_0_arm64.whl", MAC, True),
        ("a-1.0-cp311-cp311-macosx_10_9_universal2.whl", MAC, True),
        ("a-1.0-py3-none-macosx_15_0_arm64.whl", MAC, False),
    ],
)
def test_a_wheel_fits_by_name_version_and_tags(file: str, where: Target, expected: bool):
    (pin,) = read_requirements(f"a==1.0 --hash=sha256:{'0' * 64}")
    assert fits(pin, where, file) is expected


def test_pip_looks_for_the_target_and_for_the_oldest_system_first():
    options = pip_options(LINUX)
    assert "--python-version=3.12" in options
    assert {"--abi=cp312", "--abi=abi3", "--abi=none"} <= set(options)
    tags = platform_tags(LINUX)
    assert tags.index("manylinux2014_x86_64") < tags.index("manylinux_2_28_x86_64")
    assert "manylinux1_aarch64" not in platform_tags(Target((3, 11), "linux/aarch64"))


@pytest.mark.parametrize(("python", "platform"), [("3.10", "linux/x86_64"), ("3", "linux/x86_64"), ("3.11", "windows")])
def test_a_target_that_no_node_has_is_refused(python: str, platform: str):
    with pytest.raises(ValueError):
        target(python, platform)
