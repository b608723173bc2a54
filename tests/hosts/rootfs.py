"""Base root file systems of test hosts: made once by mmdebstrap, kept in the cache, changed by no host.

A base is named by its suite and a digest of its recipe (packages, units, files, mirror, trust anchors), so a changed
recipe makes a new one. It is built beside its place and moved there whole; what a broken build left is removed by the
next one. Nothing removes bases of older recipes: another checkout may still be using them.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

SUITES = ("bookworm", "trixie")

_PACKAGES = (
    *("apt", "ca-certificates", "curl", "dbus", "iproute2", "libpam-systemd", "openssh-server"),
    *("python3", "python3-apt", "sudo", "systemd", "systemd-sysv"),
)

# Units that have nothing to do in namespaces of a shared kernel (devices, kernel file systems, consoles, modules),
# and those that would change a host by themselves (daily upgrades, the clock).
_MASKED_UNITS = (
    *("systemd-udevd.service", "systemd-udevd-kernel.socket", "systemd-udevd-control.socket"),
    *("systemd-udev-trigger.service", "systemd-modules-load.service", "systemd-remount-fs.service"),
    *("sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount", "sys-fs-fuse-connections.mount"),
    *("dev-hugepages.mount", "dev-mqueue.mount"),
    *("proc-sys-fs-binfmt_misc.automount", "proc-sys-fs-binfmt_misc.mount"),
    *("getty.target", "console-getty.service", "systemd-logind.service", "systemd-firstboot.service"),
    *("systemd-timesyncd.service", "systemd-networkd-wait-online.service"),
    *("apt-daily.timer", "apt-daily-upgrade.timer"),
)

_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"

# Path → (mode, text).
_FILES = {
    "etc/ssh/sshd_config.d/testhosts.conf": (
        0o644,
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nUseDNS no\n",
    ),
    "etc/sudoers.d/ops": (0o440, "ops ALL=(ALL) NOPASSWD:ALL\n"),
    # Both bring trust anchors of their own otherwise, and would not know those of this machine.
    "etc/pip.conf": (0o644, f"[global]\ncert = {_BUNDLE}\n"),
    "etc/uv/uv.toml": (0o644, "system-certs = true\n"),
    # Translated descriptions are two fifths of what `apt-get update` would fetch.
    "etc/apt/apt.conf.d/testhosts": (0o644, 'Acquire::Languages "none";\n'),
    # systemd writes a new one at each host's first boot.
    "etc/machine-id": (0o444, ""),
    "etc/fstab": (0o644, ""),
}

# Lists that are missing and yet "fresh" would keep `apt: update_cache, cache_valid_time` from fetching them.
_LONG_AGO = 1577836800.0

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", re.DOTALL)


def base(suite: str, bases: Path, packages: Sequence[str] = ()) -> Path:
    """The root file system of a suite, with further packages: found in `bases`, or built there now (a minute, and a
    package mirror)."""
    mirror = _mirror()
    packages = (*_PACKAGES, *sorted(packages))
    recipe = {
        "packages": packages,
        "masked": _MASKED_UNITS,
        "files": _FILES,
        "mirror": mirror,
        "certificates": _certificates(Path(_BUNDLE)),
        "steps": _STEPS,
    }
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    place = bases / f"rootfs-{suite}-{digest}"
    if place.is_dir():
        return place
    with _locked(bases / f"rootfs-{suite}.lock") as lock:
        if not place.is_dir():
            for partial in bases.glob(f"rootfs-{suite}-*.partial-*"):
                remove_tree(partial)
            building = Path(tempfile.mkdtemp(prefix=f"{place.name}.partial-", dir=bases))
            try:
                _build(suite, packages, building, mirror, lock)
                building.rename(place)
            finally:
                remove_tree(building)
    return place


def remove_tree(path: Path) -> None:
    """Remove a directory with everything in it, but nothing that is mounted there."""
    if path.exists():
        subprocess.run(["rm", "-rf", "--one-file-system", "--", path], check=True)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


@cache
def _mirror() -> str:
    """The package mirror that this machine uses, or Debian's own."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return next((uri for uri in listed.split() if re.search(r"/debian/*$", uri)), "http://deb.debian.org/debian/")


def _certificates(bundle: Path) -> list[str]:
    return _CERTIFICATE.findall(bundle.read_text("utf-8")) if bundle.exists() else []


def _build(suite: str, packages: Sequence[str], root: Path, mirror: str, lock: int) -> None:
    _run(
        # Mounts of a build that is killed end with its namespace; the lock is held as long as anything of it lives.
        *("unshare", "--mount", "--propagation", "private"),
        *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}", suite, str(root), mirror),
        lock=lock,
    )
    root.chmod(0o755)
    for unit in _MASKED_UNITS:
        link = root / "etc/systemd/system" / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    for name, (mode, text) in _FILES.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(text, "utf-8")
        file.chmod(mode)
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    _run("chroot", str(root), "useradd", "--create-home", "--shell", "/bin/bash", "--groups", "sudo", "ops", lock=lock)
    _trust_what_this_machine_trusts(root, lock)
    stamp = root / "var/lib/apt/periodic/update-success-stamp"
    stamp.unlink(missing_ok=True)
    os.utime(root / "var/lib/apt/lists", (_LONG_AGO, _LONG_AGO))


def _trust_what_this_machine_trusts(root: Path, lock: int) -> None:
    """Anchors beyond Debian's own, such as a company's proxy has: without them nothing could be fetched there."""
    known = set(_certificates(root / _BUNDLE.lstrip("/")))
    for number, certificate in enumerate(c for c in _certificates(Path(_BUNDLE)) if c not in known):
        file = root / f"usr/local/share/ca-certificates/machine-{number}.crt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(certificate, "utf-8")
    _run("chroot", str(root), "update-ca-certificates", lock=lock)


def _run(*command: str, lock: int) -> None:
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", "LC_ALL": "C.UTF-8", **proxies}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, pass_fds=(lock,), check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{(done.stdout + done.stderr)[-4000:]}")


def missing_programs() -> list[str]:
    """Packages without which no base can be built or started."""
    needed = {"mmdebstrap": "mmdebstrap", "nft": "nftables", "ip": "iproute2", "nsenter": "util-linux"}
    needed |= {"ssh": "openssh-client", "ssh-keygen": "openssh-client", "tar": "tar"}
    return sorted({package for program, package in needed.items() if not shutil.which(program)})


# A changed step changes the recipe. Read at import, when the file is still what runs.
_STEPS = [inspect.getsource(step) for step in (_build, _trust_what_this_machine_trusts)]
