"""`/v1/models`, `/v1/models/{id}`, `/models`: what clients may put in `model`, and the look-up of such a name."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Query
from starlette.responses import Response

from skulk.core.dialects.fields import shown
from skulk.core.dialects.openai import CALL_FORMAT
from skulk.core.domain import Card, FleetView, HubSource, ServedModel
from skulk.core.errors import REQ_INVALID, REQ_MODEL, REQ_NOT_READY, REQ_RESTARTING, RequestError
from skulk.core.ports import Serving
from skulk.gateway.metrics import Note
from skulk.gateway.replies import json_reply
from skulk.gateway.settings import GatewaySettings

MIB = 1024 * 1024
LISTED_MAX = 50
"""Names that an error repeats: a fleet may serve hundreds of models, a message is for people."""


def models_router(serving: Serving, settings: GatewaySettings) -> APIRouter:
    router = APIRouter(tags=["inference"])
    created = int(settings.wall())

    async def list_models(status: str | None = Query(None)) -> Response:
        """All models of the fleet. `?status=downloaded`: only those that a replica is ready for."""
        if status not in (None, "downloaded"):
            raise RequestError(REQ_INVALID, "status can only be downloaded", status=400, param="status")
        models = [m for m in serving.view().models if status is None or is_ready(m)]
        return json_reply({"object": "list", "data": [model_json(model, created) for model in models]})

    async def one_model(model_id: str) -> Response:
        """One model by any of its names."""
        return json_reply(model_json(find_model(serving.view(), model_id), created))

    for prefix in ("/v1/models", "/models"):
        router.add_api_route(prefix, list_models, methods=["GET"])
        router.add_api_route(prefix + "/{model_id:path}", one_model, methods=["GET"])
    return router


def is_ready(model: ServedModel) -> bool:
    return any(route.ready for route in model.routes)


def find_model(view: FleetView, name: str) -> ServedModel:
    """The model behind a card name, model id, deployment name or alias. Raises RequestError 404."""
    for model in view.models:
        if name in model.names:
            return model
    names = sorted({model.names[0] for model in view.models})
    more = f" and {len(names) - LISTED_MAX} more" if len(names) > LISTED_MAX else ""
    there = ", ".join(names[:LISTED_MAX]) + more if names else "none yet"
    raise RequestError(
        REQ_MODEL,
        f"the model {shown(name)} is not served by this fleet; available: {there}",
        status=404,
        param="model",
    )


def ready_model(view: FleetView, name: str, note: Note, settings: GatewaySettings) -> ServedModel:
    """The model that a generation asks for, if a replica can take it now.

    Raises RequestError 404 (unknown), or 503 with Retry-After and the reason (not ready, or the daemon ends).
    """
    model = find_model(view, name)
    note.model = model.names[0]
    retry = settings.not_ready_retry_seconds
    if view.closing:
        raise RequestError(
            REQ_RESTARTING,
            "the node is about to end",
            status=503,
            kind="server_error",
            retry_after_seconds=retry,
        )
    if not is_ready(model):
        reasons = [text for text in (model.not_ready, model.progress) if text]
        raise RequestError(
            REQ_NOT_READY,
            f"{shown(name)} is not ready: {'; '.join(reasons) or 'no replica is placed'}",
            status=503,
            kind="server_error",
            param="model",
            retry_after_seconds=retry,
        )
    return model


def model_json(model: ServedModel, created: int) -> dict[str, object]:
    """One entry of the list; snake_case. `created` is seconds of the epoch (cards carry no date)."""
    card = model.card
    return {
        "id": model.names[0],
        "object": "model",
        "created": created,
        "owned_by": "skulk",
        "hugging_face_id": card.source.repo if isinstance(card.source, HubSource) else "",
        "name": card.name,
        "aliases": list(model.names[1:]),
        "description": "",
        "context_length": model.max_context_tokens or card.context_length,
        "tags": _tags(card),
        "storage_size_megabytes": card.storage_bytes // MIB,
        "supports_tensor": card.supports_tensor,
        "tasks": list(card.tasks),
        "is_custom": False,
        "family": card.family,
        "quantization": card.quantization,
        "base_model": card.base_model,
        "capabilities": list(card.capabilities),
        "reasoning": _reasoning(card),
        "modalities": _described(card, "modalities", ("supportsAudioInput", "supportsNativeMultimodal")),
        "tooling": _described(card, "tooling", ("supportsToolCalling", "toolCallFormat", "builtinTools")),
        "runtime": _described(card, "runtime", ("promptRenderer", "outputParser")),
        "resolved_capabilities": _resolved(card),
        "deployments": list(model.deployments),
        "ready": is_ready(model),
        "not_ready_reason": None if is_ready(model) else model.not_ready or "no replica is placed",
        "progress": model.progress or None,
    }


def _tags(card: Card) -> list[str]:
    tags: list[str] = [tag for tag in ("thinking", "vision", "embedding") if tag in card.capabilities]
    return [*tags, "tensor"] if card.supports_tensor else tags


def _reasoning(card: Card) -> dict[str, object] | None:
    reasoning = card.reasoning
    if reasoning.format == "none":
        return None
    return {
        "supports_toggle": reasoning.supports_toggle,
        "supports_budget": False,
        "format": reasoning.format,
        "default_effort": reasoning.default_effort,
        "disabled_effort": reasoning.disabled_effort,
    }


def _described(card: Card, key: str, names: tuple[str, ...]) -> dict[str, object] | None:
    """What the card says beyond its planned fields, as clients of the list know it."""
    value = card.described.get(key)
    if not isinstance(value, Mapping):
        return None
    return {_snake(name): value.get(name) for name in names}


def _snake(name: str) -> str:
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name)


def _resolved(card: Card) -> dict[str, object]:
    """What a request can really use. Images and audio stay false until this version honours them."""
    reasoning = card.reasoning
    calls = card.tooling.supports_calls and card.tooling.format == CALL_FORMAT
    thinks = reasoning.format != "none"
    runtime = _described(card, "runtime", ("promptRenderer", "outputParser")) or {}
    return {
        "family": card.family,
        "supports_thinking": thinks,
        "supports_thinking_toggle": thinks and reasoning.supports_toggle,
        "supports_thinking_budget": False,
        "default_reasoning_effort": reasoning.default_effort,
        "disabled_reasoning_effort": reasoning.disabled_effort,
        "thinking_format": reasoning.format,
        "supports_image_input": False,
        "supports_audio_input": False,
        "supports_tool_calling": calls,
        "builtin_tools": [],
        "tool_call_format": CALL_FORMAT if calls else None,
        "prompt_renderer": runtime.get("prompt_renderer") or "tokenizer",
        "output_parser": runtime.get("output_parser") or "generic",
        "supports_native_multimodal": False,
    }
