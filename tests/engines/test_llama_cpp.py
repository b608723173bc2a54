"""The engine llama_cpp in a real runner process, on a small trained model. Answers are its published samples."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from skulk.core.domain import Finish
from skulk.core.formats.gguf import read_gguf
from skulk.core.wire.runner import AcceptedFrame, Cancel
from skulk.engines.llama_cpp.engine import PREFILL_CHUNK_TOKENS_CPU

# Compiling the engine for the first time takes many minutes.
pytestmark = [pytest.mark.engine, pytest.mark.timeout(3600)]

ENDLESS = {"logit_bias": ((0, -100.0), (2, -100.0))}
"""What ends an answer is forbidden: only a cancel ends it before thousands of tokens."""

SAMPLES = [
    ("What is 9 * 7?", True, "<think>\n9 * 7 = 63.\n</think>\n\n9 * 7 = 63"),
    ("What is 9 * 7?", False, "9 * 7 = 63"),
    ("What is the opposite of hot?", False, "The opposite of hot is cold."),
    ("Count to 12.", True, "<think>\nI count from 1 to 12.\n</think>\n\n1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12"),
    ("Who are you?", False, "I am fox-tiny, a small demo model trained on synthetic text."),
    ("Repeat after me: zorblat quick 🦊 Zürich", False, "zorblat quick 🦊 Zürich"),
]


def llama_launch(launch, file, **changes):
    return replace(
        launch,
        model="fox-tiny-gguf",
        engine="llama_cpp",
        backend="llama_cpp-cpu",
        model_dir=str(file.parent),
        gguf_file=file.name,
        reasoning_format="token_delimited",
        **changes,
    )


@pytest.fixture(scope="module")
def fox(spawn, tmp_path_factory, launch, llama_python, fox_gguf) -> Iterator[object]:
    runner = spawn(tmp_path_factory.mktemp("fox") / "placement", llama_launch(launch, fox_gguf), llama_python)
    yield runner
    runner.end()


@pytest.fixture
def daemon(fox):
    return fox.attached()


def said(daemon, request):
    frames = daemon.tokens(daemon.generate(request))
    assert [t.number for t in frames] == list(range(1, len(frames) + 1))
    return b"".join(t.data for t in frames), frames


@pytest.mark.parametrize(("prompt", "thinking", "answer"), SAMPLES)
def test_greedy_answers_are_the_models_published_samples(daemon, ask, prompt, thinking, answer):
    data, frames = said(daemon, ask(prompt, template={"enable_thinking": thinking}))
    assert data.decode() == answer
    assert frames[-1].finish is Finish.STOP
    assert frames[-1].ids == ()  # the end-of-sequence id is no token of the answer


def test_a_character_comes_in_as_many_pieces_as_it_has_tokens(daemon, ask):
    _, frames = said(daemon, ask("Repeat after me: zorblat quick 🦊 Zürich", template={"enable_thinking": False}))

    def whole(data: bytes) -> bool:
        try:
            data.decode()
        except UnicodeDecodeError:
            return False
        return True

    assert any(not whole(t.data) for t in frames), "the corpus no longer splits a character"


def test_a_tag_that_a_message_quotes_opens_no_reasoning(daemon, ask):
    quoted = daemon.first_frame(daemon.generate(ask("what does <think> mean?", max_tokens=1)))
    assert not quoted.accepted.in_reasoning


def test_a_template_that_opens_reasoning_says_so(start_runner, launch, llama_python, fox_gguf, tmp_path, ask):
    file = Path(shutil.copy(fox_gguf, tmp_path))
    template = "{{ messages[0].content }}{% if add_generation_prompt %}<think>{% endif %}"
    (tmp_path / "chat_template.jinja").write_text(template)
    daemon = start_runner(llama_launch(launch, file), llama_python).attached()
    assert daemon.first_frame(daemon.generate(ask("Hello", max_tokens=1))).accepted.in_reasoning


def test_the_context_is_the_launchs_to_the_token(start_runner, launch, llama_python, fox_gguf, ask):
    daemon = start_runner(llama_launch(launch, fox_gguf, context_tokens=100), llama_python).attached()
    request = ask("Count from 1 to 100.")
    accepted = daemon.first_frame(daemon.generate(request)).accepted
    assert accepted.prompt_tokens + accepted.context_left == 100
    frames = daemon.tokens(request.id)
    assert sum(len(t.ids) for t in frames) == accepted.context_left
    assert frames[-1].finish is Finish.LENGTH


def test_a_seed_gives_the_same_answer_every_time_and_another_seed_another(daemon, ask):
    prompt = "Tell me a story about a fox."
    first, again, other = (said(daemon, ask(prompt, temperature=1.0, seed=s, max_tokens=60))[0] for s in (5, 5, 6))
    assert first == again
    assert first != other


@pytest.mark.parametrize("sampling", [{"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}])
def test_filters_that_leave_one_token_are_greedy(daemon, ask, sampling):
    request = ask("What is 9 * 7?", temperature=1.0, template={"enable_thinking": False}, **sampling)
    assert said(daemon, request)[0] == b"9 * 7 = 63"


def test_max_tokens_ends_with_length(daemon, ask):
    _, frames = said(daemon, ask("Tell me a story about a fox.", max_tokens=7))
    assert [len(t.ids) for t in frames] == [1] * 7
    assert frames[-1].finish is Finish.LENGTH


def test_a_larger_budget_goes_on_from_the_same_tokens(daemon, ask):
    settings = {"temperature": 1.0, "seed": 11, "template": {"enable_thinking": False}}
    _, frames = said(daemon, ask("Tell me a story about a fox.", max_tokens=20, **settings))
    _, longer = said(daemon, ask("Tell me a story about a fox.", max_tokens=40, **settings))
    assert [t.ids for t in longer[:20]] == [t.ids for t in frames]


def test_nothing_of_a_request_is_left_for_the_next(daemon, ask):
    plain = ask("What is 9 * 7?", template={"enable_thinking": False})
    said(daemon, ask("Tell me a story about a fox.", max_tokens=30))
    assert said(daemon, plain)[0] == b"9 * 7 = 63"


def test_a_cancel_while_generating_frees_the_slot_for_the_next(daemon, ask):
    story = daemon.generate(ask("Count from 1 to 100.", **ENDLESS))
    daemon.tokens(story, at_least=2)
    daemon.send(Cancel(story, "client gone"))
    assert daemon.tokens(story)[-1].finish is Finish.CANCELLED
    assert said(daemon, ask("What is 9 * 7?", template={"enable_thinking": False}))[0] == b"9 * 7 = 63"


STEPS = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from skulk.core.domain.requests import Sampling
from skulk.core.wire.launch import launch_from_json
from skulk.engines.engine import Job
from skulk.engines.llama_cpp.engine import LlamaCppEngine

engine = LlamaCppEngine(launch_from_json(json.loads(Path(sys.argv[2]).read_text())))
shares = []
engine.load(shares.append)
prompt = engine._loaded.tokenizer.encode("The quick brown fox. " * 120)

def run(prompt, stop_after=None):
    engine.start(Job("r", prompt, Sampling(seed=1, temperature=0.0), 8))
    silent, ids, emissions = 0, [], ()
    while not any(e.finish is not None for e in emissions):
        emissions = engine.step()
        silent += not emissions
        ids += [i for e in emissions for i in e.ids]
        if stop_after == silent:
            engine.cancel("other")
            engine.cancel("r")
            assert engine.step() == ()
            break
    return silent, ids

whole = run(prompt)
run(prompt[40:], stop_after=1)
print(json.dumps({
    "prompt": prompt, "silent": whole[0], "ids": whole[1], "again": run(prompt)[1], "shares": shares,
    "memory": engine.memory_bytes(), "continued": run(prompt + tuple(whole[1][:3]))[1],
}))
"""

