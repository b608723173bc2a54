"""Chat templates: messages → text, in a sandbox, with the helpers that published templates expect.

The template comes from the model's files, its input from a client; neither can reach anything outside (jinja2's
immutable sandbox). The clock is the request's, in UTC, so that every replica renders the same text. Has no tokeniser
of its own.
Conventions (variables, filters, whitespace handling) are those documented for Hugging Face chat templates.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from skulk.core.domain.requests import GenerationRequest, Message
from skulk.core.errors import REQ_INVALID, REQ_UNSUPPORTED, RequestError
from skulk.engines.admission import refuse_oversized
from skulk.engines.constraint import Grammars
from skulk.engines.engine import Prompt

if TYPE_CHECKING:
    from jinja2 import Template

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
SPECIAL_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def ends_in_reasoning(text: str) -> bool:
    """Does the text end inside an open `<think>` block?"""
    return text.rfind(THINK_OPEN) > text.rfind(THINK_CLOSE)


def find_template(model_dir: Path, tokenizer_config: Mapping[str, object]) -> str | None:
    """The model's chat template: `chat_template.jinja`, else `chat_template.json`, else in the tokenizer's
    configuration, where it may be a list of named ones (then `default`). None when the model has none."""
    file = model_dir / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    file = model_dir / "chat_template.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else tokenizer_config
    value = found.get("chat_template") if isinstance(found, Mapping) else None
    if isinstance(value, list):
        named = {item["name"]: item["template"] for item in value if isinstance(item, Mapping)}
        value = named.get("default", next(iter(named.values()), None))
    return value if isinstance(value, str) else None


class ChatTemplate:
    """A compiled template and the special tokens it may name. Raises jinja2.TemplateError when it is malformed."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self._template = _compile(source)
        self._special_tokens = dict(special_tokens)

    def render(self, request: GenerationRequest) -> str:
        """The prompt, opened for the assistant's turn. Raises RequestError 400 with the objection."""
        return self._render(request, add_generation_prompt=True)

    def reasoning_after(self, request: GenerationRequest, text: str) -> str:
        """How the template itself leaves reasoning at the end of `text`, what `render` returned: see `Prompt`.

        A `<think>` that somebody wrote into a message is none: only what opening the assistant's turn adds counts.
        """
        if THINK_OPEN not in text:
            return "optional"
        try:
            before = self._render(request, add_generation_prompt=False)
        except RequestError:
            before = ""
        opening = text[len(before) :] if text.startswith(before) else text
        if ends_in_reasoning(opening):
            return "open"
        return "none" if opening.rstrip().endswith(THINK_CLOSE) else "optional"

    def _render(self, request: GenerationRequest, *, add_generation_prompt: bool) -> str:
        now = datetime.fromtimestamp(request.now, tz=UTC)
        variables: dict[str, object] = {"tools": None, "documents": None, **request.template}
        variables.update(
            self._special_tokens,
            messages=[_turn(m) for m in request.messages],
            add_generation_prompt=add_generation_prompt,
            strftime_now=now.strftime,
            raise_exception=_object,
        )
        try:
            return self._template.render(variables)
        except Exception as error:
            # Templates fail in any way Python can when a message has not the shape that they expect.
            text = f"the model's chat template does not accept the messages: {error}"
            raise RequestError(REQ_INVALID, text, status=400, param="messages") from error


def prompt_of(
    template: ChatTemplate | None,
    model: str,
    request: GenerationRequest,
    encode: Callable[[str], tuple[int, ...]],
    grammars: Grammars,
    *,
    token_delimited: bool,
    context_tokens: int,
    piece_bytes_max: int,
) -> Prompt:
    """The request as token ids of the model's tokeniser (`encode`), and what its grammar lets it become. Raises
    RequestError 400 for a model without a template, for what the template objects to, for text that no encoding has,
    for far too much of it, and for a grammar that nothing satisfies."""
    if template is None:
        message = f"{model} has no chat template: it cannot chat"
        raise RequestError(REQ_UNSUPPORTED, message, status=400, param="messages")
    text = template.render(request)
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        message = f"a message holds text that is no Unicode: {error.reason}"
        raise RequestError(REQ_INVALID, message, status=400, param="messages") from error
    refuse_oversized(size, context_tokens, piece_bytes_max)
    reasoning = template.reasoning_after(request, text) if token_delimited else "none"
    constraint = grammars.start(request.grammar, reasoning) if request.grammar else None
    return Prompt(encode(text), reasoning, constraint)


def _turn(message: Message) -> dict[str, object]:
    return {**message.extra, "role": message.role, "content": message.content}


def _object(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Not jinja2's own filter: that one escapes for HTML, and models were trained on plain JSON.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _compile(source: str) -> Template:
    # Imported here, because the scripted engine uses this module where jinja2 is not installed.
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationBlock(Extension):
        """`{% generation %}…{% endgeneration %}` marks assistant text for training; here it is its content."""

        tags = {"generation"}  # noqa: RUF012  # jinja2's own declaration

        def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    return environment.from_string(source)
