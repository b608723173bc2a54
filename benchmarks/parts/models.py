"""Models to measure with: random weights from one seed, as GGUF (Q4_0) and for MLX (4 bits, groups of 64, or float32).

Speed does not depend on what the weights say, so nothing is downloaded. Tokenizer and chat template are those of
`cards/fox-tiny`; the vocabulary is filled up to 8,192 tokens with pairs of its words. Output rows of tokens that are
not plain letters are zero: their logit of 0 is far below the highest of thousands, so an end of sequence is never drawn
(at temperature 1 once in 10⁹ tokens), and every token is a piece of text that a server can send at once.

Kept below `CACHE`, by a digest of this file and what it reads; made again when missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from harness import HEAD

from parts import ROOT
from parts.fleet import ENGINES
from skulk.adapters.engine_envs import ensure

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skulk" / "benchmarks"
SOURCE = ROOT / "cards" / "fox-tiny" / "files"
SEED = 2026
CONTEXT_TOKENS = 32768
ROPE_BASE = 1e6
EPSILON = 1e-6
GROUP_SIZE = 64
LOGITS_SPREAD = 5.0
SPACE = "Ġ"
"""How a byte-level vocabulary writes the space before a word."""
CONVERT = """
import sys
from mlx_lm import convert
source, target, group_size = sys.argv[1:]
convert(source, target, quantize=group_size != "0", q_bits=4, q_group_size=int(group_size) or None, dtype="float32")
"""
"""Scales in float32: on a CPU they are faster than bfloat16, so that more of the time is the server's."""


