"""The child process: a runner, and the engines inside it.

Runs in an engine's own environment, where only the standard library, numpy, llguidance, jinja2 and the engine's
packages exist; so it imports `skulk.core.errors`, `skulk.core.domain`, `skulk.core.formats`
and `skulk.core.wire`. Nobody imports it.
"""
