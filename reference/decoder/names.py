"""Tensors of a decoder by one set of names, Hugging Face's for Llama and Gemma 2, whatever a checkpoint calls them.

`layer_shapes` says what a layer holds; a mixture's experts are stacked, [experts, out, in]. `renamed` finds each of
them among a checkpoint's tensors, or in the state of transformers' module, which stacks experts itself: under another
name, as rows of a fused matrix, or one expert at a time. What is called how is data, the tables below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, stack

from thinwire.reference.core.architecture import Experts, FeedForward, Layer, ModelConfig
from thinwire.reference.core.mixers import Attention, Latent

Shapes = dict[str, tuple[int, ...]]
Shape = tuple[int, ...]

# ---- what a model holds


def layer_shapes(config: ModelConfig, layer: int = 0) -> Shapes:
    """Tensors of one layer by their names behind `model.layers.N.`, and their shapes.

    Raises ValueError for a layer that is neither attention nor latent attention.
    """
    spec, weights, biases = config.layers[layer], Shapes(), Shapes()
    if isinstance(spec.mixer, Attention):
        _of_attention(spec.mixer, config.hidden_size, weights, biases)
    elif isinstance(spec.mixer, Latent):
        _of_latent(spec.mixer, config.hidden_size, weights, biases)
    elif spec.mixer is not None:
        raise ValueError(f"model {config.name}: {type(spec.mixer).__name__} layers are not computed here")
    if isinstance(spec.feed, Experts):
        _of_experts(spec.feed, config.hidden_size, weights, biases)
    elif spec.feed is not None:
        _of_mlp(spec.feed, config.hidden_size, "mlp", weights, biases)
    norms = {name: (config.hidden_size,) for norm in norm_names(spec) for name in _of_norm(config, norm)}
    return weights | biases | norms


def norm_names(spec: Layer) -> tuple[str, ...]:
    """Norms of the residual's width, in the order in which they come: before and after the mixer, then the feed."""
    before_feed = "pre_feedforward_layernorm" if spec.norms == "both" else "post_attention_layernorm"
    mixer, feed = spec.mixer is not None, spec.feed is not None
    if spec.norms == "before":
        return (("input_layernorm",) if mixer or spec.one_norm else ()) + (
            (before_feed,) * (feed and not spec.one_norm)
        )
    if spec.norms == "after":
        return ("post_attention_layernorm",) * mixer + ("post_feedforward_layernorm",) * feed
    around_mixer = ("input_layernorm", "post_attention_layernorm") * mixer
    return around_mixer + (before_feed, "post_feedforward_layernorm") * feed


def _of_norm(config: ModelConfig, name: str) -> tuple[str, ...]:
    """The tensors of a norm."""
    kinds = {"weightless": (), "layer": (f"{name}.weight", f"{name}.bias")}
    return kinds.get(config.norm, (f"{name}.weight",))


def _of_attention(mixer: Attention, width: int, weights: Shapes, biases: Shapes) -> None:
    query, key, wide = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim, mixer.values_per_head
    rows = {"q_proj": query * (2 if mixer.gated else 1), "k_proj": key, "v_proj": mixer.kv_heads * wide}
    if mixer.keys_are_values:
        del rows["v_proj"]
    weights |= {f"self_attn.{name}.weight": (size, width) for name, size in rows.items()}
    weights["self_attn.o_proj.weight"] = (width, mixer.heads * wide)
    if mixer.qkv_bias:
        biases |= {f"self_attn.{name}.bias": (size,) for name, size in rows.items()}
    if mixer.output_bias:
        biases["self_attn.o_proj.bias"] = (width,)
    if mixer.sinks:
        biases["self_attn.sinks"] = (mixer.heads,)
    sizes: dict[str, tuple[Shape, Shape]] = {
        "head": ((mixer.head_dim,), (mixer.head_dim,)),
        "row": ((query,), (key,)),
        "head-layer": ((mixer.heads, mixer.head_dim), (mixer.kv_heads, mixer.head_dim)),
    }
    for name, shape in zip(("q_norm", "k_norm"), sizes.get(mixer.qk_norm, ()), strict=False):
        biases[f"self_attn.{name}.weight"] = shape


