"""Continuous batching on a toy model: its next token is a function of everything before it, so any mix-up shows.

The real engines' batches are in test_batches.py; here are the order of events, the room, and faults.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skulk.core.domain import Finish, Sampling
from skulk.core.errors import RequestError
from skulk.engines.batching import AWAITED_TOKENS_MIN, Batch, CacheLost, NoRoom, Wanted
from skulk.engines.engine import Job
from skulk.engines.schedule import tokens_max

VOCABULARY = 50
END = 0
PIECES = [f"<{i}>".encode() for i in range(VOCABULARY)]


@dataclass(eq=False)
class ToyCache:
    ids: list[int] = field(default_factory=list)
    open: bool = True


class ToyDecoder:
    """Keeps the ids themselves as its cache; logits are a hash of them."""

    def __init__(self, entries_max=4, room_tokens=10_000, places=100, well_placed=True, shared_tokens_min=32):
        self.shared_tokens_min = shared_tokens_min
        self.well_placed = well_placed
        self.entries_max = entries_max
        self.places = places
        self.room_tokens = room_tokens
        self.caches: list[ToyCache] = []
        self.computed = 0
        self.longest_step = 0
        self.poison: set[int] = set()
        """A chunk with one of these ids fails."""
        self.loses = 0
        """So many of the steps that several generate in lose the caches of all of them."""
        self.most_held = 0
        self.asked: list[int] = []
        """How many chunks each call had."""

    def has_room(self, tokens):
        return self.held_tokens() + tokens <= self.room_tokens

    def trim(self, handle, length):
        assert handle.open
        assert len(handle.ids) >= length
        del handle.ids[length:]

    def open(self, idle):
        given_up = None
        if len(self.caches) >= self.places:
            if not idle:
                return None
            given_up = idle[0]
            self.close(given_up)
        self.caches.append(ToyCache())
        return self.caches[-1], given_up

    def fits(self, handle, idle):
        return handle in idle and self.well_placed

    def copy(self, source, target, length):
        assert source.open
        assert target.open
        assert target.ids == []
        self.most_held = max(self.most_held, self.held_tokens() + length)
        target.ids = source.ids[:length]
        assert len(target.ids) == length

    def close(self, handle):
        assert handle.open, "closed twice"
        handle.open = False
        self.caches.remove(handle)

    def held_tokens(self):
        return sum(len(cache.ids) for cache in self.caches)

    def run(self, chunks):
        self.asked.append(len(chunks))
        tokens = sum(len(chunk.tokens) for chunk in chunks)
        if self.held_tokens() + tokens > self.room_tokens:
            raise NoRoom("full")
        if any(token in self.poison for chunk in chunks for token in chunk.tokens):
            raise RuntimeError("poisoned")
        if self.loses and len(chunks) > 1 and all(len(chunk.tokens) == 1 for chunk in chunks):
            self.loses -= 1
            for cache in self.caches:
                cache.ids.clear()
            return [CacheLost("it broke")] * len(chunks)
        self.computed += tokens
        self.longest_step = max(self.longest_step, tokens)
        return [self._one(chunk) for chunk in chunks]

    def _one(self, chunk):
        assert chunk.handle.open
        assert chunk.start == len(chunk.handle.ids), "a chunk that does not continue its cache"
        chunk.handle.ids += chunk.tokens
        if chunk.wanted is Wanted.NOTHING:
            return None
        logits = toy_logits(chunk.handle.ids)
        return int(np.argmax(logits)) if chunk.wanted is Wanted.MOST_PROBABLE else logits


def toy_logits(ids):
    seed = zlib.crc32(",".join(map(str, ids)).encode())
    logits = np.random.default_rng(seed).normal(size=VOCABULARY).astype(np.float32)
    logits[END] -= 2  # answers of some length
    return logits


def batch(decoder, chunk_tokens=16):
    return Batch(decoder, frozenset({END}), PIECES, chunk_tokens)


def job(name, prompt, max_tokens=12, **sampling):
    return Job(name, tuple(prompt), Sampling(**{"seed": 1, "temperature": 0.0, **sampling}), max_tokens)


def finish(running, answers=None):
    """Step until nothing is left. Returns id → (ids, finish, error)."""
    answers = {} if answers is None else answers
    for _ in range(10_000):
        emissions = running.step()
        for emission in emissions:
            ids, _, _ = answers.get(emission.request, ((), None, None))
            answers[emission.request] = (ids + emission.ids, emission.finish, emission.error)
        if not len(running):
            return answers
    raise AssertionError("it never ends")


def expected(one):
    """The answer without any batch: the model's own definition."""
    ids, generated = list(one.prompt), []
    while len(generated) < one.max_tokens:
        token = int(np.argmax(toy_logits(ids)))
        if token == END:
            return tuple(generated), Finish.STOP, None
        ids.append(token)
        generated.append(token)
    return tuple(generated), Finish.LENGTH, None


