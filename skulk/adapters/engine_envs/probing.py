"""What an engine environment can do on this machine: asked in a child process with a deadline.

A library that crashes, hangs or prints takes the probe with it and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from skulk.adapters import child
from skulk.adapters.child import Pipe
from skulk.adapters.engine_envs.environments import EngineEnvironment
from skulk.adapters.runners.environment import child_environment
from skulk.core.domain import EngineBuild

PROBE_SECONDS_MAX = 60.0
"""Importing an inference library takes seconds, on a loaded machine with a cold disk up to half a minute."""
ANSWER_BYTES_MAX = 256 * 1024
"""A list of devices; more is not an answer."""
COMPLAINT_BYTES = 4096
"""Of what it says on stderr only the end is shown."""
READ_BYTES = 64 * 1024
REAP_SECONDS_MAX = 5.0
"""A killed group is gone in milliseconds; what hangs inside the kernel is not waited for."""
PROBE_SCRIPT = Path("skulk", "engines", "probe.py")


@dataclass(frozen=True, slots=True)
class Probed:
    """The builds that an environment offers, or one line that says why it offers none."""

    builds: tuple[EngineBuild, ...] = ()
    problem: str = ""


async def probe(
    environment: EngineEnvironment, code_dir: Path, *, deadline_seconds: float = PROBE_SECONDS_MAX
) -> Probed:
    """Ask an environment for its devices. Never raises for an environment that does not work."""
    name = environment.path.name
    try:
        process = child.start(
            [str(environment.python), "-I", "-B", str(code_dir / PROBE_SCRIPT), environment.engine],
            environment=child_environment(os.environ),
        )
    except OSError as error:
        return Probed(problem=f"{name}: {environment.python} cannot be started: {error.strerror}")
    with contextlib.closing(process):
        kill = functools.partial(process.signal, signal.SIGKILL)
        try:
            async with asyncio.timeout(deadline_seconds):
                answer, complaint = await asyncio.gather(_first(process.stdout, kill), _last(process.stderr))
                status = await process.wait()
        except TimeoutError:
            return Probed(problem=f"{name}: the probe gave no answer within {deadline_seconds:g} s")
        finally:
            kill()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REAP_SECONDS_MAX):
                    await process.wait()
    if len(answer) > ANSWER_BYTES_MAX:
        return Probed(problem=f"{name}: the probe's answer is longer than {ANSWER_BYTES_MAX} bytes")
    if status != 0:
        return Probed(problem=f"{name}: the probe failed ({status}): {_last_line(complaint)}")
    try:
        return Probed(builds=_builds(environment, answer))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Probed(problem=f"{name}: the probe's answer cannot be read: {error!r}")


async def _first(pipe: Pipe, too_long: Callable[[], None]) -> bytes:
    """Read to the end and keep what fits; beyond ANSWER_BYTES_MAX `too_long` is called (it makes the end come)."""
    kept = bytearray()
    while chunk := await pipe.read(READ_BYTES):
        if len(kept) <= ANSWER_BYTES_MAX:
            kept += chunk
        if len(kept) > ANSWER_BYTES_MAX:
            too_long()
    return bytes(kept)


async def _last(pipe: Pipe) -> bytes:
    """Read to the end and keep the last COMPLAINT_BYTES."""
    kept = b""
    while chunk := await pipe.read(READ_BYTES):
        kept = (kept + chunk)[-COMPLAINT_BYTES:]
    return kept


def _builds(environment: EngineEnvironment, answer: bytes) -> tuple[EngineBuild, ...]:
    obj = json.loads(answer)
    if obj["engine"] != environment.engine:
        raise ValueError(f"it is about engine {obj['engine']!r}")
    version = _text(obj, "version")
    return tuple(_build(environment, version, device) for device in obj["devices"])


def _build(environment: EngineEnvironment, version: str, device: dict[str, object]) -> EngineBuild:
    memory = device.get("memoryBytes")
    if memory is not None and (not isinstance(memory, int) or isinstance(memory, bool) or memory < 0):
        raise ValueError(f"memoryBytes is {memory!r}")
    return EngineBuild(
        backend=f"{environment.engine}-{_text(device, 'compute')}",
        engine=environment.engine,
        version=version,
        digest=environment.digest,
        device=str(device.get("name") or ""),
        unified=device.get("unified") is not False,
        device_memory_bytes=memory,
    )


def _text(obj: dict[str, object], key: str) -> str:
    value = obj[key]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} is not a text")
    return value


def _last_line(output: bytes) -> str:
    lines = [line for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "it said nothing"
