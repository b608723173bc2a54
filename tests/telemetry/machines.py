"""Machines that this one is not: recorded files of /proc and /sys, and programs that print recorded outputs."""

from __future__ import annotations

import shlex
from pathlib import Path

from skulk.adapters.telemetry import MachineSampler
from skulk.adapters.telemetry.outside import Outside

RECORDED = Path(__file__).parent / "recorded"
# Programs are shell scripts here; they need `cat`, `sed` and `sleep`.
SHELL_PATH = "/usr/bin:/bin"


def program(folder: Path, name: str, body: str) -> None:
    """A program of that name in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\nPATH={SHELL_PATH}\n{body}\n")
    path.chmod(0o755)


def linux(tmp_path: Path, machine: str = "nothing", nvidia: str | None = None) -> MachineSampler:
    """A Linux machine with the files of `recorded/MACHINE` and, if wanted, NVIDIA's tool."""
    programs = tmp_path / "bin"
    programs.mkdir()
    if nvidia is not None:
        program(programs, "nvidia-smi", f"cat {shlex.quote(str(RECORDED / nvidia))}")
    outside = Outside(RECORDED / machine, str(programs))
    return MachineSampler({"state": tmp_path}, outside=outside, system="linux", is_root=False)


def mac(tmp_path: Path, *, is_root: bool = False) -> MachineSampler:
    """A Mac, as far as its programs tell."""
    programs = tmp_path / "bin"
    for file in (RECORDED / "macos").iterdir():
        if file.name == "sysctl":
            program(programs, "sysctl", f'sed -n "s/^$2 //p" {shlex.quote(str(file))}')
        else:
            program(programs, file.name, f"cat {shlex.quote(str(file))}")
    outside = Outside(tmp_path / "no files", str(programs))
    return MachineSampler({"state": tmp_path}, outside=outside, system="macos", is_root=is_root)
