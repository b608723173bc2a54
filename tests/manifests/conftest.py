"""Makes `corpus_cases` and `field_table` importable by the tests beside it (importlib mode leaves sys.path alone)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
