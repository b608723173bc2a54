"""The runner's half of a grammar: all rules are there, and the field that is at fault is found."""

import pytest

from skulk.core.dialects.grammar import JsonAnswer, Tool, ToolUse, grammar_of
from skulk.core.formats.grammar_rules import MARKERS, REASONING_MODES, blamed_field, runner_rules


@pytest.mark.parametrize("reasoning", REASONING_MODES)
@pytest.mark.parametrize("markers", [MARKERS, {name: f'"{text}"' for name, text in MARKERS.items()}])
def test_every_rule_that_a_grammar_refers_to_is_there_once(reasoning, markers):
    lines = runner_rules(markers=markers, reasoning=reasoning).splitlines()
    names = [line.partition(":")[0].partition("[")[0] for line in lines if line]
    assert len(names) == len(set(names))
    assert {"reasoning", "tool_open", "tool_close", "text", "text_tool_open"} <= set(names)


@pytest.mark.parametrize(("markers", "reasoning"), [(MARKERS, "maybe"), ({"think_open": "<think>"}, "none")])
def test_a_wrong_word_or_a_marker_too_few_is_a_programming_error(markers, reasoning):
    with pytest.raises(ValueError, match=r"maybe|tool_close"):
        runner_rules(markers=markers, reasoning=reasoning)


def test_an_error_leads_to_the_field_at_fault():
    grammar = grammar_of(ToolUse((Tool("f", parameters={"title": "json_answer:"}),)), JsonAnswer())
    lines = grammar.splitlines()
    places = {line.partition(":")[0]: f"at {number}(3): broken" for number, line in enumerate(lines, 1)}
    assert blamed_field(grammar, places["json_answer"]) == "response_format"
    assert blamed_field(grammar, places["arguments_0"]) == "tools"
    for other in ("broken", "at 99(1): x", "at 0(1): x"):
        assert blamed_field(grammar_of(ToolUse((Tool("f"),), required=True), None), other) == "tools"
        assert blamed_field(grammar_of(None, JsonAnswer()), other) == "response_format"
