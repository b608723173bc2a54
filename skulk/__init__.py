"""Skulk: a git repository of YAML becomes a running AI-inference fleet.

Importing this package must stay free of side effects and of third-party imports: engine processes, which
live in environments of their own, import it too.
"""

__version__ = "0.1.0"
