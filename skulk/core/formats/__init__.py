"""File formats and digests of their contents, read from bytes: no I/O."""
