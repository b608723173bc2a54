"""Every deadline and bound of coordination, one table (architecture §10), units in the names.

None of them makes a decision right: a wrong value makes the fleet slower or moves more, never inconsistent.
"""

from __future__ import annotations

# Liveliness comes in bursts: five nodes that start together are seen within half a second of each other.
SETTLE_SECONDS = 0.7
# A live member that does not answer for this long is frozen or overloaded; the others cannot wait for it.
DISCOVERY_SECONDS_MAX = 10.0
# After a power cut machines come up at different speeds. What stands on a declared one is not placed elsewhere before.
GRACE_SECONDS = 30.0
# A daemon that restarts is back within seconds, and a 70 GB model must not be loaded elsewhere for that.
PATIENCE_SECONDS = 15.0
# A git remote is polled every 30 s, and announced commits arrive in one: who has not seen it by then cannot.
COMMIT_UNSEEN_SECONDS_MAX = 30.0
# A question asked right after a link came up may miss the other side: ask again soon, an answer takes milliseconds.
ASK_RETRY_SECONDS = 0.25
# How often the coordinator compares what all members hold. Measured: finds a thawed second coordinator in 1 s.
ANTI_ENTROPY_SECONDS = 2.0
# A body or a commit is asked for again after this long: longer than any answer takes on a healthy link.
FETCH_RETRY_SECONDS = 1.0
# Names in a message; the rest is counted. A line must stay readable.
NAMES_SHOWN_MAX = 5
# Epochs are dealt out by ordinal (`epoch_after`), so a round must be wider than the greatest ordinal.
EPOCHS_PER_ROUND = 10_000_000
# Above this an epoch is no number that counting could have reached (2**63: what every JSON reader can hold).
EPOCH_MAX = 2**63 - 1
