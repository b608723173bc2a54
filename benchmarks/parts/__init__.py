"""What several benchmarks share: a fleet to measure, a client that costs little, a bare server, figures.

They put `tests/e2e` on the path, because a benchmark runs the same real daemons as the tests there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

# Waiting OpenMP threads would otherwise spin on the cores that are measured.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")
