"""Rules between the fields of one document.

They run on the raw mapping, not on the validated model, because a model exists only when every single field is
right, and a person wants all errors at once. So every rule tolerates missing and wrongly typed values: those are
reported by the structure check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from skulk.core.manifests import codes
from skulk.core.manifests.codes import ManifestCode
from skulk.core.manifests.diagnostics import quoted
from skulk.core.manifests.faults import Fault
from skulk.core.manifests.not_yet import ENGINE_OPTIONS
from skulk.core.manifests.strict_yaml import Path

Rule = Callable[[Mapping[str, object]], Iterator[Fault]]


def inside(raw: object, *steps: str | int) -> object:
    """The value at a path of mappings and lists, or None when anything on the way is missing or of another type."""
    for step in steps:
        if isinstance(step, str) and isinstance(raw, dict):
            raw = raw.get(step)
        elif isinstance(step, int) and isinstance(raw, list) and step < len(raw):
            raw = raw[step]
        else:
            return None
    return raw


def entries(raw: object, *steps: str | int) -> list[object]:
    """The list at a path; empty when there is none."""
    found = inside(raw, *steps)
    return found if isinstance(found, list) else []


def backends_match(left: str, right: str) -> bool:
    """Two backend tags mean overlapping things: equal, or one is the bare engine name of the other."""
    return left == right or left.split("-")[0] == right or right.split("-")[0] == left


def one_source(raw: Mapping[str, object]) -> Iterator[Fault]:
    source = inside(raw, "spec", "source")
    if not isinstance(source, dict):
        return
    named = [name for name in ("hub", "local") if name in source]
    if len(named) == 2:
        yield Fault(("spec", "source"), codes.ONE_SOURCE, "source names both hub and local")
    elif not source:
        yield Fault(("spec", "source"), codes.ONE_SOURCE, "source names neither hub nor local")


def local_files(raw: Mapping[str, object]) -> Iterator[Fault]:
    """A Hub card may be incomplete (an import has no digests); a local one is used as it stands."""
    source = inside(raw, "spec", "source")
    if isinstance(source, dict) and "local" in source and inside(raw, "spec", "files") == []:
        yield Fault(("spec", "files"), codes.NO_FILES, "files is empty, but the source is local")


def distinct_files(raw: Mapping[str, object]) -> Iterator[Fault]:
    # Compared without case: macOS holds `Model.bin` and `model.bin` for one file.
    yield from _repeated(
        raw, ("spec", "files"), "path", codes.DUPLICATE_FILE, lambda text: text.casefold(), "file {} is listed twice"
    )


def distinct_keys(raw: Mapping[str, object]) -> Iterator[Fault]:
    place: Path = ("spec", "access", "keys")
    same = codes.DUPLICATE_ACCESS_KEY
    yield from _repeated(raw, place, "name", same, str, "two access keys are named {}")
    yield from _repeated(raw, place, "sha256", same, str, "two access keys have the same digest")


def _repeated(
    raw: Mapping[str, object], place: Path, key: str, code: ManifestCode, fold: Callable[[str], str], message: str
) -> Iterator[Fault]:
    seen: set[str] = set()
    for index, entry in enumerate(entries(raw, *place)):
        value = inside(entry, key)
        if not isinstance(value, str):
            continue
        if fold(value) in seen:
            yield Fault((*place, index, key), code, message.replace("{}", quoted(value)))
        seen.add(fold(value))


def gguf_listed(raw: Mapping[str, object]) -> Iterator[Fault]:
    gguf = inside(raw, "spec", "ggufFile")
    paths = [inside(entry, "path") for entry in entries(raw, "spec", "files")]
    # An empty list is a card that is still to be completed.
    if isinstance(gguf, str) and paths and gguf not in paths:
        yield Fault(("spec", "ggufFile"), codes.GGUF_NOT_LISTED, f"{quoted(gguf)} is not among files")


def window_layers(raw: Mapping[str, object]) -> Iterator[Fault]:
    layers = inside(raw, "spec", "nLayers")
    windowed = inside(raw, "spec", "kv", "slidingWindow", "layers")
    if type(layers) is int and type(windowed) is int and windowed > layers:
        place: Path = ("spec", "kv", "slidingWindow", "layers")
        yield Fault(place, codes.WINDOW_LAYERS, f"{windowed} windowed layers, but nLayers is {layers}")


def preference_compatible(raw: Mapping[str, object]) -> Iterator[Fault]:
    compatible = [b for b in entries(raw, "spec", "placement", "compatibleBackends") if isinstance(b, str)]
    compatible = compatible or ["mlx"]
    for index, backend in enumerate(entries(raw, "spec", "placement", "backendPreference")):
        if isinstance(backend, str) and not any(backends_match(backend, other) for other in compatible):
            yield Fault(
                ("spec", "placement", "backendPreference", index),
                codes.PREFERENCE_INCOMPATIBLE,
                f"{quoted(backend)} is not compatible: {', '.join(map(quoted, compatible))}",
            )


def engine_options(raw: Mapping[str, object]) -> Iterator[Fault]:
    engine = inside(raw, "spec", "engine")
    options = inside(engine, "options")
    if not isinstance(engine, dict) or not isinstance(options, dict):
        return
    if "name" not in engine:
        place: Path = ("spec", "engine", "options")
        yield Fault(place, codes.OPTIONS_WITHOUT_ENGINE, "options without an engine name", at_key=True)
        return
    name = engine["name"]
    known = ENGINE_OPTIONS.get(name) if isinstance(name, str) and name in ENGINE_OPTIONS else None
    if known is None:
        return
    for option, value in options.items():
        if option in known and value not in known[option].values:
            yield Fault(
                ("spec", "engine", "options", option),
                codes.OPTION_VALUE,
                f"{option} is {quoted(value)}",
                f"one of: {', '.join(known[option].values)}",
            )
        if option not in known:
            hint = f"known: {', '.join(sorted(known))}" if known else f"{name} has no options in this version"
            yield Fault(
                ("spec", "engine", "options", option),
                codes.UNKNOWN_OPTION,
                f"{name} has no option {quoted(option)}",
                hint,
                at_key=True,
            )


RULES: Mapping[str, tuple[Rule, ...]] = {
    "Fleet": (distinct_keys,),
    "Node": (),
    "Deployment": (engine_options,),
    "ModelCard": (one_source, local_files, distinct_files, gguf_listed, window_layers, preference_compatible),
}
