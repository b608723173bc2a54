"""What clients speak → neutral requests, and token frames → what clients read. Pure; no HTTP, no sockets.

`openai` parses a request (`openai_messages`, `openai_tools` parts of it), `grammar` writes what its answer may be and
`schemas` judges what clients send for that; `text` assembles an answer with `tools` and `logprobs`, `openai_encode`
writes it; `fields` reads JSON for all dialects.
"""
