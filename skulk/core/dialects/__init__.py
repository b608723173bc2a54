"""What clients speak → neutral requests, and token frames → what clients read. Pure; no HTTP, no sockets.

`openai` parses, `text` assembles, `openai_encode` writes; `fields` reads JSON for all dialects.
"""
