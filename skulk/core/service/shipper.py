"""The service of a log shipper: another program (Vector, an OpenTelemetry collector) that sends a node's log away.

A unit of its own, so that it can fail, be restarted and be replaced without the node, and so that the node needs no
credentials of a log store. It may read the journal and its configuration, and nothing of the node.
"""

from __future__ import annotations

from dataclasses import dataclass

from skulk.core.service.launchd import DEFAULT_LOG_DIR, SEARCH_PATH, plist
from skulk.core.service.model import OPEN_FILES_MAX, RESTART_SECONDS, check_paths
from skulk.core.service.systemd import argument, literal, unit_file

SHIPPER_LABEL = "dev.skulk.logs"
# An account that exists only while the service runs, and the name of its state directory below /var/lib.
SHIPPER_NAME = "skulk-logs"
# The name under which systemd hands over the token: /run/credentials/skulk-logs.service/<this>.
TOKEN_NAME = "logs-token"
# What could not be sent yet is kept on disk; until it is written, the last requests may go on.
STOP_SECONDS_MAX = 30


@dataclass(frozen=True, slots=True)
class LogShipper:
    """All paths are absolute. `program` is called with `--config FILE`, which both known shippers take."""

    program: str
    config: str
    token_file: str | None = None
    """A file that holds a token and nothing else. Only for systemd, which reads it as root and passes a copy on."""
    user: str = SHIPPER_NAME
    """Only for launchd: systemd makes an account of its own."""
    data_dir: str = f"/var/lib/{SHIPPER_NAME}"
    """Only for launchd: systemd makes /var/lib/skulk-logs."""
    log_dir: str = DEFAULT_LOG_DIR
    """Only for launchd: systemd has the journal."""


def shipper_unit(shipper: LogShipper) -> str:
    """The text of `skulk-logs.service`. Raises ValueError for a path that is not absolute or holds a line break."""
    check_paths(shipper.program, shipper.config, *filter(None, (shipper.token_file,)))
    service = [
        "Type=exec",
        f"ExecStart={argument(shipper.program)} --config {argument(shipper.config)}",
        "DynamicUser=yes",
        f"User={SHIPPER_NAME}",
        "# It reads the journal, and only that.",
        "SupplementaryGroups=systemd-journal",
        f"StateDirectory={SHIPPER_NAME}",
        "StateDirectoryMode=0700",
    ]
    if shipper.token_file is not None:
        # The rest of the line is the path: it is not quoted.
        service.append(f"LoadCredential={TOKEN_NAME}:{literal(shipper.token_file)}")
    service += [
        "Restart=on-failure",
        f"RestartSec={RESTART_SECONDS}",
        f"TimeoutStopSec={STOP_SECONDS_MAX}",
        f"LimitNOFILE={OPEN_FILES_MAX}",
        "UMask=0077",
        "ProtectSystem=strict",
        "DevicePolicy=closed",
        "CapabilityBoundingSet=",
        "AmbientCapabilities=",
        # Not ProcSubset=pid: journalctl asks /proc which boot this is.
        "ProtectProc=invisible",
        # AF_NETLINK: how names are looked up depends on the machine's addresses.
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        "SystemCallFilter=@system-service",
        "SystemCallFilter=~@privileged @resources",
        "SystemCallErrorNumber=EPERM",
        "SystemCallArchitectures=native",
    ]
    service += [
        f"{name}=yes"
        for name in (
            *("ProtectHome", "PrivateTmp", "PrivateDevices", "ProtectClock", "ProtectControlGroups", "ProtectHostname"),
            *("ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "NoNewPrivileges", "RemoveIPC"),
            *("LockPersonality", "MemoryDenyWriteExecute", "RestrictNamespaces", "RestrictRealtime"),
            "RestrictSUIDSGID",
        )
    ]
    unit = ["Description=Skulk log shipper", "Wants=network-online.target", "After=network-online.target"]
    return unit_file({"Unit": unit, "Service": service, "Install": ["WantedBy=multi-user.target"]})


def shipper_plist(shipper: LogShipper) -> str:
    """The text of `dev.skulk.logs.plist`. Raises ValueError as `launchd_plist` does."""
    check_paths(shipper.program, shipper.config, shipper.data_dir, shipper.log_dir)
    return plist(
        {
            "Label": SHIPPER_LABEL,
            "ProgramArguments": [shipper.program, "--config", shipper.config],
            "UserName": shipper.user,
            "WorkingDirectory": shipper.data_dir,
            "EnvironmentVariables": {"HOME": shipper.data_dir, "PATH": SEARCH_PATH},
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": RESTART_SECONDS,
            "ExitTimeOut": STOP_SECONDS_MAX,
            "SoftResourceLimits": {"NumberOfFiles": OPEN_FILES_MAX},
            "Umask": 0o077,
            "StandardOutPath": f"{shipper.log_dir}/logs.out",
            "StandardErrorPath": f"{shipper.log_dir}/logs.err",
        }
    )
