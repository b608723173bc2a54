"""A question over HTTP, its answer as it streams, and the lines with which a person goes on."""

from __future__ import annotations

from collections.abc import Callable

from skulk.cli.chat import Channel, Piece, pieces, request_body
from skulk.cli.client import FleetClient
from skulk.cli.demo.layout import Site, shown

_LINES = """
Try it, from another terminal in this directory:

  export PATH="$PWD/.venv/bin:$PATH" SKULK_URL={url}

  curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "chat", "messages": [{{"role": "user", "content": "Name the capital of France."}}]}}'

  python -c "from openai import OpenAI; print(OpenAI(base_url='{url}/v1', api_key='none') \\
    .chat.completions.create(model='chat', messages=[dict(role='user', content='Count to 12.')]) \\
    .choices[0].message.content)"

  skulk run chat "Tell me a story about a fox."
  skulk get nodes -o wide
  skulk why chat-gguf
  skulk top

Every node takes requests for every model; {studio} and
{tower} answer as well.

Change what runs, by git alone: another quantisation, no failed request meanwhile. `skulk plan` says before the push
what it will do (and ends with 1, because there are changes):

  cd {checkout}
  sed -i.bak 's/model: fox-tiny$/model: fox-tiny-bf16/' fleet/deployments/chat.yaml && rm fleet/deployments/*.bak
  skulk plan --live {url}
  git commit -am 'Serve the bf16 weights' && git push origin main
  skulk wait deployment/chat --for=applied=$(git rev-parse HEAD) --for=Ready --timeout 2m
  git revert --no-edit HEAD && git push origin main
  skulk wait deployment/chat --for=applied=$(git rev-parse HEAD) --for=Ready --timeout 2m

Keep new work away from a node, and take that back:

  skulk cordon studio --write && git commit -am 'Cordon studio' && git push origin main
  skulk resume studio --write && git commit -am 'Resume studio' && git push origin main

Ctrl-C ends the demo."""


def ask(client: FleetClient, model: str, question: str, first: Callable[[], None] = lambda: None) -> None:
    """Print the answer as it comes. `first` is called with the first token. Raises as FleetClient does."""
    body = request_body(
        model,
        [{"role": "user", "content": question}],
        stream=True,
        max_tokens=None,
        temperature=0.0,
        seed=None,
        thinking=None,
    )
    channel, begun = Channel.CONTENT, False
    for piece in pieces(client, body):
        if not isinstance(piece, Piece):
            continue
        if not begun:
            begun = True
            first()
        if piece.channel is not channel:
            print("\n" if piece.channel is Channel.CONTENT else "(thinking) ", end="")
            channel = piece.channel
        print(piece.text, end="", flush=True)
    print(flush=True)


def print_lines(place: Site) -> None:
    """What to copy. All of it works as it is printed."""
    urls = {"url": place.desk.url, "studio": place.studio.url, "tower": place.tower.url}
    print(_LINES.format(**urls, checkout=shown(place.checkout)), flush=True)
