"""Continuous batching in real runners of both engines, with the small trained model."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from skulk.core.dialects.grammar import JsonAnswer, grammar_of
from skulk.core.domain import Finish, Message
from skulk.core.wire.runner import AcceptedFrame, Cancel, Heartbeat, RefusedFrame, Step, encode

pytestmark = [pytest.mark.engine, pytest.mark.timeout(3600)]

CONCURRENCY = 4
QUEUE_MAX = 16
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


ENDLESS = {"logit_bias": ((0, -100.0), (2, -100.0)), "max_tokens": 3000, "template": {"enable_thinking": False}}
"""What ends an answer is forbidden: it holds its slot until it is cancelled."""


@pytest.fixture(scope="module", params=["llama_cpp", "llama_cpp with q8_0 caches", "mlx"])
def placed(request, launch):
    """(the interpreter of the environment, the launch)."""
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
    changes |= {"concurrency": CONCURRENCY, "queue_max": QUEUE_MAX}
    return python, replace(launch, reasoning_format="token_delimited", **changes)


@pytest.fixture(scope="module")
def fox(placed, spawn, tmp_path_factory) -> Iterator[object]:
    python, launch = placed
    runner = spawn(tmp_path_factory.mktemp("fox") / "placement", launch, python)
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


def hold_all_slots(daemon, ask):
    holders = [daemon.generate(ask("Count from 1 to 100.", **ENDLESS)) for _ in range(CONCURRENCY)]
    for request in holders:
        daemon.tokens(request, at_least=1)
    return holders


def release(daemon, holders):
    """All at once."""
    daemon.send_bytes(b"".join(encode(Cancel(request, "client gone")) for request in holders))


def test_a_full_queue_refuses_the_next_ones_and_who_is_in_it_says_how_long_it_waited(daemon, ask):
    holders = hold_all_slots(daemon, ask)
    sent = time.monotonic()
    queued = [daemon.generate(ask("Count to 12.", max_tokens=1)) for _ in range(QUEUE_MAX)]
    refused = [daemon.first_frame(daemon.generate(ask("Count to 12."))) for _ in range(6)]
    assert {type(frame) for frame in refused} == {RefusedFrame}
    assert {(f.refusal.code, f.refusal.status, f.refusal.retriable) for f in refused} == {("SK-REQ-006", 503, True)}
    daemon.wait_for(Heartbeat, lambda beat: beat.waiting == len(queued))
    seen = time.monotonic()
    for _ in range(5):
        daemon.wait_for(Step)
    released = time.monotonic()
    release(daemon, holders)
    first = [daemon.first_frame(request) for request in queued]
    told = time.monotonic()
    assert {type(frame) for frame in first} == {AcceptedFrame}
    assert all(released - seen <= frame.accepted.queue_seconds <= told - sent for frame in first)
    assert len({answer(daemon, request)[1:] for request in queued}) == 1
    assert {daemon.tokens(request)[-1].finish for request in holders} == {Finish.CANCELLED}


def test_who_generates_gets_a_token_from_every_step_that_reads_a_long_prompt(placed, printed):
    python, launch = placed
    steps = printed(python, JOINING, launch)
    assert len(steps) > 2, "the prompt was not read in pieces"
    assert steps == [["running"]] * (len(steps) - 1) + [["running", "joining"]]


JOINING = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from skulk.core.domain.requests import Sampling
from skulk.core.wire.launch import launch_from_json
from skulk.engines.engine import Job
from skulk.engines.run import _engine

launch = launch_from_json(json.loads(Path(sys.argv[2]).read_text()))
engine = _engine(launch)
engine.load(lambda share: None)
endless = Sampling(seed=1, temperature=0.0, logit_bias=((0, -100.0), (2, -100.0)))

def step():
    return [emission.request for emission in engine.step() if emission.ids]

engine.start(Job("running", (300, 301, 302), endless, 1000))
while step() != ["running"]:
    pass
engine.start(Job("joining", tuple(range(20, 180 if launch.engine == "mlx" else 720)), endless, 1000))
steps = [step()]
while "joining" not in steps[-1]:
    steps.append(step())
print(json.dumps(steps))
"""


