"""The memory model's arithmetic, by hand-computed numbers."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skulk.core.domain import (
    BootId,
    Card,
    CardName,
    EngineBuild,
    KvShape,
    LocalSource,
    Member,
    Node,
    NodeName,
)
from skulk.core.memory import (
    GIB,
    MIB,
    OVERHEAD_BYTES,
    Capacity,
    capacity,
    card_context_limit,
    context_limit,
    explain,
    footprint,
    kv_bytes,
    shown,
)

GQA = KvShape(full_layers=32, kv_heads=8, head_dim=128)
CARD = Card(
    name=CardName("m"),
    model_id="org/m",
    source=LocalSource("m"),
    revision="r",
    files=(),
    storage_bytes=4 * GIB,
    layers=32,
    hidden_size=4096,
    kv=GQA,
    context_length=32768,
    compatible_backends=("mlx",),
)
MEMBER = Member(NodeName("a"), BootId("b"), 16 * GIB)
NODE = Node(NodeName("a"), 1)
UNIFIED = EngineBuild("mlx-metal", "mlx", "1", "d")
DISCRETE = EngineBuild("llama_cpp-vulkan", "llama_cpp", "1", "d", "RX", False, 16 * GIB)


@pytest.mark.parametrize(
    ("shape", "tokens", "expected"),
    [
        # 2 (K and V) · 32 layers · 8 heads · 128 · 2 bytes = 128 KiB per token
        (GQA, 1, 131072),
        (GQA, 4096, 512 * MIB),
        # 4 full layers grow, 28 stop at the window: 4 KiB per layer and token
        (replace(GQA, full_layers=4, windowed_layers=28, window_tokens=1024), 512, 32 * 512 * 4096),
        (
            replace(GQA, full_layers=4, windowed_layers=28, window_tokens=1024),
            8192,
            (4 * 8192 + 28 * 1024) * 4096,
        ),
        # MLA: one vector of 512 + 64 elements, no factor 2, heads do not matter
        (KvShape(full_layers=60, kv_heads=128, mla_rank=512, mla_rope_dim=64), 1000, 60 * 576 * 2 * 1000),
        # recurrent state does not depend on the context
        (KvShape(recurrent_bytes=7 * MIB), 100_000, 7 * MIB),
        (replace(GQA, full_layers=1, recurrent_bytes=1000), 10, 10 * 4096 + 1000),
        (replace(GQA, element_bytes=1), 4096, 256 * MIB),
        (KvShape(full_layers=32), 4096, 0),
        (replace(GQA, full_layers=0, windowed_layers=1), 100, 100 * 4096),
    ],
)
def test_kv_cache_of_one_sequence(shape: KvShape, tokens: int, expected: int) -> None:
    assert kv_bytes(shape, tokens) == expected


@pytest.mark.parametrize(
    ("backend", "percent", "layers"),
    [
        ("mlx-metal", 130, 33),
        ("mlx", 130, 33),
        ("llama_cpp-vulkan", 110, 32),
        ("llama_server-cpu", 110, 32),
        ("other-cpu", 130, 33),
    ],
)
def test_footprint_is_weights_by_engine_plus_kv_by_concurrency_plus_overhead(
    backend: str, percent: int, layers: int
) -> None:
    """mlx has a second copy of one of the 32 layers for a moment."""
    found = footprint(CARD, backend, 4096, 3)
    assert found.weights_bytes == 4 * GIB * percent // 100 + 1
    assert found.kv_bytes == 3 * 16 * layers * MIB
    assert found.overhead_bytes == 256 * MIB
    assert found.total_bytes == found.weights_bytes + found.kv_bytes + 256 * MIB


@pytest.mark.parametrize(
    ("shape", "copied"),
    [
        (replace(GQA, full_layers=4, windowed_layers=28, window_tokens=1024), 16 * MIB),
        (replace(GQA, full_layers=0, windowed_layers=28, window_tokens=1024), 4 * MIB),
        (KvShape(recurrent_bytes=7 * MIB), 0),
    ],
)
def test_the_second_copy_is_of_the_largest_layer(shape: KvShape, copied: int) -> None:
    card = replace(CARD, kv=shape)
    assert footprint(card, "mlx-cpu", 4096, 2).kv_bytes == 2 * (kv_bytes(shape, 4096) + copied)


def test_one_sequence_alone_is_never_copied() -> None:
    assert footprint(CARD, "mlx-cpu", 4096, 1).kv_bytes == 512 * MIB


def test_unified_memory_offers_three_quarters_less_the_reserve() -> None:
    assert capacity(MEMBER, NODE, UNIFIED).usable_bytes == 12 * GIB
    reserved = capacity(MEMBER, replace(NODE, reserve_memory_bytes=2 * GIB), UNIFIED)
    assert reserved.usable_bytes == 10 * GIB
    assert reserved.why == "75 % of 16.0 GiB less 2.0 GiB reserved"
    assert capacity(MEMBER, replace(NODE, reserve_memory_bytes=99 * GIB), UNIFIED).usable_bytes == 0


def test_a_unified_device_offers_no_more_than_it_can_address() -> None:
    assert capacity(MEMBER, NODE, replace(UNIFIED, device_memory_bytes=8 * GIB)).usable_bytes == 8 * GIB
    assert capacity(MEMBER, NODE, replace(UNIFIED, device_memory_bytes=16 * GIB)).usable_bytes == 12 * GIB


def test_a_discrete_device_offers_nine_tenths_of_its_own_and_ignores_the_reserve() -> None:
    reserving = replace(NODE, reserve_memory_bytes=2 * GIB)
    assert capacity(MEMBER, reserving, DISCRETE).usable_bytes == 16 * GIB * 90 // 100
    assert capacity(MEMBER, NODE, replace(DISCRETE, device_memory_bytes=None)).usable_bytes == 0


@pytest.mark.parametrize(
    ("length", "declared", "expected"), [(8192, 0, 8192), (8192, 4096, 4096), (0, 4096, 4096), (0, 0, None)]
)
def test_the_cards_own_context_limit(length: int, declared: int, expected: int | None) -> None:
    card = replace(CARD, context_length=length, max_context_tokens=declared)
    assert card_context_limit(card) == expected


def test_context_is_zero_when_the_weights_alone_do_not_fit() -> None:
    assert context_limit(CARD, "mlx-cpu", 5 * GIB, 1) == 0
    assert context_limit(CARD, "mlx-cpu", -1, 1) == 0


def test_context_follows_memory_in_steps_of_64() -> None:
    base = footprint(CARD, "mlx-cpu", 0, 1).total_bytes
    assert context_limit(CARD, "mlx-cpu", base + 4100 * 131072, 1) == 4096
    assert context_limit(CARD, "mlx-cpu", base + 4096 * 131072, 1) == 4096
    assert context_limit(CARD, "mlx-cpu", base + 4096 * 131072 - 1, 1) == 4032
    assert context_limit(CARD, "mlx-cpu", base + 50 * 131072, 1) == 50
    assert context_limit(CARD, "mlx-cpu", base + 4096 * 131072, 2) == 1984
    base = footprint(CARD, "llama_cpp-cpu", 0, 1).total_bytes
    assert context_limit(CARD, "llama_cpp-cpu", base + 4096 * 131072, 2) == 2048


def test_the_cards_limit_is_taken_as_it_is() -> None:
    assert context_limit(replace(CARD, context_length=1000), "mlx-cpu", 100 * GIB, 1) == 1000
    assert context_limit(replace(CARD, context_length=0), "mlx-cpu", 100 * GIB, 1) == 4096
    assert context_limit(replace(CARD, kv=KvShape()), "mlx-cpu", 100 * GIB, 1) == 32768


SHAPES = st.builds(
    KvShape,
    full_layers=st.integers(0, 80),
    windowed_layers=st.integers(0, 80),
    window_tokens=st.sampled_from([0, 128, 1024]),
    kv_heads=st.integers(0, 16),
    head_dim=st.sampled_from([64, 128]),
    mla_rank=st.sampled_from([0, 512]),
    mla_rope_dim=st.sampled_from([0, 64]),
    recurrent_bytes=st.integers(0, GIB),
)


@settings(deadline=None, max_examples=150)
@given(SHAPES, st.integers(0, 64 * GIB), st.integers(1, 64), st.sampled_from(["mlx-cpu", "llama_cpp-cpu"]))
def test_the_context_limit_fits_and_the_next_step_does_not(
    shape: KvShape, room: int, concurrency: int, backend: str
) -> None:
    card = replace(CARD, kv=shape)
    found = context_limit(card, backend, room, concurrency)
    assert 0 <= found <= CARD.context_length
    if found:
        assert footprint(card, backend, found, concurrency).total_bytes <= room
    if found < CARD.context_length:
        assert footprint(card, backend, found + 64, concurrency).total_bytes > room


@pytest.mark.parametrize(
    ("size", "down", "up"),
    [
        (0, "0 B", "0 B"),
        (1023, "1023 B", "1023 B"),
        (1024, "1 KiB", "1 KiB"),
        (OVERHEAD_BYTES, "128 MiB", "128 MiB"),
        (5 * GIB, "5.0 GiB", "5.0 GiB"),
        (5 * GIB + 1, "5.0 GiB", "5.1 GiB"),
        (-GIB - 1, "-1.1 GiB", "-1.0 GiB"),
    ],
)
def test_sizes_are_shown_so_that_a_refusal_never_looks_like_a_fit(size: int, down: str, up: str) -> None:
    assert shown(size) == down
    assert shown(size, up=True) == up


def test_an_answer_shows_its_sum() -> None:
    need = footprint(CARD, "mlx-metal", 4096, 2)
    line = explain(need, Capacity(12 * GIB, "75 % of 16.0 GiB"), 8 * GIB)
    assert line == (
        "does not fit: needs 6.5 GiB = weights 5.3 GiB + KV 1.1 GiB (2 × 4096 tokens) + overhead 256 MiB;"
        " 4.0 GiB free of 12.0 GiB (75 % of 16.0 GiB, 8.0 GiB in use)"
    )
    assert explain(need, Capacity(12 * GIB, "x"), 0).startswith("fits: ")


def test_a_quantised_cache_takes_the_bytes_of_its_blocks() -> None:
    """q8_0 stores 32 numbers in 34 bytes, f16 in 64."""
    plain = footprint(CARD, "llama_cpp-cpu", 4096, 2)
    quantised = footprint(CARD, "llama_cpp-cpu", 4096, 2, "q8_0")
    assert plain.kv_bytes == 1024 * MIB
    assert quantised.kv_bytes == 544 * MIB
    assert context_limit(CARD, "llama_cpp-cpu", 6 * GIB, 2, "q8_0") > context_limit(CARD, "llama_cpp-cpu", 6 * GIB, 2)
