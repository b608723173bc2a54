"""Engines that are published as source: compiled once, kept as a wheel, gone without a trace when it is cut short."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
from pathlib import Path

import pytest

from skulk.adapters.engine_envs import discover, ensure, environments, recipes
from skulk.adapters.engine_envs.environments import log_file, pinned_version, requirements_file, wanted_environment
from skulk.adapters.engine_envs.processes import LEASH
from skulk.adapters.engine_envs.recipes import RECIPES, Recipe, split_requirements, wheel_key
from skulk.core.errors import ENG_INSTALL, ENG_TOOLCHAIN, SkulkError, Transient

UV = shutil.which("uv") or ""
DEADLINE_SECONDS = 60.0
COMPILER = shutil.which("c++") and shutil.which("cc")
needs_compiler = pytest.mark.skipif(not COMPILER, reason="no C/C++ compiler")
INSTALLERS = [
    pytest.param(UV, marks=pytest.mark.skipif(not UV, reason="uv is not on PATH"), id="uv"),
    pytest.param("", id="pip"),
]
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "toy"
version = "1.2"
"""
METADATA = "Metadata-Version: 2.1\nName: toy\nVersion: 1.2\n"
BACKEND = """
import os, pathlib, sys, time, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    with open({calls!r}, "a") as file:
        file.write(str(os.getpid()) + "\\n")
    {body}
    name = "toy-1.2-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(directory, name), "w") as archive:
        archive.writestr("toy.py", "flags = %r\\n" % os.environ.get("CMAKE_ARGS"))
        archive.writestr("toy-1.2.dist-info/METADATA", "Metadata-Version: 2.1\\nName: toy\\nVersion: 1.2\\n")
        archive.writestr("toy-1.2.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr("toy-1.2.dist-info/RECORD", "toy.py,,\\n")
    return name
"""


