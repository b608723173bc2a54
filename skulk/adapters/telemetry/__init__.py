"""Readings of this machine (port `Sampler`): memory, processors, accelerators, disks, identity, the daemon itself."""

from skulk.adapters.telemetry.sampler import MachineSampler, disks_of

__all__ = ["MachineSampler", "disks_of"]
