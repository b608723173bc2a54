"""The systemd unit of a node.

Only the daemon's own process is ended (`KillMode=process`). Everything that neither the daemon nor an engine needs is
taken away; what stays open says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from skulk.core.service.model import (
    OPEN_FILES_MAX,
    RESTART_SECONDS,
    START_SECONDS_MAX,
    STOP_SECONDS_MAX,
    Service,
    check_paths,
)

# The event loop says that it turns twice in this time; engines compute in other processes, so it always can.
WATCHDOG_SECONDS = 60
# A daemon that fails is not started again for ever: after that somebody has to look.
RESTARTS_MAX = 10
RESTARTS_WITHIN_SECONDS = 300
HOMES = ("/home", "/root", "/run/user")


def systemd_unit(service: Service) -> str:
    """A unit file. Raises ValueError for a path that is not absolute or holds a line break."""
    check_paths(service.program, service.config, *service.writes, *service.reads)
    sections = {"Unit": _unit(service), "Service": _service(service), "Install": ["WantedBy=multi-user.target"]}
    return unit_file(sections)


def unit_file(sections: Mapping[str, Iterable[str]]) -> str:
    """Name of a section → its lines, as text."""
    return "\n\n".join("\n".join((f"[{name}]", *lines)) for name, lines in sections.items()) + "\n"


def _unit(service: Service) -> list[str]:
    return [
        f"Description=Skulk node {literal(service.name)}",
        "Wants=network-online.target",
        "After=network-online.target",
        f"StartLimitIntervalSec={RESTARTS_WITHIN_SECONDS}",
        f"StartLimitBurst={RESTARTS_MAX}",
    ]


def _service(service: Service) -> list[str]:
    lines = [
        "Type=notify",
        f"ExecStart={argument(service.program)} node run --config {argument(service.config)}",
        "ExecReload=/bin/kill -HUP $MAINPID",
        f"User={service.user}",
    ]
    if service.groups:
        lines.append(f"SupplementaryGroups={' '.join(service.groups)}")
    lines += [
        f"WatchdogSec={WATCHDOG_SECONDS}",
        f"TimeoutStartSec={START_SECONDS_MAX}",
        f"TimeoutStopSec={STOP_SECONDS_MAX}",
        "Restart=on-failure",
        f"RestartSec={RESTART_SECONDS}",
        "# Runners live on; the next daemon adopts them. One that runs out of memory takes nothing else with it.",
        "KillMode=process",
        "OOMPolicy=continue",
        f"LimitNOFILE={OPEN_FILES_MAX}",
        "# Model weights are locked into memory by some engines.",
        "LimitMEMLOCK=infinity",
        *_hardening(service),
    ]
    return lines


def _hardening(service: Service) -> Iterable[str]:
    everything = (service.program, service.config, *service.writes, *service.reads)
    below_home = any(f"{path}/".startswith(f"{home}/") for path in everything for home in HOMES)
    yield "ProtectSystem=strict"
    yield f"ProtectHome={'read-only' if below_home else 'yes'}"
    yield f"ReadWritePaths={' '.join(word(path) for path in dict.fromkeys(service.writes))}"
    yield "UMask=0077"
    # Not PrivateDevices and not MemoryDenyWriteExecute: accelerators and their compilers need both.
    yield "DevicePolicy=closed"
    yield "DeviceAllow=char-drm rw"
    yield "DeviceAllow=/dev/kfd rw"
    # Not ProcSubset=pid: what is free on the machine stands in /proc.
    yield "ProtectProc=invisible"
    # AF_NETLINK: the interfaces of the machine.
    yield "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK"
    yield "SystemCallFilter=@system-service"
    yield "SystemCallErrorNumber=EPERM"
    yield "SystemCallArchitectures=native"
    yield "CapabilityBoundingSet="
    yield "AmbientCapabilities="
    for name in (
        *("NoNewPrivileges", "PrivateTmp", "ProtectClock", "ProtectControlGroups", "ProtectHostname"),
        *("ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "LockPersonality", "RemoveIPC"),
        *("RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID"),
    ):
        yield f"{name}=yes"


def literal(value: str) -> str:
    """`%` starts a specifier (systemd.unit(5))."""
    return value.replace("%", "%%")


def word(value: str) -> str:
    """One word of a list of paths (systemd.syntax(7))."""
    escaped = literal(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if any(c in value for c in " \t\"'\\;") else escaped


def argument(value: str) -> str:
    """One word of a command line, where `$` starts a variable besides (systemd.service(5))."""
    return word(value).replace("$", "$$")
