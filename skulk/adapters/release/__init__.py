"""Releases: made on the operator's machine (a wheel and its requirements, a wheelhouse for nodes without an index), and
installed by a node itself when it updates."""

from skulk.adapters.release.building import make_release, source_tree
from skulk.adapters.release.wheel import Wheel, read_wheel

__all__ = ["Wheel", "make_release", "read_wheel", "source_tree"]