REFERENCE = """
import json, sys
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=4096, n_batch=4096, n_gpu_layers=0, verbose=False)
ids = []
for token in model.generate(json.loads(sys.argv[2]), temp=0.0, top_k=1):
    ids.append(token)
    if len(ids) == 8:
        break
print(json.dumps(ids))
"""


def test_a_prompt_is_read_in_chunks_and_continued_as_the_library_continues_the_whole(
    llama_python, launch, fox_gguf, printed
):
    got = printed(llama_python, STEPS, llama_launch(launch, fox_gguf))
    assert len(got["prompt"]) > 2 * PREFILL_CHUNK_TOKENS_CPU
    assert got["silent"] == -(-len(got["prompt"]) // PREFILL_CHUNK_TOKENS_CPU) - 1
    assert got["shares"][0] == 0.0
    assert got["shares"][-1] == 1.0
    assert got["shares"] == sorted(got["shares"])
    assert got["memory"] > fox_gguf.stat().st_size * 0.9
    assert got["again"] == got["ids"], "what a cancelled sequence left changed the next"
    argv = [llama_python, "-I", "-c", REFERENCE, fox_gguf, json.dumps(got["prompt"])]
    expected = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    assert got["ids"] == expected
    assert got["continued"][:5] == got["ids"][3:], "prompt + generated ids is continued with the same tokens"


def test_a_long_prompts_cancel_is_taken_and_the_slot_is_free(daemon, ask):
    request = daemon.generate(ask("The quick brown fox. " * 300, **ENDLESS))
    first = daemon.first_frame(request)
    assert isinstance(first, AcceptedFrame)
    assert first.accepted.prompt_tokens > 4 * PREFILL_CHUNK_TOKENS_CPU
    daemon.send(Cancel(request, "client gone"))
    assert daemon.tokens(request)[-1].finish is Finish.CANCELLED
    assert said(daemon, ask("What is 9 * 7?", template={"enable_thinking": False}))[0] == b"9 * 7 = 63"


def test_text_that_is_no_unicode_is_the_clients_error(daemon, ask):
    refused = daemon.first_frame(daemon.generate(ask("\ud800")))
    assert (refused.refusal.code, refused.refusal.status) == ("SK-REQ-001", 400)


def test_hello_names_the_library_version(fox, daemon):
    assert fox.connect().attach().engine_version.count(".") == 2


FLASH_ATTENTION = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from skulk.core.wire.launch import launch_from_json
from skulk.engines.llama_cpp.devices import import_library
from skulk.engines.llama_cpp.engine import LlamaCppEngine
from skulk.engines.llama_cpp.loading import LibraryLog

library, wanted, lines = import_library(), [], []
make_context, take = library.llama_init_from_model, LibraryLog._take

def seen_context(model, settings):
    wanted.append(settings.flash_attn_type)
    return make_context(model, settings)

def seen_line(log, level, text, data):
    lines.append(text.decode("utf-8", "replace"))
    take(log, level, text, data)

library.llama_init_from_model, LibraryLog._take = seen_context, seen_line
LlamaCppEngine(launch_from_json(json.loads(Path(sys.argv[2]).read_text()))).load(lambda share: None)
print(json.dumps({
    "wanted": wanted,
    "auto": library.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "said": [line.strip() for line in lines if "flash attention" in line.lower()],
}))
"""


def test_flash_attention_is_on_without_being_asked_for(llama_python, launch, fox_gguf, printed):
    got = printed(llama_python, FLASH_ATTENTION, llama_launch(launch, fox_gguf))
    assert got["wanted"] == [got["auto"]]
    assert [line for line in got["said"] if line.endswith("enabled")], got["said"]


def test_the_librarys_log_is_in_the_runners_and_short(fox, daemon):
    assert "KV buffer size" in fox.log()
    assert "tensor blk.0" not in fox.log()
    assert len(fox.log().splitlines()) < 200


# --- the same model for both engines ---------------------------------------------------------------------------

TEXTS = [
    "", " ", "   ", "\n", "\n\n \t\r\n", "a  b\n\tc", "Hello, world!", "What's 12345 + 67.89?", "I'LL don't we'Re",
    "naïve 東京 🦊👩‍👩‍👧 Ünïcødé", "e\u0301 and é", "\u00a0\u200b\ufeff", "\x00\x01\x7f", "end of text\n",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n", "<think></think><tool_call>{}</tool_call>",
    "a<|im_end|>b <|im_end|> c", "<|im_start|", "<|not_a_token|>", '{"name": "x", "arguments": {"a": [1, 2.5, null]}}',
    "def f(x):\n    return x  # comment\n", "ﬁ ﬂ ½ ²", "مرحبا שלום", "".join(map(chr, range(1, 0x500))), "x" * 3000,
]  # fmt: skip

OWN_IDS = """
import json, sys
sys.path.insert(0, sys.argv[1])
from skulk.engines.llama_cpp.loading import LibraryLog, Tokenizer, prepare_library
library, _ = prepare_library()
log = LibraryLog(library)
settings = library.llama_model_default_params()
settings.vocab_only = True
model = library.llama_model_load_from_file(sys.argv[2].encode(), settings)
tokenizer = Tokenizer(library, library.llama_model_get_vocab(model))
texts = json.load(open(sys.argv[3], encoding="utf-8"))
ids = [list(tokenizer.encode(text)) for text in texts]
for text, found in zip(texts, ids):
    assert b"".join(map(tokenizer.data, found)) == text.encode(), text
print(json.dumps({"ids": ids, "pieces": [tokenizer.data(i).hex() for i in range(tokenizer.size)]}))
"""

THEIR_IDS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import tokenizers
from skulk.engines.vocabulary import vocabulary_from_json
text = open(sys.argv[2], encoding="utf-8").read()
tokenizer, vocabulary = tokenizers.Tokenizer.from_str(text), vocabulary_from_json(text)
texts = json.load(open(sys.argv[3], encoding="utf-8"))
ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
print(json.dumps({"ids": ids, "pieces": [vocabulary.data(i).hex() for i in range(tokenizer.get_vocab_size())]}))
"""


def test_both_engines_tokenise_alike(llama_python, mlx_python, code_dir, fox_gguf, fox_tiny, tmp_path):
    """The same ids for every text, and the same bytes for every id."""
    corpus = tmp_path / "corpus.json"
    corpus.write_text(json.dumps(TEXTS))
    answers = []
    for python, script, source in (
        (llama_python, OWN_IDS, fox_gguf),
        (mlx_python, THEIR_IDS, fox_tiny / "tokenizer.json"),
    ):
        done = subprocess.run([python, "-I", "-c", script, code_dir, source, corpus], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout))
    own, theirs = answers
    for text, one, other in zip(TEXTS, own["ids"], theirs["ids"], strict=True):
        assert one == other, repr(text)
    assert own["pieces"] == theirs["pieces"]


