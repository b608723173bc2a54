"""The devices that this build of llama.cpp really has, asked of ggml's own device list.

Not of `llama_supports_gpu_offload`, which is true for builds without any device, and not of log lines.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_KINDS = ("cpu", "gpu", "igpu", "accel", "meta")
"""`enum ggml_backend_dev_type`, in its order."""
_COMPUTES = {"mtl": "metal", "metal": "metal", "vulkan": "vulkan", "cuda": "cuda", "rocm": "rocm", "hip": "rocm"}
"""ggml's name of a device family → ours. Families without an entry (RPC: other machines; BLAS) are no device here."""


@dataclass(frozen=True, slots=True)
class Device:
    """`handle` is ggml's pointer, valid in this process; `memory_bytes` the device's total when it tells."""

    handle: int
    compute: str
    name: str
    memory_bytes: int | None
    unified: bool
    integrated: bool


def import_library() -> Any:
    """The module llama_cpp, imported with the settings that only count before. Raises ImportError and OSError."""
    # Waiting threads of OpenMP spin otherwise: two on two busy cores cost a factor of 40.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # A failed assertion would start a debugger to print the stack, in the middle of a service.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    return importlib.import_module("llama_cpp")


def gpu_devices(library: Any) -> tuple[Device, ...]:
    """The devices to compute on beside the CPU, in ggml's order. A model is spread over all of one compute, so a
    processor's own graphics does not count beside a card: it would set the pace of all."""
    ggml = _registry(library)
    count = _function(ggml, "ggml_backend_dev_count", ctypes.c_size_t)()
    get = _function(ggml, "ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    found = [device for device in (_device(ggml, get(index)) for index in range(count)) if device is not None]
    cards = {device.compute for device in found if not device.integrated}
    return tuple(device for device in found if not device.integrated or device.compute not in cards)


def cpu_name() -> str:
    """What the processor calls itself, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.machine()


def _device(ggml: ctypes.CDLL, handle: int) -> Device | None:
    kind = _function(ggml, "ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)(handle)
    if not 0 <= kind < len(_KINDS) or _KINDS[kind] not in ("gpu", "igpu"):
        return None
    family = _function(ggml, "ggml_backend_dev_backend_reg", ctypes.c_void_p, ctypes.c_void_p)(handle)
    family_name = _function(ggml, "ggml_backend_reg_name", ctypes.c_char_p, ctypes.c_void_p)(family) or b""
    compute = _COMPUTES.get(family_name.decode("utf-8", "replace").lower())
    if compute is None:
        return None
    description = _function(ggml, "ggml_backend_dev_description", ctypes.c_char_p, ctypes.c_void_p)(handle) or b""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    pointer = ctypes.POINTER(ctypes.c_size_t)
    ask = _function(ggml, "ggml_backend_dev_memory", None, ctypes.c_void_p, pointer, pointer)
    ask(handle, ctypes.byref(free), ctypes.byref(total))
    return Device(
        handle=handle,
        compute=compute,
        name=description.decode("utf-8", "replace"),
        memory_bytes=total.value or None,
        unified=_KINDS[kind] == "igpu" or compute == "metal",
        integrated=_KINDS[kind] == "igpu",
    )


def _registry(library: Any) -> ctypes.CDLL:
    """libggml, which knows the devices; the functions of the libraries that it needs are found through it.

    It must be the very file that the package has loaded: a wheel holds copies under several names, and each one that
    is loaded has a registry of its own.
    """
    suffix = ".dylib" if sys.platform == "darwin" else ".so"
    return ctypes.CDLL(str(Path(library.__file__).parent / "lib" / f"libggml{suffix}"))


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(library, name)
    function.restype, function.argtypes = result, list(arguments)
    return function
