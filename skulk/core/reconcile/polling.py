"""When to ask the source again, and when to say that it has been silent for too long. Pure: jitter is an argument."""

from __future__ import annotations

# Share of the interval by which nodes spread, so that a fleet does not knock all at once.
JITTER_SHARE = 0.1

# A source that is down is asked at least this often, so that recovery needs no person (jitter comes on top).
BACKOFF_SECONDS_MAX = 15 * 60.0

# One miss is a blip; three in a row are worth a condition.
MISSES_UNTIL_STALE = 3

# 2^20 intervals exceed any maximum; a larger exponent would only overflow.
_DOUBLINGS_MAX = 20


def next_poll(interval_seconds: float, failures: int, jitter01: float) -> float:
    """Seconds to wait before the next poll, after `failures` failed ones in a row.

    Doubles with each failure up to BACKOFF_SECONDS_MAX (or the interval, when that is longer), ± JITTER_SHARE by
    `jitter01`, uniform in 0…1.
    """
    assert interval_seconds > 0
    assert failures >= 0
    assert 0.0 <= jitter01 <= 1.0
    ceiling = max(BACKOFF_SECONDS_MAX, interval_seconds)
    base = min(interval_seconds * (1 << min(failures, _DOUBLINGS_MAX)), ceiling)
    return base * (1.0 + JITTER_SHARE * (2.0 * jitter01 - 1.0))


def is_stale(failures: int) -> bool:
    """Whether the condition SourceStale is due after `failures` failed polls in a row."""
    return failures >= MISSES_UNTIL_STALE
