"""llama-server from the very sources that our own llama.cpp is compiled from, with the same arguments, once.

They are in the source distribution of llama-cpp-python, taken from the package index by the hash that the engine's
requirements pin. Needs cmake and a C++ compiler, and some minutes on two cores. Alone:
`python benchmarks/parts/llama_server.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from parts import ROOT
from parts.cores import on_all_cores
from parts.models import CACHE
from skulk.adapters.engine_envs.recipes import RECIPES, split_requirements, wheel_key

NICENESS = "10"
SWITCHES = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_OPENSSL=OFF",
)
"""None of them changes how fast it computes; what does is the recipe's."""


def llama_server() -> Path:
    """The program, built now when it is not there. Raises CalledProcessError; what was said is on stderr."""
    recipe = RECIPES["llama_cpp"]
    requirements = (ROOT / "skulk" / "engines" / "requirements" / "llama_cpp.txt").read_text("utf-8")
    entry, _ = split_requirements(requirements, recipe.distribution)
    program = CACHE / f"llama-server-{wheel_key(recipe, entry)}" / "llama-server"
    if program.exists():
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    print("building llama-server, which takes minutes", flush=True)
    with on_all_cores(), tempfile.TemporaryDirectory(dir=program.parent) as name:
        scratch = Path(name)
        source = _source(entry, scratch) / "vendor" / "llama.cpp"
        build = scratch / "build"
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        _run("cmake", "-S", source, "-B", build, *generator, *SWITCHES, *recipe.cmake_arguments)
        _run("cmake", "--build", build, "--target", "llama-server", "--parallel", str(os.cpu_count() or 1))
        (build / "bin" / "llama-server").rename(program)
    return program


def _source(entry: str, scratch: Path) -> Path:
    """Download and unpack. `entry`: the pinned requirement with its hash."""
    requirements, venv = scratch / "requirements.txt", scratch / "venv"
    requirements.write_text(entry, "utf-8")
    _run(sys.executable, "-m", "venv", venv)
    pip = (venv / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet", "download")
    package = RECIPES["llama_cpp"].distribution
    _run(*pip, "--no-deps", "--no-binary", package, "--require-hashes", "-r", requirements, "-d", scratch / "sdist")
    (archive,) = (scratch / "sdist").glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(scratch / "source", filter="data")
    (source,) = (scratch / "source").iterdir()
    return source


def _run(*command: str | Path) -> None:
    # What would be printed is only of interest when it goes wrong.
    done = subprocess.run(
        ["nice", "-n", NICENESS, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        print(done.stdout[-8000:], file=sys.stderr)
        done.check_returncode()


if __name__ == "__main__":
    print(llama_server())
