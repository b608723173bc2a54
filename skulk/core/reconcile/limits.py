"""Every deadline and bound of the node, one table (architecture §10), units in the names.

Values are defaults; a test compares them with docs/reference/limits.md.
"""

from __future__ import annotations

MIB = 1024 * 1024

# A hello is a few hundred bytes over a local socket: a process that cannot answer in 5 s is frozen or not ours.
HELLO_SECONDS_MAX = 5.0
# The I/O thread sends a heartbeat every 2 s and never computes: five missed ones mean it is stopped.
HEARTBEAT_SECONDS_MAX = 10.0
# Importing an inference library on a loaded machine takes up to half a minute; four times that is a hang.
FIRST_REPORT_SECONDS_MAX = 120.0
# A cold disk reads 100 MB in a second at worst; a minute on top for imports and compilation.
LOAD_SECONDS_BASE = 60.0
LOAD_SECONDS_PER_100_MB = 1.0
# First kernels of a large model compile for minutes on some GPUs.
WARMUP_SECONDS_MAX = 300.0
# No engine step of a sane configuration takes two minutes.
STEP_SECONDS_MAX = 120.0
# The runner's own watchdog acts first (exit 86 with last words); the daemon is the backstop.
WEDGE_BACKSTOP_SECONDS = 15.0
# What runs may finish before a replica stops.
DRAIN_SECONDS_MAX = 30.0
# Stop was asked politely; then the group is killed.
STOP_SECONDS_MAX = 10.0
# Backoff after a failure: 1 s doubling to a minute, ±20 % so that replicas do not march in step.
BACKOFF_SECONDS_MIN = 1.0
BACKOFF_SECONDS_MAX = 60.0
BACKOFF_JITTER = 0.2
# The breaker opens at the third failure within a minute, or within three load times for slow models.
BREAKER_FAILURES = 3
BREAKER_WINDOW_SECONDS_MIN = 60.0
BREAKER_WINDOW_LOADS = 3.0
# A failed fetch of a file that may come back (network, another program writing) is tried again.
FETCH_BACKOFF_SECONDS_MAX = 300.0
# The prediction may be this much above what is free now: free memory is a noisy figure.
ADMISSION_TOLERANCE = 0.10
# Another runner may be about to end; after that a placement that does not fit is refused.
MEMORY_PATIENCE_SECONDS = 10.0
# A refusal for memory is tried again after this: what took the memory may be gone.
MEMORY_REFUSAL_SECONDS = 300.0
# A refusal for files that cannot be fetched: somebody has to put them there.
FETCH_REFUSAL_SECONDS = 900.0
# Patience with a request whose replica vanished before it answered.
REROUTE_SECONDS_MAX = 15.0
# On SIGTERM the open client streams may go on this long.
CLOSE_STREAMS_SECONDS_MAX = 30.0
# The loop looks again at least this often, whatever was or was not reported.
RESYNC_SECONDS = 5.0


def load_deadline_seconds(weights_bytes: int) -> float:
    """60 s + 1 s per 100 MB of weights."""
    return LOAD_SECONDS_BASE + LOAD_SECONDS_PER_100_MB * weights_bytes / 100e6