prompts = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=80), min_size=1, max_size=8)


@settings(max_examples=60)
@given(
    prompts, st.lists(st.integers(0, 4), min_size=8, max_size=8), st.integers(1, 40), st.integers(8, 12), st.booleans()
)
def test_company_changes_no_answer(texts, pauses, chunk_tokens, places, well_placed):
    """Requests of equal and different beginnings join at any step; there may be no place beyond theirs."""
    decoder = ToyDecoder(places=places, well_placed=well_placed)
    running, answers = batch(decoder, chunk_tokens), {}
    jobs = [job(f"r{i}", text) for i, text in enumerate(texts)]
    for one, pause in zip(jobs, pauses, strict=False):
        running.start(one)
        for _ in range(pause):
            for emission in running.step():
                ids, _, _ = answers.get(emission.request, ((), None, None))
                answers[emission.request] = (ids + emission.ids, emission.finish, emission.error)
    finish(running, answers)
    assert answers == {one.request: expected(one) for one in jobs}
    assert decoder.longest_step <= tokens_max(chunk_tokens) + len(jobs)
    running.forget()
    assert decoder.caches == [], "something was never given back"


def test_a_long_prompt_does_not_hold_up_those_who_generate():
    decoder = ToyDecoder()
    running = batch(decoder, chunk_tokens=10)
    running.start(job("quick", [1, 2, 3], max_tokens=40))
    running.step()
    running.start(job("long", [2] * 500))
    for _ in range(10):
        assert [e.request for e in running.step()] == ["quick"]


def test_a_beginning_in_common_is_computed_once_even_when_all_come_at_once():
    shared = [1 + i % 3 for i in range(300)]
    decoder = ToyDecoder(entries_max=8)
    running = batch(decoder)
    cached = [running.start(job(f"r{i}", [*shared, 4 + i], max_tokens=1)) for i in range(4)]
    assert cached == [0, 300, 300, 300]
    answers = finish(running)
    assert decoder.computed == 300 + 4
    assert answers == {f"r{i}": expected(job(f"r{i}", [*shared, 4 + i], max_tokens=1)) for i in range(4)}


def test_who_waits_for_a_beginning_goes_on_when_the_other_leaves():
    shared = [1 + i % 3 for i in range(300)]
    running = batch(ToyDecoder())
    running.start(job("first", [*shared, 9]))
    running.start(second := job("second", [*shared, 8]))
    running.step()
    running.cancel("first")
    assert finish(running) == {"second": expected(second)}


def test_the_next_turn_of_a_conversation_reads_only_what_is_new():
    decoder = ToyDecoder()
    running = batch(decoder)
    first = job("turn 1", [3] * 50)
    assert running.start(first) == 0
    answer, _, _ = finish(running)["turn 1"]
    before = decoder.computed
    second = job("turn 2", (*first.prompt, *answer, 7, 7))
    assert running.start(second) == 50 + len(answer) - 1
    assert finish(running)["turn 2"] == expected(second)
    assert decoder.computed - before <= 3 + second.max_tokens


def test_the_same_prompt_again_computes_its_last_token_only():
    running = batch(ToyDecoder())
    running.start(job("a", [5] * 40))
    finish(running)
    assert running.start(again := job("b", [5] * 40)) == 39
    assert finish(running) == {"b": expected(again)}


