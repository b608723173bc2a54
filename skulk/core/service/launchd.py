"""The launchd daemon of a node, as a property list.

launchd starts jobs without a shell, a search path or a home directory, sets strings only, reads no file of variables
and never rotates a log: paths are absolute, and `skulk.env` is read by the daemon itself.
"""

from __future__ import annotations

import plistlib
from collections.abc import Mapping
from typing import Any

from skulk.core.service.model import OPEN_FILES_MAX, RESTART_SECONDS, STOP_SECONDS_MAX, Service, check_paths

LABEL = "dev.skulk.node"
DEFAULT_LOG_DIR = "/usr/local/var/log/skulk"
# Homebrew's on Apple Silicon first: git, uv and compilers are there.
SEARCH_PATH = "/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
# Nobody but the account has access to what the daemon writes. launchd wants a number.
_UMASK = 0o077


def launchd_plist(service: Service) -> str:
    """The text of `/Library/LaunchDaemons/dev.skulk.node.plist`.

    Raises ValueError for a path that is not absolute or holds a line break, and for text that XML cannot hold.
    """
    log_dir = service.log_dir or DEFAULT_LOG_DIR
    state_dir = service.writes[0]
    home = service.home or state_dir
    check_paths(service.program, service.config, *service.writes, *service.reads, log_dir, home)
    return plist(
        {
            "Label": LABEL,
            "ProgramArguments": [service.program, "node", "run", "--config", service.config],
            "UserName": service.user,
            "WorkingDirectory": state_dir,
            "EnvironmentVariables": {"HOME": home, "PATH": SEARCH_PATH, "SKULK_LOGGING_EXTERNAL": "1"},
            "RunAtLoad": True,
            # A daemon that was told to end stays away; one that failed comes back.
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": RESTART_SECONDS,
            "ExitTimeOut": STOP_SECONDS_MAX,
            # Runners live on; the next daemon adopts them.
            "AbandonProcessGroup": True,
            # Otherwise macOS slows down what has no window.
            "ProcessType": "Interactive",
            "SoftResourceLimits": {"NumberOfFiles": OPEN_FILES_MAX},
            "HardResourceLimits": {"NumberOfFiles": OPEN_FILES_MAX},
            "Umask": _UMASK,
            "StandardOutPath": f"{log_dir}/node.out",
            "StandardErrorPath": f"{log_dir}/node.err",
        }
    )


def plist(job: Mapping[str, Any]) -> str:
    """A job as XML. Raises ValueError for text with control characters, which XML cannot hold."""
    return plistlib.dumps(dict(job), sort_keys=False).decode("utf-8")
