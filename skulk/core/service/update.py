"""The service that brings a node to its Fleet's version when the machine starts, before the node or beside it.

It installs as root, so it may write the program directory and nothing else, and has one right left: to become the
daemon's account for a look at its state. When it fails, the node starts with what is there.
"""

from __future__ import annotations

from dataclasses import dataclass

from skulk.core.service.launchd import DEFAULT_LOG_DIR, SEARCH_PATH, plist
from skulk.core.service.model import check_paths
from skulk.core.service.systemd import HOMES, argument, unit_file, word

UPDATE_LABEL = "dev.skulk.update"
UPDATE_UNIT = "skulk-update.service"
# Fifty packages over a slow line. The node waits for it, so it ends.
UPDATE_SECONDS_MAX = 900


@dataclass(frozen=True, slots=True)
class UpdateService:
    """All paths are absolute."""

    program: str
    """The installed `skulk`, by the link that is exchanged."""
    config: str
    """node.toml."""
    program_dir: str
    """The only directory that it writes."""
    reads: tuple[str, ...] = ()
    """Wheelhouse and state directory: where they may be below a home directory."""
    log_dir: str = DEFAULT_LOG_DIR
    """Where stdout and stderr go. Only for launchd: systemd has the journal."""


def update_unit(service: UpdateService) -> str:
    """The text of `skulk-update.service`. Raises ValueError for a path that cannot stand there."""
    places = (service.program, service.config, service.program_dir, *service.reads)
    check_paths(*places)
    below_home = any(f"{path}/".startswith(f"{home}/") for path in places for home in HOMES)
    unit = [
        "Description=Skulk update to the version of the Fleet",
        "Wants=network-online.target",
        "After=network-online.target",
        "# The node waits for its end, and starts whatever that was: nothing requires this unit.",
        "Before=skulk-node.service",
    ]
    lines = [
        "Type=oneshot",
        f"ExecStart={argument(service.program)} node update --boot --config {argument(service.config)}",
        f"TimeoutStartSec={UPDATE_SECONDS_MAX}",
        # What it installs it makes readable by itself.
        "UMask=0077",
        "ProtectSystem=strict",
        f"ProtectHome={'read-only' if below_home else 'yes'}",
        f"ReadWritePaths={word(service.program_dir)}",
        "DevicePolicy=closed",
        # To read the state directory as its owner.
        "CapabilityBoundingSet=CAP_SETUID CAP_SETGID",
        "AmbientCapabilities=",
        "ProtectProc=invisible",
        "ProcSubset=pid",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        "SystemCallFilter=@system-service",
        # Not @privileged: it holds the calls that change the account.
        "SystemCallFilter=~@resources",
        "SystemCallErrorNumber=EPERM",
        "SystemCallArchitectures=native",
    ]
    lines += [
        f"{name}=yes"
        for name in (
            *(
                "NoNewPrivileges",
                "PrivateTmp",
                "PrivateDevices",
                "PrivateMounts",
                "ProtectClock",
                "ProtectControlGroups",
            ),
            *("ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables"),
            *(
                "LockPersonality",
                "MemoryDenyWriteExecute",
                "RemoveIPC",
                "RestrictNamespaces",
                "RestrictRealtime",
                "RestrictSUIDSGID",
            ),
        )
    ]
    return unit_file({"Unit": unit, "Service": lines, "Install": ["WantedBy=multi-user.target"]})


def update_plist(service: UpdateService) -> str:
    """The text of `dev.skulk.update.plist`. launchd starts jobs in no order, so this one restarts the node by itself
    when it has exchanged the program. Raises ValueError as `launchd_plist` does."""
    check_paths(service.program, service.config, service.program_dir, service.log_dir)
    return plist(
        {
            "Label": UPDATE_LABEL,
            "ProgramArguments": [service.program, "node", "update", "--boot", "--config", service.config],
            "WorkingDirectory": "/",
            "EnvironmentVariables": {"PATH": SEARCH_PATH},
            "RunAtLoad": True,
            "LaunchOnlyOnce": True,
            "Umask": 0o077,
            "StandardOutPath": f"{service.log_dir}/update.out",
            "StandardErrorPath": f"{service.log_dir}/update.err",
        }
    )
