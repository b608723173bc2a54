"""`POST /hooks/v1/git`: a git forge says that something was pushed, and the node looks at its source now.

The signature is the whole authentication: keys of the fleet do not apply here, and nothing of the body is used.
What a delivery is worth is decided by `skulk.core.webhooks`; this remembers what was seen and holds pokes apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import structlog
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from skulk.core.errors import HOK_BUSY, HOK_OFF, HOK_SIGNATURE, HOK_STALE, RequestError
from skulk.core.ports import Serving
from skulk.core.webhooks import Outcome, Verdict, is_signed, judge_delivery
from skulk.gateway.access import WEBHOOK_PATH
from skulk.gateway.bodies import read_bytes
from skulk.gateway.edge import note_of
from skulk.gateway.metrics import Metrics
from skulk.gateway.replies import json_reply
from skulk.gateway.settings import MIB, GatewaySettings

# Payloads list commits and can be long, GitHub's up to 25 MB: but a push of manifests stays far below 1 MiB, and
# strangers may send here. A push that does not fit is found by polling.
BODY_BYTES_MAX = MIB
# Forges give up after 10 s themselves.
BODY_SECONDS_MAX = 10.0
# Strangers can make us hold this many bodies at once, 8 MiB in all.
READING_MAX = 8
# A push may trigger several deliveries, and a fetch takes a tenth of a second: one look a second is plenty.
POKE_SECONDS_MIN = 1.0
# Marks of genuine deliveries, two each at most: weeks of pushes.
SEEN_MAX = 2048

_STATUS = {Outcome.POKE: 202, Outcome.PING: 200, Outcome.SEEN: 200}
_MESSAGE = {
    Outcome.POKE: "the source is looked at now",
    Outcome.PING: "the secret is right; pushes will be looked at",
    Outcome.SEEN: "already seen: nothing was done",
}

log = structlog.get_logger("skulk.gateway")


def webhook_router(serving: Serving, settings: GatewaySettings, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["webhook"])
    hook = _Hook(settings, metrics, Pokes(serving.poke))

    @router.post(WEBHOOK_PATH)
    async def git_webhook(request: Request) -> Response:
        """A signed delivery of GitHub, Gitea, Forgejo or GitLab: look at the source now."""
        return await hook.take(request)

    return router


class Pokes:
    """Calls `poke` at most once per POKE_SECONDS_MIN. What is asked for too early happens later, together."""

    def __init__(self, poke: Callable[[], None]) -> None:
        self._poke = poke
        self._next_at = 0.0
        self._later: asyncio.TimerHandle | None = None

    def ask(self) -> None:
        """Poke now or soon. Needs a running event loop."""
        if self._later is not None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() >= self._next_at:
            self._now()
        else:
            self._later = loop.call_at(self._next_at, self._now)

    def _now(self) -> None:
        self._later = None
        self._next_at = asyncio.get_running_loop().time() + POKE_SECONDS_MIN
        self._poke()


class Seen(Collection[str]):
    """The newest `most` marks; the oldest are forgotten first."""

    def __init__(self, most: int = SEEN_MAX) -> None:
        self._most = most
        self._marks: dict[str, None] = {}

    def add(self, marks: Collection[str]) -> None:
        for mark in marks:
            self._marks.pop(mark, None)
            self._marks[mark] = None
        while len(self._marks) > self._most:
            del self._marks[next(iter(self._marks))]

    def __contains__(self, mark: object) -> bool:
        return mark in self._marks

    def __iter__(self) -> Iterator[str]:
        return iter(self._marks)

    def __len__(self) -> int:
        return len(self._marks)


class _Hook:
    """State of the route over its deliveries."""

    def __init__(self, settings: GatewaySettings, metrics: Metrics, pokes: Pokes) -> None:
        self._settings = settings
        self._metrics = metrics
        self._pokes = pokes
        self._seen = Seen()
        self._reading = 0

    async def take(self, request: Request) -> Response:
        request_id = note_of(request.scope).request_id
        secret = self._settings.webhook_secret
        if secret is None:
            raise self._unheard("off", RequestError(HOK_OFF, "this node has no webhook secret", status=404))
        if not is_signed(request.headers):
            raise self._refused(Verdict(Outcome.UNSIGNED), request_id)
        body = await self._body(request)
        now = self._settings.wall()
        verdict = judge_delivery(request.headers, body, secret, now=now, seen=self._seen)
        if verdict.outcome not in _STATUS:
            raise self._refused(verdict, request_id)
        self._seen.add(verdict.remember)
        if verdict.outcome is Outcome.POKE:
            self._pokes.ask()
        provider = verdict.provider or ""
        self._metrics.count_webhook(provider, verdict.outcome)
        log.info(
            "webhook_received",
            component="gateway",
            request_id=request_id,
            provider=str(provider),
            delivery=verdict.delivery,
            outcome=verdict.outcome.value,
        )
        answer = {"outcome": verdict.outcome.value, "message": _MESSAGE[verdict.outcome]}
        return json_reply(answer, status=_STATUS[verdict.outcome])

    async def _body(self, request: Request) -> bytes:
        try:
            with self._one_of_few():
                return await read_bytes(request, BODY_BYTES_MAX, BODY_SECONDS_MAX)
        except RequestError as error:
            reason = {413: "too_large", 408: "too_slow"}.get(error.status, "busy")
            raise self._unheard(reason, error) from None

    @contextmanager
    def _one_of_few(self) -> Iterator[None]:
        if self._reading >= READING_MAX:
            raise RequestError(
                HOK_BUSY,
                f"{READING_MAX} webhook deliveries are being read already",
                status=503,
                kind="server_error",
                slug="busy",
                retry_after_seconds=1,
            )
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1

    def _refused(self, verdict: Verdict, request_id: str) -> RequestError:
        """Count and log a delivery that is not ours to act on; return what its sender is told."""
        provider = verdict.provider or ""
        self._metrics.count_webhook(provider, verdict.outcome)
        log.warning(
            "webhook_refused",
            component="gateway",
            request_id=request_id,
            provider=str(provider),
            delivery=verdict.delivery,
            outcome=verdict.outcome.value,
        )
        if verdict.outcome is Outcome.STALE:
            return RequestError(
                HOK_STALE, "the delivery was signed at another time than now", status=401, slug="stale_delivery"
            )
        message = {
            Outcome.UNSIGNED: "the delivery has no signature",
            Outcome.FORGED: "the signature does not fit this node's webhook secret",
        }[verdict.outcome]
        return RequestError(HOK_SIGNATURE, message, status=401, slug="invalid_signature")

    def _unheard(self, outcome: str, error: RequestError) -> RequestError:
        """Count a delivery whose signature was not even looked at."""
        self._metrics.count_webhook("", outcome)
        return error