def test_both_engines_render_the_same_prompt(daemon, start_runner, launch, mlx_python, fox_tiny, ask):
    wanted = replace(
        launch, engine="mlx", backend="mlx-cpu", model_dir=str(fox_tiny), reasoning_format="token_delimited"
    )
    other = start_runner(wanted, mlx_python).attached()
    for text, thinking in (("What is 9 * 7?", True), ("naïve 東京 🦊 <|im_end|>", False)):
        request = ask(text, template={"enable_thinking": thinking}, max_tokens=1)
        prompts = [end.first_frame(end.generate(request)).accepted.prompt_ids for end in (daemon, other)]
        assert prompts[0] == prompts[1]


# --- files that are not what they should be --------------------------------------------------------------------


def refused(start_runner, launch, python, file, **changes) -> str:
    runner = start_runner(llama_launch(launch, file, **changes), python)
    assert runner.exit_code() == 1
    words = runner.last_words()
    assert words["code"] == "SK-ENG-003", words
    return str(words["message"])


def altered(fox_gguf: Path, tmp_path: Path, change) -> Path:
    data = bytearray(fox_gguf.read_bytes())
    file = tmp_path / "model.gguf"
    file.write_bytes(change(data))
    return file


def with_type(data: bytearray, name: bytes, number: int) -> bytearray:
    """Give a tensor another type number: it stands after the name, the count of dimensions and the dimensions."""
    at = data.index(struct.pack("<Q", len(name)) + name) + 8 + len(name)
    dimensions = int.from_bytes(data[at : at + 4], "little")
    struct.pack_into("<I", data, at + 4 + 8 * dimensions, number)
    return data


