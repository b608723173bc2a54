"""`make demo` as a person lives it: three nodes, two engines, its lines to copy, and nothing left after Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import psutil
import pytest
from harness import ROOT, free_port, until

pytestmark = [pytest.mark.e2e, pytest.mark.engine]

ANSWER = "9 * 7 = 63"
# What the demo runs beside its own Python; a compiler is not among it.
PROGRAMS = ("git", "sh", "bash")
COMPILERS = ("cc", "c++")


def free_ports() -> int:
    """A number from which on the six ports of a demo are free."""
    while True:
        first = free_port()
        wanted = [first + step + side for step in (0, 10, 20) for side in (0, 1)]
        with contextlib.ExitStack() as stack:
            try:
                for port in wanted:
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except (OSError, OverflowError):
                continue
            return first


class Demo:
    """The demo below `base`, started and ended as often as a test wants."""

    def __init__(self, base: Path, **environment: str) -> None:
        self.base = base
        self.work = base / "demo"
        self.out = base / "out"
        self.port = free_ports()
        self.environment = {**os.environ, **environment}
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, *, port: int | None = None, work: Path | None = None) -> list[str]:
        where = ["--port", str(port or self.port), "--dir", str(work or self.work)]
        return [sys.executable, "-m", "skulk.cli.demo", *where]

    def start(self) -> Demo:
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                self.command(), cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        return self

    def printed(self) -> str:
        return self.out.read_text("utf-8", "replace")

    def wait_for(self, words: str) -> None:
        def said() -> bool:
            assert self.process is not None
            assert self.process.poll() is None or words in self.printed(), self.printed()
            return words in self.printed()

        until(said, f"the demo says {words!r}", context=self.printed)

    def interrupt(self, times: int = 1) -> int:
        """Ctrl-C; the exit code."""
        assert self.process is not None
        for _ in range(times):
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(90)

    def url(self, node: int) -> str:
        return f"http://127.0.0.1:{self.port + 10 * node}"

    def left(self) -> list[str]:
        """The command lines of everything that lives and has to do with this demo, itself excluded."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = " ".join(process.cmdline())
                if str(self.base) in words and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"{process.pid} {words}")
        return found

    def daemon(self, node: str) -> int:
        return int((self.work / node / "state" / "daemon.lock").read_text())

    def clean(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(90)
            except subprocess.TimeoutExpired:
                self.process.kill()
        for line in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line.split()[0]), signal.SIGKILL)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    it = Demo(tmp_path)
    yield it
    it.clean()


def asked(url: str, model: str) -> str:
    """A streamed answer."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60.0) as client:
        chunks = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "What is 9 * 7?"}],
            temperature=0.0,
            stream=True,
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices).strip()


def lines_to_copy(printed: str) -> str:
    """The commands of the demo, as one script that ends at the first failure."""
    part = printed.partition("Try it,")[2].partition("Ctrl-C ends the demo.")[0]
    text = "\n".join(line for line in part.splitlines() if line.startswith("  "))
    # Ending with 1 is how it says that something would change.
    text = re.sub(r"^  skulk plan .*$", r"\g<0> || test $? = 1", text, flags=re.MULTILINE)
    return "set -euo pipefail\n" + text.replace("$PWD/.venv/bin", str(Path(sys.prefix) / "bin"))


@pytest.mark.timeout(3600)
def test_two_engines_answer_through_every_node_and_what_is_printed_works(
    demo: Demo, engines_dir: Path, llama_engines_dir: Path
) -> None:
    demo.start().wait_for("both engines serve")
    printed = demo.printed()
    assert printed.count(f"\n{ANSWER}\n") == 2, printed
    assert re.search(r"first token \d+\.\d s after the start", printed)
    for model in ("chat", "chat-gguf"):
        assert [asked(demo.url(node), model) for node in range(3)] == [ANSWER] * 3

    busy = subprocess.run(demo.command(), cwd=ROOT, capture_output=True, text=True, check=False)
    assert (busy.returncode, "SK-CFG" in busy.stderr, "another demo runs in" in busy.stderr) == (2, True, True)
    elsewhere = demo.command(work=demo.base / "other")
    taken = subprocess.run(elsewhere, cwd=ROOT, capture_output=True, text=True, check=False)
    assert taken.returncode == 2
    assert f"port {demo.port} (gateway of desk) is in use" in taken.stderr

    copied = subprocess.run(
        ["bash", "-c", lines_to_copy(printed)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=240
    )
    assert copied.returncode == 0, copied.stdout + copied.stderr
    assert [
        word for word in ("Paris", "11, 12", "Cordon studio", "mlx-", "llama_cpp-") if word not in copied.stdout
    ] == []
    assert "replace chat/0" in copied.stdout

    assert demo.interrupt(times=2) == 0
    assert demo.printed().strip().endswith("are gone")
    assert demo.left() == []


def test_ctrl_c_during_the_start_leaves_nothing(demo: Demo) -> None:
    demo.start().wait_for("node studio:")
    assert demo.interrupt() == 0
    assert demo.left() == []


@pytest.fixture
def bare_demo(tmp_path: Path, engines_dir: Path) -> Iterator[Demo]:
    """A machine that has MLX and neither llama.cpp nor a compiler nor uv."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in PROGRAMS:
        (programs / name).symlink_to(str(shutil.which(name)))
    cache = tmp_path / "cache" / "skulk" / "engines"
    for real in engines_dir.glob("mlx-*"):
        # As good as a copy, without its 300 MB.
        python = cache / real.name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec "{real / "bin" / "python"}" "$@"\n')
        python.chmod(0o755)
        shutil.copy(real / "engine.json", cache / real.name)
    it = Demo(tmp_path, PATH=str(programs), XDG_CACHE_HOME=str(tmp_path / "cache"), CC="", CXX="")
    yield it
    it.clean()


def test_without_a_compiler_the_second_model_waits_and_with_one_it_is_built_until_ctrl_c(bare_demo: Demo) -> None:
    demo = bare_demo
    # What a demo of the first layout left lies in the way, and a demo that was killed still runs.
    (demo.work / "state").mkdir(parents=True)
    (demo.work / "node.toml").write_text("nonsense\n")
    demo.start().wait_for("pushed commit")
    assert demo.process is not None
    demo.process.kill()
    demo.process.wait()

    demo.start().wait_for("sudo apt install g++")
    printed = demo.printed()
    assert "what it left was stopped" in printed
    assert "deployment chat-gguf: Waiting (NoBackend)" in printed
    assert printed.index(f"\n{ANSWER}\n") < printed.index("SK-ENG-006")
    assert asked(demo.url(2), "chat") == ANSWER

    for name in COMPILERS:
        (demo.base / "bin" / name).symlink_to(str(shutil.which(name)))
    os.kill(demo.daemon("tower"), signal.SIGHUP)
    demo.wait_for("compiling llama-cpp-python")
    assert re.search(r"log \S+/logs/llama_cpp-\S+\.log", demo.printed())
    until(lambda: any(".build" in line for line in demo.left()), "the build runs", context=demo.left)
    assert demo.interrupt(times=2) == 0
    assert demo.left() == []
    engines = demo.base / "cache" / "skulk" / "engines"
    assert [path.name for path in engines.iterdir() if path.name.endswith(".build")] == []
