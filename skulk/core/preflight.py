"""Whether a machine can become, or stay, a given node: judged by what a probe of it found, before anything is changed.

Pure: the probe is a shell script that the playbooks run on the machine (`playbooks/roles/skulk_preflight`), because it
has to work where there is no Python yet. What it prints is one `key=value` a line; a key may come several times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from skulk.core.domain.desired import Fleet, Node
from skulk.core.domain.ids import NodeName
from skulk.core.inventory import engines_of

PYTHON_MIN = (3, 11)
PYTHON_MAX = (3, 14)
"""Every dependency has wheels up to here."""
GLIBC_MIN_OF_MLX = (2, 35)
"""MLX publishes wheels for this version on (manylinux_2_35)."""
SYSTEMD_MIN = 247
"""Debian 11's: the unit's settings are all known from here on."""
MACOS_MIN = 14
"""MLX needs it."""
CLOCK_SECONDS_MAX = 120
"""Certificates are dated back by an hour, API clients and logs bear less; a machine that follows NTP is within one."""
PROGRAM_BYTES_MIN = 1 << 30
"""Two releases of the daemon's environment have some 300 MB."""
STATE_BYTES_MIN = 3 << 30
"""One engine environment has up to 1 GB, unpacking it takes as much again, and a small model has 1 GB."""
SYSTEMS = {"Linux": "linux", "Darwin": "macos"}
ARCHITECTURES = {"linux": ("x86_64", "aarch64"), "macos": ("arm64",)}


class Level(StrEnum):
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that stands in the way (PROBLEM), or is worth knowing (WARNING), and what to do about it."""

    check: str
    level: Level
    message: str
    fix: str


@dataclass(frozen=True, slots=True)
class Python:
    """An interpreter that the probe found, best first."""

    path: str
    version: tuple[int, ...]

    @property
    def fits(self) -> bool:
        return PYTHON_MIN <= self.version[:2] <= PYTHON_MAX


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found on the machine. Empty texts and None: not known."""

    system: str
    machine: str
    bits: int | None
    """Of its programs: a 64-bit kernel may run a 32-bit system."""
    distribution: str
    libc: str
    libc_version: tuple[int, ...]
    systemd: int | None
    """Version of the systemd that runs as PID 1."""
    pythons: tuple[Python, ...]
    user: str
    privileged: bool
    """The second half of the probe ran as root."""
    refusal: str
    """What was said instead when it could not."""
    epoch: int
    free_bytes: Mapping[str, int]
    """Directory → bytes free on the disk that it is or will be on."""
    program_dir: str
    state_dir: str
    listening: frozenset[int]
    """TCP ports that somebody listens on."""
    service: str
    """Of the node on this machine: `active`, `inactive` or `absent`."""
    family: str
    """Of the distribution, as its package manager goes: `debian`, `fedora`, …"""
    group: str
    """The primary group of `user`."""
    dpkg: str
    brew: str
    git: bool
    node_name: str
    """In the node.toml that is there already."""
    certificate: str
    """The node's certificate in PEM, from an earlier run."""
    request: str
    """Its request for one, in PEM."""
    ssh_host_key: str
    uv: str
    """The version of the uv that an earlier run installed."""
    releases: tuple[str, ...]
    """Releases that are installed whole."""
    unfinished: tuple[str, ...]
    """Releases whose installation did not come to its end."""
    current: str
    previous: str

    @property
    def os(self) -> str | None:
        return SYSTEMS.get(self.system)

    @property
    def python(self) -> Python | None:
        """The interpreter to install with."""
        return next((python for python in self.pythons if python.fits), None)


