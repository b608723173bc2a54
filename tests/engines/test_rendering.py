"""Chat templates: what published ones expect, and what they must not reach."""

from __future__ import annotations

import contextlib
import json

import pytest

from skulk.core.domain import Message
from skulk.core.errors import RequestError
from skulk.engines.rendering import ChatTemplate, find_template

CHAT = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]"


def render(source, request, **specials):
    return ChatTemplate(source, specials).render(request)


def test_roles_contents_and_further_fields_reach_the_template(ask):
    messages = (Message("user", "hi", {"name": "Mira", "role": "system"}),)
    text = render("{{ messages[0].role }} {{ messages[0].name }} {{ messages[0].content }}", ask(messages=messages))
    assert text == "user Mira hi"


def test_template_variables_special_tokens_and_the_absence_of_tools(ask):
    source = "{{ bos_token }}|{{ enable_thinking }}|{{ tools is none }}|{{ messages|length }}"
    request = ask(template={"enable_thinking": False, "messages": [], "bos_token": "forged"})
    assert render(source, request, bos_token="<s>") == "<s>|False|True|1"


def test_the_date_is_the_requests_in_utc(ask):
    source = "{{ strftime_now('%Y-%m-%d %H:%M') }}"
    assert render(source, ask(now=1_700_000_000.0)) == "2023-11-14 22:13"


def test_json_is_written_as_models_were_trained_on_it(ask):
    request = ask(template={"value": {"b": "<é&'>", "a": [1, None]}})
    assert render("{{ value|tojson }}", request) == '{"b": "<é&\'>", "a": [1, null]}'
    assert render("{{ value|tojson(indent=1, sort_keys=true) }}", request) == json.dumps(
        {"a": [1, None], "b": "<é&'>"}, indent=1, ensure_ascii=False
    )


def test_loop_controls_block_trimming_and_generation_marks(ask):
    source = "{% for i in [1, 2, 3] %}\n  {% if i == 2 %}{% continue %}{% endif %}\n{{ i }}\n{% endfor %}"
    assert render(source, ask()) == "1\n3\n"
    assert render("{% generation %}said{% endgeneration %}", ask()) == "said"


def test_what_a_template_objects_to_is_a_400_with_its_words(ask):
    with pytest.raises(RequestError, match="roles must alternate") as caught:
        render("{{ raise_exception('roles must alternate') }}", ask())
    assert caught.value.status == 400


@pytest.mark.parametrize("source", ["{{ messages.missing.deeper }}", "{{ 1 / 0 }}", "{{ messages + 1 }}"])
def test_a_template_that_breaks_on_the_messages_is_a_400(ask, source):
    with pytest.raises(RequestError) as caught:
        render(source, ask())
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ strftime_now.__self__.__class__.__mro__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{% for i in range(10**9) %}{% endfor %}",
    ],
)
def test_the_sandbox_holds(ask, source):
    text = ""  # some escapes are undefined values, which render as nothing
    with contextlib.suppress(RequestError):
        text = render(source, ask())
    assert text == ""


@pytest.mark.parametrize(
    ("opening", "message", "reasoning"),
    [
        ("<think>\n", "hi", "open"),
        ("<think>\n\n</think>\n\n", "hi", "none"),
        ("<think>Wait,", "hi", "open"),
        ("", "hi", "optional"),
        ("", "what does <think> mean?", "optional"),
        ("", "<think>done</think>", "optional"),
        ("<think>", "</think> and <think>", "open"),
    ],
)
def test_how_a_prompt_leaves_reasoning_is_the_templates_word_not_the_users(ask, opening, message, reasoning):
    template = ChatTemplate(CHAT + opening + "{% endif %}", {})
    request = ask(message)
    assert template.reasoning_after(request, template.render(request)) == reasoning


def test_where_templates_are_found(tmp_path):
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    assert find_template(tmp_path, {}) is None
    assert find_template(tmp_path, {"chat_template": "C"}) == "C"
    assert find_template(tmp_path, {"chat_template": named}) == "D"
    (tmp_path / "chat_template.json").write_text('{"chat_template": "J"}')
    assert find_template(tmp_path, {"chat_template": "C"}) == "J"
    (tmp_path / "chat_template.jinja").write_text("F")
    assert find_template(tmp_path, {"chat_template": "C"}) == "F"
