"""Bring a GGUF model and its tokenizer into memory with llama.cpp's own functions, from a local directory only.

The chat template comes from the file's metadata and is rendered by `skulk.engines.rendering`; the binding's chat
code is never called. Generation is `skulk.engines.llama_cpp.engine`'s.
"""

from __future__ import annotations

import collections
import ctypes
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skulk.core.errors import ENG_BROKEN, ENG_MODEL
from skulk.core.formats.gguf import GgufHeader
from skulk.core.formats.memory_errors import tells_of_memory
from skulk.engines.engine import EngineFailure, LoadProgress
from skulk.engines.llama_cpp.devices import gpu_devices, import_library
from skulk.engines.llama_cpp.files import check_model
from skulk.engines.rendering import ChatTemplate, find_template

log = logging.getLogger(__name__)

ALL_LAYERS = -1
"""llama.cpp's own sign for every layer, the output layer included."""
LOAD_WITHOUT_MAPPING = 0
"""`LLAMA_LOAD_MODE_NONE`: on a CPU, weights that are repacked would be in memory twice when the file is mapped."""
PIECE_BYTES = 256
"""Room for the text of a token at the first try; longer ones are asked for again with the size that is needed."""
COMPLAINTS_MAX = 4
"""Of the library's own error lines in ours: the cause comes first, the rest repeats it."""
_LEVEL_DEBUG, _LEVEL_WARNING, _LEVEL_ERROR = 1, 3, 4
"""Of `enum ggml_log_level`."""
_BUFFER = re.compile(r"(\S+) +(?:model|KV|RS|compute|output) buffer size += +([0-9.]+) MiB")
_SPECIAL_TOKENS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",  # the format's own spelling
    "pad_token": "padding_token_id",
    "cls_token": "cls_token_id",
    "mask_token": "mask_token_id",
}
"""Name in a chat template → key below `tokenizer.ggml.`."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """`library` is the module llama_cpp, `model` and `vocab` its pointers."""

    library: Any
    model: Any
    vocab: Any
    tokenizer: Tokenizer
    template: ChatTemplate | None
    eos_ids: frozenset[int]


class LibraryLog:
    """llama.cpp's and ggml's messages: warnings, errors and the sizes of its buffers go to the runner's log."""

    def __init__(self, library: Any) -> None:
        self.buffer_bytes = 0
        """The sum of the buffers that it told of: for a report, nothing depends on it."""
        self._complaints: collections.deque[str] = collections.deque(maxlen=COMPLAINTS_MAX)
        # Kept for life: the library calls it whenever it has something to say.
        self._callback = library.llama_log_callback(self._take)
        library.llama_log_set(self._callback, ctypes.c_void_p(0))

    def complaints(self) -> str:
        """What went wrong since the last call, in the library's words."""
        text = "; ".join(self._complaints)
        self._complaints.clear()
        return text

    def _take(self, level: int, text: bytes, _: object) -> None:
        if level <= _LEVEL_DEBUG:  # thousands of lines, one per tensor and graph input
            return
        line = text.decode("utf-8", "replace").strip()
        if level == _LEVEL_ERROR:
            log.error("%s", line)
            if len(self._complaints) < COMPLAINTS_MAX:
                self._complaints.append(line)
        elif level == _LEVEL_WARNING:
            log.warning("%s", line)
        elif (buffer := _BUFFER.search(line)) is not None:
            log.info("%s", line)
            self.buffer_bytes += int(float(buffer[2]) * 2**20)


