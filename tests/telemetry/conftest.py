"""Makes `machines` importable by the tests beside it (importlib mode does not touch sys.path)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
