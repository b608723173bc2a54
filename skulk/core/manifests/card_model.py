"""The shape of a `ModelCard` manifest: what a model is, its files, sizes and capabilities, where it may run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from skulk.core.manifests.fields import (
    CARD_FILES_MAX,
    CONTEXT_TOKENS_MAX,
    Backends,
    ByteCount,
    Digest,
    Effort,
    HubRepository,
    Layers,
    Manifest,
    ModelName,
    RelativePath,
    Revision,
    Text,
    Texts,
    Unique,
    Width,
)
from skulk.core.manifests.metadata import Envelope

Task = Literal["TextGeneration", "TextToImage", "ImageToImage", "TextEmbedding"]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]


def _text_generation() -> list[Task]:
    return ["TextGeneration"]


class CardSource(Manifest):
    """Where the files come from: exactly one of the two."""

    hub: HubRepository | None = Field(default=None, description="Repository OWNER/NAME on the Hugging Face Hub.")
    local: RelativePath | None = Field(
        default=None, description="Directory below one of the modelRoots of node.toml; relative, without `..`."
    )


class FileEntry(Manifest):
    """One file of the model."""

    path: RelativePath = Field(description="Path relative to the source.")
    bytes: ByteCount = Field(description="Exact size in bytes.")
    sha256: Digest = Field(description="Lower-case hex SHA-256 of the content.")


class StorageSize(Manifest):
    """Size of the weights."""

    in_bytes: ByteCount = Field(description="Bytes of the files that are loaded; absent: the sum over files.")


class Component(Manifest):
    """One part of a model that is made of several networks."""

    component_name: Text = Field(description="Name of the part.")
    component_path: RelativePath = Field(description="Its directory in the source.")
    storage_size: StorageSize = Field(description="Size of the part's weights.")
    n_layers: Layers | None = Field(default=None, description="Layers of the part.")
    can_shard: bool = Field(default=False, description="Whether the part can be split over nodes.")
    safetensors_index_filename: RelativePath | None = Field(default=None, description="Index of its shards.")


class Vision(Manifest):
    """How images enter the model."""

    image_token_id: TokenId | None = Field(default=None, description="Token id that stands for an image.")
    model_type: Text = Field(default="", description="Architecture of the vision part.")
    weights_repo: HubRepository | None = Field(default=None, description="Repository of the vision weights.")
    image_token: Text | None = Field(default=None, description="Token that stands for an image.")
    processor_repo: HubRepository | None = Field(default=None, description="Repository of the image processor.")
    boi_token_id: TokenId | None = Field(default=None, description="Token id that begins an image.")
    eoi_token_id: TokenId | None = Field(default=None, description="Token id that ends an image.")


class CardReasoning(Manifest):
    """How the model marks its reasoning."""

    supports_toggle: bool = Field(default=False, description="Whether a request can switch reasoning off.")
    supports_budget: bool = Field(default=False, description="Whether a request can bound reasoning tokens.")
    format: Literal["none", "token_delimited", "channel_delimited"] = Field(
        default="none", description="How reasoning stands in the output; token_delimited: <think> … </think>."
    )
    default_effort: Effort | None = Field(default=None, description="Effort when the request names none.")
    disabled_effort: Effort | None = Field(default=None, description="Effort that means: no reasoning.")


class Modalities(Manifest):
    """What else than text the model takes."""

    supports_audio_input: bool = Field(default=False, description="Whether the model takes audio.")
    supports_native_multimodal: bool = Field(default=False, description="Whether images are native to the model.")


class Tooling(Manifest):
    """How the model calls tools."""

    supports_tool_calling: bool = Field(default=False, description="Whether the model was trained to call tools.")
    tool_call_format: Literal["generic", "gemma4", "gpt_oss", "dsml"] = Field(
        default="generic", description="How tool calls stand in the output."
    )
    builtin_tools: Annotated[list[Literal["web_search", "open_url", "extract_page"]], *Unique] = Field(
        default_factory=list, description="Tools that the model knows by itself."
    )


class Runtime(Manifest):
    """How the model is run."""

    prompt_renderer: Literal["tokenizer", "gemma4", "dsml"] = Field(
        default="tokenizer", description="What turns messages into a prompt; tokenizer: its chat template."
    )
    output_parser: Literal["generic", "gemma4", "gpt_oss", "deepseek_v32"] = Field(
        default="generic", description="What reads reasoning and tool calls out of the output."
    )
    metal_fast_synch: bool = Field(default=False, description="Faster synchronisation on Apple GPUs.")
    mtp_heads: int | None = Field(default=None, ge=1, le=16, description="Multi-token-prediction heads.")
    mtp_max_depth: int | None = Field(default=None, ge=1, le=16, description="Most tokens drafted by the heads.")
    mtp_sidecar_repo: HubRepository | None = Field(default=None, description="Repository of the heads' weights.")
    mtp_norm_convention: Literal["zero_centered", "actual_scale"] | None = Field(
        default=None, description="How the heads' norm weights are stored."
    )
    mtp_concat_order: Literal["embed_first", "hidden_first"] | None = Field(
        default=None, description="Order in which embedding and hidden state enter the heads."
    )
    speculative_multi_node: bool = Field(default=False, description="Speculate on placements of several nodes.")
    assistant_model_repo: HubRepository | None = Field(default=None, description="Repository of a draft model.")
    served_spec_type: Literal["none", "draft_mtp", "draft_eagle3", "draft_simple", "ngram"] = Field(
        default="none", description="Speculation of the llama_server engine."
    )
    served_spec_n_max: int | None = Field(default=None, ge=1, le=64, description="Most tokens drafted per step.")
    served_spec_draft_repo: HubRepository | None = Field(default=None, description="Repository of the draft.")
    served_spec_draft_file: RelativePath | None = Field(default=None, description="File of the draft.")


class CardPlacement(Manifest):
    """Where the model may run."""

    compatible_backends: Backends = Field(
        default_factory=lambda: ["mlx"],
        min_length=1,
        description="Backends that can run the model; a bare engine name stands for all its computes.",
        json_schema_extra={"default": ["mlx"]},
    )
    backend_preference: Backends = Field(
        default_factory=list, description="Compatible backends, best first; absent: none is preferred."
    )
    min_vram_gib: float = Field(
        default=0, ge=0, le=1_000_000, description="Least memory of the device, in GiB; 0: no such limit."
    )
    max_context_tokens: int = Field(
        default=0, ge=0, le=CONTEXT_TOKENS_MAX, description="Most context tokens to offer; 0: contextLength."
    )


class SlidingWindow(Manifest):
    """Layers that attend over the last tokens only."""

    tokens: int = Field(ge=1, le=CONTEXT_TOKENS_MAX, description="Tokens in the window.")
    layers: Layers = Field(description="How many of the layers are windowed; at most nLayers.")


class Mla(Manifest):
    """Multi-head latent attention."""

    rank: Width = Field(description="Rank of the compressed keys and values (kv_lora_rank).")
    rope_dim: int = Field(ge=0, le=1_000_000, description="Width of the rotary part (qk_rope_head_dim).")


class Kv(Manifest):
    """What one sequence costs in KV cache."""

    head_dim: Width = Field(default=128, description="Width of one key or value head.")
    sliding_window: SlidingWindow | None = Field(
        default=None, description="Layers that attend over the last tokens only."
    )
    mla: Mla | None = Field(default=None, description="Multi-head latent attention, in place of heads.")
    recurrent_bytes: ByteCount = Field(
        default=0, description="Constant state per sequence of recurrent layers, in bytes."
    )
    element_bytes: int = Field(default=2, ge=1, le=8, description="Bytes per stored element.")


class ModelCardSpec(Manifest):
    """What a model is."""

    model_id: ModelName = Field(description="Public name of the model, such as OWNER/NAME; shown to clients.")
    source: CardSource = Field(description="Where the files come from: exactly one of hub and local.")
    revision: Revision | None = Field(
        default=None, description="Revision of the source; a 40-hex commit for the Hub. Changing it is an update."
    )
    files: list[FileEntry] = Field(
        max_length=CARD_FILES_MAX, description="Every file that the engine needs; checked before it is used."
    )
    storage_size: StorageSize | None = Field(default=None, description="Size of the weights.")
    n_layers: Layers = Field(description="Transformer layers.")
    hidden_size: Width = Field(description="Width of the hidden state.")
    num_key_value_heads: Width | None = Field(
        default=None, description="Key-value heads per layer; absent: no KV cost is predicted."
    )
    supports_tensor: bool = Field(default=False, description="Whether the model can be split within layers.")
    tasks: Annotated[list[Task], *Unique] = Field(
        default_factory=_text_generation,
        min_length=1,
        description="What the model does.",
        json_schema_extra={"default": ["TextGeneration"]},
    )
    components: list[Component] | None = Field(default=None, description="Parts of a model of several networks.")
    family: Text = Field(default="", description="Model family, such as qwen; shown to clients.")
    quantization: Text = Field(default="", description="Quantisation, such as 4bit; shown to clients.")
    base_model: Text = Field(default="", description="What the model derives from; shown to clients.")
    gguf_file: RelativePath | None = Field(
        default=None, description="The GGUF file to load (its first shard); must be among files."
    )
    capabilities: Texts = Field(
        default_factory=list, description="What the model can do, such as text or thinking; shown to clients."
    )
    context_length: int = Field(
        default=0, ge=0, le=CONTEXT_TOKENS_MAX, description="Context window in tokens; 0: unknown."
    )
    uses_cfg: bool = Field(default=False, description="Whether classifier-free guidance doubles each step.")
    trust_remote_code: bool = Field(default=False, description="Run code from the model repository.")
    vision: Vision | None = Field(default=None, description="How images enter the model.")
    reasoning: CardReasoning | None = Field(default=None, description="How the model marks its reasoning.")
    modalities: Modalities | None = Field(default=None, description="What else than text the model takes.")
    tooling: Tooling | None = Field(default=None, description="How the model calls tools.")
    runtime: Runtime | None = Field(default=None, description="How the model is run.")
    placement: CardPlacement = Field(default_factory=CardPlacement, description="Where the model may run.")
    license: Text = Field(default="", description="Licence of the weights, such as Apache-2.0; shown to clients.")
    kv: Kv = Field(default_factory=Kv, description="What one sequence costs in KV cache.")


class ModelCardManifest(Envelope):
    """A model: one document below cards/."""

    kind: Literal["ModelCard"] = Field(description="Always ModelCard.")
    spec: ModelCardSpec = Field(description="What a model is.")