def _of_latent(mixer: Latent, width: int, weights: Shapes, biases: Shapes) -> None:
    query, latent = mixer.heads * mixer.head_dim, mixer.rank + mixer.rope_dim
    if mixer.q_rank is None:
        weights["self_attn.q_proj.weight"] = (query, width)
    else:
        weights["self_attn.q_a_proj.weight"] = (mixer.q_rank, width)
        weights["self_attn.q_b_proj.weight"] = (query, mixer.q_rank)
        biases["self_attn.q_a_layernorm.weight"] = (mixer.q_rank,)
    weights["self_attn.kv_a_proj_with_mqa.weight"] = (latent, width)
    weights["self_attn.kv_b_proj.weight"] = (mixer.heads * (mixer.nope_dim + mixer.value_dim), mixer.rank)
    weights["self_attn.o_proj.weight"] = (width, mixer.heads * mixer.value_dim)
    biases["self_attn.kv_a_layernorm.weight"] = (mixer.rank,)
    if mixer.bias:
        biases |= {"self_attn.kv_a_proj_with_mqa.bias": (latent,), "self_attn.o_proj.bias": (width,)}
        if mixer.q_rank is not None:
            biases["self_attn.q_a_proj.bias"] = (mixer.q_rank,)


def _of_mlp(feed: FeedForward, width: int, name: str, weights: Shapes, biases: Shapes) -> None:
    up = ("gate_proj", "up_proj") if feed.gated else ("up_proj",)
    weights |= {f"{name}.{part}.weight": (feed.width, width) for part in up}
    weights[f"{name}.down_proj.weight"] = (width, feed.width)
    if feed.bias:
        biases |= {f"{name}.{part}.bias": (feed.width,) for part in up}
        biases[f"{name}.down_proj.bias"] = (width,)


def _of_experts(feed: Experts, width: int, weights: Shapes, biases: Shapes) -> None:
    weights["mlp.router.weight"] = (feed.count, width)
    up = ("gate_proj", "up_proj") if feed.gated else ("up_proj",)
    weights |= {f"mlp.experts.{part}.weight": (feed.count, feed.width, width) for part in up}
    weights["mlp.experts.down_proj.weight"] = (feed.count, width, feed.width)
    if feed.bias:
        biases |= {f"mlp.experts.{part}.bias": (feed.count, feed.width) for part in up}
        biases["mlp.experts.down_proj.bias"] = (feed.count, width)
    if feed.router_bias:
        biases["mlp.router.bias"] = (feed.count,)
    if feed.correction:
        biases["mlp.router.correction"] = (feed.count,)
    if feed.shared is not None:
        _of_mlp(feed.shared, width, "mlp.shared", weights, biases)
        if feed.shared_gate:
            weights["mlp.shared_gate.weight"] = (1, width)


def tensor_shapes(config: ModelConfig) -> Shapes:
    """Every tensor of a checkpoint, by its name here, and its shape."""
    found: Shapes = {"model.embed_tokens.weight": (config.vocab_size, config.hidden_size)}
    for layer in range(config.num_layers):
        found |= {f"model.layers.{layer}.{name}": shape for name, shape in layer_shapes(config, layer).items()}
    found |= dict.fromkeys(_of_norm(config, "model.norm"), (config.hidden_size,))
    if not config.tied_embeddings:
        found["lm_head.weight"] = (config.vocab_size, config.hidden_size)
    return found


# ---- what checkpoints call it