def read_probe(text: str) -> Probe:
    """What the probe printed. Raises ValueError when that is not what a probe prints."""
    found: dict[str, list[str]] = {}
    for line in text.replace("\r", "").splitlines():
        key, equals, value = line.partition("=")
        if equals and re.fullmatch(r"[a-z_]+", key):
            found.setdefault(key, []).append(value.strip())

    def one(key: str) -> str:
        return found.get(key, [""])[-1]

    def each(key: str) -> tuple[str, ...]:
        # The probe runs twice, and says most things twice.
        return tuple(dict.fromkeys(found.get(key, ())))

    if one("probe") != "1" or (epoch := _number(one("epoch"))) is None:
        raise ValueError("the machine did not answer the probe")
    libc, _, libc_version = one("libc").partition(" ")
    return Probe(
        system=one("system"),
        machine=one("machine"),
        bits=_number(one("bits")),
        distribution=one("distribution"),
        libc=libc,
        libc_version=_version(libc_version),
        systemd=_number(one("systemd")),
        pythons=tuple(_python(value) for value in each("python") if " " in value),
        # First as whoever logs in.
        user=found.get("user", [""])[0],
        privileged=one("root") == "yes",
        refusal=one("refusal"),
        epoch=epoch,
        free_bytes=dict(_free(value) for value in each("free") if re.fullmatch(r"[0-9]{1,18} /.*", value)),
        program_dir=one("program_dir"),
        state_dir=one("state_dir"),
        listening=frozenset(port for value in each("listen") if (port := _number(value)) is not None),
        service=one("service") or "absent",
        family=one("family"),
        group=found.get("group", [""])[0],
        dpkg=one("dpkg"),
        brew=one("brew"),
        git=one("git") == "yes",
        node_name=one("node_name"),
        certificate=one("certificate").replace("|", "\n"),
        request=one("request").replace("|", "\n"),
        ssh_host_key=" ".join(one("ssh_host_key").split()[:2]),
        uv=one("uv"),
        releases=each("release"),
        unfinished=each("unfinished"),
        current=one("current"),
        previous=one("previous"),
    )


def _number(text: str) -> int | None:
    # No more digits than anything real has: what comes over the line may be anything.
    return int(text) if re.fullmatch(r"[0-9]{1,12}", text) else None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]{1,12}", text)[:3])


def _python(value: str) -> Python:
    version, _, path = value.partition(" ")
    return Python(path, _version(version))


def _free(value: str) -> tuple[str, int]:
    kibibytes, _, path = value.partition(" ")
    return path, int(kibibytes) * 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """What is going to be installed: checked against the machine. `now` is the operator's clock, epoch seconds."""

    now: float
    ports: tuple[int, ...]
    certificate_node: str = ""
    """Whom the certificate on the machine names, read by somebody who can."""
    managed_python: bool = False
    """uv may download a Python of its own where none fits."""


def judge(fleet: Fleet, name: NodeName, probe: Probe, plan: Plan) -> tuple[Finding, ...]:
    """Everything that is wrong, at once. Raises KeyError for a node that the fleet does not declare."""
    node = fleet.nodes[name]
    place = fleet.places.get(f"Node/{name}", f"the manifest of {name}")
    platform = tuple(_platform(node, place, probe))
    if any(finding.check == "platform" for finding in platform):
        # On a machine of another kind the other answers mean nothing.
        return platform
    return (
        *platform,
        *_privileges(node, place, probe),
        *_software(node, probe, plan),
        *_identity(name, probe, plan),
        *_room(probe),
        *_ports(name, probe, plan),
        *_clock(probe, plan),
        *_earlier_runs(probe),
    )


def _problem(check: str, message: str, fix: str) -> Finding:
    return Finding(check, Level.PROBLEM, message, fix)


def _platform(node: Node, place: str, probe: Probe) -> Iterator[Finding]:
    os = probe.os
    if os is None or probe.machine not in ARCHITECTURES[os] or probe.bits == 32:
        known = "Linux on x86_64 or aarch64, macOS on arm64"
        system = "a 32-bit system" if probe.bits == 32 else probe.system or "this system"
        yield _problem(
            "platform", f"{system} on {probe.machine or 'this processor'} is not supported", f"nodes are {known}"
        )
        return
    if (node.os is not None and node.os != os) or (node.arch is not None and node.arch != probe.machine):
        declared = "/".join(part for part in (node.os, node.arch) if part)
        yield _problem(
            "platform", f"{place} says {declared}, the machine is {os}/{probe.machine}",
            "correct spec.platform, or spec.address if this is another machine",
        )  # fmt: skip
    if os == "linux" and probe.libc != "glibc":
        yield _problem(
            "platform", f"the C library is {probe.libc or 'unknown'}, and no wheels are published for it",
            "use a distribution with glibc, such as Debian or Ubuntu",
        )  # fmt: skip
    if os == "macos" and (version := _version(probe.distribution)) and version[0] < MACOS_MIN:
        yield _problem("platform", f"macOS {probe.distribution} is too old", f"update to macOS {MACOS_MIN} or newer")
    if os == "linux" and (probe.systemd is None or probe.systemd < SYSTEMD_MIN):
        what = "systemd does not run" if probe.systemd is None else f"systemd {probe.systemd} is too old"
        yield _problem("service", what, f"the node is a systemd service: systemd {SYSTEMD_MIN} or newer is needed")


