"""What the log of a crashed runner says of the cause.

It ends with the stacks of all threads, as `faulthandler` (which every runner enables) writes them on a fatal signal.
What led there was written before that, if at all:

    /…/ggml.c:3184: GGML_ASSERT(ggml_can_mul_mat(a, b)) failed      a library's; a debugger's lines may follow
    Fatal Python error: Aborted
    Current thread 0x00007efd85f306c0 (most recent call first):
      File "/…/decoder.py", line 134 in run
    …
    Extension modules: numpy._core._multiarray_umath (total: 1)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

CAUSE_LINES_MAX = 2
"""Of those that a library writes when it ends the process: an assertion is one, an exception of C++ two."""
ERROR_LINES_MAX = 3
"""Of the runner's errors directly before them: the fault of a GPU is described there (`CUDA error: out of memory`)."""

_DUMP = "Fatal Python error: "
_OWN = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ([A-Z]+) +(.*)")
"""A line of the runner's own: level and message."""
_CAUSE = re.compile(
    "|".join(
        (
            r"\S+\.(?:c|cc|cpp|cu|cuh|h|hpp|m|mm):\d+: ",  # GGML_ABORT and GGML_ASSERT
            r"terminate called|what\(\): |libc\+\+abi: ",  # C++
            r".*\bAssertion\b.*\bfailed",
            r"(?:double free|free\(\)|malloc\(\)|realloc\(\)|munmap_chunk\(\)|corrupted )",  # glibc, of its heap
            r"\*\*\* .+ \*\*\*",  # glibc's "stack smashing detected"
        )
    )
)
_FRAME = re.compile(r'File "(?:.*/)?(.+)", line (\d+) in (.+)')


def crash_told(lines: Sequence[str]) -> str | None:
    """Why a process died, by the last lines of its log; None when they do not end with a dump of stacks."""
    texts = [line.strip() for line in lines if line.strip()]
    at = max((i for i, text in enumerate(texts) if text.startswith(_DUMP)), default=None)
    # A line of the runner's own after it: that was an earlier life, whose log this one goes on with.
    if at is None or any(_OWN.match(text) for text in texts[at:]):
        return None
    told = "; ".join(_causes(texts[:at])) or texts[at]
    frame = _frame(texts[at:])
    return f"{told} (in {frame})" if frame else told


def _causes(texts: Sequence[str]) -> list[str]:
    """The cause and the errors directly before it, when nothing else of the runner's stands behind them."""
    causes: list[str] = []
    errors: list[str] = []
    for text in reversed(texts):
        own = _OWN.match(text)
        if own is None and not causes and not _CAUSE.match(text):
            continue  # a debugger's
        if own is None and not errors and _CAUSE.match(text):
            causes.append(text)
        elif own is not None and causes and own[1] == "ERROR":
            errors.append(own[2])
        else:
            break
    return [*reversed(errors[:ERROR_LINES_MAX]), *causes[: -CAUSE_LINES_MAX - 1 : -1]]


def _frame(texts: Sequence[str]) -> str:
    """Where in Python code it happened; nothing when the thread was none of Python's."""
    for text, following in pairwise(texts):
        if text.startswith("Current thread "):
            found = _FRAME.match(following)
            return f"{found[3]}, {found[1]}:{found[2]}" if found else ""
    return ""
