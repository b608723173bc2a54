"""Making a release on the operator's machine: the wheel, built from this source tree or given, and its requirements."""

from skulk.adapters.release.building import make_release, source_tree
from skulk.adapters.release.wheel import Wheel, read_wheel

__all__ = ["Wheel", "make_release", "read_wheel", "source_tree"]
