"""Reads a local MLX model directory into the fields of a card: shape from config.json, files with their digests.

Nothing of the model is executed or imported; config.json is data from outside and is checked as such.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skulk.core.errors import CLI_USAGE, InvalidInput

# What an engine reads; documentation, pictures and code of a model repository are left out.
SUFFIXES = frozenset({".json", ".safetensors", ".jinja", ".model", ".txt", ".tiktoken"})
# config.json of the largest models is a few tens of KB.
CONFIG_BYTES_MAX = 4 * 1024 * 1024
# A chat template is a few KB; only two words are searched in it.
TEMPLATE_BYTES_MAX = 1024 * 1024
_HASH_BLOCK_BYTES = 1024 * 1024
# Below `cards/`, a folder of this name holds model files and is not read as manifests: no card may lie in one.
_FILES = "files"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A card's name and spec (camelCase, as in YAML), and the model root that its `source.local` is looked up in."""

    name: str
    spec: Mapping[str, Any]
    root: Path


def name_from(text: str) -> str:
    """Text as a resource name: lower case, letters, digits, dot and dash, at most 63, `model` if nothing is left."""
    kept = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:63].strip("-.")
    return kept or "model"


def model_facts(directory: Path) -> ModelFacts:
    """Read, measure and hash a model directory. Raises InvalidInput (CLI_USAGE) naming the file and the field."""
    config = _config(directory)
    root, local = _root_and_local(directory.resolve())
    name = name_from(local.parts[0])
    if name == _FILES:
        name = name_from("")
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    assert isinstance(text, dict)
    files = _files(directory)
    if not any(file["path"].endswith(".safetensors") for file in files):
        raise _wrong(directory, "no .safetensors file", "give the directory of an MLX model")
    layers = _integer(directory, text, "num_hidden_layers")
    hidden = _integer(directory, text, "hidden_size")
    heads = _integer(directory, text, "num_attention_heads")
    kv_heads = _integer(directory, text, "num_key_value_heads", heads)
    spec: dict[str, Any] = {
        "modelId": f"local/{name}",
        "source": {"local": local.as_posix()},
        "files": files,
        "nLayers": layers,
        "hiddenSize": hidden,
        "numKeyValueHeads": kv_heads,
        "contextLength": _integer(directory, text, "max_position_embeddings", 0),
        "kv": _kv(directory, text, layers, hidden // heads),
        "placement": {"compatibleBackends": ["mlx"]},
    }
    spec |= _described(config) | _reasoning(directory)
    return ModelFacts(name, spec, root)


def _root_and_local(directory: Path) -> tuple[Path, Path]:
    """The model root, and the directory below it. A directory `files` stands beside its card and says nothing of the
    model; what holds it does."""
    root = directory.parent.parent if directory.name == _FILES else directory.parent
    return root, directory.relative_to(root)


def _config(directory: Path) -> Mapping[str, Any]:
    file = directory / "config.json"
    try:
        with file.open("rb") as stream:
            data = stream.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise _wrong(file, error.strerror or "unreadable", "give the directory of an MLX model") from error
    try:
        config = json.loads(data) if len(data) <= CONFIG_BYTES_MAX else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise _wrong(file, "this is no JSON object", "give the directory of an MLX model")
    return config


def _integer(directory: Path, config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key, default)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int) or value < (0 if default == 0 else 1):
        raise _wrong(directory / "config.json", f"{key} is not a positive number", "write the card by hand")
    return value


def _kv(directory: Path, config: Mapping[str, Any], layers: int, derived_head_dim: int) -> dict[str, Any]:
    """KV-cache shape: head width, sliding windows (`layer_types`, or all layers), latent attention."""
    kv: dict[str, Any] = {"headDim": _integer(directory, config, "head_dim", derived_head_dim)}
    window = config.get("sliding_window")
    if (
        isinstance(window, int)
        and not isinstance(window, bool)
        and window > 0
        and config.get("use_sliding_window", True)
    ):
        types = config.get("layer_types")
        windowed = types.count("sliding_attention") if isinstance(types, list) else layers
        if windowed:
            kv["slidingWindow"] = {"tokens": window, "layers": min(windowed, layers)}
    if isinstance(config.get("kv_lora_rank"), int):
        kv["mla"] = {
            "rank": _integer(directory, config, "kv_lora_rank"),
            "ropeDim": _integer(directory, config, "qk_rope_head_dim", 0),
        }
    return kv


def _described(config: Mapping[str, Any]) -> dict[str, Any]:
    """What clients are shown: family and quantisation, where config.json names them plainly."""
    shown: dict[str, Any] = {}
    if isinstance(family := config.get("model_type"), str) and re.fullmatch(r"[\w.-]{1,64}", family):
        shown["family"] = family
    quantization = config.get("quantization")
    if isinstance(quantization, dict) and isinstance(bits := quantization.get("bits"), int):
        shown["quantization"] = f"{bits}bit"
    return shown


def _reasoning(directory: Path) -> dict[str, Any]:
    """Reasoning marks, when the chat template has them."""
    template = ""
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        file = directory / name
        if file.is_file():
            with file.open("rb") as stream:
                template += stream.read(TEMPLATE_BYTES_MAX).decode("utf-8", errors="replace")
    if "<think>" not in template:
        return {}
    toggle = "enable_thinking" in template
    return {"reasoning": {"format": "token_delimited", "supportsToggle": toggle}, "capabilities": ["text", "thinking"]}


def _files(directory: Path) -> list[dict[str, Any]]:
    """Every file that an engine reads, with size and sha256, in path order."""
    found: list[dict[str, Any]] = []
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(folder, name)
            if name.startswith(".") or file.suffix not in SUFFIXES:
                continue
            if not file.resolve().is_relative_to(directory.resolve()):
                fix = "copy the directory with links resolved (`cp -RL`)"
                raise _wrong(file, "this is a link that leads out of the directory", fix)
            path = file.relative_to(directory).as_posix()
            found.append({"path": path, "bytes": file.stat().st_size, "sha256": _digest(file)})
    return sorted(found, key=lambda entry: str(entry["path"]))


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _wrong(place: Path, what: str, fix: str) -> InvalidInput:
    return InvalidInput(CLI_USAGE, f"{place}: {what}", fix=fix)
