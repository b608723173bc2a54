"""The engine mlx in a real runner process, with a small trained model. Answers are the model's published samples."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from skulk.core.domain import Finish
from skulk.core.wire.runner import AcceptedFrame, Cancel

pytestmark = pytest.mark.engine

ENDLESS = {"logit_bias": ((0, -100.0), (2, -100.0))}
"""What ends an answer is forbidden: only a cancel ends it before thousands of tokens."""

SAMPLES = [
    ("What is 9 * 7?", True, "<think>\n9 * 7 = 63.\n</think>\n\n9 * 7 = 63"),
    ("What is 9 * 7?", False, "9 * 7 = 63"),
    ("What is the opposite of hot?", False, "The opposite of hot is cold."),
    ("Count to 12.", True, "<think>\nI count from 1 to 12.\n</think>\n\n1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12"),
    ("Who are you?", False, "I am fox-tiny, a small demo model trained on synthetic text."),
]


def mlx_launch(launch, model_dir, **changes):
    return replace(
        launch,
        engine="mlx",
        backend="mlx-cpu",
        model_dir=str(model_dir),
        reasoning_format="token_delimited",
        **changes,
    )


@pytest.fixture(scope="module")
def fox(spawn, tmp_path_factory, launch, mlx_python, fox_tiny) -> Iterator[object]:
    runner = spawn(tmp_path_factory.mktemp("fox") / "placement", mlx_launch(launch, fox_tiny), mlx_python)
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


def test_the_prompt_is_the_templates_text_in_the_tokenizers_ids(daemon, ask, mlx_python, fox_tiny):
    request = daemon.generate(ask("What is 9 * 7?"))
    ids = daemon.first_frame(request).accepted.prompt_ids
    decode = (
        "import sys, json, tokenizers; t = tokenizers.Tokenizer.from_file(sys.argv[1]);"
        "print(json.dumps(t.decode(json.loads(sys.argv[2]), skip_special_tokens=False)))"
    )
    argv = [mlx_python, "-c", decode, fox_tiny / "tokenizer.json", json.dumps(ids)]
    text = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
    assert text == "<|im_start|>user\nWhat is 9 * 7?<|im_end|>\n<|im_start|>assistant\n"
    assert not daemon.first_frame(request).accepted.in_reasoning


def test_bytes_of_tokens_joined_are_the_decoded_whole(daemon, ask, mlx_python, fox_tiny):
    text = "Repeat: naïve 東京 🦊 Ünïcødé"
    data, frames = said(daemon, ask(text, temperature=1.5, seed=3, max_tokens=120))
    ids = [token for t in frames for token in t.ids]
    decode = (
        "import sys, json, tokenizers; t = tokenizers.Tokenizer.from_file(sys.argv[1]);"
        "sys.stdout.buffer.write(t.decode(json.loads(sys.argv[2]), skip_special_tokens=False).encode())"
    )
    argv = [mlx_python, "-c", decode, fox_tiny / "tokenizer.json", json.dumps(ids)]
    whole = subprocess.run(argv, capture_output=True, check=True).stdout
    assert data.decode("utf-8", "replace") == whole.decode()


def test_every_character_survives_the_way_to_tokens_and_back(mlx_python, fox_tiny, code_dir):
    """All bytes of a text that no training has seen, token by token, through the runner's own table."""
    check = """
import sys, tokenizers
sys.path.insert(0, sys.argv[1])
from skulk.engines.vocabulary import vocabulary_from_json
text = open(sys.argv[2], encoding="utf-8").read()
tokenizer, vocabulary = tokenizers.Tokenizer.from_str(text), vocabulary_from_json(text)
for sample in ("a  b\\n\\tc", "naïve 東京 🦊👩‍👩‍👧", "<think>x</think><tool_call>", "".join(map(chr, range(1, 0x600)))):
    ids = tokenizer.encode(sample, add_special_tokens=False).ids
    assert b"".join(vocabulary.data(i) for i in ids) == sample.encode(), sample
"""
    argv = [mlx_python, "-I", "-c", check, code_dir, fox_tiny / "tokenizer.json"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_seed_gives_the_same_answer_every_time_and_another_seed_another(daemon, ask):
    prompt = "Tell me a story about a fox."
    first, again, other = (said(daemon, ask(prompt, temperature=1.0, seed=s, max_tokens=60))[0] for s in (5, 5, 6))
    assert first == again
    assert first != other


def test_top_k_1_is_greedy(daemon, ask):
    settings = {"template": {"enable_thinking": False}}
    assert said(daemon, ask("What is 9 * 7?", temperature=1.0, top_k=1, **settings))[0] == b"9 * 7 = 63"
    assert said(daemon, ask("What is 9 * 7?", temperature=1.0, top_p=0.0, **settings))[0] == b"9 * 7 = 63"
    assert said(daemon, ask("What is 9 * 7?", temperature=1.0, min_p=1.0, **settings))[0] == b"9 * 7 = 63"


def test_a_larger_budget_goes_on_from_the_same_tokens(daemon, ask):
    settings = {"temperature": 1.0, "seed": 11, "template": {"enable_thinking": False}}
    _, frames = said(daemon, ask("Tell me a story about a fox.", max_tokens=20, **settings))
    _, longer = said(daemon, ask("Tell me a story about a fox.", max_tokens=40, **settings))
    assert [t.ids for t in longer[:20]] == [t.ids for t in frames]


def test_max_tokens_ends_with_length(daemon, ask):
    _, frames = said(daemon, ask("Tell me a story about a fox.", max_tokens=7))
    assert [len(t.ids) for t in frames] == [1] * 7
    assert frames[-1].finish is Finish.LENGTH


def test_a_cancel_while_generating_frees_the_slot_for_the_next(daemon, ask):
    story = daemon.generate(ask("Count from 1 to 100.", **ENDLESS))
    daemon.tokens(story, at_least=2)
    daemon.send(Cancel(story, "client gone"))
    assert daemon.tokens(story)[-1].finish is Finish.CANCELLED
    assert said(daemon, ask("What is 9 * 7?", template={"enable_thinking": False}))[0] == b"9 * 7 = 63"


def test_a_long_prompt_is_read_in_chunks_and_its_cancel_waits_for_one(daemon, ask):
    request = daemon.generate(ask("The quick brown fox. " * 300, **ENDLESS))
    first = daemon.first_frame(request)
    assert isinstance(first, AcceptedFrame)
    assert first.accepted.prompt_tokens > 1024
    daemon.send(Cancel(request, "client gone"))
    frames = daemon.tokens(request)
    assert frames[-1].finish is Finish.CANCELLED
    assert said(daemon, ask("What is 9 * 7?", template={"enable_thinking": False}))[0] == b"9 * 7 = 63"


REFERENCE = """
import json, sys
import mlx.core as mx
from mlx_lm import load
from mlx_lm.generate import generate_step
model, _ = load(sys.argv[1])
steps = generate_step(mx.array(json.loads(sys.argv[2])), model, max_tokens=12, prefill_step_size=4096)
print(json.dumps([int(token) for token, _ in steps]))
"""


def test_a_prompt_read_in_chunks_is_continued_as_the_library_continues_the_whole(daemon, ask, mlx_python, fox_tiny):
    request = ask("Tell me a story about a fox. " * 20, max_tokens=12)
    _, frames = said(daemon, request)
    ids = daemon.first_frame(request.id).accepted.prompt_ids
    assert len(ids) > 2 * 64
    argv = [mlx_python, "-c", REFERENCE, fox_tiny, json.dumps(ids)]
    expected = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
    assert [token for t in frames for token in t.ids] == [token for token in expected if token not in (0, 2)]


def test_text_that_is_no_unicode_is_the_clients_error(daemon, ask):
    refused = daemon.first_frame(daemon.generate(ask("\ud800")))
    assert (refused.refusal.code, refused.refusal.status) == ("SK-REQ-001", 400)


def test_hello_names_the_library_versions(fox, daemon):
    assert "mlx" in fox.connect().attach().engine_version


def test_the_bfloat16_model_gives_the_same_answer(start_runner, launch, mlx_python, fox_tiny, ask):
    files = fox_tiny.parents[1] / "fox-tiny-bf16" / "files"
    daemon = start_runner(mlx_launch(launch, files), mlx_python).attached()
    assert said(daemon, ask("What is 9 * 7?", template={"enable_thinking": False}))[0] == b"9 * 7 = 63"


def altered(fox_tiny: Path, tmp_path: Path, **files: object) -> Path:
    """A copy of the model with some JSON files changed (`a__json` is a.json); None removes one."""
    model = tmp_path / "altered"
    shutil.copytree(fox_tiny, model)
    for name, change in files.items():
        path = model / name.replace("__", ".")
        if change is None:
            path.unlink()
        elif isinstance(change, dict):
            path.write_text(json.dumps(json.loads(path.read_text()) | change))
        else:
            path.write_bytes(change)
    return model


def ended(start_runner, launch, mlx_python, model):
    runner = start_runner(mlx_launch(launch, model), mlx_python)
    assert runner.exit_code() == 1
    return runner.last_words()


CODE = b"raise SystemExit('the code of the repository was run')"


@pytest.mark.parametrize(
    "config",
    [
        {"auto_map": {"AutoModelForCausalLM": "custom.Model"}},
        {"auto_map": {"AutoTokenizer": [None, "custom.Tokenizer"]}},
        {"auto_map": {"AutoModel": "other/repository--custom.Model"}},
        {"model_file": "custom.py"},
    ],
)
def test_a_repository_with_its_own_code_is_refused(start_runner, launch, mlx_python, fox_tiny, tmp_path, config):
    model = altered(fox_tiny, tmp_path, config__json=config, custom__py=CODE)
    words = ended(start_runner, launch, mlx_python, model)
    assert words["code"] == "SK-ENG-003"
    assert "custom.py" in str(words["message"])


def test_a_remnant_of_such_code_without_the_file_loads(start_runner, launch, mlx_python, fox_tiny, tmp_path):
    model = altered(fox_tiny, tmp_path, config__json={"auto_map": {"AutoModel": "custom.Model"}})
    start_runner(mlx_launch(launch, model), mlx_python).attached()


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"config__json": b"{"}, "config.json"),
        ({"config__json": None}, "config.json"),
        ({"config__json": {"model_type": "unheard_of"}}, "unheard_of"),
        ({"model__safetensors": b"\0" * 64}, "altered"),
        ({"model__safetensors": None}, "altered"),
        ({"tokenizer__json": b"[]"}, "tokenizer"),
        ({"chat_template__jinja": b"{% if %}"}, "chat template"),
    ],
)
def test_a_damaged_model_is_named_in_the_last_words(start_runner, launch, mlx_python, fox_tiny, tmp_path, files, named):
    words = ended(start_runner, launch, mlx_python, altered(fox_tiny, tmp_path, **files))
    assert words["code"] == "SK-ENG-003"
    assert named in str(words["message"])