BROKEN = [
    (lambda data: b"", "empty"),
    (lambda data: b"PK\3\4" + data[4:], "no GGUF"),
    (lambda data: data[:1000], "cut off"),
    (lambda data: data[:-40_000], "cut off"),
    (lambda data: data[:8] + struct.pack("<Q", 2**60) + data[16:], "claims"),
    (lambda data: data[:16] + struct.pack("<Q", 2**60) + data[24:], "claims"),
    (lambda data: with_type(data, b"output_norm.weight", 77), "unknown type 77"),
    (lambda data: data.replace(b"general.architecture", b"general.architectura"), "general.architecture is missing"),
    (lambda data: data.replace(b"blk.3.attn_q.weight", b"blk.3.attn_z.weight"), "blk.3.attn_q.weight"),
    (lambda data: data.replace(b"\x05\0\0\0\0\0\0\0qwen3", b"\x05\0\0\0\0\0\0\0xwen3"), "xwen3"),
]


@pytest.mark.parametrize(("change", "says"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_file_is_named_with_what_is_wrong(
    start_runner, launch, llama_python, fox_gguf, tmp_path, change, says
):
    message = refused(start_runner, launch, llama_python, altered(fox_gguf, tmp_path, change))
    assert says in message
    assert "model.gguf" in message


def test_a_file_with_numbers_that_the_library_cannot_compute_is_refused(
    start_runner, launch, llama_python, fox_gguf, tmp_path
):
    from skulk.core.formats import gguf

    header = read_gguf(fox_gguf.read_bytes())
    (norm,) = [t for t in header.tensors if t.name == "output_norm.weight"]
    assert norm.type == "F32"
    assert gguf._TENSOR_TYPES[28][0] == "F64"
    # The last tensor of the file can grow in place.
    last = max(header.tensors, key=lambda t: t.offset)
    file = altered(fox_gguf, tmp_path, lambda data: with_type(data, last.name.encode(), 28) + bytes(8 * 256 * 2048))
    assert "F64" in refused(start_runner, launch, llama_python, file)


def test_a_missing_file_and_a_card_without_one_are_named(start_runner, launch, llama_python, fox_gguf, tmp_path):
    missing = tmp_path / "models" / "gone.gguf"
    missing.parent.mkdir()
    assert "gone.gguf cannot be read" in refused(start_runner, launch, llama_python, missing)
    shutil.copy(fox_gguf, missing.parent)
    runner = start_runner(replace(llama_launch(launch, missing), gguf_file=None), llama_python)
    assert runner.exit_code() == 1
    assert fox_gguf.name in str(runner.last_words()["message"])


def test_a_device_that_the_build_has_not_is_a_broken_environment(start_runner, launch, llama_python, fox_gguf):
    runner = start_runner(replace(llama_launch(launch, fox_gguf), backend="llama_cpp-vulkan"), llama_python)
    assert runner.exit_code() == 1
    assert runner.last_words()["code"] == "SK-ENG-002"


def test_a_template_beside_the_file_wins_over_the_one_in_it(
    start_runner, launch, llama_python, fox_gguf, tmp_path, ask
):
    file = Path(shutil.copy(fox_gguf, tmp_path))
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    daemon = start_runner(llama_launch(launch, file), llama_python).attached()
    accepted = daemon.first_frame(daemon.generate(ask("Hello", max_tokens=1))).accepted
    assert accepted.prompt_tokens < 6


def test_a_model_without_a_template_serves_and_says_that_it_cannot_chat(
    start_runner, launch, llama_python, fox_gguf, tmp_path, ask
):
    def without(data: bytearray) -> bytes:
        return bytes(data.replace(b"tokenizer.chat_template", b"tokenizer.chat_templatf"))

    daemon = start_runner(llama_launch(launch, altered(fox_gguf, tmp_path, without)), llama_python).attached()
    refusal = daemon.first_frame(daemon.generate(ask("Hello"))).refusal
    assert (refusal.code, refusal.status) == ("SK-REQ-002", 400)