# --- different settings side by side --------------------------------------------------------------------------

COUNTING = "Count to 12."
STORY = "Tell me a story about a fox."
QUOTE, LESS = 20, 46
"""Ids of two tokens of the model."""


def settings_side_by_side():
    """(question, fields). Mostly one question: what sets the answers apart is nothing but the settings."""
    return [
        # The first ones begin side by side, so that each of these would feel the other one's.
        (COUNTING, {"grammar": held({"type": "integer", "minimum": 10**8, "maximum": 10**8 + 9}), "logprobs": 1}),
        (COUNTING, {"grammar": held({"type": "string", "minLength": 9}), "temperature": 2.0, "seed": 4}),
        (COUNTING, {"logit_bias": ((LESS, 100.0),)}),
        (COUNTING, {"repetition_penalty": 2.0, "logprobs": 2}),
        (COUNTING, {}),
        (COUNTING, {"frequency_penalty": 2.0, "max_tokens": 24}),
        (COUNTING, {"presence_penalty": 40.0}),
        (COUNTING, {"logit_bias": ((QUOTE, 100.0),), "logprobs": 0}),
        (STORY, {"temperature": 2.0, "seed": 4}),
        (STORY, {"temperature": 2.0, "seed": 5, "logprobs": 1, "max_tokens": 14}),
        (STORY, {"temperature": 2.0, "seed": 6, "top_p": 0.9, "min_p": 0.01, "max_tokens": 14}),
    ]


def test_requests_with_different_settings_side_by_side_answer_as_each_alone(daemon, ask):
    def begin():
        for question, fields in settings_side_by_side():
            yield daemon.generate(ask(question, **{"max_tokens": 10, "template": {"enable_thinking": False}, **fields}))

    def told(request):
        return [entry for frame in daemon.tokens(request) for entry in frame.logprobs]

    single = [(answer(daemon, request), told(request)) for request in begin()]
    assert len({ids for (_, ids, _), _ in single}) == len(single), "two settings have the same answer"
    holders = hold_all_slots(daemon, ask)
    waiting = list(begin())
    release(daemon, holders)
    together = [(answer(daemon, request), told(request)) for request in waiting]
    assert [said for said, _ in together] == [said for said, _ in single]
    for (_, entries), (_, alone_entries) in zip(together, single, strict=True):
        assert [e.data for e in entries] == [e.data for e in alone_entries]
        assert [e.logprob for e in entries] == pytest.approx([e.logprob for e in alone_entries], abs=1e-3)
    names = [{name for name, _ in step.entries} & {*waiting} for step in daemon.seen if isinstance(step, Step)]
    assert max(map(len, names)) == CONCURRENCY, "they never ran side by side"


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


def test_a_resumed_answer_keeps_its_grammar_and_leaves_none_behind(fox, daemon, ask):
    """The daemon of the same life connects again; then a new one, to which nothing of the old one's matters."""
    schema = {"type": "string", "minLength": 20, "maxLength": 30}
    request = daemon.generate(ask(STORY, grammar=held(schema), template={"enable_thinking": False}))
    begun = daemon.tokens(request, at_least=3)[:3]
    again = fox.connect()
    again.attach(resume={request: 3})
    rest = again.tokens(request)
    assert [t.number for t in rest] == list(range(4, len(rest) + 4))
    assert 20 <= len(json.loads(b"".join(t.data for t in (*begun, *rest)))) <= 30
    long = {"grammar": held({"type": "string", "minLength": 900}), "template": {"enable_thinking": False}}
    again.tokens(again.generate(ask(STORY, **long)), at_least=3)
    again.close()
    new = fox.attached("boot-b")
    assert alone(new, ask("What is 9 * 7?", template={"enable_thinking": False}))[0] == b"9 * 7 = 63"
    number = ask("What is 9 * 7?", grammar=held({"type": "integer", "minimum": 1000, "maximum": 1009}))
    assert 1000 <= json.loads(alone(new, number)[0].decode().rpartition("</think>")[2]) <= 1009
