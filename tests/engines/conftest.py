"""A runner process and the daemon's end of its socket, both real. What is waited for is an event, with a deadline."""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

import skulk
from skulk.core.domain import (
    BootId,
    CardName,
    ContentHash,
    DeploymentName,
    GenerationRequest,
    Launch,
    LaunchHash,
    Message,
    NodeName,
    Owner,
    PlacementUid,
    RequestId,
    Sampling,
    Tokens,
)
from skulk.core.wire.launch import launch_to_json
from skulk.core.wire.runner import (
    AcceptedFrame,
    AnyMessage,
    Attach,
    Decoder,
    Generate,
    Heartbeat,
    Hello,
    RefusedFrame,
    Report,
    Step,
    encode,
)

DEADLINE_SECONDS = 60.0
"""For everything that is waited for: only a broken runner needs so long, however loaded the machine is."""
M = TypeVar("M")
REPOSITORY = Path(skulk.__file__).parents[1]
CARDS = REPOSITORY / "cards"
_NUMBERS = itertools.count()


class DaemonEnd:
    """One connection of a daemon: sends, and collects what comes."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(DEADLINE_SECONDS)
        self._socket.connect(str(path))
        self._decoder = Decoder()
        self.seen: list[AnyMessage] = []
        self._next = 0
        self.closed = False
        self.owner = Owner(NodeName("node-a"), BootId("boot-a"))

    def attach(self, boot: str = "boot-a", resume: Mapping[str, int] | None = None) -> Hello:
        self.owner = Owner(NodeName("node-a"), BootId(boot))
        self.send(Attach(self.owner.node, self.owner.boot, resume=resume or {}))
        return self.wait_for(Hello)

    def send(self, message: AnyMessage) -> None:
        self._socket.sendall(encode(message))

    def send_bytes(self, data: bytes) -> None:
        self._socket.sendall(data)

    def generate(self, request: GenerationRequest, owner: Owner | None = None) -> RequestId:
        self.send(Generate(request, owner or self.owner))
        return request.id

    def wait_for(self, kind: type[M], where: Callable[[M], bool] = lambda _: True) -> M:
        """The next message of that kind that satisfies `where`; others before it are kept in `seen`."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            while self._next < len(self.seen):
                message = self.seen[self._next]
                self._next += 1
                if isinstance(message, kind) and where(message):
                    return message
            assert not self.closed, f"closed before a {kind}; seen: {self.seen[-5:]}"
            assert time.monotonic() < deadline, f"no {kind}; seen: {self.seen[-5:]}"
            self.read()

    def read(self) -> None:
        try:
            data = self._socket.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        self.closed = self.closed or not data
        self.seen.extend(self._decoder.feed(data))

    def read_to_end(self) -> None:
        while not self.closed:
            self.read()

    def rewind(self) -> None:
        """Look at everything again."""
        self._next = 0

    def first_frame(self, request: RequestId) -> AcceptedFrame | RefusedFrame:
        self.rewind()
        return self.wait_for(AcceptedFrame | RefusedFrame, lambda m: m.request == request)  # type: ignore[arg-type]

    def tokens(self, request: RequestId, at_least: int | None = None) -> list[Tokens]:
        """Its frames from the beginning: all, or until there are `at_least`."""
        self.rewind()
        frames: list[Tokens] = []
        while not (frames and frames[-1].finish is not None):
            if at_least is not None and len(frames) >= at_least:
                break
            step = self.wait_for(Step, lambda s: any(name == request for name, _ in s.entries))
            frames.extend(tokens for name, tokens in step.entries if name == request)
        return frames

    def ready(self) -> None:
        """Wait until the runner says that it is ready."""
        self.wait_for(Report, lambda r: r.phase == "ready")

    def idle(self) -> Heartbeat:
        return self.wait_for(Heartbeat, lambda h: h.running == 0 and h.waiting == 0)

    def close(self) -> None:
        self._socket.close()
        self.closed = True


