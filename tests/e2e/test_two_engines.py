"""One node, two engines: a model each, side by side, and each in an environment of its own."""

from __future__ import annotations

import concurrent.futures
import hashlib

import pytest
from harness import Node, deployment, until

# Compiling llama.cpp for the first time takes many minutes.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

GREEDY = {"temperature": 0.0}
QUESTIONS = {
    "What is 9 * 7?": "9 * 7 = 63",
    "What is the opposite of hot?": "The opposite of hot is cold.",
    "Repeat after me: zorblat quick 🦊 Zürich": "zorblat quick 🦊 Zürich",
}


@pytest.fixture
def two_engines(node_at, llama_engines_dir) -> Node:
    node = node_at(engines=["mlx", "llama_cpp"]).start()
    commit = node.push_base(
        apple=deployment("apple", "fox-tiny", contextTokens=1024),
        gguf=deployment("gguf", "fox-tiny-gguf", contextTokens=1024),
    )
    for name in ("apple", "gguf"):
        node.wait_ready(name, commit)
    return node


@pytest.mark.engine
def test_both_engines_serve_at_the_same_time(two_engines: Node):
    node = two_engines
    (machine,) = node.items("nodes")
    assert {"mlx-cpu", "llama_cpp-cpu"} <= set(machine["status"]["backends"])
    engines = {r["status"]["deployment"]: r["spec"]["engine"] for r in node.items("runners")}
    assert engines == {"apple": "mlx", "gguf": "llama_cpp"}
    asked = [(model, question) for question in QUESTIONS for model in ("apple", "gguf")]
    with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda one: node.ask(*one, **GREEDY).strip(), asked))
    assert answers == [QUESTIONS[question] for _, question in asked]
    streamed = "".join(node.stream("gguf", "Repeat after me: zorblat quick 🦊 Zürich", **GREEDY))
    assert streamed.strip() == "zorblat quick 🦊 Zürich"
    usage = node.openai.chat.completions.create(
        model="gguf", messages=[{"role": "user", "content": "What is 9 * 7?"}], **GREEDY
    ).usage
    assert usage is not None
    assert usage.prompt_tokens > 10
    assert usage.completion_tokens > 5


@pytest.mark.engine
def test_a_broken_gguf_file_is_named_where_a_person_looks(two_engines: Node):
    node = two_engines
    file = node.roots / "fox-tiny-gguf" / "files" / "fox-tiny-Q8_0.gguf"
    broken = file.read_bytes()[:-40_000]
    card = (node.checkout / "cards/fox-tiny-gguf/card.yaml").read_text()
    card = card.replace("3140416", str(len(broken))).replace(
        "31390f193cea862d5e52d95ec23e202f6ac76ef11b6f413c28a33d3ef17b9b0b", hashlib.sha256(broken).hexdigest()
    )
    card = card.replace("fox-tiny-gguf", "cut")
    (node.roots / "cut" / "files").mkdir(parents=True)
    (node.roots / "cut" / "files" / file.name).write_bytes(broken)
    node.push({"cards/cut/card.yaml": card, "fleet/deployments/cut.yaml": deployment("cut", "cut", contextTokens=1024)})

    def said() -> bool:
        return "the file is cut off" in node.condition("deployments", "cut").get("message", "")

    until(said, "the condition names what is wrong", context=lambda: node.items("deployments"))
    assert node.ask("gguf", "What is 9 * 7?", **GREEDY).strip() == "9 * 7 = 63"


def test_a_node_without_a_compiler_says_what_to_install_and_what_waits(node_at, tmp_path):
    empty = tmp_path / "engines"
    node = node_at(engines=["llama_cpp"], installEngines=True, enginesDir=str(empty))
    node.start(CXX="/nonexistent/c++")
    node.push_base(gguf=deployment("gguf", "fox-tiny-gguf", contextTokens=1024))

    def problems() -> str:
        return " ".join(node.items("nodes")[0]["status"]["problems"])

    until(lambda: "SK-ENG-006" in problems(), "the problem is named", context=node.tail)
    assert "apt install g++" in problems()
    until(lambda: "llama_cpp" in node.condition("deployments", "gguf").get("message", ""), "it is said what waits")
    assert node.condition("deployments", "gguf")["reason"] == "NoBackend"
    assert not list(empty.glob("llama_cpp-*"))
