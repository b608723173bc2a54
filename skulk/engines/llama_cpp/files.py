"""The GGUF files of a model, checked before the library sees them: it trusts what it reads, and a crash is its way
of saying no. No library is needed for this.
"""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from skulk.core.errors import ENG_MODEL
from skulk.core.formats.gguf import GgufError, GgufHeader, read_gguf
from skulk.engines.engine import EngineFailure

SHARDS_MAX = 1000
"""Published files are cut into pieces of some gigabytes: the largest models have some dozens."""
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_UNCOMPUTED = frozenset({"F64"})
"""Types that the library loads and then crashes on when it computes with them."""


def check_model(model_dir: Path, gguf_file: str | None) -> tuple[Path, GgufHeader]:
    """The file to load and its header, after a look at every shard. Raises EngineFailure (SK-ENG-003) that names
    the file and what is wrong with it."""
    if gguf_file is None:
        found = sorted(path.name for path in model_dir.glob("*.gguf"))
        hint = f"; there are {', '.join(found)}" if found else ""
        raise EngineFailure(ENG_MODEL, f"the card names no ggufFile{hint}")
    path = model_dir / gguf_file
    header = _checked(path)
    for shard in _other_shards(path, header):
        _checked(shard)
    if header.text("general.architecture") is None:
        raise EngineFailure(ENG_MODEL, f"{path.name}: general.architecture is missing")
    return path, header


def _checked(path: Path) -> GgufHeader:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size == 0:
                raise GgufError("it is empty")
            # Mapped: the header of a large model has megabytes, its data is never touched.
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
                header = read_gguf(view, size)
    except OSError as error:
        raise EngineFailure(ENG_MODEL, f"{path.name} cannot be read: {error.strerror}") from error
    except GgufError as error:
        raise EngineFailure(ENG_MODEL, f"{path.name} is not usable: {error}") from error
    for tensor in header.tensors:
        if tensor.type in _UNCOMPUTED:
            raise EngineFailure(
                ENG_MODEL, f"{path.name} is not usable: tensor {tensor.name!r} is of type {tensor.type}"
            )
    return header


def _other_shards(path: Path, header: GgufHeader) -> tuple[Path, ...]:
    """The files after the first, by the naming that the library itself uses to find them."""
    count = header.number("split.count") or 1
    if count <= 1:
        return ()
    named = _SHARD.fullmatch(path.name)
    if count > SHARDS_MAX or named is None or int(named["count"]) != count or int(named["number"]) != 1:
        raise EngineFailure(
            ENG_MODEL, f"{path.name} says that it is one of {count} files; NAME-00001-of-{count:05}.gguf is expected"
        )
    return tuple(path.with_name(f"{named['stem']}-{n:05}-of-{count:05}.gguf") for n in range(2, count + 1))
