"""Which of ggml's devices count: asked of a small library with ggml's functions and devices that this machine lacks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from skulk.engines.llama_cpp.devices import cpu_name, gpu_devices

COMPILER = shutil.which("cc")
pytestmark = pytest.mark.skipif(not COMPILER, reason="no C compiler")

LIBRARY = """
#include <stddef.h>
struct device { int type; const char *family, *name; size_t total; };
static struct device all[] = { %s };
size_t ggml_backend_dev_count(void) { return sizeof all / sizeof *all; }
void *ggml_backend_dev_get(size_t index) { return &all[index]; }
int ggml_backend_dev_type(struct device *d) { return d->type; }
void *ggml_backend_dev_backend_reg(struct device *d) { return d; }
const char *ggml_backend_reg_name(struct device *d) { return d->family; }
const char *ggml_backend_dev_description(struct device *d) { return d->name; }
void ggml_backend_dev_memory(struct device *d, size_t *free, size_t *total) { *free = 0; *total = d->total; }
"""
CPU, GPU, IGPU, ACCEL, META = range(5)


@pytest.fixture
def library(tmp_path):
    """A stand-in for the module: only where it lies is asked of it."""

    def make(*devices: tuple[int, str, str, int]) -> SimpleNamespace:
        rows = ", ".join(f'{{{kind}, "{family}", "{name}", {total}}}' for kind, family, name, total in devices)
        suffix = ".dylib" if sys.platform == "darwin" else ".so"
        target = tmp_path / "llama_cpp" / "lib" / f"libggml{suffix}"
        target.parent.mkdir(parents=True)
        argv = [COMPILER, "-x", "c", "-shared", "-fPIC", "-o", target, "-"]
        subprocess.run(argv, input=LIBRARY % rows, text=True, check=True)
        return SimpleNamespace(__file__=str(tmp_path / "llama_cpp" / "__init__.py"))

    return make


def test_a_build_for_the_cpu_has_no_device(library):
    assert gpu_devices(library((CPU, "CPU", "Some CPU", 64), (ACCEL, "BLAS", "OpenBLAS", 0))) == ()


def test_other_machines_are_no_devices_of_this_one(library):
    assert gpu_devices(library((GPU, "RPC", "10.0.0.7:50052", 99), (CPU, "CPU", "Some CPU", 64))) == ()


def test_cards_are_told_with_their_memory_and_graphics_inside_the_processor_only_without_them(library):
    found = gpu_devices(
        library(
            (GPU, "Vulkan", "Card 1", 16), (IGPU, "Vulkan", "Inside", 32), (GPU, "Vulkan", "Card 2", 0),
            (IGPU, "ROCm", "Inside", 48), (META, "Vulkan", "All", 99),
        )
    )  # fmt: skip
    assert [(d.compute, d.name, d.memory_bytes, d.unified) for d in found] == [
        ("vulkan", "Card 1", 16, False),
        ("vulkan", "Card 2", None, False),
        ("rocm", "Inside", 48, True),
    ]
    assert len({d.handle for d in found}) == 3


@pytest.mark.parametrize("family", ["Metal", "MTL"])
def test_apples_gpu_shares_its_memory(library, family):
    (device,) = gpu_devices(library((GPU, family, "M9", 64)))
    assert (device.compute, device.unified) == ("metal", True)


def test_the_processor_has_a_name():
    assert cpu_name()
