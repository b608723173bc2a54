"""Does it fit: the one memory model, for the planner, a node's admission and every preview.

A placement needs, per rank,

    total = weights × factor + KV per sequence × concurrency + overhead

(with some engines one layer more of KV, see FIXED_CACHE_ENGINES), and a node offers a share of its memory. All here
works on static totals and whole numbers, so that every node computes the same; what is free *now* is the business of
whoever asks. No module but this one does the arithmetic, and every answer can explain itself.

Sources: the weights' factors and the usable shares are the reference system's, kept because its users have sized
their fleets by them; the KV formulas follow from the tensors that an attention layer caches; the overheads were
measured (`benchmarks/memory.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from skulk.core.domain.blueprint import EngineBuild, Member
from skulk.core.domain.desired import Card, Deployment, KvShape, Node

MIB = 1024**2
GIB = 1024**3

# Share of the weights' size on disk that a loaded model takes. MLX makes copies while it loads and keeps a
# buffer cache; llama.cpp maps the file and adds compute buffers. An unknown engine is taken for the hungrier.
WEIGHTS_PERCENT = {"llama_cpp": 110, "llama_server": 110}
WEIGHTS_PERCENT_DEFAULT = 130
# Interpreter, engine libraries, tokenizer: what a runner with a tiny model takes, and room for a vocabulary of 150,000.
OVERHEAD_BYTES = 128 * MIB
# Activations of one step: so many tokens at most, each with so many bytes per unit of the hidden size (the widest are
# those of the feed-forward layers: three to four times the hidden size, in 4 bytes, a few of them at once).
STEP_TOKENS = 512
ACTIVATION_BYTES = 64
# These allocate their KV cache once. With others sequences share an array per layer, and for a moment there are two of
# one layer: whenever a sequence joins or leaves.
FIXED_CACHE_ENGINES = frozenset({"llama_cpp", "llama_server"})
# What a cached number takes of the two bytes that it has by default: `q8_0` stores 32 of them in 34 bytes.
KV_CACHE_SHARES = {"f16": (1, 1), "q8_0": (17, 32)}
KV_CACHE_DEFAULT = "f16"
# The rest of a machine that shares its memory with the device is for the system and other programs; Apple's
# default limit for wired GPU memory is the same on larger machines.
UNIFIED_USABLE_PERCENT = 75
# A device of its own needs little beside the model: driver, display, fragmentation.
DISCRETE_USABLE_PERCENT = 90
# A context limit that comes from free memory is rounded down to this, so that it does not look more exact than
# the model is.
CONTEXT_STEP_TOKENS = 64
# For a card that does not say: the shortest context that models of the last years have.
CONTEXT_UNKNOWN_TOKENS = 4096
# Less than this holds no system prompt and answer: a replica with it would be ready and useless.
CONTEXT_USEFUL_TOKENS_MIN = 512


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one rank of a placement is predicted to need. `total_bytes` is the sum of the other three."""

    weights_bytes: int
    """Size of the weights times the engine's factor."""
    kv_bytes: int
    """For all sequences together, with what batching them takes for a moment."""
    overhead_bytes: int
    total_bytes: int
    context_tokens: int
    concurrency: int

    def explain(self) -> str:
        """The sum in one line: `1.9 GiB = weights 1.3 GiB + KV 384 MiB (2 × 4096 tokens) + overhead 256 MiB`."""
        return (
            f"{shown(self.total_bytes, up=True)} = weights {shown(self.weights_bytes, up=True)}"
            f" + KV {shown(self.kv_bytes, up=True)} ({self.concurrency} × {self.context_tokens} tokens)"
            f" + overhead {shown(self.overhead_bytes, up=True)}"
        )


@dataclass(frozen=True, slots=True)
class Capacity:
    """What placements may take on one device of a node, and the sum that led to it."""

    usable_bytes: int
    why: str