class Tokenizer:
    """Text → ids, id → bytes. Special tokens in the text are recognised, none is added: templates write them all."""

    def __init__(self, library: Any, vocab: Any) -> None:
        self._library = library
        self._vocab = vocab
        self._pieces: dict[int, bytes] = {}
        self.size = int(library.llama_vocab_n_tokens(vocab))

    def encode(self, text: str) -> tuple[int, ...]:
        """Raises UnicodeEncodeError for text that is no Unicode (lone surrogates)."""
        raw = text.encode("utf-8")
        room = len(raw) + 8
        for _ in range(2):
            ids = (self._library.llama_token * room)()
            count = self._library.llama_tokenize(self._vocab, raw, len(raw), ids, room, False, True)
            if count >= 0:
                return tuple(ids[:count])
            room = -count
        raise ValueError(f"the tokenizer gave {room} and then {-count} tokens for the same text")

    def data(self, token: int) -> bytes:
        """The raw bytes of a token, which may be a part of a character; special tokens are their own text."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._read(token)
        return piece

    def _read(self, token: int) -> bytes:
        room = PIECE_BYTES
        for _ in range(2):
            buffer = ctypes.create_string_buffer(room)
            count = self._library.llama_token_to_piece(self._vocab, token, buffer, room, 0, True)
            if count >= 0:
                return buffer.raw[:count]
            room = -count
        return b""

    def special_ids(self) -> tuple[int, ...]:
        """Tokens that are markers and no text: control tokens, and user-defined ones that look like a tag."""
        attributes, library = self._library.llama_vocab_get_attr, self._library
        found: list[int] = []
        for token in range(self.size):
            attribute = attributes(self._vocab, token)
            tag = self.data(token).startswith(b"<") and self.data(token).endswith(b">")
            if attribute & library.LLAMA_TOKEN_ATTR_CONTROL or (
                attribute & library.LLAMA_TOKEN_ATTR_USER_DEFINED and tag
            ):
                found.append(token)
        return tuple(found)

    def end_ids(self) -> frozenset[int]:
        """Every token that ends a generation: what the file names, and what the library knows by its text."""
        is_end = self._library.llama_vocab_is_eog
        return frozenset(token for token in range(self.size) if is_end(self._vocab, token))


def prepare_library() -> tuple[Any, str]:
    """(the module llama_cpp, its version). Raises EngineFailure."""
    try:
        library = import_library()
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineFailure(ENG_BROKEN, f"the environment cannot import llama_cpp: {error}") from error
    library.llama_backend_init()
    return library, str(library.__version__)


def load_model(
    library: Any, messages: LibraryLog, backend: str, model_dir: Path, gguf_file: str | None, progress: LoadProgress
) -> LoadedModel:
    """All of it, weights in memory. Raises EngineFailure: SK-ENG-003 naming the file that is at fault, SK-ENG-002
    when this build has not the backend's device; MemoryError when the library says that memory was not to be had."""
    path, header = check_model(model_dir, gguf_file)
    template_source = find_template(model_dir, _template_metadata(header))
    model = _weights(library, messages, backend, path, progress)
    vocab = library.llama_model_get_vocab(model)
    tokenizer = Tokenizer(library, vocab)
    if tokenizer.size == 0:
        raise EngineFailure(ENG_MODEL, f"{path.name} holds no tokenizer")
    eos_ids = tokenizer.end_ids()
    if not eos_ids:
        raise EngineFailure(ENG_MODEL, f"{path.name} names no end-of-sequence token: it would never stop")
    template = _template(path, template_source, _special_tokens(header, tokenizer))
    return LoadedModel(library, model, vocab, tokenizer, template, eos_ids)


def threads() -> int:
    """How many the library may use: what OpenMP is told, else every processor that this process may run on."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _weights(library: Any, messages: LibraryLog, backend: str, path: Path, progress: LoadProgress) -> Any:
    settings = library.llama_model_default_params()
    compute = backend.partition("-")[2]
    if compute in ("cpu", ""):
        handles: list[int] = []
        settings.n_gpu_layers = 0
        settings.load_mode = LOAD_WITHOUT_MAPPING
    else:
        handles = [device.handle for device in gpu_devices(library) if device.compute == compute]
        settings.n_gpu_layers = ALL_LAYERS
        if not handles:
            raise EngineFailure(ENG_BROKEN, f"the backend is {backend} and this build of llama.cpp has no such device")
    # A list that ends with NULL: without it, every device of the build would be used, whatever the backend says.
    devices = (ctypes.c_void_p * (len(handles) + 1))(*handles, None)
    settings.devices = ctypes.cast(devices, ctypes.c_void_p)

    def told(share: float, _: object) -> bool:
        progress(min(1.0, max(0.0, share)))
        return True

    callback = library.llama_progress_callback(told)
    settings.progress_callback = callback
    progress(0.0)
    messages.complaints()
    model = library.llama_model_load_from_file(os.fsencode(path), settings)
    if not model:
        reason = messages.complaints()
        message = f"llama.cpp cannot load {path.name}: {reason or 'it gave no reason'}"
        raise MemoryError(message) if tells_of_memory(reason) else EngineFailure(ENG_MODEL, message)
    progress(1.0)
    return model


def _template_metadata(header: GgufHeader) -> dict[str, object]:
    return {"chat_template": header.text("tokenizer.chat_template")}


def _template(path: Path, source: str | None, special_tokens: dict[str, str]) -> ChatTemplate | None:
    if source is None:
        return None
    from jinja2 import TemplateError

    try:
        return ChatTemplate(source, special_tokens)
    except TemplateError as error:
        raise EngineFailure(ENG_MODEL, f"the chat template of {path.name} is malformed: {error}") from error


def _special_tokens(header: GgufHeader, tokenizer: Tokenizer) -> dict[str, str]:
    tokens: dict[str, str] = {}
    for name, key in _SPECIAL_TOKENS.items():
        token = header.number(f"tokenizer.ggml.{key}")
        if token is not None and 0 <= token < tokenizer.size:
            tokens[name] = tokenizer.data(token).decode("utf-8", "replace")
    return tokens
