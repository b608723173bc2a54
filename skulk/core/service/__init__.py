"""The services of a machine, as text: the node's and the log shipper's, each for systemd and for launchd.

Pure; writes no file and starts nothing. Runners outlive the daemon and are adopted by the next one, so that only the
daemon's own process is ended.
"""

from skulk.core.service.launchd import launchd_plist
from skulk.core.service.model import STOP_SECONDS_MAX, Service
from skulk.core.service.shipper import LogShipper, shipper_plist, shipper_unit
from skulk.core.service.systemd import systemd_unit

__all__ = [
    "STOP_SECONDS_MAX",
    "LogShipper",
    "Service",
    "launchd_plist",
    "shipper_plist",
    "shipper_unit",
    "systemd_unit",
]
