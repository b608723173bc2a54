"""The file `launch.json` beside a runner's socket: what it was started with, written once by the daemon.

The runner reads it to know what to load; a later daemon reads it to know what it adopts. camelCase JSON, units
as in `Launch` (bytes, seconds, tokens); unknown keys are ignored, so that versions N and N-1 adopt each other's
runners. No I/O here: the callers read and write the file.
"""

from __future__ import annotations

from dataclasses import fields

from skulk.core.domain.desired import OptionValue
from skulk.core.domain.ids import CardName, ContentHash, DeploymentName, LaunchHash, PlacementUid
from skulk.core.domain.runners import Launch
from skulk.core.wire.fields import Fields


def launch_to_json(launch: Launch) -> dict[str, object]:
    """A JSON object with one camelCase key per field of `Launch`."""
    obj: dict[str, object] = {_camel(f.name): getattr(launch, f.name) for f in fields(Launch)}
    obj["options"] = dict(launch.options)
    return obj


def launch_from_json(obj: object) -> Launch:
    """The inverse. Raises ValueError that names the key when one is missing or has another type."""
    try:
        f = Fields(obj)
        return Launch(
            uid=PlacementUid(f.text("uid")),
            deployment=DeploymentName(f.text("deployment")),
            replica=f.whole("replica"),
            model=CardName(f.text("model")),
            engine=f.text("engine"),
            backend=f.text("backend"),
            engine_digest=f.text("engineDigest"),
            model_dir=f.text("modelDir"),
            context_tokens=f.whole("contextTokens"),
            concurrency=f.whole("concurrency"),
            launch_hash=LaunchHash(f.text("launchHash")),
            content_hash=ContentHash(f.text("contentHash")),
            memory_bytes=f.whole("memoryBytes"),
            options={name: _option(name, value) for name, value in f.mapping("options").items()},
            reasoning_format=f.text("reasoningFormat", _ABSENT.reasoning_format),
            gguf_file=f.text_or_none("ggufFile"),
            orphan_seconds=f.number("orphanSeconds", _ABSENT.orphan_seconds),
            queue_max=f.whole("queueMax", _ABSENT.queue_max),
            load_deadline_seconds=f.number("loadDeadlineSeconds", _ABSENT.load_deadline_seconds),
            warmup_deadline_seconds=f.number("warmupDeadlineSeconds", _ABSENT.warmup_deadline_seconds),
        )
    except KeyError as error:
        raise ValueError(f"launch: {error} is missing") from error
    except TypeError as error:
        raise ValueError(f"launch: {error}") from error


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def _option(name: str, value: object) -> OptionValue:
    if not isinstance(value, str | int | float | bool):
        raise TypeError(f"options.{name} is not a string, number or boolean")
    return value


_ABSENT = Launch(
    uid=PlacementUid(""),
    deployment=DeploymentName(""),
    replica=0,
    model=CardName(""),
    engine="",
    backend="",
    engine_digest="",
    model_dir="",
    context_tokens=0,
    concurrency=0,
    launch_hash=LaunchHash(""),
    content_hash=ContentHash(""),
    memory_bytes=0,
)
"""Its defaults stand in for keys that the version which wrote the file did not know."""