def _privileges(node: Node, place: str, probe: Probe) -> Iterator[Finding]:
    if not probe.privileged:
        user = probe.user or node.ssh.user or "the user"
        said = f": {probe.refusal}" if probe.refusal else ""
        yield _problem(
            "sudo",
            f"{user} cannot become root{said}",
            f"let {user} use sudo without a password, run with --ask-become-pass, or name another account in "
            f"spec.ssh.user ({place})",
        )


def _software(node: Node, probe: Probe, plan: Plan) -> Iterator[Finding]:
    if probe.python is None and not plan.managed_python:
        wanted = ".".join(map(str, PYTHON_MIN))
        found = ", ".join(f"{p.path} is {'.'.join(map(str, p.version))}" for p in probe.pythons) or "there is none"
        yield _problem(
            "python",
            f"Python {wanted} to {'.'.join(map(str, PYTHON_MAX))} is needed: {found}",
            "install one of the distribution's, name its path in skulk_python_interpreter, or let uv download one: "
            "skulk_python_managed=true",
        )
    if probe.os == "linux" and "mlx" in engines_of(node) and probe.libc_version < GLIBC_MIN_OF_MLX:
        version = ".".join(map(str, probe.libc_version))
        yield _problem(
            "glibc",
            f"engine mlx needs glibc {'.'.join(map(str, GLIBC_MIN_OF_MLX))}, this is {version} ({probe.distribution})",
            "use a newer distribution, or other backends in spec.backends, such as llama_cpp-cpu",
        )

    if probe.os == "macos" and not probe.git and not probe.brew:
        yield _problem(
            "git", "git is not installed, and neither is Homebrew", "run `xcode-select --install` on the Mac, or brew"
        )


def _identity(name: NodeName, probe: Probe, plan: Plan) -> Iterator[Finding]:
    for other, where in ((probe.node_name, "its node.toml"), (plan.certificate_node, "its certificate")):
        if other and other != name:
            yield _problem(
                "identity",
                f"this machine is node {other} already: {where} says so",
                f"correct the address of {name}, or run `skulk bootstrap --playbook uninstall {other}` first",
            )
            return


def _room(probe: Probe) -> Iterator[Finding]:
    for directory, needed, what in (
        (probe.program_dir, PROGRAM_BYTES_MIN, "the program needs"),
        (probe.state_dir, STATE_BYTES_MIN, "engines and models need"),
    ):
        free = probe.free_bytes.get(directory)
        if free is not None and free < needed:
            yield _problem(
                "disk",
                f"{directory} has {free / (1 << 30):.1f} GiB free, {what} {needed / (1 << 30):.0f}",
                "free space, or mount a larger disk there",
            )


def _ports(name: NodeName, probe: Probe, plan: Plan) -> Iterator[Finding]:
    if probe.service == "active":
        # Its own. Whether it answers there is what `skulk doctor` and the end of the run find out.
        return
    for port in plan.ports:
        if port in probe.listening:
            yield _problem(
                "port",
                f"another program listens on port {port}",
                f"stop it, or give {name} another port (skulk_node_port; spec.address for the planes)",
            )


def _clock(probe: Probe, plan: Plan) -> Iterator[Finding]:
    off = probe.epoch - plan.now
    if abs(off) > CLOCK_SECONDS_MAX:
        yield _problem(
            "clock",
            f"its clock is {abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} this machine's",
            "set the clocks, for example by NTP (`timedatectl set-ntp true`)",
        )


def _earlier_runs(probe: Probe) -> Iterator[Finding]:
    if probe.dpkg == "interrupted":
        yield _problem(
            "packages", "an installation of packages was interrupted", "run `dpkg --configure -a` on the machine"
        )
    for release in probe.unfinished:
        yield Finding(
            "release",
            Level.WARNING,
            f"an earlier run did not finish installing {release}",
            "it is removed and installed anew",
        )


def report(name: NodeName, findings: Sequence[Finding]) -> str:
    """What a person reads: a line for each finding."""
    return "\n".join(f"{name}: {f.level}: {f.check}: {f.message}; {f.fix}" for f in findings)