@dataclass(frozen=True, slots=True)
class Shape:
    """An architecture of the kind qwen3."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int = 8192

    @property
    def parameters(self) -> int:
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.feed_forward) + 2 * self.hidden * self.vocabulary


SMALL = Shape("small", layers=12, hidden=768, heads=12, kv_heads=4, head_dim=64, feed_forward=2304)
TINY = Shape("tiny", layers=4, hidden=256, heads=4, kv_heads=2, head_dim=64, feed_forward=768)
"""For a look whether a script works, and as the other end of the memory model."""
DEEP = Shape("deep", layers=12, hidden=256, heads=4, kv_heads=4, head_dim=64, feed_forward=768)
"""As much KV cache for a token as `SMALL` at a tenth of the work: for the memory model."""


@dataclass(frozen=True, slots=True)
class Model:
    """One model on disk: a directory of files below `root`, and the manifest of its card."""

    name: str
    engine: str
    shape: Shape
    weights: str
    root: Path

    @property
    def directory(self) -> Path:
        return self.root / self.name

    @property
    def gguf_file(self) -> Path:
        return self.directory / f"{self.name}.gguf"

    @property
    def card(self) -> str:
        return (self.root / f"{self.name}.yaml").read_text("utf-8")

    def __str__(self) -> str:
        return f"{self.name}, {self.shape.parameters / 1e6:.0f} M parameters, {self.weights}"


def model_for(engine: str, shape: Shape, *, float32: bool = False) -> Model:
    """The model in the engine's format, made now when it is not there. `float32`: not quantised, for MLX only."""
    vocabulary = Vocabulary.grown(shape.vocabulary)
    name = f"{shape.name}-{engine.replace('_', '-')}"
    weights = "Q4_0" if engine == "llama_cpp" else "4 bits, float32 scales"
    if float32 and engine == "mlx":
        name, weights = f"{name}-float32", "float32"
    model = Model(name, engine, shape, weights, CACHE / f"models-{_digest()}")
    if (model.root / f"{model.name}.yaml").exists():
        return model
    model.root.mkdir(parents=True, exist_ok=True)
    print(f"making {model}", flush=True)
    with tempfile.TemporaryDirectory(dir=model.root, prefix=".") as scratch:
        made = Path(scratch) / model.name
        made.mkdir()
        if engine == "llama_cpp":
            write_gguf(made / model.gguf_file.name, shape, vocabulary)
        else:
            write_mlx(made, shape, vocabulary, 0 if weights == "float32" else GROUP_SIZE)
        shutil.rmtree(model.directory, ignore_errors=True)
        made.rename(model.directory)
        card = Path(scratch) / "card"
        card.write_text(_card(model), "utf-8")
        # Last: a model without its card is not there.
        card.rename(model.root / f"{model.name}.yaml")
    return model


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer as its own file describes it."""

    description: dict[str, Any]

    @classmethod
    def grown(cls, size: int) -> Vocabulary:
        """That of `SOURCE` with pairs of its words, each a merge of lowest rank, up to `size` tokens."""
        description = json.loads((SOURCE / "tokenizer.json").read_text("utf-8"))
        known, merges = description["model"]["vocab"], description["model"]["merges"]
        first, second = [t for t in known if plain(t)], [t for t in known if plain(t) and not t.startswith(SPACE)]
        draw = random.Random(SEED)
        while len(known) < size:
            pair = [draw.choice(first), draw.choice(second)]
            if "".join(pair) not in known:
                known["".join(pair)] = len(known)
                merges.append(pair)
        return cls(description)

    @cached_property
    def tokens(self) -> list[str]:
        known: dict[str, int] = self.description["model"]["vocab"]
        return sorted(known, key=known.__getitem__)

    @property
    def special(self) -> dict[str, dict[str, Any]]:
        return {entry["content"]: entry for entry in self.description["added_tokens"]}

    @property
    def words(self) -> list[str]:
        """Words that are one token when a space stands before them."""
        trained = self.tokens[: len(json.loads((SOURCE / "tokenizer.json").read_text("utf-8"))["model"]["vocab"])]
        return [token[1:] for token in trained if plain(token) and token.startswith(SPACE) and len(token) > 2]


def plain(token: str) -> bool:
    """Letters only, after a space perhaps."""
    letters = token.removeprefix(SPACE)
    return letters.isascii() and letters.isalpha()


def tensors(shape: Shape, vocabulary: Vocabulary) -> Iterator[tuple[str, np.ndarray]]:
    """(name in the files of Hugging Face, float32 array), the same values every time."""
    generator = np.random.default_rng(SEED)

    def matrix(rows: int, columns: int, spread: float) -> np.ndarray:
        return generator.standard_normal((rows, columns), dtype=np.float32) * np.float32(spread)

    def scaled(rows: int, columns: int) -> np.ndarray:
        return matrix(rows, columns, columns**-0.5)

    hidden, queries, keys = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield "model.embed_tokens.weight", matrix(shape.vocabulary, hidden, 1.0)
    for number in range(shape.layers):
        layer = f"model.layers.{number}"
        yield f"{layer}.input_layernorm.weight", np.ones(hidden, np.float32)
        yield f"{layer}.self_attn.q_proj.weight", scaled(queries, hidden)
        yield f"{layer}.self_attn.k_proj.weight", scaled(keys, hidden)
        yield f"{layer}.self_attn.v_proj.weight", scaled(keys, hidden)
        yield f"{layer}.self_attn.o_proj.weight", scaled(hidden, queries)
        yield f"{layer}.self_attn.q_norm.weight", np.ones(shape.head_dim, np.float32)
        yield f"{layer}.self_attn.k_norm.weight", np.ones(shape.head_dim, np.float32)
        yield f"{layer}.post_attention_layernorm.weight", np.ones(hidden, np.float32)
        yield f"{layer}.mlp.gate_proj.weight", scaled(shape.feed_forward, hidden)
        yield f"{layer}.mlp.up_proj.weight", scaled(shape.feed_forward, hidden)
        yield f"{layer}.mlp.down_proj.weight", scaled(hidden, shape.feed_forward)
    yield "model.norm.weight", np.ones(hidden, np.float32)
    head = matrix(shape.vocabulary, hidden, LOGITS_SPREAD * hidden**-0.5)
    head[[not plain(token) for token in vocabulary.tokens]] = 0
    yield "lm_head.weight", head


# --- GGUF ---------------------------------------------------------------------------------------------------

_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(file: Path, shape: Shape, vocabulary: Vocabulary) -> None:
    """Matrices in Q4_0, vectors in F32."""
    writer = gguf.GGUFWriter(file, "qwen3")
    writer.add_name(shape.name)
    writer.add_block_count(shape.layers)
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    _add_tokenizer(writer, vocabulary)
    kind = gguf.GGMLQuantizationType.Q4_0
    for name, array in tensors(shape, vocabulary):
        if array.ndim == 1:
            writer.add_tensor(_gguf_name(name), array)
        else:
            writer.add_tensor(_gguf_name(name), gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem.startswith("model.layers."):
        number, _, part = stem.removeprefix("model.layers.").partition(".")
        return f"blk.{number}.{_GGUF_NAMES[part]}.weight"
    return f"{_GGUF_NAMES[stem]}.weight"


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    special = vocabulary.special

    def kind(token: str) -> gguf.TokenType:
        if token not in special:
            return gguf.TokenType.NORMAL
        return gguf.TokenType.CONTROL if special[token]["special"] else gguf.TokenType.USER_DEFINED

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types([kind(token) for token in vocabulary.tokens])
    writer.add_token_merges([" ".join(pair) for pair in vocabulary.description["model"]["merges"]])
    writer.add_eos_token_id(special["<|im_end|>"]["id"])
    writer.add_pad_token_id(special["<|endoftext|>"]["id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template((SOURCE / "chat_template.jinja").read_text("utf-8"))


# --- MLX ----------------------------------------------------------------------------------------------------


def write_mlx(directory: Path, shape: Shape, vocabulary: Vocabulary, group_size: int) -> None:
    """Write the files of Hugging Face, and let mlx-lm in the engine's environment convert them. Group size 0: not
    quantised."""
    python = ensure("mlx", ENGINES).python
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        source, target = Path(scratch) / "source", Path(scratch) / "target"
        source.mkdir()
        _write_hugging_face(source, shape, vocabulary)
        done = subprocess.run(
            [python, "-c", CONVERT, source, target, str(group_size)],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"mlx-lm could not convert the model:\n{done.stderr}")
        for file in target.iterdir():
            if file.suffix != ".md":
                shutil.copy(file, directory / file.name)


def _write_hugging_face(directory: Path, shape: Shape, vocabulary: Vocabulary) -> None:
    source = json.loads((SOURCE / "config.json").read_text("utf-8"))
    config = {key: value for key, value in source.items() if not key.startswith("quantization")} | {
        "head_dim": shape.head_dim,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "max_position_embeddings": CONTEXT_TOKENS,
        "max_window_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": EPSILON,
        "rope_theta": ROPE_BASE,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "vocab_size": shape.vocabulary,
    }
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text(json.dumps(vocabulary.description, ensure_ascii=False), "utf-8")
    for name in ("chat_template.jinja", "generation_config.json", "tokenizer_config.json"):
        shutil.copy(SOURCE / name, directory / name)
    _write_safetensors(directory / "model.safetensors", tensors(shape, vocabulary))


def _write_safetensors(file: Path, arrays: Iterator[tuple[str, np.ndarray]]) -> None:
    """The format is a length, a JSON object of names, types and offsets, and the numbers. Halves the precision."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    chunks, end = [], 0
    for name, array in arrays:
        data = array.astype("<f2").tobytes()
        header[name] = {"dtype": "F16", "shape": array.shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
        chunks.append(data)
    text = json.dumps(header).encode()
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.writelines(chunks)


# --- the card -----------------------------------------------------------------------------------------------


def _card(model: Model) -> str:
    shape = model.shape
    lines = [
        f"  modelId: benchmark/{model.name}",
        "  source:",
        f"    local: {model.name}",
        "  files:",
    ]
    for path in sorted(model.directory.iterdir()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        lines.append(f'    - {{path: {path.name}, bytes: {path.stat().st_size}, sha256: "{digest}"}}')
    if model.engine == "llama_cpp":
        lines.append(f"  ggufFile: {model.gguf_file.name}")
    lines += [
        f"  nLayers: {shape.layers}",
        f"  hiddenSize: {shape.hidden}",
        f"  numKeyValueHeads: {shape.kv_heads}",
        f"  contextLength: {CONTEXT_TOKENS}",
        "  tasks: [TextGeneration]",
        "  capabilities: [text]",
        "  placement:",
        f"    compatibleBackends: [{model.engine}]",
        "  kv:",
        f"    headDim: {shape.head_dim}",
        # MLX keeps keys and values in the type of the scales.
        f"    elementBytes: {4 if model.engine == 'mlx' else 2}",
    ]
    return HEAD.format(kind="ModelCard", name=model.name) + "\n".join(lines) + "\n"


def _digest() -> str:
    """What the files depend on, in 12 hex digits."""
    read = [Path(__file__), *(SOURCE / name for name in ("config.json", "tokenizer.json", "chat_template.jinja"))]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in read)).hexdigest()[:12]
