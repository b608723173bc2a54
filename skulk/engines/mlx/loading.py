"""Bring an mlx-lm model and its tokenizer into memory, from a local directory and from nowhere else.

No network, no code from the model's repository, no change to the limits of this process. Generation is
`skulk.engines.mlx.engine`'s.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import mmap
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skulk.core.errors import ENG_BROKEN, ENG_MODEL
from skulk.core.formats.memory_errors import is_out_of_memory
from skulk.engines.engine import EngineFailure, LoadProgress
from skulk.engines.rendering import SPECIAL_TOKEN_NAMES, ChatTemplate, find_template
from skulk.engines.vocabulary import Vocabulary, vocabulary_from_json

LOAD_CHUNK_BYTES = 256 * 1024 * 1024
"""Weights are read in pieces of about this size, so that progress can be told between them."""
BUFFERS_KEPT_BYTES_CPU = 16 * 1024 * 1024
"""What mlx keeps of freed buffers for reuse: a step's activations. Without a limit, caches that have grown stay there
beside those that replaced them."""
MAPPED_BYTES_MIN = 256 * 1024
"""The C library maps buffers from this size on, and gives them back to the system when they are freed. By default it
raises that threshold to the largest buffer freed so far (up to 32 MiB), and smaller ones leave holes in its heap."""
M_MMAP_THRESHOLD = -3
"""Of glibc's malloc.h."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """`model` is an mlx-lm module, `tokenizer` a `tokenizers.Tokenizer`."""

    model: Any
    tokenizer: Any
    vocabulary: Vocabulary
    template: ChatTemplate | None
    eos_ids: frozenset[int]


def prepare_library(backend: str) -> str:
    """Import mlx and mlx-lm for the backend, return their version. Raises EngineFailure when it cannot serve it."""
    # Read at import time by the libraries below; the daemon fetches, a runner never does.
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ.pop("MLXLM_USE_MODELSCOPE", None)
    _choose_scratch()
    try:
        mx = importlib.import_module("mlx.core")
        with _limits_kept():
            importlib.import_module("mlx_lm.utils")
        from importlib.metadata import version

        versions = f"{version('mlx-lm')}+mlx.{version('mlx')}"
    except ImportError as error:
        raise EngineFailure(ENG_BROKEN, f"the environment cannot import mlx-lm: {error}") from error
    if backend == "mlx-cpu":
        mx.set_default_device(mx.cpu)
        mx.set_cache_limit(BUFFERS_KEPT_BYTES_CPU)
        if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
            libc.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES_MIN)
    elif mx.metal.is_available():
        # Weights that the system pages out make every token wait for them.
        mx.set_wired_limit(int(mx.device_info()["max_recommended_working_set_size"]))
    elif backend == "mlx-metal":
        raise EngineFailure(ENG_BROKEN, "the backend is mlx-metal and this environment's mlx sees no Metal device")
    return versions


def load_model(model_dir: Path, progress: LoadProgress) -> LoadedModel:
    """All of it, weights in memory. Raises EngineFailure (SK-ENG-003) naming the file at fault, or MemoryError."""
    config = _read_json(model_dir / "config.json", required=True)
    tokenizer_config = _read_json(model_dir / "tokenizer_config.json")
    refuse_custom_code(model_dir, config, tokenizer_config)
    tokenizer, vocabulary = _tokenizer(model_dir)
    eos_ids = _eos_ids(model_dir, config, tokenizer_config, vocabulary)
    if not eos_ids:
        raise EngineFailure(ENG_MODEL, f"{model_dir.name} names no end-of-sequence token: it would never stop")
    source = find_template(model_dir, tokenizer_config)
    template = None
    if source is not None:
        from jinja2 import TemplateError

        try:
            template = ChatTemplate(source, _special_tokens(tokenizer_config))
        except TemplateError as error:
            raise EngineFailure(ENG_MODEL, f"the chat template of {model_dir.name} is malformed: {error}") from error
    return LoadedModel(_weights(model_dir, progress), tokenizer, vocabulary, template, eos_ids)


def refuse_custom_code(model_dir: Path, *configs: Mapping[str, Any]) -> None:
    """Raise EngineFailure for a model whose configuration asks for Python that lies beside it.

    An `auto_map` without the file is a remnant of a conversion: mlx-lm has its own class, or loading fails by name.
    """
    for config in configs:
        wanted = [str(config["model_file"])] if config.get("model_file") else []
        auto_map = config.get("auto_map")
        for entry in _flat(list(auto_map.values()) if isinstance(auto_map, Mapping) else auto_map):
            wanted.append(entry.partition("--")[2] or entry)
        for reference in wanted:
            module = reference.removesuffix(".py").partition(".")[0] + ".py"
            if (model_dir / module).exists() or reference == config.get("model_file"):
                raise EngineFailure(ENG_MODEL, f"{model_dir.name} brings its own code ({module}), which is never run")


def _flat(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)


