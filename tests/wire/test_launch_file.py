"""launch.json: what a runner is started with, readable by another version."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from skulk.core.domain import (
    CardName,
    ContentHash,
    DeploymentName,
    Launch,
    LaunchHash,
    PlacementUid,
)
from skulk.core.wire.launch import launch_from_json, launch_to_json

LAUNCH = Launch(
    uid=PlacementUid("0123456789abcdef"),
    deployment=DeploymentName("fox"),
    replica=2,
    model=CardName("fox-tiny"),
    engine="mlx",
    backend="mlx-cpu",
    engine_digest="digest",
    model_dir="models/größe",
    context_tokens=4096,
    concurrency=3,
    launch_hash=LaunchHash("l"),
    content_hash=ContentHash("c"),
    memory_bytes=2**40,
    options={"text": "a", "whole": 3, "real": 0.5, "flag": True},
    reasoning_format="token_delimited",
    gguf_file="a.gguf",
    orphan_seconds=10.0,
    queue_max=5,
    load_deadline_seconds=61.5,
    warmup_deadline_seconds=301.0,
)


def through_text(launch):
    return launch_from_json(json.loads(json.dumps(launch_to_json(launch))))


@pytest.mark.parametrize("launch", [LAUNCH, replace(LAUNCH, gguf_file=None, options={})])
def test_what_is_written_is_what_is_read(launch):
    assert through_text(launch) == launch


def test_every_field_is_written_in_camel_case():
    written = launch_to_json(LAUNCH)
    assert len(written) == len(fields(Launch))
    assert {"engineDigest", "ggufFile", "warmupDeadlineSeconds", "uid"} <= set(written)


def test_unknown_keys_of_a_newer_version_are_ignored():
    assert launch_from_json({**launch_to_json(LAUNCH), "draftModel": "x"}) == LAUNCH


def test_keys_that_an_older_version_did_not_write_have_their_defaults():
    written = launch_to_json(LAUNCH)
    for key in ("reasoningFormat", "ggufFile", "orphanSeconds", "queueMax", "options", "loadDeadlineSeconds"):
        del written[key]
    launch = launch_from_json(written)
    assert (launch.reasoning_format, launch.gguf_file, launch.options) == ("none", None, {})
    assert (launch.orphan_seconds, launch.queue_max, launch.load_deadline_seconds) == (600.0, 64, 60.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [("uid", 5), ("contextTokens", "4096"), ("contextTokens", True), ("options", []), ("options", {"a": None})],
)
def test_a_wrong_type_is_named(key, value):
    with pytest.raises(ValueError, match=key):
        launch_from_json({**launch_to_json(LAUNCH), key: value})


def test_a_missing_key_is_named():
    written = launch_to_json(LAUNCH)
    del written["modelDir"]
    with pytest.raises(ValueError, match="modelDir"):
        launch_from_json(written)
    with pytest.raises(ValueError, match="object"):
        launch_from_json([])
