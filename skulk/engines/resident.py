"""How much memory this process holds now, as far as the system tells without third-party packages."""

from __future__ import annotations

import os
from pathlib import Path

_STATM = Path("/proc/self/statm")
"""Linux: sizes in pages; the second number is the resident set."""


def resident_bytes(engine_bytes: int | None) -> int | None:
    """The larger of the resident set and what the engine's allocator holds (GPU buffers are not resident)."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return engine_bytes
    return max(pages * os.sysconf("SC_PAGE_SIZE"), engine_bytes or 0)
