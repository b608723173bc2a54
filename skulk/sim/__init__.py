"""A node (later: a fleet) in one process on a virtual clock: the same loops, the same core, other ports.

Faults are injected by calling methods of the fakes; time passes only while everything waits, so an hour of
virtual time takes a moment and a run is reproducible to the step.
"""