def test_what_is_kept_makes_room_for_what_runs():
    decoder = ToyDecoder(entries_max=8, room_tokens=200)
    running = batch(decoder)
    for i in range(6):
        running.start(one := job(f"r{i}", [1 + i] * 60))
        assert finish(running) == {one.request: expected(one)}
    assert decoder.held_tokens() <= 200


def test_one_sequences_fault_ends_that_one_only():
    decoder = ToyDecoder()
    decoder.poison = {77}  # no token of the vocabulary
    running = batch(decoder)
    good = [job(f"good{i}", [i + 1] * 20) for i in range(3)]
    for one in good:
        running.start(one)
    running.step()
    running.start(job("bad", [3, 77, 3]))
    answers = finish(running)
    assert answers.pop("bad") == ((), Finish.ERROR, "RuntimeError: poisoned")
    assert answers == {one.request: expected(one) for one in good}
    running.forget()
    assert decoder.caches == []


def test_a_step_that_fails_for_everybody_says_that_it_was_the_engine():
    decoder = ToyDecoder()
    decoder.poison = {1, 2}
    running = batch(decoder)
    running.start(job("a", [1] * 5))
    running.start(job("b", [2] * 5))
    emissions = running.step()
    assert [(e.request, e.finish, e.error, e.engine_failed) for e in emissions] == [
        (name, Finish.ERROR, "RuntimeError: poisoned", True) for name in ("a", "b")
    ]
    assert len(running) == 0
    assert decoder.caches == []


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_sequences_whose_caches_were_lost_begin_again_and_answer_the_same(temperature):
    def answers(loses):
        running = batch(decoder := ToyDecoder())
        running.start(job("kept", [9] * 40))
        finish(running)
        for i in range(3):
            running.start(job(f"r{i}", [i + 1] * (4 + 9 * i), temperature=temperature))
        decoder.loses = loses
        found = finish(running)
        assert decoder.loses == 0
        return found, running.start(job("again", [9] * 40))

    assert answers(loses=0)[1] == 39
    assert answers(loses=1) == (answers(loses=0)[0], 0), "what was kept is not relied on either"


def test_who_loses_the_cache_again_ends_with_the_reason():
    decoder = ToyDecoder()
    decoder.loses = 2
    running = batch(decoder)
    for i in range(2):
        running.start(job(f"r{i}", [i + 1] * 5))
    answers = finish(running)
    assert {(end, error) for _, end, error in answers.values()} == {(Finish.ERROR, "it broke")}
    running.start(after := job("after", [7] * 5))
    assert finish(running) == {"after": expected(after)}


def test_a_copy_of_what_is_kept_has_room_before_it_is_made():
    decoder = ToyDecoder(room_tokens=200)
    running = batch(decoder)
    running.start(job("a", [1] * 100, max_tokens=1))
    running.start(job("b", [2] * 90, max_tokens=1))
    finish(running)
    running.start(after := job("after", [*[1] * 70, 5], max_tokens=8))
    assert decoder.most_held <= 200
    assert finish(running) == {"after": expected(after)}


def test_where_even_that_leaves_no_room_for_a_copy_the_kept_sequence_itself_goes_on():
    decoder = ToyDecoder(room_tokens=120)
    running = batch(decoder)
    running.start(job("a", [1] * 100, max_tokens=1))
    finish(running)
    assert running.start(after := job("after", [*[1] * 70, 5], max_tokens=8)) == 70
    assert decoder.most_held <= 120
    assert finish(running) == {"after": expected(after)}


def test_a_copy_that_fails_leaves_no_place_taken(monkeypatch):
    decoder = ToyDecoder()
    running = batch(decoder)
    running.start(job("a", [1] * 60, max_tokens=1))
    finish(running)
    monkeypatch.setattr(decoder, "copy", lambda *_: (_ for _ in ()).throw(RuntimeError("no copy")))
    with pytest.raises(RuntimeError, match="no copy"):
        running.start(job("b", [1] * 40))
    assert len(decoder.caches) == 1


