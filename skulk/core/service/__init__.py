"""The service definition of a node, as text: a systemd unit or a launchd property list.

Pure; writes no file and starts nothing. Runners outlive the daemon and are adopted by the next one, so both only end
the daemon's own process.
"""

from skulk.core.service.launchd import launchd_plist
from skulk.core.service.model import STOP_SECONDS_MAX, Service
from skulk.core.service.systemd import systemd_unit

__all__ = ["STOP_SECONDS_MAX", "Service", "launchd_plist", "systemd_unit"]
