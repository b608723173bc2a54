"""The pure core: nouns and every decision. No I/O, no clock, no randomness, no asyncio, no logging."""
