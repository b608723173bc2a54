"""`skulk run`: talk to a model of the fleet, once or in turns. Never changes what runs."""

from __future__ import annotations

import sys
from contextlib import closing, suppress
from typing import Annotated, Any

import typer

from skulk.cli.chat import Channel, Ending, Piece, complete, pieces, request_body
from skulk.cli.client import FleetClient
from skulk.cli.options import DEFAULT_URL, KeyOption, UrlOption
from skulk.cli.printing import to_json
from skulk.cli.terminal import Ink, is_interactive, paint, printable
from skulk.core.errors import CLI_USAGE, InvalidInput, SkulkError

EXAMPLES = (
    'skulk run fox-tiny "What is the capital of France?"',
    'echo "What is 17 + 25?" | skulk run fox-tiny --temperature 0',
    "skulk run fox-tiny",
)

# A prompt beyond this would be refused by the gateway's body limit anyway.
PROMPT_BYTES_MAX = 16 * 1024 * 1024


def run(
    model: Annotated[str, typer.Argument(metavar="MODEL", show_default=False, help="A deployment, card or alias.")],
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", show_default=False, help="Else from stdin, or in turns.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", show_default=False, help="System message.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, show_default=False, help="At most so many tokens.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0, max=2, show_default=False, help="0 is greedy.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, show_default=False, help="Same seed, same answer.")
    ] = None,
    thinking: Annotated[
        bool | None,
        typer.Option("--thinking/--no-thinking", show_default=False, help="Ask the model to reason first, or not to."),
    ] = None,
    reasoning: Annotated[
        bool, typer.Option("--reasoning/--no-reasoning", help="Show the reasoning, dimmed; on a terminal only.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the API's answer as one JSON object.")] = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Ask a model and stream its answer.

    Without a prompt it reads one from stdin, or, on a terminal, talks in turns until Ctrl-D. In a pipe only the
    answer is printed, not the reasoning. Ctrl-C cancels the request on the node.
    """
    turns: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []

    def body(stream: bool) -> dict[str, Any]:
        return request_body(
            model, turns, stream=stream, max_tokens=max_tokens, temperature=temperature, seed=seed, thinking=thinking
        )

    show_reasoning = reasoning and sys.stdout.isatty()
    with FleetClient(url, key) as client:
        if prompt is None and is_interactive() and not as_json:
            _talk(client, turns, body, show_reasoning)
            return
        turns.append({"role": "user", "content": prompt if prompt is not None else _piped_prompt()})
        if as_json:
            print(to_json(complete(client, body(False))))
        else:
            _answer(client, body(True), show_reasoning)


def _piped_prompt() -> str:
    if sys.stdin.isatty():
        raise InvalidInput(CLI_USAGE, "no prompt", fix='pass it: skulk run MODEL "your question"')
    raw = sys.stdin.buffer.read(PROMPT_BYTES_MAX + 1)
    if len(raw) > PROMPT_BYTES_MAX:
        raise InvalidInput(CLI_USAGE, f"the prompt on stdin is larger than {PROMPT_BYTES_MAX} bytes", fix="send less")
    text = raw.decode("utf-8", errors="replace").strip()
    if not text:
        raise InvalidInput(CLI_USAGE, "the prompt on stdin is empty", fix="pipe some text, or pass it as an argument")
    return text


def _talk(client: FleetClient, turns: list[dict[str, Any]], body: Any, show_reasoning: bool) -> None:
    """Turns on a terminal. Ctrl-C ends the answer, not the conversation; a failed turn is taken back."""
    with suppress(ImportError):
        import readline  # noqa: F401 (line editing and history for input())
    print(paint("Ctrl-D ends, Ctrl-C stops an answer.", Ink.DIM, stream=sys.stderr), file=sys.stderr)
    while True:
        try:
            line = input(">>> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            continue
        if not line:
            continue
        turns.append({"role": "user", "content": line})
        try:
            turns.append({"role": "assistant", "content": _answer(client, body(True), show_reasoning)})
        except KeyboardInterrupt:
            print(paint(" (stopped)", Ink.DIM))
            turns.pop()
        except SkulkError as error:
            print(f"error: {error.code.id} {error.message}", file=sys.stderr)
            turns.pop()


def _answer(client: FleetClient, body: dict[str, Any], show_reasoning: bool) -> str:
    """Print the answer as it comes; return the content. An interrupt closes the stream, which cancels it."""
    content: list[str] = []
    before: Channel | None = None
    last = ""
    ending = Ending("", {})
    try:
        with closing(pieces(client, body)) as stream:
            for item in stream:
                if isinstance(item, Ending):
                    ending = item
                    break
                if item.channel is Channel.CONTENT:
                    content.append(item.text)
                elif not show_reasoning:
                    continue
                text = _separated(item, before)
                before, last = item.channel, text
                print(paint(text, Ink.DIM) if item.channel is Channel.REASONING else text, end="", flush=True)
    finally:
        # also when it broke off: what follows, an error or a prompt, starts on a line of its own
        if last and not last.endswith("\n"):
            print(flush=True)
    if ending.reason == "length":
        print("note: the answer was cut at the token limit; raise --max-tokens", file=sys.stderr)
    return "".join(content)


def _separated(item: Piece, before: Channel | None) -> str:
    """The text with an empty line where the answer begins after the reasoning."""
    text = printable(item.text)
    return "\n\n" + text.lstrip("\n") if before is Channel.REASONING and item.channel is Channel.CONTENT else text
