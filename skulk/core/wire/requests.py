"""JSON shapes of a request and of what comes back, shared by every protocol that carries them.

Framing and message types live with each protocol (`skulk.core.wire.runner`).
"""

from __future__ import annotations

import binascii

from skulk.core.domain.ids import RequestId
from skulk.core.domain.requests import (
    Accepted,
    Finish,
    GenerationRequest,
    Message,
    Sampling,
    TokenLogprob,
    Tokens,
)
from skulk.core.wire.fields import Fields


def request_to_json(r: GenerationRequest) -> dict[str, object]:
    return {
        "id": r.id,
        "model": r.model,
        "messages": [{"role": m.role, "content": m.content, "extra": dict(m.extra)} for m in r.messages],
        "sampling": {
            # 64-bit seeds exceed what JSON readers in other languages keep: sent as text.
            "seed": str(r.sampling.seed),
            "temperature": r.sampling.temperature,
            "topP": r.sampling.top_p,
            "topK": r.sampling.top_k,
            "minP": r.sampling.min_p,
            "repetitionPenalty": r.sampling.repetition_penalty,
            "repetitionContext": r.sampling.repetition_context,
            "frequencyPenalty": r.sampling.frequency_penalty,
            "presencePenalty": r.sampling.presence_penalty,
            "logitBias": [list(pair) for pair in r.sampling.logit_bias],
        },
        "maxTokens": r.max_tokens,
        "stop": list(r.stop),
        "template": dict(r.template),
        "now": r.now,
        "deadlineSeconds": r.deadline_seconds,
        "logprobs": r.logprobs,
        "grammar": r.grammar,
        "tenant": r.tenant,
    }


def request_from_json(f: Fields) -> GenerationRequest:
    messages = tuple(
        Message(m.text("role"), m.text("content"), m.mapping("extra"))
        for m in (Fields(item) for item in f.items("messages"))
    )
    s = f.inner("sampling")
    return GenerationRequest(
        id=RequestId(f.text("id")),
        model=f.text("model"),
        messages=messages,
        sampling=Sampling(
            seed=int(s.text("seed")),
            temperature=s.number("temperature", 1.0),
            top_p=s.number("topP", 1.0),
            top_k=s.whole("topK", 0),
            min_p=s.number("minP", 0.0),
            repetition_penalty=s.number("repetitionPenalty", 1.0),
            repetition_context=s.whole("repetitionContext", 20),
            frequency_penalty=s.number("frequencyPenalty", 0.0),
            presence_penalty=s.number("presencePenalty", 0.0),
            logit_bias=tuple(_bias(item) for item in s.items("logitBias")),
        ),
        max_tokens=f.whole_or_none("maxTokens"),
        stop=tuple(str(item) for item in f.items("stop")),
        template=f.mapping("template"),
        now=f.number("now", 0.0),
        deadline_seconds=f.number("deadlineSeconds", 600.0),
        logprobs=f.whole_or_none("logprobs"),
        grammar=f.text("grammar", ""),
        tenant=f.text("tenant", ""),
    )


def _bias(item: object) -> tuple[int, float]:
    match item:
        case [int(token), int() | float() as bias]:
            return token, float(bias)
        case _:
            raise TypeError("a bias is [token id, number]")


def accepted_to_json(a: Accepted) -> dict[str, object]:
    return {
        "promptIds": list(a.prompt_ids),
        "promptTokens": a.prompt_tokens,
        "cachedTokens": a.cached_tokens,
        "inReasoning": a.in_reasoning,
        "contextLeft": a.context_left,
        "queueSeconds": a.queue_seconds,
    }


def accepted_from_json(f: Fields) -> Accepted:
    return Accepted(
        prompt_ids=f.ids("promptIds"),
        prompt_tokens=f.whole("promptTokens"),
        cached_tokens=f.whole("cachedTokens", 0),
        in_reasoning=f.flag("inReasoning"),
        context_left=f.whole("contextLeft"),
        queue_seconds=f.number("queueSeconds", 0.0),
    )


def tokens_to_json(t: Tokens) -> dict[str, object]:
    obj: dict[str, object] = {"n": t.number, "ids": list(t.ids), "data": _text(t.data), **rest_to_json(t)}
    if t.seconds:
        obj["seconds"] = round(t.seconds, 6)
    return obj


def tokens_from_json(f: Fields) -> Tokens:
    rest = rest_from_json(f)
    return Tokens(f.whole("n"), f.ids("ids"), _bytes(f.text("data", "")), *rest, f.number("seconds", 0.0))


def rest_to_json(t: Tokens) -> dict[str, object]:
    """What most frames have nothing of: how it ended, and log-probabilities."""
    obj: dict[str, object] = {}
    if t.finish is not None:
        obj["finish"] = t.finish.value
    if t.error is not None:
        obj["error"] = t.error
    if t.logprobs:
        obj["logprobs"] = [[_text(p.data), p.logprob, [[_text(d), lp] for d, lp in p.top]] for p in t.logprobs]
    return obj


def rest_from_json(f: Fields) -> tuple[Finish | None, str | None, tuple[TokenLogprob, ...]]:
    finish = f.text_or_none("finish")
    logprobs = tuple(map(_logprob, f.items("logprobs")))
    return None if finish is None else Finish(finish), f.text_or_none("error"), logprobs


def _text(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def _logprob(item: object) -> TokenLogprob:
    match item:
        case [str(data), int() | float() as logprob, list(top)]:
            return TokenLogprob(_bytes(data), float(logprob), tuple(_alternative(entry) for entry in top))
        case _:
            raise TypeError("a log-probability is [token, number, alternatives]")


def _alternative(item: object) -> tuple[bytes, float]:
    match item:
        case [str(data), int() | float() as logprob]:
            return _bytes(data), float(logprob)
        case _:
            raise TypeError("an alternative is [token, number]")


def _bytes(text: str) -> bytes:
    return binascii.a2b_base64(text, strict_mode=True)