def _weights(model_dir: Path, progress: LoadProgress) -> Any:
    mx = importlib.import_module("mlx.core")
    utils = importlib.import_module("mlx_lm.utils")
    tree_flatten = importlib.import_module("mlx.utils").tree_flatten
    with _blamed(f"mlx-lm cannot load {model_dir.name}"):
        model, _ = utils.load_model(model_dir, lazy=True, strict=True, trust_remote_code=False)
    arrays = [array for _, array in tree_flatten(model.parameters())]
    total = sum(a.nbytes for a in arrays) or 1
    done = pending_bytes = 0
    pending: list[Any] = []
    progress(0.0)
    for array in arrays:
        pending.append(array)
        pending_bytes += array.nbytes
        if pending_bytes >= LOAD_CHUNK_BYTES:
            _compute(mx, pending, pending_bytes, model_dir)
            done += pending_bytes
            progress(done / total)
            pending, pending_bytes = [], 0
    _compute(mx, pending, pending_bytes, model_dir)
    progress(1.0)
    return model


def _compute(mx: Any, arrays: list[Any], size_bytes: int, model_dir: Path) -> None:
    """Raises MemoryError or EngineFailure."""
    with _blamed(f"mlx cannot read {size_bytes} bytes of the weights of {model_dir.name}"):
        if size_bytes:
            # On a processor, mlx 0.32 does not look whether an allocation failed, and dies of the null pointer: the
            # system is asked first, with pages that are never touched.
            mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
        mx.eval(arrays)


@contextmanager
def _blamed(what: str) -> Iterator[None]:
    """An error inside becomes the model's fault, or want of memory where that is what it says: mlx has no type for
    it."""
    try:
        yield
    except Exception as error:
        message = f"{what}: {str(error) or type(error).__name__}"
        if is_out_of_memory(error):
            raise MemoryError(message) from error
        raise EngineFailure(ENG_MODEL, message) from error


def _tokenizer(model_dir: Path) -> tuple[Any, Vocabulary]:
    file = model_dir / "tokenizer.json"
    with _blamed(f"the tokenizer of {model_dir.name} cannot be used"):
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            tokenizer = importlib.import_module("tokenizers").Tokenizer.from_str(text)
        else:  # older models: their vocabulary is converted in memory
            auto = importlib.import_module("transformers").AutoTokenizer
            slow = auto.from_pretrained(str(model_dir), trust_remote_code=False, local_files_only=True)
            tokenizer = slow.backend_tokenizer
            text = tokenizer.to_str()
        tokenizer.no_truncation()
        tokenizer.no_padding()
        vocabulary = vocabulary_from_json(text)
    return tokenizer, vocabulary


def _eos_ids(
    model_dir: Path, config: Mapping[str, Any], tokenizer_config: Mapping[str, Any], vocabulary: Vocabulary
) -> frozenset[int]:
    """The union of what the three files say: conversions keep one and forget another."""
    generation = _read_json(model_dir / "generation_config.json")
    text_config = config.get("text_config")
    sources = [generation, config, text_config if isinstance(text_config, Mapping) else {}]
    found: set[int] = set()
    for source in sources:
        value = source.get("eos_token_id")
        found.update(v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int))
    named = _special_tokens(tokenizer_config).get("eos_token")
    token = vocabulary.added_id(named) if named is not None else None
    if token is not None:
        found.add(token)
    return frozenset(found)


def _special_tokens(tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    tokens: dict[str, str] = {}
    for name in SPECIAL_TOKEN_NAMES:
        value = tokenizer_config.get(name)
        if isinstance(value, Mapping):
            value = value.get("content")
        if isinstance(value, str):
            tokens[name] = value
    return tokens


def _read_json(file: Path, *, required: bool = False) -> dict[str, Any]:
    if not required and not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineFailure(ENG_MODEL, f"{file.name} of {file.parent.name} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise EngineFailure(ENG_MODEL, f"{file.name} of {file.parent.name} is no JSON object")
    return value


@contextmanager
def _limits_kept() -> Iterator[None]:
    """mlx-lm sets the limit of open files, hard limit included, when it is imported: lower than a system may have
    set it, irrevocably, and with an error where the hard limit is lower still. A runner keeps what it was given."""
    import resource

    original: Callable[..., None] = resource.setrlimit
    resource.setrlimit = lambda *_: None
    try:
        yield
    finally:
        resource.setrlimit = original


def _choose_scratch() -> None:
    """mlx compiles kernels into TMPDIR and later loads what it finds there, so in a directory that everybody may
    write, somebody else could place code for us. Use one of our own, else the placement's (the working directory)."""
    named = next((os.environ[v] for v in ("TMPDIR", "TMP", "TEMP", "TEMPDIR") if os.environ.get(v)), "/tmp")
    private = Path(named) / f"skulk-{os.getuid()}"
    try:
        private.mkdir(mode=0o700, exist_ok=True)
        facts = private.lstat()
        safe = stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid() and not facts.st_mode & 0o022
        safe = safe and os.access(private, os.W_OK)
    except OSError:
        safe = False
    os.environ["TMPDIR"] = str(private if safe else Path.cwd())
