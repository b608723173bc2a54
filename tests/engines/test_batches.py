"""Continuous batching in real runners of both engines, with the small trained model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest

from skulk.core.dialects.grammar import JsonAnswer, grammar_of
from skulk.core.domain import Finish, Message
from skulk.core.wire.runner import AcceptedFrame, Cancel, RefusedFrame, Step

pytestmark = [pytest.mark.engine, pytest.mark.timeout(3600)]

CONCURRENCY = 4
JOIN_ATTEMPTS = 50
"""A story takes the small model 0.1 s: on a busy machine it may be over before the next request is sent."""
QUESTIONS = [
    "What is 9 * 7?",
    "What is the opposite of hot?",
    "Count to 12.",
    "Who are you?",
    "Repeat after me: zorblat quick 🦊 Zürich",
    "What sound does an owl make?",
    "Give me a JSON object with name Mira, colour red.",
]


@pytest.fixture(scope="module", params=["llama_cpp", "llama_cpp with q8_0 caches", "mlx"])
def fox(request, spawn, tmp_path_factory, launch) -> Iterator[object]:
    if request.param == "mlx":
        python, files = request.getfixturevalue("mlx_python"), request.getfixturevalue("fox_tiny")
        changes = {"engine": "mlx", "backend": "mlx-cpu", "model_dir": str(files)}
    else:
        python, file = request.getfixturevalue("llama_python"), request.getfixturevalue("fox_gguf")
        changes = {
            "engine": "llama_cpp",
            "backend": "llama_cpp-cpu",
            "model_dir": str(file.parent),
            "gguf_file": file.name,
            "options": {"kvCache": "q8_0"} if "q8_0" in request.param else {},
        }
    placed = replace(launch, reasoning_format="token_delimited", concurrency=CONCURRENCY, **changes)
    runner = spawn(tmp_path_factory.mktemp(request.param.split()[0]) / "placement", placed, python)
    yield runner
    runner.end()


@pytest.fixture
def daemon(fox):
    return fox.attached()


def answer(daemon, request):
    """(bytes, ids, finish) of an answer that runs or has run."""
    frames = daemon.tokens(request)
    assert [t.number for t in frames] == list(range(1, len(frames) + 1))
    ids = tuple(i for t in frames for i in t.ids)
    return b"".join(t.data for t in frames), ids, frames[-1].finish


def alone(daemon, request):
    return answer(daemon, daemon.generate(request))


def test_a_batch_answers_as_each_would_alone(daemon, ask):
    """Greedy and drawn, more than there are slots; the second time every prompt is in the cache too.

    Not the story: libraries add up in another order for another shape, which decides between its near-equal words.
    """
    settings = [{"temperature": 0.0}, {"temperature": 0.9, "seed": 7, "top_p": 0.9}]
    asked = [(q, s) for q in QUESTIONS for s in settings]
    single = [alone(daemon, ask(q, max_tokens=40, **s)) for q, s in asked]
    for _ in range(2):
        together = [daemon.generate(ask(q, max_tokens=40, **s)) for q, s in asked]
        assert [answer(daemon, request) for request in together] == single


def test_requests_join_and_leave_between_two_tokens(daemon, ask):
    story = ask("Tell me a story about a fox.", max_tokens=60, template={"enable_thinking": False})
    expected = alone(daemon, story)
    for attempt in range(JOIN_ATTEMPTS):
        running = daemon.generate(replace(story, id=f"joined-{attempt}"))
        daemon.tokens(running, at_least=1)
        short = ask("What is 9 * 7?", template={"enable_thinking": False})
        left = ask("Count from 1 to 100.", max_tokens=200)
        daemon.generate(left)
        assert alone(daemon, short)[0] == b"9 * 7 = 63"
        daemon.send(Cancel(left.id, "client gone"))
        assert answer(daemon, running) == expected
        daemon.rewind()
        seen = [{name for name, _ in step.entries} for step in daemon.seen if isinstance(step, Step)]
        if any({running, short.id} <= names for names in seen):
            return
    pytest.fail("they never shared a step")


def test_a_shared_beginning_is_read_once_and_changes_nothing(daemon, ask):
    system = Message("system", "You are a helper. " * 60)

    def request(text):
        return ask(messages=(system, Message("user", text)), max_tokens=16, template={"enable_thinking": False})

    first = request("What is 9 * 7?")
    cold = alone(daemon, first)
    assert daemon.first_frame(first.id).accepted.cached_tokens < 40  # the template's first words, of other tests
    second = request("Who are you?")
    again = request("What is 9 * 7?")
    alone(daemon, second)
    assert alone(daemon, again) == cold
    shared = daemon.first_frame(second.id).accepted
    assert shared.cached_tokens > 0.8 * shared.prompt_tokens
    whole = daemon.first_frame(again.id).accepted
    assert whole.cached_tokens == whole.prompt_tokens - 1


def test_logprobs_are_the_models_own_and_agree_with_the_choice(daemon, ask):
    request = ask("What is 9 * 7?", logprobs=3, template={"enable_thinking": False})
    frames = daemon.tokens(daemon.generate(request))
    entries = [p for t in frames for p in t.logprobs]
    assert b"".join(p.data for p in entries) == b"9 * 7 = 63"
    for entry in entries:
        assert len(entry.top) == 3
        assert entry.top[0] == (entry.data, entry.logprob), "greedy takes the most probable"
        numbers = [logprob for _, logprob in entry.top]
        assert numbers == sorted(numbers, reverse=True)
        assert sum(map(math.exp, numbers)) <= 1 + 1e-6
    hot = ask("What is 9 * 7?", logprobs=0, temperature=2.0, seed=3, max_tokens=8)
    drawn = [p for t in daemon.tokens(daemon.generate(hot)) for p in t.logprobs]
    assert all(p.top == () and p.logprob <= 0 for p in drawn)


def test_a_bias_forbids_and_forces(daemon, ask):
    plain = ask("What is 9 * 7?", template={"enable_thinking": False})
    _, ids, _ = alone(daemon, plain)
    banned = replace(plain, id="banned", sampling=replace(plain.sampling, logit_bias=((ids[0], -100.0),)))
    assert alone(daemon, banned)[1][0] != ids[0]
    forced = replace(plain, id="forced", sampling=replace(plain.sampling, logit_bias=((ids[0], 100.0),)))
    forced = replace(forced, max_tokens=5)
    assert alone(daemon, forced)[1] == (ids[0],) * 5


def test_penalties_break_a_repetition(daemon, ask):
    request = ask("Count to 12.", max_tokens=40, template={"enable_thinking": False})
    _, plain, _ = alone(daemon, request)
    for name, value in [("frequency_penalty", 2.0), ("presence_penalty", 40.0), ("repetition_penalty", 9.0)]:
        changed = replace(request, id=name, sampling=replace(request.sampling, **{name: value}))
        _, ids, _ = alone(daemon, changed)
        assert len(set(ids)) / len(ids) > len(set(plain)) / len(plain), name


def test_more_than_slots_and_queue_hold_are_refused_and_the_rest_served(daemon, ask, fox):
    many = [daemon.generate(ask("Count to 12.", max_tokens=4)) for _ in range(CONCURRENCY + 64 + 6)]
    first = [daemon.first_frame(request) for request in many]
    refused = [f for f in first if isinstance(f, RefusedFrame)]
    assert len(refused) <= 6
    assert all((f.refusal.status, f.refusal.retriable) == (503, True) for f in refused)
    served = [request for request, f in zip(many, first, strict=True) if isinstance(f, AcceptedFrame)]
    assert len({answer(daemon, request)[1] for request in served}) == 1


# --- grammars -----------------------------------------------------------------------------------------------

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "colour": {"enum": ["red", "blue"]}},
    "required": ["name", "colour"],
    "additionalProperties": False,
}


def held(schema):
    return grammar_of(None, JsonAnswer(schema, strict=True))


@pytest.mark.parametrize("thinking", [True, False])
def test_an_answer_is_held_to_its_schema_after_the_reasoning(daemon, ask, thinking):
    text = "Give me a JSON object with name Mira, colour green."  # what the schema forbids
    request = ask(text, grammar=held(PERSON), template={"enable_thinking": thinking})
    data, _, finish = alone(daemon, request)
    reasoning, _, answer = data.decode().rpartition("</think>")
    assert json.loads(answer)["colour"] in ("red", "blue")
    assert finish is Finish.STOP
    assert bool(reasoning) is thinking


def test_each_sequence_of_a_batch_has_its_own_grammar(daemon, ask):
    """At a temperature where the model alone would write anything."""
    schemas = [{"type": "integer", "minimum": 1000 * i, "maximum": 1000 * i + 9} for i in range(1, 5)]
    hot = {"temperature": 2.0, "template": {"enable_thinking": False}}
    held_to = [daemon.generate(ask("Hello", grammar=held(schema), **hot)) for schema in schemas]
    free = daemon.generate(ask("Hello", max_tokens=10, **hot))
    for schema, request in zip(schemas, held_to, strict=True):
        assert schema["minimum"] <= json.loads(answer(daemon, request)[0]) <= schema["maximum"]
    assert answer(daemon, free) == alone(daemon, ask("Hello", max_tokens=10, **hot))


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        (held({"type": "integer", "minimum": 5, "maximum": 3}), "minimum (5) is greater than maximum (3)"),
        (held({"type": "object", "properties": {"a": {"enum": []}}, "required": ["a"]}), "unsatisfiable"),
        ("start: reasoning nothing_of_that_name\n", "nothing_of_that_name"),
    ],
)
def test_a_grammar_that_nothing_satisfies_is_the_clients_error(daemon, ask, grammar, words):
    refused = daemon.first_frame(daemon.generate(ask("Hello", grammar=grammar)))
    assert (refused.refusal.status, refused.refusal.retriable) == (400, False)
    assert words in refused.refusal.message
    assert refused.refusal.param in ("response_format", "tools")
    assert alone(daemon, ask("What is 9 * 7?", template={"enable_thinking": False}))[0] == b"9 * 7 = 63"


def test_a_cancelled_request_leaves_no_grammar_behind(daemon, ask):
    request = daemon.generate(ask("Tell me a story about a fox.", grammar=held({"type": "string", "minLength": 900})))
    daemon.tokens(request, at_least=3)
    daemon.send(Cancel(request, "client gone"))
    assert alone(daemon, ask("What is 9 * 7?", template={"enable_thinking": False}))[0] == b"9 * 7 = 63"
