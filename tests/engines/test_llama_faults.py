"""Steps of llama.cpp that fail: with the real library, of which one function says that it did."""

from __future__ import annotations

from dataclasses import replace

import pytest

# Compiling the engine for the first time takes many minutes.
pytestmark = [pytest.mark.engine, pytest.mark.timeout(3600)]

SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from skulk.core.domain.requests import Sampling
from skulk.core.wire.launch import launch_from_json
from skulk.engines.engine import Job
from skulk.engines.llama_cpp.engine import LlamaCppEngine

engine = LlamaCppEngine(launch_from_json(json.loads(Path(sys.argv[2]).read_text())))
engine.load(lambda share: None)
decoder = engine._batch._decoder
library, goes_back = decoder._library, sys.argv[3] == "goes back"
decodes, fails = [], {"joint": {5}, "all": set(range(5, 100))}[sys.argv[4]]


class Fails:
    def __getattr__(self, name):
        return getattr(library, name)

    def llama_decode(self, context, batch):
        decodes.append(batch.n_tokens)
        answer = library.llama_decode(context, batch)
        return -3 if len(decodes) in fails else answer

    def llama_memory_seq_rm(self, memory, sequence, start, end):
        return (goes_back or start <= 0) and library.llama_memory_seq_rm(memory, sequence, start, end)


def answers(prompts):
    got = {}
    for name, prompt in prompts.items():
        got[name] = []
        engine.start(Job(name, prompt, Sampling(seed=1, temperature=0.0), 12))
    for _ in range(40):
        for emission in engine.step():
            got[emission.request] += [emission.error] if emission.error else emission.ids
    return got


encode = engine._loaded.tokenizer.encode
prompts = {text: encode(text) for text in ("The quick brown fox", "What is 9 * 7?", "Who are you?")}
expected = {}
for text, prompt in prompts.items():
    engine._batch.forget()
    expected |= answers({text: prompt})
engine._batch.forget()
decoder._library = Fails()
print(json.dumps({"expected": expected, "got": answers(prompts), "decodes": decodes}))
"""


@pytest.fixture
def failing(llama_python, launch, fox_gguf, printed):
    """Answers with and without failures of `llama_decode`."""

    def ask(*arguments):
        changes = {"engine": "llama_cpp", "backend": "llama_cpp-cpu", "model_dir": str(fox_gguf.parent)}
        placed = replace(launch, gguf_file=fox_gguf.name, concurrency=3, **changes)
        return printed(llama_python, SCRIPT, placed, *arguments)

    return ask


@pytest.mark.parametrize("cache", ["goes back", "only to the beginning"])
def test_a_joint_step_that_fails_changes_no_answer(failing, cache):
    got = failing(cache, "joint")
    assert got["decodes"][4] == 3, "all three generated in it"
    assert got["got"] == got["expected"]
    # Tried again one by one; or each read again from its beginning.
    assert got["decodes"][5:8] == [1, 1, 1] if cache == "goes back" else got["decodes"][5] > 3


@pytest.mark.parametrize("cache", ["goes back", "only to the beginning"])
def test_who_fails_alone_too_ends_with_the_librarys_answer(failing, cache):
    got = failing(cache, "all")
    for text, ids in got["expected"].items():
        *said, error = got["got"][text]
        assert said == ids[: len(said)]
        assert "llama_decode failed with -3" in error
