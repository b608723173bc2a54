"""Fields that have a shape but no effect in this version, and the engine options that have one.

A field that is accepted and ignored is a lie, so each of these is refused when set to anything but what this
version does anyway. `NOT_YET` is the one table: the loader, the schemas, the reference and a test read it. When
a behaviour arrives, its row goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from skulk.core.manifests import codes
from skulk.core.manifests.faults import Fault
from skulk.core.manifests.strict_yaml import Path


@dataclass(frozen=True, slots=True)
class NotYet:
    """One field path (`kind.spec.field`, `[]` for list entries), what is missing, and the values that are fine."""

    sentence: str
    allowed: tuple[object, ...] = ()
    """Values that say what this version does. Empty: the field must be left out."""


_MULTI_NODE = "this version does not put one replica on several nodes"
_STORE = "this version does not have a store"
_VISION = "this version does not read images"
_MTP = "this version does not speculate with multi-token-prediction heads"
_SERVED = "this version does not run llama_server's speculation"

NOT_YET: Mapping[str, NotYet] = {
    "fleet.spec.store.nodes": NotYet(_STORE, ([],)),
    "fleet.spec.store.path": NotYet(_STORE),
    "fleet.spec.store.upstream": NotYet(_STORE, (True,)),
    "fleet.spec.store.keepRecent": NotYet(_STORE),
    "fleet.spec.network.interfacePreference": NotYet("this version does not choose between interfaces", ([],)),
    "fleet.spec.requests": NotYet("this version does not take imperative requests", ("deny",)),
    "fleet.spec.tracing.enabled": NotYet("this version does not trace requests", (False,)),
    "deployment.spec.placement.minNodes": NotYet(_MULTI_NODE, (1,)),
    "deployment.spec.placement.maxNodes": NotYet(_MULTI_NODE, (1,)),
    "deployment.spec.placement.sharding": NotYet(_MULTI_NODE, ("pipeline",)),
    "deployment.spec.onDemand.enabled": NotYet("this version does not load models on demand", (False,)),
    "deployment.spec.onDemand.idleSeconds": NotYet("this version does not load models on demand"),
    "deployment.spec.onDisconnect": NotYet("this version does not stop replicas on disconnection", ("keep",)),
    "modelcard.spec.tasks[]": NotYet("this version does not run this task", ("TextGeneration",)),
    "modelcard.spec.components": NotYet("this version does not run models of several networks"),
    "modelcard.spec.usesCfg": NotYet("this version does not run classifier-free guidance", (False,)),
    "modelcard.spec.trustRemoteCode": NotYet("this version does not run code from model repositories", (False,)),
    "modelcard.spec.vision": NotYet(_VISION),
    "modelcard.spec.reasoning.format": NotYet(
        "this version does not read this reasoning format", ("none", "token_delimited")
    ),
    "modelcard.spec.runtime.promptRenderer": NotYet("this version does not have this prompt renderer", ("tokenizer",)),
    "modelcard.spec.runtime.outputParser": NotYet("this version does not have this output parser", ("generic",)),
    "modelcard.spec.runtime.metalFastSynch": NotYet("this version does not set this Metal mode", (False,)),
    "modelcard.spec.runtime.mtpHeads": NotYet(_MTP),
    "modelcard.spec.runtime.mtpMaxDepth": NotYet(_MTP),
    "modelcard.spec.runtime.mtpSidecarRepo": NotYet(_MTP),
    "modelcard.spec.runtime.mtpNormConvention": NotYet(_MTP),
    "modelcard.spec.runtime.mtpConcatOrder": NotYet(_MTP),
    "modelcard.spec.runtime.speculativeMultiNode": NotYet(_MULTI_NODE, (False,)),
    "modelcard.spec.runtime.assistantModelRepo": NotYet("this version does not use draft models"),
    "modelcard.spec.runtime.servedSpecType": NotYet(_SERVED, ("none",)),
    "modelcard.spec.runtime.servedSpecNMax": NotYet(_SERVED),
    "modelcard.spec.runtime.servedSpecDraftRepo": NotYet(_SERVED),
    "modelcard.spec.runtime.servedSpecDraftFile": NotYet(_SERVED),
}


@dataclass(frozen=True, slots=True)
class EngineOption:
    """An option of an engine: the values it takes (the first is the default), and what it does."""

    values: tuple[str, ...]
    sentence: str


ENGINE_OPTIONS: Mapping[str, Mapping[str, EngineOption] | None] = {
    # mlx-lm's quantised caches hold one sequence each: batched answers would not equal single ones.
    "mlx": {},
    "llama_cpp": {
        "kvCache": EngineOption(
            ("f16", "q8_0"),
            "How keys and values are stored: `q8_0` takes 53 % of the memory and costs a little accuracy.",
        ),
    },
    "llama_server": {},
    "scripted": None,
}
"""Engine → its options; None: any scalar (the scripted engine is for tests, its script is the options)."""


def check_effects(kind: str, raw: object) -> Iterator[Fault]:
    """A fault for each value below `raw` (a whole document) that asks for what this version does not do."""
    for path, row in NOT_YET.items():
        table_kind, *steps = path.split(".")
        if table_kind != kind.lower():
            continue
        for place, value in _values(raw, tuple(steps), ()):
            if value not in row.allowed:
                allowed = ", ".join(_shown(v) for v in row.allowed)
                hint = f"leave it out, or write {allowed}" if allowed else "leave it out"
                yield Fault(place, codes.NO_EFFECT, f"{_dotted(place)}: {row.sentence}", hint, at_key=True)


def _values(raw: object, steps: tuple[str, ...], at: Path) -> Iterator[tuple[Path, object]]:
    if not steps:
        yield at, raw
        return
    step = steps[0].removesuffix("[]")
    if not isinstance(raw, dict) or step not in raw:
        return
    if not steps[0].endswith("[]"):
        yield from _values(raw[step], steps[1:], (*at, step))
    elif isinstance(raw[step], list):
        for index, item in enumerate(raw[step]):
            yield from _values(item, steps[1:], (*at, step, index))


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _dotted(path: Path) -> str:
    return ".".join(str(step) for step in path)