@pytest.mark.parametrize("gone", [[], ["ahead"], ["ahead", "other"]], ids=["all there", "ahead left", "left alone"])
def test_a_copy_that_fails_between_steps_ends_its_sequence_only(monkeypatch, gone):
    """Who waits for a beginning gets it from the sequence ahead, or from what that one left."""
    shared = [1 + i % 3 for i in range(60)]
    decoder = ToyDecoder(well_placed=False)
    running, answers = batch(decoder, chunk_tokens=40), {}
    jobs = [job("other", [2] * 5), job("ahead", [*shared, 1]), job("behind", [*shared, 2])]
    for one in jobs:
        running.start(one)
    if gone:
        answers["other"] = (running.step()[0].ids, None, None)
    for name in gone:
        running.cancel(name)
    monkeypatch.setattr(decoder, "copy", lambda *_: (_ for _ in ()).throw(RuntimeError("no copy")))
    finish(running, answers)
    assert answers["behind"] == ((), Finish.ERROR, "RuntimeError: no copy")
    for one in jobs[:2]:
        assert one.request in gone or answers[one.request] == expected(one)
    assert 0 not in decoder.asked, "an engine without work is not asked"
    running.forget()
    assert decoder.caches == []


def test_memory_that_ran_out_is_never_one_requests_fault(monkeypatch):
    decoder = ToyDecoder()
    running = batch(decoder)
    running.start(job("a", [1] * 5))
    running.start(job("b", [2] * 5))
    monkeypatch.setattr(decoder, "run", lambda _: (_ for _ in ()).throw(MemoryError("no")))
    with pytest.raises(MemoryError):
        running.step()


def test_logits_that_are_no_numbers_end_their_sequence(monkeypatch):
    decoder = ToyDecoder()
    one_chunk = decoder._one

    def broken(chunk):
        outcome = one_chunk(chunk)
        return np.full(VOCABULARY, np.nan, np.float32) if chunk.handle.ids[0] == 2 and outcome is not None else outcome

    monkeypatch.setattr(decoder, "_one", broken)
    running = batch(decoder)
    running.start(good := job("good", [1] * 5, temperature=0.0, presence_penalty=0.0))
    running.start(job("bad", [2] * 5, temperature=1.0))
    answers = finish(running)
    assert answers["good"] == expected(good)
    assert answers["bad"][1] is Finish.ERROR
    assert "the model's output is unusable" in answers["bad"][2]


def test_a_beginning_that_is_too_short_is_not_waited_for():
    shared = [1] * (AWAITED_TOKENS_MIN - 1)
    running = batch(ToyDecoder(entries_max=0))
    assert [running.start(job(f"r{i}", [*shared, 4 + i])) for i in range(2)] == [0, 0]


@pytest.mark.parametrize(("least", "cached"), [(3, 3), (4, 0)])
def test_the_decoder_says_how_short_a_kept_beginning_may_be(least, cached):
    running = batch(ToyDecoder(shared_tokens_min=least))
    running.start(job("a", [1, 1, 1, *[2] * 40]))
    finish(running)
    assert running.start(job("b", [1, 1, 1, *[3] * 40])) == cached


def test_a_bias_on_a_token_that_is_none_is_the_clients_error():
    running = batch(decoder := ToyDecoder())
    with pytest.raises(RequestError, match="logit_bias names token 50") as caught:
        running.start(job("a", [1], logit_bias=((VOCABULARY, 1.0),)))
    assert (caught.value.status, caught.value.param) == (400, "logit_bias")
    assert decoder.caches == []


def test_where_places_are_few_a_kept_beginning_is_taken_over():
    decoder = ToyDecoder(places=1)
    running = batch(decoder)
    running.start(job("a", [*[1] * 40, *[2] * 40]))
    finish(running)
    assert running.start(other := job("b", [*[1] * 40, *[3] * 40])) == 40
    assert finish(running) == {"b": expected(other)}
    assert running.start(new := job("c", [5] * 10)) == 0, "its place is taken by another beginning"
    assert finish(running) == {"c": expected(new)}
    assert len(decoder.caches) == 1