def test_an_end_of_sequence_may_be_named_by_any_of_the_files(start_runner, launch, mlx_python, fox_tiny, tmp_path, ask):
    model = altered(fox_tiny, tmp_path, config__json={"eos_token_id": None}, generation_config__json=None)
    daemon = start_runner(mlx_launch(launch, model), mlx_python).attached()
    assert said(daemon, ask("What is 9 * 7?", template={"enable_thinking": False}))[0] == b"9 * 7 = 63"


def test_the_limit_of_open_files_stays_what_it_was(fox, daemon):
    limits = Path(f"/proc/{fox.process.pid}/limits")
    if not limits.exists():
        pytest.skip("this system has no /proc to read another process' limits from")
    (line,) = [line for line in limits.read_text().splitlines() if line.startswith("Max open files")]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert line.split()[3:5] == [str(soft), str(hard)]


def test_a_directory_for_compiled_kernels_that_cannot_be_written_is_replaced(
    start_runner, launch, mlx_python, fox_tiny
):
    runner = start_runner(mlx_launch(launch, fox_tiny), mlx_python, {"TMPDIR": "/proc/self"})
    runner.attached()


def test_compiled_kernels_are_not_taken_from_a_directory_that_others_may_write(
    start_runner, launch, mlx_python, fox_tiny, tmp_path
):
    shared = tmp_path / f"skulk-{os.getuid()}"
    shared.mkdir(mode=0o777)
    shared.chmod(0o777)
    runner = start_runner(mlx_launch(launch, fox_tiny), mlx_python, {"TMPDIR": str(tmp_path)})
    runner.attached()
    assert list(shared.iterdir()) == []
