"""What fits the context, and what the numbers in a refusal are."""

from __future__ import annotations

import pytest

from skulk.core.errors import RequestError
from skulk.engines.admission import MAX_TOKENS_DEFAULT, accepted, budget, max_tokens_default, refuse_oversized
from skulk.engines.engine import Prompt


def prompt(tokens):
    return Prompt(tuple(range(tokens)))


@pytest.mark.parametrize(
    ("used", "asked", "context", "given"),
    [
        (10, 20, 100, 20),
        (10, 90, 100, 90),
        (99, 1, 100, 1),
        (10, None, 100, 90),
        (10, None, 1_000_000, MAX_TOKENS_DEFAULT),
        (10, 100_000, 1_000_000, 100_000),
    ],
)
def test_the_budget(used, asked, context, given):
    assert budget(prompt(used), asked, context) == given


def test_what_cannot_fit_is_refused_uncounted_and_what_may_fit_is_not():
    refuse_oversized(text_bytes=990, context_tokens=100, piece_bytes_max=10)
    with pytest.raises(RequestError, match="991 bytes, at least 100 tokens; the context holds 100") as caught:
        refuse_oversized(text_bytes=991, context_tokens=100, piece_bytes_max=10)
    assert (caught.value.status, caught.value.code.id, caught.value.param) == (400, "SK-REQ-005", "messages")


@pytest.mark.parametrize(
    ("used", "asked", "context", "code"),
    [
        (100, None, 100, "SK-REQ-005"),
        (101, 1, 100, "SK-REQ-005"),
        (10, 91, 100, "SK-REQ-005"),
        (0, None, 100, "SK-REQ-001"),
        (10, 0, 100, "SK-REQ-001"),
    ],
)
def test_what_does_not_fit(used, asked, context, code):
    with pytest.raises(RequestError) as caught:
        budget(prompt(used), asked, context)
    assert (caught.value.code.id, caught.value.status) == (code, 400)
    if code == "SK-REQ-005":
        assert caught.value.slug == "context_length_exceeded"
        assert str(context) in caught.value.message


def test_context_left_is_the_context_minus_the_prompt():
    assert accepted(prompt(30), 100, cached_tokens=0, queue_seconds=0.0).context_left == 70


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 4096),
        ({"SKULK_MAX_TOKENS": "100"}, 100),
        ({"SKULK_MAX_TOKENS": "100", "SKULK_MAX_OUTPUT_TOKENS": "200"}, 200),
        ({"SKULK_MAX_OUTPUT_TOKENS": "many", "SKULK_MAX_TOKENS": "0"}, 4096),
    ],
)
def test_the_default_can_be_set_by_environment(environment, expected):
    assert max_tokens_default(environment) == expected
    assert budget(prompt(30), None, 10_000, expected) == expected
    assert budget(prompt(30), None, 80, expected) == 50
