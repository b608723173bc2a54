"""How libraries say that memory could not be had: they have words for it, and no type that all of them use.

The words of MLX, of llama.cpp and its backends, of C++ and of the drivers below them. A text that merely speaks of
memory (a function's name, a slot of the cache, a damaged heap) must not match: who reads that memory ran out looks for
something to stop.
"""

from __future__ import annotations

import re

_WORDS = re.compile(
    "|".join(
        (
            # "cannot allocate memory in static TLS block" is the dynamic loader's, about the order of libraries.
            r"\b(?:failed to|unable to|could not|cannot|can't) allocate\b(?! memory in static TLS)",
            r"\b(?:attempting|attempted) to allocate\b",
            r"\bmemory allocation\b.{0,60}\bfailed",
            r"\b(?:insufficient|not enough) memory\b",
            # Also ErrorOutOfDeviceMemory, CUDA_ERROR_OUT_OF_MEMORY, kIOGPUCommandBufferCallbackErrorOutOfMemory.
            r"out[ _-]?of[ _-]?(?:(?:device|host|pool)[ _-]?)?memory",
            r"\bbad_alloc\b",
            # Whatever MLX's allocators say; never the C library's "malloc(): corrupted top size".
            r"\[(?:\w+::)?malloc\w*\]",
        )
    ),
    re.IGNORECASE,
)


def tells_of_memory(text: str) -> bool:
    """The text says that memory could not be allocated."""
    return _WORDS.search(text) is not None


def is_out_of_memory(error: BaseException) -> bool:
    """The error is a MemoryError, or another type's way to say that memory could not be allocated."""
    return isinstance(error, MemoryError) or tells_of_memory(str(error))
