"""Logs: for people on a terminal's stderr, JSON lines on stdout under a service, or in a file that node.toml names.

Keys are fixed: ts level event node component request_id model placement commit exception, and what an event adds.
`SKULK_LOGGING_EXTERNAL=1` forces JSON.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from functools import cache
from typing import Any, TextIO, cast

import structlog

from skulk.node.config import LogTable
from skulk.node.log_file import LogFile


def configure(node: str, level: str, table: LogTable | None = None) -> None:
    """Set up structlog for this process, before the first log line and again whenever the level changes.

    With `table` lines go to the file that it names, if it names one.
    """
    file = _log_file(table) if table is not None else None
    external = os.environ.get("SKULK_LOGGING_EXTERNAL") == "1" or not sys.stderr.isatty() or file is not None
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        _with_node(node),
    ]
    if external:
        # Without local variables: they hold prompts and keys.
        frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        shared += [structlog.processors.ExceptionRenderer(frames), structlog.processors.JSONRenderer(default=str)]
        factory = structlog.PrintLoggerFactory(sys.stdout if file is None else file)
    else:
        plain = structlog.dev.plain_traceback
        shared += [structlog.dev.ConsoleRenderer(timestamp_key="ts", exception_formatter=plain)]
        factory = structlog.PrintLoggerFactory(sys.stderr)
    structlog.configure(
        processors=shared,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=factory,
        cache_logger_on_first_use=False,
    )


@cache
def _log_file(table: LogTable) -> TextIO | None:
    """One per process, however often the level changes: two would rotate each other's file away."""
    if table.file is None:
        return None
    # A stream as far as loggers use one.
    return cast(TextIO, LogFile(table.file, table.max_bytes, table.keep))


def _with_node(node: str) -> structlog.typing.Processor:
    def add(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("node", node)
        return event

    return add
