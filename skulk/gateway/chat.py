"""`POST /v1/chat/completions` and `POST /v1/cancel/{command_id}`.

Fields are judged by `skulk.core.dialects.openai`; the answer is `skulk.gateway.chat_reply`.
"""

from __future__ import annotations

import math

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from skulk.core.dialects.openai import HONOURED, TRIVIAL, check_against_model, parse_chat
from skulk.core.domain import RequestId
from skulk.core.errors import REQ_INVALID, REQ_NOT_FOUND, RequestError
from skulk.core.ports import Serving
from skulk.gateway.bodies import read_object
from skulk.gateway.calls import Calls
from skulk.gateway.chat_reply import ChatReply
from skulk.gateway.edge import note_of
from skulk.gateway.metrics import UNKNOWN_MODEL
from skulk.gateway.models import ready_model
from skulk.gateway.replies import json_reply
from skulk.gateway.settings import GatewaySettings

DEADLINE_HEADER = "X-Skulk-Deadline-Seconds"
DEADLINE_SECONDS_MAX = 86_400.0
"""A day: whoever waits longer for a first token has forgotten the request."""


def chat_router(serving: Serving, settings: GatewaySettings) -> APIRouter:
    router = APIRouter(tags=["inference"])
    calls = Calls()

    @router.post("/v1/chat/completions", openapi_extra={"requestBody": _request_body()})
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation, as a stream of events or in one piece."""
        note = note_of(request.scope)
        # A random id, set before anything can fail: refused requests are counted too.
        note.command_id = settings.new_id()
        note.model = UNKNOWN_MODEL
        deadline = _deadline(request, settings)
        body = await read_object(request, settings)
        chat = parse_chat(
            body,
            request_id=RequestId(note.command_id),
            seed=settings.new_seed(),
            now=settings.wall(),
            deadline_seconds=deadline,
            tenant=note.tenant,
        )
        served = ready_model(serving.view(), chat.generation.model, note, settings)
        check_against_model(chat, served)
        return ChatReply(serving, settings, calls, chat, served)

    @router.post("/v1/cancel/{command_id}")
    async def cancel(command_id: str) -> Response:
        """End a running request of this node by the id that its stream announced."""
        if not calls.cancel(command_id):
            raise RequestError(REQ_NOT_FOUND, "Command not found or already completed", status=404, param="command_id")
        return json_reply({"message": "Command cancelled.", "command_id": command_id})

    return router


def _deadline(request: Request, settings: GatewaySettings) -> float:
    text = request.headers.get(DEADLINE_HEADER)
    if text is None:
        return settings.first_token_seconds
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= DEADLINE_SECONDS_MAX:
        raise RequestError(
            REQ_INVALID,
            f"{DEADLINE_HEADER} must be a number of seconds above 0 and at most {DEADLINE_SECONDS_MAX:g}",
            status=400,
            param=DEADLINE_HEADER,
        )
    return seconds


def _request_body() -> dict[str, object]:
    properties: dict[str, object] = {name: {"description": text} for name, text in HONOURED.items()}
    for name, values in TRIVIAL.items():
        properties[name] = {"enum": [*values, None], "description": "accepted with these values only"}
    schema = {
        "type": "object",
        "required": ["model", "messages"],
        "properties": properties,
        "additionalProperties": False,
    }
    return {"required": True, "content": {"application/json": {"schema": schema}}}
