"""Three nodes, two engines, one fleet: what one push makes of them, asked through every gateway."""

from __future__ import annotations

import concurrent.futures
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from fleet_harness import Fleet, Loopback, fleet_status
from harness import Node, deployment

pytestmark = [pytest.mark.e2e, pytest.mark.engine]

GREEDY = {"temperature": 0.0}
QUESTIONS = ("What is 9 * 7?", "What is the opposite of hot?", "Repeat after me: zorblat quick 🦊 Zürich")
MODELS = ("apple", "gguf")
SEEDS = (11, 12, 13, 14, 15)

DIRECT_MLX = """
import json, sys
from mlx_lm import generate, load
model, tokenizer = load(sys.argv[1])
def answer(question):
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    return generate(model, tokenizer, prompt, max_tokens=96)
print(json.dumps([answer(question) for question in json.loads(sys.argv[2])]))
"""

DIRECT_LLAMA = """
import json, sys
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=1024, n_gpu_layers=0, verbose=False)
def answer(question):
    messages = [{"role": "user", "content": question}]
    done = model.create_chat_completion(messages, temperature=0.0, max_tokens=96)
    return done["choices"][0]["message"]["content"]
print(json.dumps([answer(question) for question in json.loads(sys.argv[2])]))
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, llama_engines_dir: Path, engines_dir: Path) -> Iterator[Fleet]:
    """`desk` serves nothing, `left` has MLX, `right` has llama.cpp."""
    with Fleet(tmp_path_factory.mktemp("fleet"), llama_engines_dir, ground=Loopback("router")) as fleet:
        fleet.add("desk", "  participation: management\n", engines=[])
        fleet.add("left", engines=["mlx"])
        fleet.add("right", engines=["llama_cpp"])
        fleet.start()
        commit = fleet.push_base(
            apple=deployment("apple", "fox-tiny", contextTokens=1024),
            gguf=deployment("gguf", "fox-tiny-gguf", contextTokens=1024),
            both=deployment("both", "parrot", engine={"name": "scripted"}, replicas=2),
        )
        fleet.wait_whole(commit)
        yield fleet


def ask_all(fleet: Fleet, models: tuple[str, ...], questions: tuple[str, ...]) -> dict[tuple[str, str], set[str]]:
    """What all gateways answer to everything at once, by model and question."""
    asked = [(node, model, question) for question in questions for model in models for node in fleet.nodes.values()]
    with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda one: one[0].ask(one[1], one[2], max_tokens=96, **GREEDY).strip(), asked))
    found: dict[tuple[str, str], set[str]] = {}
    for (_, model, question), answer in zip(asked, answers, strict=True):
        found.setdefault((model, question), set()).add(answer)
    return found


def said_directly(engines: Path, engine: str, program: str, files: Path) -> dict[str, str]:
    """The answers of the library itself, in that engine's environment, without any of our code."""
    (environment,) = [path for path in engines.glob(f"{engine}-*") if (path / "bin/python").exists()]
    argv = [str(environment / "bin/python"), "-c", program, str(files), json.dumps(QUESTIONS)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # The gateway keeps reasoning apart from the answer.
    answers = [answer.rpartition("</think>")[2].strip() for answer in json.loads(done.stdout.splitlines()[-1])]
    return dict(zip(QUESTIONS, answers, strict=True))


def test_one_push_is_ready_on_every_gateway_and_every_model_answers_there(fleet: Fleet):
    for node in fleet.nodes.values():
        status = fleet_status(node)
        assert (status["readyDeployments"], status["deployments"]) == (3, 3)
        placed = {p["status"]["deployment"]: p["status"]["node"] for p in node.items("placements")}
        assert (placed["apple"], placed["gguf"]) == ("left", "right")
        assert {p["status"]["phase"] for p in node.items("placements")} == {"Ready"}
        assert {n["name"]: n["status"]["ready"] for n in node.items("nodes")} == dict.fromkeys(fleet.nodes, True)
        assert {m.id for m in node.openai.models.list()} >= {*MODELS, "both"}
        assert node.ask("both", "hello").startswith("The quick brown fox")
        assert node.skulk("get", "deployments", "-o", "name").stdout.split() == [
            f"deployment/{name}" for name in ("apple", "both", "gguf")
        ]


def test_both_engines_answer_all_gateways_at_once_as_the_libraries_do_directly(fleet: Fleet, llama_engines_dir: Path):
    models = fleet.origin.models
    direct = {
        "apple": said_directly(llama_engines_dir, "mlx", DIRECT_MLX, models / "fox-tiny/files"),
        "gguf": said_directly(
            llama_engines_dir, "llama_cpp", DIRECT_LLAMA, models / "fox-tiny-gguf/files/fox-tiny-Q8_0.gguf"
        ),
    }
    expected = {(model, question): {direct[model][question]} for model in MODELS for question in QUESTIONS}
    assert ask_all(fleet, MODELS, QUESTIONS) == expected
    assert expected["gguf", "What is 9 * 7?"] == {"9 * 7 = 63"}


@pytest.mark.parametrize("model", MODELS)
def test_a_seeded_answer_is_the_same_from_every_gateway(fleet: Fleet, model: str):
    """Sampling is a function of seed and position, wherever the request came in."""

    def sampled(node: Node, seed: int) -> tuple[str | None, str, int, int]:
        answer = node.openai.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "Tell me about foxes."}],
            temperature=2.0,
            seed=seed,
            max_tokens=48,
        )
        (choice,), usage = answer.choices, answer.usage
        assert usage is not None
        return choice.message.content, choice.finish_reason, usage.prompt_tokens, usage.completion_tokens

    answers = [{sampled(node, seed) for node in fleet.nodes.values()} for seed in SEEDS]
    assert [len(found) for found in answers] == [1] * len(SEEDS)
    assert len(set.union(*answers)) > 1, "the seed changes nothing"


def test_a_model_that_nobody_declared_is_404_with_what_there_is_on_every_gateway(fleet: Fleet):
    for node in fleet.nodes.values():
        with pytest.raises(openai.NotFoundError, match=r"apple.*both.*gguf"):
            node.ask("nothing", "hello")


def test_a_person_can_have_the_source_looked_at_and_stuck_things_cleared_from_any_node(fleet: Fleet) -> None:
    for node in fleet.nodes.values():
        assert "looks at its source now" in node.skulk("reconcile").stdout
        assert "nothing was held back" in node.skulk("reconcile", "apple", "--reset").stdout