class RunnerProcess:
    """A started runner, as the daemon starts it: own session, lock and listening socket handed over."""

    def __init__(self, directory: Path, argv: list[str], launch: Launch, env: Mapping[str, str]) -> None:
        self.directory = directory
        self.launch = launch
        self._ends: list[DaemonEnd] = []
        self.lock_path = directory / "lock"
        # sun_path holds about 100 bytes; pytest's directories alone may be longer.
        self._short = Path(tempfile.mkdtemp(prefix="sk"))
        self.socket_path = self._short / "s"
        (directory / "launch.json").write_text(json.dumps(launch_to_json(launch)))
        lock = os.open(self.lock_path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.socket_path))
        listener.listen()
        log = os.open(directory / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        fds = {"SKULK_SOCKET_FD": str(listener.fileno()), "SKULK_LOCK_FD": str(lock)}
        self.process = subprocess.Popen(
            [*argv, str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory,
            env={"PATH": os.environ["PATH"], "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1", **fds, **env},
            pass_fds=(listener.fileno(), lock),
            start_new_session=True,
        )
        os.close(lock)
        os.close(log)
        listener.close()

    def connect(self) -> DaemonEnd:
        end = DaemonEnd(self.socket_path)
        self._ends.append(end)
        return end

    def attached(self, boot: str = "boot-a") -> DaemonEnd:
        """A daemon's end, attached, the runner ready."""
        end = self.connect()
        if end.attach(boot).phase != "ready":
            end.ready()
        return end

    def exit_code(self) -> int:
        return self.process.wait(DEADLINE_SECONDS)

    def last_words(self) -> dict[str, object]:
        words: dict[str, object] = json.loads((self.directory / "last_words.json").read_text())
        return words

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def wait_for_log(self, text: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while text not in self.log():
            assert time.monotonic() < deadline, f"the log never said {text!r}"
            time.sleep(0.02)  # between two looks; the file has no event

    def end(self) -> None:
        for end in self._ends:
            end.close()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        shutil.rmtree(self._short, ignore_errors=True)


@pytest.fixture(scope="session")
def code_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a runner may import of Skulk, and nothing else of it."""
    root = tmp_path_factory.mktemp("code")
    source, target = Path(skulk.__file__).parent, root / "skulk"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("core/domain", "core/formats", "core/wire", "engines"):
        shutil.copytree(source / name, target / name, ignore=ignored)
    for name in ("__init__.py", "core/__init__.py", "core/errors.py"):
        shutil.copy2(source / name, target / name)
    return root


@pytest.fixture(scope="session")
def launch() -> Launch:
    return Launch(
        uid=PlacementUid("0123456789abcdef"),
        deployment=DeploymentName("fox"),
        replica=0,
        model=CardName("fox-tiny"),
        engine="scripted",
        backend="scripted-cpu",
        engine_digest="builtin",
        model_dir="",
        context_tokens=4096,
        concurrency=1,
        launch_hash=LaunchHash("launch-1"),
        content_hash=ContentHash("content-1"),
        memory_bytes=1,
    )


StartRunner = Callable[..., RunnerProcess]


@pytest.fixture(scope="session")
def spawn(code_dir: Path) -> Callable[..., RunnerProcess]:
    """Start a runner in a directory; the caller ends it. `python`: another interpreter than a bare one."""

    def start(
        directory: Path, launch: Launch, python: Path | None = None, env: Mapping[str, str] | None = None
    ) -> RunnerProcess:
        directory.mkdir()
        # -S: without any installed package, which is what the scripted engine promises to need.
        interpreter = [sys.executable, "-S"] if python is None else [str(python)]
        argv = [*interpreter, "-I", "-B", str(code_dir / "skulk/engines/run.py")]
        return RunnerProcess(directory, argv, launch, env or {})

    return start


StartRunner = Callable[..., RunnerProcess]


@pytest.fixture
def start_runner(tmp_path: Path, spawn: StartRunner) -> Iterator[StartRunner]:
    """Start runners that end with the test."""
    started: list[RunnerProcess] = []

    def start(launch: Launch, python: Path | None = None, env: Mapping[str, str] | None = None) -> RunnerProcess:
        started.append(spawn(tmp_path / f"placement-{len(started)}", launch, python, env))
        return started[-1]

    yield start
    for runner in started:
        runner.end()


@pytest.fixture
def scripted(start_runner: StartRunner, launch: Launch) -> Callable[..., RunnerProcess]:
    """Start a scripted runner: options by keyword, `_launch` and `_env` for everything else."""

    def start(
        _launch: Mapping[str, object] | None = None, _env: Mapping[str, str] | None = None, **options: object
    ) -> RunnerProcess:
        return start_runner(replace(launch, options=options, **(_launch or {})), env=_env)  # type: ignore[arg-type]

    return start


@pytest.fixture
def printed(code_dir: Path, tmp_path: Path) -> Callable[..., Any]:
    """What a script prints as JSON in an engine's interpreter; its arguments: the code, the launch's file, others."""

    def run(python: Path, script: str, launch: Launch, *others: object) -> Any:
        file = tmp_path / "launch.json"
        file.write_text(json.dumps(launch_to_json(launch)))
        argv = [python, "-I", "-c", script, code_dir, file, *map(str, others)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def ask() -> Callable[..., GenerationRequest]:
    """A request: the text of one user message; fields by keyword, sampling's among them."""

    def make(text: str = "hi", **fields: object) -> GenerationRequest:
        names = {field.name for field in dataclasses.fields(Sampling)}
        sampling = {name: fields.pop(name) for name in names if name in fields}
        fields.setdefault("id", RequestId(f"request-{next(_NUMBERS)}"))
        fields.setdefault("messages", (Message("user", text),))
        return GenerationRequest(
            model="fox-tiny",
            sampling=Sampling(**{"seed": 1, "temperature": 0.0, **sampling}),  # type: ignore[arg-type]
            **fields,  # type: ignore[arg-type]
        )

    return make


@pytest.fixture(scope="session")
def mlx_python(engines_dir: Path) -> Path:
    """The interpreter of an environment with mlx-lm."""
    from skulk.adapters.engine_envs import ensure

    return ensure("mlx", engines_dir).python


@pytest.fixture(scope="session")
def llama_python(llama_engines_dir: Path) -> Path:
    """The interpreter of an environment with llama-cpp-python."""
    from skulk.adapters.engine_envs import ensure

    return ensure("llama_cpp", llama_engines_dir).python


@pytest.fixture(scope="session")
def fox_gguf() -> Path:
    """The file of the small trained model for llama.cpp."""
    file = CARDS / "fox-tiny-gguf" / "files" / "fox-tiny-Q8_0.gguf"
    if not file.is_file():
        pytest.skip(f"{file.relative_to(REPOSITORY)} is missing")
    return file


@pytest.fixture(scope="session")
def fox_tiny() -> Path:
    """The files of the small trained model beside its card."""
    files = CARDS / "fox-tiny" / "files"
    if not (files / "model.safetensors").is_file():
        pytest.skip(f"{files.relative_to(REPOSITORY)} holds no model")
    return files