class Toy:
    """An engine `toy` that exists as source only; its build writes the process' number into `calls`."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.engines = base / "engines"
        self.requirements = base / "toy.txt"
        self.calls = base / "calls"
        self.publish("pass")

    def publish(self, body: str) -> None:
        packages = self.base / "packages"
        packages.mkdir(exist_ok=True)
        sdist = packages / "toy-1.2.tar.gz"
        backend = BACKEND.format(calls=str(self.calls), body=body)
        files = {"pyproject.toml": PROJECT, "backend.py": backend, "PKG-INFO": METADATA}
        with tarfile.open(sdist, "w:gz") as archive:
            for name, text in files.items():
                info = tarfile.TarInfo(f"toy-1.2/{name}")
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text.encode()))
        digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
        self.requirements.write_text(
            f"--no-index\n--find-links {packages}\ntoy==1.2 \\\n    --hash=sha256:{digest}\n    # via nothing\n"
        )

    def builders(self) -> list[int]:
        return [int(line) for line in self.calls.read_text().split()] if self.calls.exists() else []

    def left(self) -> list[str]:
        """What is in the engines' directory beyond locks, logs and wheels."""
        kept = {"logs", "wheels"}
        return sorted(p.name for p in self.engines.iterdir() if p.name not in kept and not p.name.endswith(".lock"))


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    made = Toy(tmp_path)
    monkeypatch.setattr(environments, "requirements_file", lambda engine: made.requirements)
    monkeypatch.setattr("skulk.adapters.engine_envs.install.requirements_file", lambda engine: made.requirements)
    monkeypatch.setitem(recipes.RECIPES, "toy", Recipe("toy", ("-DTOY=ON", "-DOTHER=1")))
    return made


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def until(condition, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@needs_compiler
@pytest.mark.parametrize("uv", INSTALLERS)
def test_a_package_of_source_is_compiled_with_the_recipes_flags(toy, uv, monkeypatch):
    monkeypatch.setenv("CMAKE_ARGS", "-DSOMETHING_ELSE=ON")
    monkeypatch.setenv("CXXFLAGS", "-march=native")
    lines: list[str] = []
    made = ensure("toy", toy.engines, progress=lines.append, uv=uv)
    done = subprocess.run([made.python, "-I", "-c", "import toy; print(toy.flags)"], capture_output=True, text=True)
    assert done.stdout.strip() == "-DTOY=ON -DOTHER=1"
    assert any(line.startswith("compiling toy") and str(log_file(made)) in line for line in lines)
    assert log_file(made).stat().st_size > 0
    assert toy.left() == [made.path.name]


@needs_compiler
@pytest.mark.parametrize("uv", INSTALLERS)
def test_the_wheel_is_kept_for_the_next_environment(toy, uv):
    first = ensure("toy", toy.engines, uv=uv)
    toy.requirements.write_text("# the lock of another package changed\n" + toy.requirements.read_text())
    second = ensure("toy", toy.engines, uv=uv)
    assert first != second
    assert len(discover(toy.engines).environments) == 2
    assert len(toy.builders()) == 1


@needs_compiler
def test_a_damaged_wheel_is_compiled_again(toy):
    first = ensure("toy", toy.engines)
    (wheel,) = (toy.engines / "wheels").glob("*/*.whl")
    wheel.write_bytes(wheel.read_bytes()[:-1])
    shutil.rmtree(first.path)
    ensure("toy", toy.engines)
    assert len(toy.builders()) == 2


@needs_compiler
def test_another_source_or_another_flag_is_another_wheel_and_another_environment(toy, monkeypatch):
    first = ensure("toy", toy.engines)
    monkeypatch.setitem(recipes.RECIPES, "toy", Recipe("toy", ("-DTOY=OFF",)))
    second = ensure("toy", toy.engines)
    toy.publish("x = 1")
    third = ensure("toy", toy.engines)
    assert len({first.path, second.path, third.path}) == 3
    assert len(toy.builders()) == 3


@needs_compiler
def test_a_build_that_fails_leaves_nothing_and_names_the_log(toy):
    toy.publish("sys.exit('no such header')")
    with pytest.raises(SkulkError) as caught:
        ensure("toy", toy.engines)
    assert caught.value.code is ENG_INSTALL
    wanted = wanted_environment(toy.engines.resolve(), "toy")
    assert str(log_file(wanted)) in caught.value.message
    assert "no such header" in log_file(wanted).read_text()
    assert toy.left() == []


HANG = "time.sleep(600)"


@needs_compiler
@pytest.mark.parametrize("uv", INSTALLERS)
def test_a_build_that_is_stopped_is_gone_within_seconds_and_leaves_nothing(toy, uv):
    toy.publish(HANG)
    stop = threading.Event()
    failed: list[Transient] = []

    def install() -> None:
        try:
            ensure("toy", toy.engines, uv=uv, stop=stop)
        except Transient as error:
            failed.append(error)

    thread = threading.Thread(target=install)
    thread.start()
    until(toy.builders, "the build never began")
    stop.set()
    thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive()
    assert "stopped" in failed[0].message
    assert [pid for pid in toy.builders() if alive(pid)] == []
    assert toy.left() == []


@needs_compiler
def test_a_build_whose_daemon_is_killed_is_gone_too(toy):
    toy.publish(HANG)
    code = f"""
        from pathlib import Path
        from skulk.adapters.engine_envs import ensure, environments, install, recipes
        environments.requirements_file = install.requirements_file = lambda engine: Path({str(toy.requirements)!r})
        recipes.RECIPES["toy"] = recipes.Recipe("toy", ("-DTOY=ON",))
        ensure("toy", Path({str(toy.engines)!r}))
    """
    daemon = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    try:
        until(toy.builders, "the build never began")
    finally:
        daemon.kill()
        daemon.wait()
    until(lambda: not any(map(alive, toy.builders())), "the build lives on")
    until(lambda: toy.left() == [], f"{toy.left()} is left")


def test_without_a_compiler_it_is_said_what_to_install(toy, monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    with pytest.raises(Transient) as caught:
        ensure("toy", toy.engines)
    assert caught.value.code is ENG_TOOLCHAIN
    assert "/nonexistent/c++" in caught.value.message
    assert "g++" in str(caught.value)
    assert toy.builders() == []
    assert toy.left() == []


def test_a_compiler_that_is_there_and_does_not_work_is_none(toy, tmp_path, monkeypatch):
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho 'no developer tools were found' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(Transient, match="no developer tools"):
        ensure("toy", toy.engines)


def test_a_program_that_ignores_the_polite_signal_is_killed(tmp_path):
    """The leash alone: what it holds, and what that started, ends after it is let go."""
    marker = tmp_path / "pids"
    script = f"trap '' TERM; echo $$ >> {marker}; sh -c 'trap \"\" TERM; echo $$ >> {marker}; sleep 600' & wait; wait"
    leash = subprocess.Popen(
        [sys.executable, "-I", "-S", str(LEASH), "0", "", "/bin/sh", "-c", script], stdin=subprocess.PIPE
    )
    until(lambda: marker.exists() and len(marker.read_text().split()) == 2, "it never began")
    assert leash.stdin is not None
    leash.stdin.close()
    assert leash.wait(DEADLINE_SECONDS) == 125
    until(lambda: not any(alive(int(pid)) for pid in marker.read_text().split()), "something lives on")


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 128 + signal.SIGKILL)])
def test_the_leash_hands_on_the_exit_code(script, code):
    command = [sys.executable, "-I", "-S", str(LEASH), "0", "", "/bin/sh", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as leash:
        assert leash.wait(DEADLINE_SECONDS) == code


def test_requirements_are_split_into_the_entry_and_the_rest():
    text = requirements_file("llama_cpp").read_text()
    entry, rest = split_requirements(text, "llama-cpp-python")
    assert entry.startswith("llama-cpp-python==")
    assert entry.count("==") == 1
    assert "--hash=sha256:" in entry
    assert "llama-cpp-python==" not in rest
    assert len(entry.splitlines()) + len(rest.splitlines()) == len(text.splitlines())
    assert pinned_version(text, "llama_cpp") == entry.partition("==")[2].split()[0]


def test_wheels_of_llama_cpp_run_on_every_processor_of_the_architecture():
    assert "-DGGML_NATIVE=OFF" in RECIPES["llama_cpp"].cmake_arguments
    entry = "llama-cpp-python==1 --hash=sha256:00"
    assert wheel_key(RECIPES["llama_cpp"], entry) != wheel_key(Recipe("llama-cpp-python", ()), entry)
    assert os.sep not in wheel_key(RECIPES["llama_cpp"], entry)
