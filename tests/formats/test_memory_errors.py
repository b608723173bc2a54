"""Texts as libraries wrote them: which of them say that memory could not be had."""

from __future__ import annotations

import pytest

from skulk.core.formats.memory_errors import is_out_of_memory, tells_of_memory

OUT_OF_MEMORY = [
    # MLX: CPU, Metal, a command buffer of Metal, CUDA
    "[malloc] Unable to allocate 4294967296 bytes.",
    "[metal::malloc] Attempting to allocate 86973087744 bytes which is greater than the maximum allowed buffer size of "
    "77309411328 bytes.",
    "[metal::malloc] Resource limit (499000) exceeded.",
    "[METAL] Command buffer execution failed: Insufficient Memory "
    "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
    "cudaMallocAsync(&data, size, stream) failed: out of memory",
    # llama.cpp: loading, contexts, steps
    "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 2153644032",
    "ggml_aligned_malloc: insufficient memory (attempted to allocate 5162.00 MB)",
    "alloc_tensor_range: failed to allocate CPU buffer of size 2153644032",
    "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
    "llama_model_load: error loading model: std::bad_alloc",
    "llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache",
    "graph_reserve: failed to allocate compute buffers",
    "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 4096.00 MiB on device 0: cudaMalloc failed: out of memory",
    "ggml_vulkan: Device memory allocation of size 1048898304 failed.",
    "ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory",
    "vk::Device::allocateMemory: ErrorOutOfHostMemory",
    "ggml_metal_buffer_init: error: failed to allocate buffer, size =  3072.00 MiB",
    # below them
    "CUDA_ERROR_OUT_OF_MEMORY",
    "hipErrorOutOfMemory",
    "terminate called after throwing an instance of 'std::bad_alloc'",
    "[Errno 12] Cannot allocate memory",
]
OTHER = [
    "",
    "llama_memory_recurrent: the cache has no copy of sequence 3",
    "llama_get_memory",
    "find_slot: failed to find a memory slot for batch of size 512",
    "init_memory: failed to initialize memory module",
    "state_read_data: memory buffer mismatch",
    "llama_init_from_model: failed to initialize the context: quantized V cache was requested, but this requires Flash "
    "Attention",
    "ggml_new_object: not enough space in the context's memory pool (needed 368, available 0)",
    "pre-allocated tensor (cache_k_l0) in a buffer (CUDA0) that cannot run the operation (NONE)",
    "llama_model_load: error loading model: missing tensor 'blk.3.attn_q.weight'",
    "malloc(): corrupted top size",
    "free(): invalid pointer",
    "python(123,0x1f) malloc: *** error for object 0x60: pointer being freed was not allocated",
    "libgomp.so.1: cannot allocate memory in static TLS block",
    "[load_safetensors] Invalid json header length model.safetensors",
    "[METAL] Command buffer execution failed: Caused GPU Timeout Error "
    "(00000002:kIOGPUCommandBufferCallbackErrorTimeout)",
]


@pytest.mark.parametrize("text", OUT_OF_MEMORY)
def test_what_says_that_memory_could_not_be_had(text: str) -> None:
    assert tells_of_memory(text)
    assert is_out_of_memory(RuntimeError(text))


@pytest.mark.parametrize("text", OTHER)
def test_what_only_speaks_of_memory(text: str) -> None:
    assert not tells_of_memory(text)
    assert not is_out_of_memory(RuntimeError(text))


def test_pythons_own_error_needs_no_text() -> None:
    assert is_out_of_memory(MemoryError())
