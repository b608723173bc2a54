"""Facts of this machine: memory, disk, system, and what its engine environments offer."""

from skulk.adapters.hardware.probe import MachineProbe

__all__ = ["MachineProbe"]
