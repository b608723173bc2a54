"""What a probe of an environment prints."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def probe(python, code_dir, *engine):
    argv = [*python, "-I", "-B", str(code_dir / "skulk/engines/probe.py"), *engine]
    return subprocess.run(argv, capture_output=True, text=True)


def test_the_scripted_engine_is_a_cpu(code_dir):
    done = probe([sys.executable, "-S"], code_dir, "scripted")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert set(answer) == {"engine", "version", "devices"}
    assert (answer["engine"], [d["compute"] for d in answer["devices"]]) == ("scripted", ["cpu"])
    assert set(answer["devices"][0]) == {"compute", "name", "memoryBytes", "unified"}


@pytest.mark.engine
def test_mlx_names_its_device_in_one_line(code_dir, mlx_python):
    done = probe([mlx_python], code_dir, "mlx")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    answer = json.loads(done.stdout)
    (device,) = answer["devices"]
    assert device["compute"] in ("cpu", "metal")
    assert device["name"]
    assert device["unified"] is True
    assert (device["memoryBytes"] is None) == (device["compute"] == "cpu")
    assert "mlx" in answer["version"]


@pytest.mark.engine
@pytest.mark.timeout(3600)  # compiling the engine for the first time takes many minutes
def test_llama_cpp_without_a_gpu_is_a_cpu_whatever_it_was_compiled_with(code_dir, llama_python):
    done = probe([llama_python], code_dir, "llama_cpp")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    answer = json.loads(done.stdout)
    *others, cpu = answer["devices"]
    assert (cpu["compute"], cpu["memoryBytes"], cpu["unified"]) == ("cpu", None, True)
    assert cpu["name"]
    assert all(device["compute"] in ("metal", "vulkan", "cuda", "rocm") for device in others)


def test_an_environment_without_the_engine_says_why_on_stderr_only(code_dir):
    done = probe([sys.executable, "-S"], code_dir, "mlx")
    assert (done.returncode, done.stdout) == (1, "")
    assert "mlx" in done.stderr


@pytest.mark.parametrize("engine", [[], ["steam"], ["mlx", "scripted"]])
def test_a_wrong_call_is_a_usage_error(code_dir, engine):
    done = probe([sys.executable, "-S"], code_dir, *engine)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage" in done.stderr