# Ours -> theirs, of which the first that a checkpoint has is taken. Names are without .weight and .bias, which both
# share, unless they end in "!". {e}: experts one by one. ":piece": rows of a fused matrix: q, k and v of queries, keys
# and values one after the other, group-q .. where each key-value head follows its queries; gate and up of halves, even
# and odd of rows in turn. "^": their matrix is [in, out].
_COMMON: Mapping[str, tuple[str, ...]] = {
    "mlp.router": ("mlp.gate", "mlp.router", "block_sparse_moe.gate", "block_sparse_moe.router.layer",
                   "block_sparse_moe.router", "feed_forward.router"),
    "mlp.router.correction": ("mlp.gate.e_score_correction_bias!", "mlp.e_score_correction_bias!",
                              "block_sparse_moe.e_score_correction_bias!"),
    "mlp.experts.gate_proj": ("mlp.experts.{e}.gate_proj", "block_sparse_moe.experts.{e}.w1", "mlp.experts.{e}.w1",
                              "mlp.experts.gate_up_proj!:gate", "block_sparse_moe.experts.gate_up_proj!:gate",
                              "block_sparse_moe.input_linear:gate"),
    "mlp.experts.up_proj": ("mlp.experts.{e}.up_proj", "block_sparse_moe.experts.{e}.w3", "mlp.experts.{e}.w3",
                            "mlp.experts.gate_up_proj!:up", "block_sparse_moe.experts.gate_up_proj!:up",
                            "block_sparse_moe.input_linear:up"),
    "mlp.experts.down_proj": ("mlp.experts.{e}.down_proj", "block_sparse_moe.experts.{e}.w2", "mlp.experts.{e}.w2",
                              "mlp.experts.down_proj!", "block_sparse_moe.experts.down_proj!",
                              "block_sparse_moe.output_linear"),
    "mlp.shared.gate_proj": ("mlp.shared_experts.gate_proj", "mlp.shared_expert.gate_proj",
                             "feed_forward.shared_expert.gate_proj", "shared_mlp.input_linear:gate"),
    "mlp.shared.up_proj": ("mlp.shared_experts.up_proj", "mlp.shared_expert.up_proj",
                           "feed_forward.shared_expert.up_proj", "shared_mlp.input_linear:up"),
    "mlp.shared.down_proj": ("mlp.shared_experts.down_proj", "mlp.shared_expert.down_proj",
                             "feed_forward.shared_expert.down_proj", "shared_mlp.output_linear"),
    "mlp.shared_gate": ("mlp.shared_expert_gate",),
    "mlp.gate_proj": ("mlp.gate_proj", "feed_forward.gate_proj", "mlp.gate_up_proj:gate"),
    "mlp.up_proj": ("mlp.up_proj", "feed_forward.up_proj", "mlp.gate_up_proj:up", "mlp.c_fc"),
    "mlp.down_proj": ("mlp.down_proj", "feed_forward.down_proj", "mlp.c_proj"),
    "self_attn.q_proj": ("self_attn.q_proj", "self_attn.qkv_proj:q"),
    "self_attn.k_proj": ("self_attn.k_proj", "self_attn.qkv_proj:k"),
    "self_attn.v_proj": ("self_attn.v_proj", "self_attn.qkv_proj:v"),
    "self_attn.sinks": ("self_attn.sinks!",),
    "model.embed_tokens": ("embed_tokens",),
    "model.norm": ("norm", "final_layernorm"),
    "lm_head": ("lm_head",),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Naming:
    """How an architecture's checkpoints differ. theirs: as `_COMMON`, before it. norm_offset: added to norm weights,
    which are kept about zero."""

    theirs: Mapping[str, tuple[str, ...]]
    norm_offset: float = 0.0


_AROUND_ZERO = Naming({}, 1.0)
_GLM4 = Naming(
    {
        "post_attention_layernorm": ("post_self_attn_layernorm",),
        "pre_feedforward_layernorm": ("post_attention_layernorm",),
        "post_feedforward_layernorm": ("post_mlp_layernorm",),
    }
)
_FALCON = Naming(
    {
        "self_attn.q_proj": ("self_attention.query_key_value:group-q",),
        "self_attn.k_proj": ("self_attention.query_key_value:group-k",),
        "self_attn.v_proj": ("self_attention.query_key_value:group-v",),
        "self_attn.o_proj": ("self_attention.dense",),
        "mlp.up_proj": ("mlp.dense_h_to_4h",),
        "mlp.down_proj": ("mlp.dense_4h_to_h",),
        "input_layernorm": ("ln_attn", "input_layernorm"),
        "post_attention_layernorm": ("ln_mlp", "post_attention_layernorm"),
        "model.embed_tokens": ("word_embeddings",),
        "model.norm": ("ln_f",),
    }
)
_CHATGLM = Naming(
    {
        "self_attn.q_proj": ("self_attention.query_key_value:q",),
        "self_attn.k_proj": ("self_attention.query_key_value:k",),
        "self_attn.v_proj": ("self_attention.query_key_value:v",),
        "self_attn.o_proj": ("self_attention.dense",),
        "mlp.gate_proj": ("mlp.dense_h_to_4h:gate",),
        "mlp.up_proj": ("mlp.dense_h_to_4h:up",),
        "mlp.down_proj": ("mlp.dense_4h_to_h",),
        "model.embed_tokens": ("embedding.word_embeddings",),
        "model.norm": ("final_layernorm", "encoder.final_layernorm"),
        "lm_head": ("output_layer",),
    }
)
_INTERNLM2 = Naming(
    {
        "self_attn.q_proj": ("attention.wqkv:group-q",),
        "self_attn.k_proj": ("attention.wqkv:group-k",),
        "self_attn.v_proj": ("attention.wqkv:group-v",),
        "self_attn.o_proj": ("attention.wo",),
        "mlp.gate_proj": ("feed_forward.w1",),
        "mlp.up_proj": ("feed_forward.w3",),
        "mlp.down_proj": ("feed_forward.w2",),
        "input_layernorm": ("attention_norm",),
        "post_attention_layernorm": ("ffn_norm",),
        "model.embed_tokens": ("tok_embeddings",),
        "lm_head": ("output",),
    }
)
_GPT_OSS = Naming(
    {
        "mlp.experts.gate_proj.weight": ("^mlp.experts.gate_up_proj!:even",),
        "mlp.experts.up_proj.weight": ("^mlp.experts.gate_up_proj!:odd",),
        "mlp.experts.down_proj.weight": ("^mlp.experts.down_proj!",),
        "mlp.experts.gate_proj.bias": ("mlp.experts.gate_up_proj_bias!:even",),
        "mlp.experts.up_proj.bias": ("mlp.experts.gate_up_proj_bias!:odd",),
        "mlp.experts.down_proj.bias": ("mlp.experts.down_proj_bias!",),
    }
)
_LLAMA4 = Naming(
    {
        "mlp.experts.gate_proj": ("^feed_forward.experts.gate_up_proj!:gate", "feed_forward.experts.{e}.gate_proj"),
        "mlp.experts.up_proj": ("^feed_forward.experts.gate_up_proj!:up", "feed_forward.experts.{e}.up_proj"),
        "mlp.experts.down_proj": ("^feed_forward.experts.down_proj!", "feed_forward.experts.{e}.down_proj"),
    }
)
_NAMINGS: Mapping[str, Naming] = {
    "Gemma": _AROUND_ZERO,
    "Nemotron": _AROUND_ZERO,
    "Qwen3Next": _AROUND_ZERO,
    "Qwen3_5": _AROUND_ZERO,
    "Glm4For": _GLM4,
    "Falcon": _FALCON,
    "RW": _FALCON,
    "ChatGLM": _CHATGLM,
    "InternLM2": _INTERNLM2,
    "GptOss": _GPT_OSS,
    "Llama4": _LLAMA4,
}  # by how the architecture's name begins
# In what the layers, and what the table and the last norm, lie. The first whose layers are there is taken.
_PLACES = (
    ("model.layers.", "model."),
    ("model.language_model.layers.", "model.language_model."),
    ("language_model.model.layers.", "language_model.model."),
    ("transformer.encoder.layers.", "transformer."),
    ("transformer.h.", "transformer."),
)
# Buffers that follow from the config, other towers of a model that sees or hears, an index that is not computed here.
_PASSED_OVER = re.compile(
    r"rotary_emb\.inv_freq$|rotary_pos_emb\.inv_freq$|(^|\.)(vision|visual|audio|multi_modal|mm_)|\.indexer\."
)


def naming(config: ModelConfig) -> Naming:
    """How checkpoints of a model's architecture call things."""
    for begins, found in _NAMINGS.items():
        if config.architecture.startswith(begins) and not config.architecture.startswith("Gemma4"):
            return found
    return Naming({})


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a tensor of ours comes from: tensors of theirs, more than one to be stacked, and which rows of them."""

    names: tuple[str, ...]
    stacked: bool
    transposed: bool
    piece: str


class Renamed(Mapping[str, Tensor]):
    """A model's tensors by our names, each read anew when asked for.

    lacking: tensors of ours that are nowhere. unknown: tensors of theirs that are none of the model's.
    """

    def __init__(self, config: ModelConfig, names: Collection[str], read: Callable[[str], Tensor]) -> None:
        self._config, self._read = config, read
        place = next((found for found in _PLACES if any(name.startswith(found[0]) for name in names)), _PLACES[0])
        self._sources: dict[str, _Source] = {}
        self.lacking: list[str] = []
        held = set(names)
        for ours in tensor_shapes(config):
            source = _found(config, ours, place, held)
            if source is None:
                self.lacking.append(ours)
            else:
                self._sources[ours] = source
        used = {name for source in self._sources.values() for name in source.names}
        beyond = re.compile(re.escape(place[0]) + r"(\d+)\.")  # layers for predicting several tokens
        self.unknown = [
            name
            for name in names
            if name not in used
            and not _PASSED_OVER.search(name)
            and not ((match := beyond.match(name)) and int(match[1]) >= config.num_layers)
        ]

    def __getitem__(self, name: str) -> Tensor:
        source = self._sources[name]
        parts = [self._read(theirs) for theirs in source.names]
        found = stack(parts) if source.stacked else parts[0]
        if source.transposed:
            found = found.transpose(-1, -2)
        rows = _rows(self._config, name, source.piece, found.shape[_out(name, found.dim())])
        if rows is None:
            return found.contiguous() if source.transposed else found
        whole = found.movedim(_out(name, found.dim()), 0)
        return _taken(whole, rows).movedim(0, _out(name, found.dim())).contiguous()

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def shape(self, name: str, shapes: Mapping[str, Shape]) -> Shape:
        """What `__getitem__` would give, from the shapes of theirs."""
        source = self._sources[name]
        theirs = [tuple(shapes[found]) for found in source.names]
        found = list(theirs[0])
        if len(set(theirs)) > 1 or not found:
            return theirs[0]
        if source.stacked:
            found.insert(0, len(theirs))
        if source.transposed and len(found) > 1:
            found[-1], found[-2] = found[-2], found[-1]
        out = _out(name, len(found))
        if out < -len(found):
            return tuple(found)
        rows = _rows(self._config, name, source.piece, found[out])
        if rows is not None:
            found[out] = sum(len(part) for part in rows)
        return tuple(found)


def renamed(config: ModelConfig, tensors: Mapping[str, Tensor]) -> Renamed:
    """A model's tensors by our names, from a checkpoint's or from the state of transformers' module.

    Raises ValueError where tensors are missing or are none of the model's.
    """
    found = Renamed(config, tuple(tensors), tensors.__getitem__)
    spare = [name for name in found.unknown if not (config.tied_embeddings and name.endswith("lm_head.weight"))]
    for what, names in (("lack", found.lacking), ("hold what is none of its own:", spare)):
        if names:
            raise ValueError(f"tensors of {config.name} {what} {', '.join(names[:5])}")
    return found


def _found(config: ModelConfig, ours: str, place: tuple[str, str], held: Collection[str]) -> _Source | None:
    """The first of its names that a checkpoint has."""
    layer, outer = place
    match = re.match(r"model\.layers\.(\d+)\.(.*)", ours)
    inner, prefix = (match[2], f"{layer}{match[1]}.") if match else (ours, outer)
    stem, _, suffix = inner.rpartition(".")
    tables = naming(config).theirs, _COMMON
    said = [entry for table in tables for key in (inner, stem) for entry in table.get(key, ())]
    count = 0
    if match and isinstance(feed := config.layers[int(match[1])].feed, Experts):
        count = feed.count
    for entry in (*said, stem if suffix in ("weight", "bias") else inner + "!"):
        text, _, piece = entry.removeprefix("^").partition(":")
        name = text.removesuffix("!") if text.endswith("!") else f"{text}.{suffix}"
        each = tuple(name.replace("{e}", str(number)) for number in range(count)) if "{e}" in name else (name,)
        # The head lies beside what holds the layers, or in it.
        for before in (prefix,) if match else (outer, outer.removesuffix("model."), ""):
            full = tuple(before + one for one in each)
            if full and all(one in held for one in full):
                return _Source(full, "{e}" in name, entry.startswith("^"), piece)
    return None


def _out(name: str, dims: int) -> int:
    """The dimension of a matrix's outputs."""
    return -1 if name.endswith(".bias") or dims < 2 else -2


def _rows(config: ModelConfig, name: str, piece: str, total: int) -> list[range] | None:
    """Which rows of a fused matrix of `total` rows are meant; None = all."""
    if not piece:
        return None
    if piece in ("gate", "up"):
        half = total // 2
        return [range(half) if piece == "gate" else range(half, total)]
    if piece in ("even", "odd"):
        return [range(piece == "odd", total, 2)]
    mixer = config.layers[int(name.split(".")[2])].mixer
    assert isinstance(mixer, Attention)
    size, groups = mixer.head_dim, 1 if not piece.startswith("group-") else mixer.kv_heads
    query, key = mixer.heads // groups * size, mixer.kv_heads // groups * size
    value = mixer.kv_heads // groups * mixer.values_per_head
    first, length = {"q": (0, query), "k": (query, key), "v": (query + key, value)}[piece[-1]]
    whole = query + key + value
    if whole * groups != total:
        return [range(total)]  # not the model's: its shape says so
    return [range(group * whole + first, group * whole + first + length) for group in range(groups)]


def _taken(whole: Tensor, rows: list[range]) -> Tensor:
    if len(rows) == 1:
        return whole[rows[0].start : rows[0].stop : rows[0].step]
    return whole[[row for part in rows for row in part]]
