"""Memory that is not to be had, with real engines: a runner's address space is limited to little more than it has.

The limit is set by the engine's own thread, at the same place every time: what fails is what follows, however busy the
machine is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from skulk.adapters.runners.last_words import last_words
from skulk.adapters.runners.places import Place

pytestmark = [
    pytest.mark.engine,
    # Compiling the engine for the first time takes many minutes.
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps a process to its address space"),
]

# glibc sets memory aside for later; here every piece of 256 KiB and more is asked of the system.
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "262144"}

LIMITED = """
import resource, sys
code_dir, where, spare, directory = sys.argv[1:]
sys.path.insert(0, code_dir)
from skulk.engines import run

def limit():
    pages = int(open("/proc/self/statm").read().split()[0])
    most = pages * resource.getpagesize() + int(spare)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))

def engine_of(launch, engine_of=run._engine):
    engine = engine_of(launch)
    load, start = engine.load, engine.start

    def load_within(progress):
        def told(share):
            if where == f"load {share:g}":
                limit()
            progress(share)
        load(told)

    def start_within(job):
        answer = start(job)
        if where == "step" and job.request == "long":
            limit()
        return answer

    engine.load, engine.start = load_within, start_within
    return engine

run._engine = engine_of
run.main(["run.py", directory])
"""
MIB = 1024 * 1024
LONG = "The quick brown fox. " * 120


@pytest.fixture
def limited(tmp_path: Path, code_dir: Path) -> Callable[[Path, str, int], Path]:
    """An interpreter whose runner has so many bytes to spare from some moment on: `load SHARE`, or the `step` after
    the start of a long prompt."""

    def wrap(python: Path, where: str, spare: int) -> Path:
        script, wrapped = tmp_path / "limited.py", tmp_path / "python"
        script.write_text(LIMITED)
        # What a runner is called with: -I -B run.py DIRECTORY.
        wrapped.write_text(f'#!/bin/sh\nexec "{python}" -I -B "{script}" "{code_dir}" "{where}" {spare} "$4"\n')
        wrapped.chmod(0o755)
        return wrapped

    return wrap


@pytest.fixture
def mlx(launch, fox_tiny):
    return replace(launch, engine="mlx", backend="mlx-cpu", model_dir=str(fox_tiny))


@pytest.fixture
def llama(launch, fox_gguf):
    names = {"model_dir": str(fox_gguf.parent), "gguf_file": fox_gguf.name}
    return replace(launch, engine="llama_cpp", backend="llama_cpp-cpu", **names)


def words_of(runner):
    """As the daemon reads them."""
    return last_words(Place(runner.directory, ""), runner.exit_code())


def test_weights_of_mlx(start_runner, mlx, mlx_python, limited):
    words = words_of(start_runner(mlx, limited(mlx_python, "load 0", MIB), MALLOC))
    assert (words.exit_code, words.code) == (1, "SK-RUN-007"), words
    assert "bytes of the weights of" in words.message


def test_weights_of_llama_cpp(start_runner, llama, llama_python, limited):
    words = words_of(start_runner(llama, limited(llama_python, "load 0", MIB), MALLOC))
    assert (words.exit_code, words.code) == (1, "SK-RUN-007"), words
    assert str(llama.gguf_file) in words.message


def test_a_context_of_llama_cpp(start_runner, llama, llama_python, limited):
    large = replace(llama, context_tokens=1024 * 1024)
    words = words_of(start_runner(large, limited(llama_python, "load 1", 256 * MIB), MALLOC))
    assert (words.exit_code, words.code) == (1, "SK-RUN-007"), words
    assert "a context of 1048576 tokens" in words.message


def test_a_step_of_llama_cpp(start_runner, llama, llama_python, limited, ask):
    """Its vectors throw through C: the process ends, and its log says why."""
    runner = start_runner(llama, limited(llama_python, "step", 0), MALLOC)
    runner.attached().generate(ask(LONG, id="long"))
    words = words_of(runner)
    assert words.code == "SK-RUN-007", words


def test_a_step_of_mlx(start_runner, mlx, mlx_python, limited, ask):
    """On a processor, mlx 0.32 does not look whether an allocation failed: the pointer is null, and nobody can tell
    where it came from. A later mlx may throw instead."""
    runner = start_runner(mlx, limited(mlx_python, "step", 0), MALLOC)
    runner.attached().generate(ask(LONG, id="long"))
    words = words_of(runner)
    assert words.code == "SK-RUN-007" or "Segmentation fault" in words.message, words
