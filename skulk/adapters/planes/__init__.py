"""The planes of one node, over whatever carries the messages (`Transport`): the real network or a simulated one."""

from skulk.adapters.planes.mesh import Identity, Planes
from skulk.adapters.planes.transport import Inbox, Reply, Traffic, Transport, Wiring

__all__ = ["Identity", "Inbox", "Planes", "Reply", "Traffic", "Transport", "Wiring"]