def shown(size_bytes: int, *, up: bool = False) -> str:
    """`5.1 GiB`, `300 MiB`, `12 KiB`, `7 B`. Needs are rounded up and offers down, so that a refusal never reads
    "needs 5.1 GiB, has 5.1 GiB"."""
    if size_bytes < 0:
        return f"-{shown(-size_bytes, up=not up)}"
    for unit, name, tenths in ((GIB, "GiB", 10), (MIB, "MiB", 1), (1024, "KiB", 1)):
        if size_bytes >= unit:
            count = -(-size_bytes * tenths // unit) if up else size_bytes * tenths // unit
            return f"{count // tenths}.{count % tenths} {name}" if tenths > 1 else f"{count} {name}"
    return f"{size_bytes} B"


def engine_of(backend: str) -> str:
    """The engine of a backend tag: `mlx` of `mlx-metal`, and of the bare tag `mlx`."""
    return backend.partition("-")[0]


def kv_bytes(kv: KvShape, context_tokens: int) -> int:
    """Bytes that one sequence of `context_tokens` keeps.

    Attention caches a key and a value vector per KV head, token and layer; a sliding window caps the tokens; MLA
    caches one compressed vector (rank + rotary part) instead of the two; recurrent state does not grow.
    """
    full, windowed = _layers_bytes(kv, context_tokens)
    return kv.full_layers * full + kv.windowed_layers * windowed + kv.recurrent_bytes


def _layers_bytes(kv: KvShape, context_tokens: int) -> tuple[int, int]:
    """Bytes of one sequence in one layer that attends over everything, and in one with a window."""
    token_elements = kv.mla_rank + kv.mla_rope_dim if kv.mla_rank else 2 * kv.kv_heads * kv.head_dim
    window = min(context_tokens, kv.window_tokens) if kv.window_tokens else context_tokens
    return context_tokens * token_elements * kv.element_bytes, window * token_elements * kv.element_bytes


def _largest_layer_bytes(kv: KvShape, context_tokens: int) -> int:
    full, windowed = _layers_bytes(kv, context_tokens)
    if kv.full_layers:
        return full
    return windowed if kv.windowed_layers else 0


def kv_cache_of(deployment: Deployment) -> str:
    """How its engine stores keys and values: a key of KV_CACHE_SHARES."""
    return str(deployment.engine_options.get("kvCache", KV_CACHE_DEFAULT))


def footprint(
    card: Card, backend: str, context_tokens: int, concurrency: int, kv_cache: str = KV_CACHE_DEFAULT
) -> Footprint:
    """What serving `card` needs on a single node with this context per sequence and this many sequences."""
    engine = engine_of(backend)
    percent = WEIGHTS_PERCENT.get(engine, WEIGHTS_PERCENT_DEFAULT)
    weights = -(-card.storage_bytes * percent // 100)
    part, whole = KV_CACHE_SHARES[kv_cache]
    sequence = kv_bytes(card.kv, context_tokens)
    if engine not in FIXED_CACHE_ENGINES and concurrency > 1:
        sequence += _largest_layer_bytes(card.kv, context_tokens)
    kv = -(-sequence * concurrency * part // whole)
    overhead = OVERHEAD_BYTES + STEP_TOKENS * card.hidden_size * ACTIVATION_BYTES
    return Footprint(weights, kv, overhead, weights + kv + overhead, context_tokens, concurrency)


def capacity(member: Member, node: Node, build: EngineBuild) -> Capacity:
    """What all placements of `build` together may take on this node, from its totals.

    A build whose device shares the machine's memory gets a share of that, less the node's reserve, and no more
    than the device itself can address (GTT of an APU). A device with memory of its own gets a share of it; one
    that does not say how much has none to offer.
    """
    if not build.unified:
        total = build.device_memory_bytes or 0
        usable = total * DISCRETE_USABLE_PERCENT // 100
        return Capacity(usable, f"{DISCRETE_USABLE_PERCENT} % of {shown(total)} on {build.device or build.backend}")
    usable = member.memory_bytes * UNIFIED_USABLE_PERCENT // 100
    why = f"{UNIFIED_USABLE_PERCENT} % of {shown(member.memory_bytes)}"
    if node.reserve_memory_bytes:
        usable = max(0, usable - node.reserve_memory_bytes)
        why += f" less {shown(node.reserve_memory_bytes)} reserved"
    if build.device_memory_bytes is not None and build.device_memory_bytes < usable:
        usable = build.device_memory_bytes
        why = f"all that {build.device or build.backend} can address"
    return Capacity(usable, why)


def card_context_limit(card: Card) -> int | None:
    """The most tokens the card allows per sequence; None when it does not say."""
    limits = [limit for limit in (card.context_length, card.max_context_tokens) if limit > 0]
    return min(limits, default=None)


def context_limit(
    card: Card, backend: str, capacity_bytes: int, concurrency: int, kv_cache: str = KV_CACHE_DEFAULT
) -> int:
    """The longest context per sequence that fits `capacity_bytes`, within the card's limit.

    0 when not even the weights fit. A limit set by memory is rounded down to a multiple of CONTEXT_STEP_TOKENS
    (once it exceeds that); the card's own limit is taken as it is.
    """
    ceiling = card_context_limit(card) or CONTEXT_UNKNOWN_TOKENS

    def fits(tokens: int) -> bool:
        return footprint(card, backend, tokens, concurrency, kv_cache).total_bytes <= capacity_bytes

    if fits(ceiling):
        return ceiling
    # The need never falls with the context (a window only flattens it), so bisection finds the edge.
    low, high = 0, ceiling
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low - low % CONTEXT_STEP_TOKENS if low > CONTEXT_STEP_TOKENS else low


def explain(need: Footprint, offer: Capacity, used_bytes: int) -> str:
    """Need against offer in one line, whichever way it goes."""
    free = offer.usable_bytes - used_bytes
    verdict = "fits" if need.total_bytes <= free else "does not fit"
    return (
        f"{verdict}: needs {need.explain()}; {shown(free)} free of {shown(offer.usable_bytes)} ({offer.why},"
        f" {shown(used_bytes, up=True)} in use)"
    )
