"""The services of a machine, as text: the node's, the log shipper's and the update's, for systemd and for launchd.

Pure; writes no file and starts nothing. Runners outlive the daemon and are adopted by the next one, so that only the
daemon's own process is ended.
"""

from skulk.core.service.launchd import launchd_plist
from skulk.core.service.model import STOP_SECONDS_MAX, Service
from skulk.core.service.shipper import LogShipper, shipper_plist, shipper_unit
from skulk.core.service.systemd import systemd_unit
from skulk.core.service.update import UPDATE_LABEL, UPDATE_UNIT, UpdateService, update_plist, update_unit

__all__ = [
    "STOP_SECONDS_MAX",
    "UPDATE_LABEL",
    "UPDATE_UNIT",
    "LogShipper",
    "Service",
    "UpdateService",
    "launchd_plist",
    "shipper_plist",
    "shipper_unit",
    "systemd_unit",
    "update_plist",
    "update_unit",
]
