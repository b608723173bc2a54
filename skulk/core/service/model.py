"""What service definitions are made from: facts of the node, and limits that hold for every service manager."""

from __future__ import annotations

from dataclasses import dataclass

# Fetching and unpacking happen after READY, so a start takes a second; a disk that wakes up takes longer.
START_SECONDS_MAX = 180
# Client streams may go on for 30 s, the gateway, the planes and what was begun need some more.
STOP_SECONDS_MAX = 60
# A daemon that fails is started again after this.
RESTART_SECONDS = 5
# Files of models, sockets of clients and runners.
OPEN_FILES_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Service:
    """The daemon of a node. All paths are absolute."""

    name: str
    """Of the node, for people."""
    program: str
    """The installed `skulk`."""
    config: str
    """node.toml."""
    writes: tuple[str, ...]
    """State directory (the first), engines directory, directory of the log file."""
    reads: tuple[str, ...] = ()
    """Model roots, certificates, signers: where they may be below a home directory."""
    user: str = "skulk"
    groups: tuple[str, ...] = ()
    """Further groups: those that own the devices of an accelerator. Only for systemd."""
    home: str | None = None
    """Home directory of `user`, default the state directory. Only for launchd: systemd looks it up itself."""
    log_dir: str | None = None
    """Where stdout and stderr go. Only for launchd: systemd has the journal."""


def check_paths(*paths: str) -> None:
    """Raises ValueError for a path that is not absolute or holds a line break or NUL."""
    for path in paths:
        if not path.startswith("/") or any(c in path for c in "\n\r\0"):
            raise ValueError(f"{path!r} is not an absolute path")
