"""The command line: one file per verb under `verbs`, everything they share beside it.

It talks HTTP to a node, works on a checkout, or starts the daemon. It holds no decision about the fleet: those
are in `skulk.core`, and a verb that needs one calls it there.
"""
