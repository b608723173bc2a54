"""What all tests share: the engine environment, and the rule that CI skips nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import pytest
import structlog

ROOT = Path(__file__).resolve().parents[1]

# One thread per process: tests share two cores, and spinning OpenMP threads would starve each other.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A suite started in the background of a script inherits that Ctrl-C is ignored, and so would every process that a test
# starts to interrupt it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Log lines are not output of a test; what is logged is tested with structlog's own capture.
structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), cache_logger_on_first_use=False)

# The same examples every time, so that a change is judged by what it changes. `SKULK_EXPLORE=1` looks for new ones.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=500)
hypothesis.settings.load_profile("explore" if os.environ.get("SKULK_EXPLORE") == "1" else "steady")


# Two processes run the tests (`make test`), whole files at a time. What shares a thing of the machine stays in one of
# them: bridges and forwarding of test hosts; namespaces, fixed ports and clocks of fleets.
_SHARERS = {
    **dict.fromkeys(("hosts", "machines", "playbooks", "secrets", "logging", "service", "update"), "hosts"),
    **dict.fromkeys(("e2e", "planes", "coordination", "sim", "docs", "conformance"), "fleets"),
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Hand out the tests of one group together. (The mark `xdist_group` does not reach xdist 3.8 from pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            place = nodeid.partition("::")[0].removeprefix("tests/")
            return _SHARERS.get(place.partition("/")[0], place)

    return Together(config, log)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Under CI (`SKULK_NO_SKIPS=1`) a skip is a failure that says what is missing."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and os.environ.get("SKULK_NO_SKIPS") == "1" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"


def cache_dir() -> Path:
    """Where slow things are kept between runs, outside the checkout; rebuilt when missing."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skulk"


@contextmanager
def kept_packages(directory: Path, python: str, engines: Sequence[str] = ()) -> Iterator[None]:
    """Begin a wheelhouse with what an earlier run fetched for this lock, and keep what is fetched within. Skulk's own
    wheels are always those of the checkout."""
    places = [ROOT / "skulk/requirements" / name for name in ("daemon.txt", "uv.txt")]
    places += [ROOT / "skulk/engines/requirements" / f"{engine}.txt" for engine in engines]
    digest = hashlib.sha256(b"".join(place.read_bytes() for place in places)).hexdigest()[:16]
    kept = cache_dir() / "-".join(("wheelhouse", digest, python, *engines))
    if kept.is_dir():
        shutil.copytree(kept, directory, copy_function=_link)
    yield
    if not kept.is_dir():
        draft = kept.with_name(f".{kept.name}.{os.getpid()}")
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(directory, draft, ignore=shutil.ignore_patterns("skulk-*", "*.json", "*.html"))
        draft.rename(kept)


def _link(source: str, target: str) -> None:
    """A wheelhouse replaces files and never writes into one."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@pytest.fixture(scope="session")
def engines_dir() -> Path:
    """A directory with a working `mlx` environment: found in the cache, or installed there now."""
    return _engines_dir_with("mlx")


@pytest.fixture(scope="session")
def llama_engines_dir() -> Path:
    """The same directory, with a working `llama_cpp` environment: compiled once, its wheel kept in the cache."""
    return _engines_dir_with("llama_cpp")


@pytest.fixture(scope="session")
def testhosts_dir() -> Path:
    """Where base root file systems of test hosts are kept."""
    return cache_dir() / "testhosts"


def _engines_dir_with(engine: str) -> Path:
    from skulk.adapters.engine_envs import ensure
    from skulk.core.errors import SkulkError

    path = cache_dir() / "engines"
    try:
        ensure(engine, path)
    except SkulkError as error:
        pytest.skip(f"no {engine} environment: {error}")
    return path
