"""Clients that go on asking while nodes are restarted: each asks one gateway, and another one when the first is away.

A request is lost when an answer that began did not end whole and right, or when no gateway took it at all. A refused
connection, or 503 before the answer begins, is what clients of several gateways try elsewhere.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx2

# Between two requests of one client: the machine that is tested has work to do as well.
PAUSE_SECONDS = 0.5
# A node that restarts is back within seconds; all of them at once never are away.
PATIENCE_SECONDS = 60.0


@dataclass
class Load:
    """Use as a context manager. `answered` and `lost` are final after it."""

    urls: Sequence[str]
    models: Sequence[str]
    key: str
    answered: int = 0
    elsewhere: int = 0
    lost: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._clients = [
            threading.Thread(target=self._client, args=(model, number)) for number, model in enumerate(self.models)
        ]

    def __enter__(self) -> Load:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for client in self._clients:
            client.join()

    def _client(self, model: str, number: int) -> None:
        with httpx2.Client(headers={"Authorization": f"Bearer {self.key}"}, timeout=60.0) as http:
            while not self._over.is_set():
                number = self._request(http, model, number)
                self._over.wait(PAUSE_SECONDS)

    def _request(self, http: httpx2.Client, model: str, number: int) -> int:
        """Ask until somebody answers; return which gateway to ask next."""
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            url = self.urls[number % len(self.urls)]
            number += 1
            try:
                answer = self._stream(http, url, model)
            except httpx2.ConnectError:
                answer = None
            except httpx2.HTTPError as error:
                answer = f"{url}: {error!r}"
            if answer is not None:
                with self._lock:
                    if answer.endswith("11, 12"):
                        self.answered += 1
                    else:
                        self.lost.append(f"{model} at {url}: {answer}")
                return number
            with self._lock:
                self.elsewhere += 1
            time.sleep(0.1)
        with self._lock:
            self.lost.append(f"{model}: no gateway took it within {PATIENCE_SECONDS:g} s")
        return number

    def _stream(self, http: httpx2.Client, url: str, model: str) -> str | None:
        """The whole text, or what went wrong with it; None when this gateway did not take the request."""
        body = {
            "model": model,
            "stream": True,
            "temperature": 0,
            "enable_thinking": False,
            "messages": [{"role": "user", "content": "Count to 12."}],
        }
        text, finish = "", None
        with http.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
            if response.status_code == 503:
                return None
            if response.status_code != 200:
                return f"{response.status_code} {response.read()[:300]!r}"
            for line in response.iter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    return f"cut after {text!r}: {event['error']}"
                for choice in event["choices"]:
                    text += choice["delta"].get("content") or ""
                    finish = choice["finish_reason"] or finish
        return text if finish == "stop" else f"ended with {finish} after {text!r}"
