"""Facts of this machine: memory, disk, system, and what its engine environments offer."""

from skulk.adapters.hardware.naming import architecture, nearest_existing, system_name
from skulk.adapters.hardware.probe import MachineProbe

__all__ = ["MachineProbe", "architecture", "nearest_existing", "system_name"]
