"""A plain decoder under tensor parallelism: what a model computes when its all-reduces are not what they were.

Llama, Qwen2, Mistral and Gemma 2 as `ModelConfig` knows them, on the ranks that a `Group` has in this process: all of
them (LocalGroup) or one (TorchGroup). Matrices are split by `reference.decoder.shard`, partial sums go through a `Sync`
(`reference.decoder.sync`), and everything else is computed on every rank alike. Embedding and head are held whole.

The residual stream is kept for each rank, since a policy may leave the ranks with different values. Where a sync point
is dropped, a rank goes on with its own partial sum added to what all agree on; the next sync point carries that partial
along, and with it the ranks agree again. Biases of row-parallel matrices are added once, to what all agree on.

Legend: B sequences of equal length, T new tokens, S tokens so far (those of the cache included), D width, H query heads
and G key-value heads of a rank, K values of a head, F columns of a rank's part of the MLP, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.decoder.attention import attend, causal_mask, check_rope, frequencies, rotary, rotate
from thinwire.reference.decoder.shard import LayerPart, Shard, cut, shards
from thinwire.reference.decoder.sync import ExactSync, SchemeSync, Sync, ranks_here
from thinwire.reference.decoder.weights import layer_shapes
from thinwire.reference.groups.group import Group
from thinwire.reference.mixed import Point

GEMMA = "Gemma2ForCausalLM"
LOGIT_CHUNK = 256  # tokens whose logits exist at a time where only their loss is wanted

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


@dataclass(frozen=True, slots=True)
class Precision:
    """Dtypes. The residual stream, norms, rotating and sums are fp32 whatever stands here (fp64 where compute is; a
    rotation's angles, cosines and sines are fp32 even there, as in training).

    compute: weights, the inputs of their products and the KV cache. partial: the partial sums that go to the Sync; a
    product in bf16 gives bf16 and is widened, so fp32 is more than bf16 only where compute is. logits: the head's
    product; in bf16 it would round logits of 20 by 0.06, more than a good scheme costs.
    """

    compute: torch.dtype = torch.float32
    partial: torch.dtype = torch.float32
    logits: torch.dtype = torch.float32

    @property
    def residual(self) -> torch.dtype:
        """fp32, or fp64 where compute is."""
        return torch.promote_types(self.compute, torch.float32)


FP32 = Precision()
BF16 = Precision(torch.bfloat16, torch.bfloat16)


@dataclass(slots=True)
class Stream:
    """The residual stream between two sync points, for each rank held here: `agreed` + `pending`.

    agreed: [B, T, D] of each rank; one tensor object where ranks hold the same bits. pending: what each rank has added
    and not yet shared with the others; None after a sync point that was kept.
    """

    agreed: list[Tensor]
    pending: list[Tensor] | None = None

    def values(self) -> list[Tensor]:
        """What each rank goes on with."""
        if self.pending is None:
            return self.agreed
        return [agreed + pending for agreed, pending in zip(self.agreed, self.pending, strict=True)]


class Cache:
    """Keys and values of the tokens so far, by layer and rank held here; room for `capacity` tokens.

    held: the shards of each layer. Layers may differ in them, and so in the key-value heads that a rank keeps.
    """

    def __init__(
        self,
        config: ModelConfig,
        held: Sequence[Sequence[Shard]],
        batch: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        if batch < 1 or capacity < 1:
            raise ValueError(f"batch and capacity must be positive: batch={batch}, capacity={capacity}")
        self.batch, self.capacity, self.length = batch, capacity, 0
        self.held = tuple(held)
        shape = (capacity, config.head_dim)
        self._kept = [
            [torch.empty(2, batch, len(shard.kv_heads), *shape, dtype=dtype, device=device) for shard in of_layer]
            for of_layer in held
        ]

    def extend(self, layer: int, place: int, key_BGTK: Tensor, value_BGTK: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values behind the `length` tokens so far; all of them, [B, G, S, K] each."""
        stop = self.length + key_BGTK.shape[2]
        kept_2BGSK = self._kept[layer][place]
        kept_2BGSK[0, :, :, self.length : stop] = key_BGTK
        kept_2BGSK[1, :, :, self.length : stop] = value_BGTK
        return kept_2BGSK[0, :, :, :stop], kept_2BGSK[1, :, :, :stop]

    def check(self, batch: int, tokens: int) -> None:
        """ValueError where `tokens` more of `batch` sequences do not fit."""
        if batch != self.batch or self.length + tokens > self.capacity:
            raise ValueError(
                f"the cache has room for {self.batch} x {self.capacity} tokens and holds {self.length}: "
                f"given {batch} x {tokens} more"
            )


@dataclass(slots=True)
class Layer:
    """A layer: what is whole on every rank, and the part of each rank held here, in rank order."""

    shards: tuple[Shard, ...]
    norms: dict[str, Tensor]
    output_bias_D: Tensor | None
    down_bias_D: Tensor | None
    parts: list[LayerPart]


class Decoder:
    """A model on the ranks that `group` has in this process.

    Args:
        config: sizes and facts.
        weights: tensors by their Hugging Face names, in any floating dtype; each is read once and layer by layer, so a
            lazy mapping (`weights.open_checkpoint`) keeps the peak near the weights' size.
        group: the tensor-parallel ranks.
        precision: dtypes.
        sync: what happens at sync points unless a call says otherwise; None = exact sums.
        heads: query heads of each rank, in the layers named; in others they are in order and as even as can be.

    Raises ValueError for what `shard.shards` refuses, a layer that is none and unknown rotary scaling; KeyError for a
    missing tensor.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor],
        group: Group,
        *,
        precision: Precision = FP32,
        sync: Sync | None = None,
        heads: Mapping[int, Sequence[Sequence[int]]] | None = None,
    ) -> None:
        check_rope(config)
        self.config, self.group, self.precision = config, group, precision
        self.sync: Sync = ExactSync(group) if sync is None else sync
        self._here = ranks_here(group)
        self._gemma = config.architecture == GEMMA
        self._activation = _ACTIVATIONS[config.activation]
        self._embedding_VD = weights["model.embed_tokens.weight"]
        self.frequency_K = frequencies(config).to(self.device)
        self._head_VD = self._embedding_VD if config.tied_embeddings else weights["lm_head.weight"]
        self._head_VD = self._head_VD.to(precision.logits)
        self._norm_D = weights["model.norm.weight"].to(precision.residual)
        heads = heads or {}
        if not heads.keys() <= set(range(config.num_layers)):
            raise ValueError(f"heads are given for layers 0..{config.num_layers - 1}: layers={sorted(heads)}")
        self.layers = [self.load(layer, weights, heads.get(layer)) for layer in range(config.num_layers)]

    def load(self, layer: int, weights: Mapping[str, Tensor], heads: Sequence[Sequence[int]] | None = None) -> Layer:
        """One layer from the model's weights; heads: query heads of each rank. `replaced` takes it."""
        split = shards(self.config, self.group.size, heads)
        held = tuple(split[rank] for rank in self._here)
        prefix, compute = f"model.layers.{layer}.", self.precision.compute
        names = layer_shapes(self.config)
        norms = {name: weights[prefix + name].to(self.precision.residual) for name in names if "layernorm" in name}
        tensors = {name: weights[prefix + name].to(compute) for name in names if "layernorm" not in name}
        alone = len(held) < self.group.size
        return Layer(
            held,
            {name.removesuffix(".weight"): norm for name, norm in norms.items()},
            tensors.pop("self_attn.o_proj.bias", None),
            tensors.pop("mlp.down_proj.bias", None),
            [cut(self.config, shard, tensors, own=alone) for shard in held],
        )

    def replaced(self, layers: Mapping[int, Layer]) -> Decoder:
        """This decoder with other layers; everything else is shared, and this one stays as it is."""
        found = copy.copy(self)
        found.layers = [layers.get(layer, kept) for layer, kept in enumerate(self.layers)]
        return found

    @property
    def device(self) -> torch.device:
        """Where its tensors lie."""
        return self._embedding_VD.device

    @property
    def held(self) -> tuple[tuple[Shard, ...], ...]:
        """By layer: what the ranks in this process hold."""
        return tuple(layer.shards for layer in self.layers)

    def new_cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache for `batch` sequences of up to `capacity` tokens."""
        return Cache(self.config, self.held, batch, capacity, self.precision.compute, self.device)

    # ---- running it

    def forward(
        self, ids_BT: Tensor, cache: Cache | None = None, sync: Sync | None = None, ends: bool = True
    ) -> Tensor:
        """Normalised hidden states [B, T, D] of the tokens, which follow those in the cache; `logits` takes them.

        The cache, if any, holds the new tokens afterwards. sync: None = the decoder's own. ends: whether the last token
        is the prompt's last; False in all but the last of a prompt's chunks. Raises ValueError for ids
        that are not [B, T] within the vocabulary, a cache too small or of another split, a sync for another number of
        ranks or layers, a last sync point dropped, or a drop under Gemma 2's post-norms (a norm of a partial sum is no
        part of the norm of the sum).
        """
        stream, start = self.embed(ids_BT), 0 if cache is None else cache.length
        self._check(ids_BT, cache, sync)
        for layer in range(self.config.num_layers):
            stream = self.block(layer, stream, start, cache, sync, ends)
        if cache is not None:
            cache.length += ids_BT.shape[1]
        return self.hidden(stream)

    def prefill(
        self, ids_BT: Tensor, cache: Cache | None = None, sync: Sync | None = None, split: float | None = None
    ) -> Tensor:
        """`forward` with the sequence in two parts, the second attending to the first's keys (ISO's order of work).

        split: share of the tokens in the first part, `Scheme.sequence_split`; None = whole. The hidden states are
        those of the whole to rounding, but for codecs whose groups fall differently on two smaller messages.
        """
        first = 0 if split is None else round(ids_BT.shape[1] * split)
        if not 0 < first < ids_BT.shape[1]:
            return self.forward(ids_BT, cache, sync)
        self._check_ids(ids_BT)  # all of them, before the first half is in the cache
        self._check(ids_BT, cache, sync)
        cache = self.new_cache(*ids_BT.shape) if cache is None else cache
        halves = ((ids_BT[:, :first], False), (ids_BT[:, first:], True))
        return torch.cat([self.forward(half_BT, cache, sync, ends) for half_BT, ends in halves], dim=1)

    def _check(self, ids_BT: Tensor, cache: Cache | None, sync: Sync | None) -> None:
        """ValueError for a cache or a sync that is not for these ids or this decoder."""
        chosen = self.sync if sync is None else sync
        if isinstance(chosen, SchemeSync) and chosen.layers > self.config.num_layers:
            raise ValueError(f"the plan is for {chosen.layers} layers, {self.config.name} has {self.config.num_layers}")
        if cache is not None:
            if cache.held != self.held:
                raise ValueError(f"the cache is of another split over ranks than this decoder of {self.group.size}")
            cache.check(*ids_BT.shape)

    def _check_ids(self, ids_BT: Tensor) -> None:
        if ids_BT.dim() != 2 or not ids_BT.numel():
            raise ValueError(f"ids must be [sequences, tokens], neither empty: given {list(ids_BT.shape)}")
        if ids_BT.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"ids must be int32 or int64: given {ids_BT.dtype}")
        low, high = int(ids_BT.min()), int(ids_BT.max())
        if low < 0 or high >= self.config.vocab_size:
            raise ValueError(f"ids must lie in 0..{self.config.vocab_size - 1}: given {low}..{high}")

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """fp32 logits [..., V] of normalised hidden states."""
        found = functional.linear(hidden_BTD.to(self._head_VD.dtype), self._head_VD).to(self.precision.residual)
        cap = self.config.final_softcap
        return found if cap is None else cap * torch.tanh(found / cap)

    def nll(self, ids_BT: Tensor, sync: Sync | None = None, split: float | None = None) -> Tensor:
        """-log p of tokens 1 .. T-1 given those before, fp32 [B, T-1]."""
        return self.losses(self.prefill(ids_BT, sync=sync, split=split), ids_BT)

    def generate(self, ids_BT: Tensor, new_tokens: int, stop: int | None = None, sync: Sync | None = None) -> Tensor:
        """Greedy continuation [B, <= new_tokens]: ends when every sequence has had the token `stop`, which also fills
        what follows it.
        """
        if new_tokens < 1:
            raise ValueError(f"new_tokens must be positive: new_tokens={new_tokens}")
        batch, tokens = ids_BT.shape
        cache = self.new_cache(batch, tokens + new_tokens)
        step_BT, done_B, found = ids_BT, ids_BT.new_zeros(batch, dtype=torch.bool), list[Tensor]()
        for _ in range(new_tokens):
            next_B = self.logits(self.forward(step_BT, cache, sync)[:, -1]).argmax(-1)
            if stop is not None:
                next_B = next_B.masked_fill(done_B, stop)
                done_B |= next_B == stop
            found.append(next_B)
            if bool(done_B.all()):
                break
            step_BT = next_B[:, None]
        return torch.stack(found, dim=1)

    # ---- its parts, for what looks at single blocks

    def embed(self, ids_BT: Tensor) -> Stream:
        """The stream before the first block."""
        self._check_ids(ids_BT)
        hidden_BTD = functional.embedding(ids_BT, self._embedding_VD).to(self.precision.compute)
        hidden_BTD = hidden_BTD.to(self.precision.residual)
        if self._gemma:  # the factor too is rounded to the weights' dtype, in training as well
            factor = torch.tensor(self.config.hidden_size**0.5, dtype=self.precision.compute)
            hidden_BTD = hidden_BTD * factor.to(self.precision.residual)
        return Stream([hidden_BTD] * len(self._here))

    def block(
        self,
        layer: int,
        stream: Stream,
        start: int = 0,
        cache: Cache | None = None,
        sync: Sync | None = None,
        ends: bool = True,
    ) -> Stream:
        """The stream after one layer. start: position of its first token; a cache is written and not yet advanced.

        ends: as `forward` takes it.
        """
        whole, norms = self.layers[layer], self.layers[layer].norms
        chosen = self.sync if sync is None else sync
        before_attention, before_mlp = norms["input_layernorm"], norms["post_attention_layernorm"]
        after_attention = after_mlp = None
        if self.config.post_norms:  # here the name means what it says; elsewhere it is the norm before the MLP
            after_attention, before_mlp = before_mlp, norms["pre_feedforward_layernorm"]
            after_mlp = norms["post_feedforward_layernorm"]

        partials = self._attention(layer, self.normed(stream, before_attention), start, cache)
        point: Point = (layer, "attention")
        stream = self._join(stream, point, partials, whole.output_bias_D, after_attention, start, ends, chosen)

        inputs = self.normed(stream, before_mlp)
        partials = [self._mlp(part, x_BTD) for part, x_BTD in zip(whole.parts, inputs, strict=True)]
        return self._join(stream, (layer, "mlp"), partials, whole.down_bias_D, after_mlp, start, ends, chosen)

    def hidden(self, stream: Stream) -> Tensor:
        """Normalised hidden states [B, T, D] of the stream behind the last block. ValueError where ranks differ."""
        if stream.pending is not None:
            raise ValueError(
                "the last sync point of a model cannot be dropped: its ranks would end with different values"
            )
        return self._norm(stream.agreed[0], self._norm_D)

    def losses(self, hidden_BTD: Tensor, ids_BT: Tensor) -> Tensor:
        """-log p of tokens 1 .. T-1 from the hidden states of all, fp32 [B, T-1]; few logits exist at a time."""
        found = [
            functional.cross_entropy(self.logits(row_TD), target_T, reduction="none")
            for hidden_TD, next_T in zip(hidden_BTD[:, :-1], ids_BT[:, 1:].long(), strict=True)
            for row_TD, target_T in zip(hidden_TD.split(LOGIT_CHUNK), next_T.split(LOGIT_CHUNK), strict=True)
        ]
        return torch.cat(found).reshape(ids_BT.shape[0], -1) if found else hidden_BTD.new_empty(ids_BT.shape[0], 0)

    def normed(self, stream: Stream, weight_D: Tensor) -> list[Tensor]:
        """The inputs of each rank's products: the stream under a layer's norm, in the dtype of compute."""
        return _once(lambda x_BTD: self._norm(x_BTD, weight_D).to(self.precision.compute), stream.values())

    def _norm(self, x_BTD: Tensor, weight_D: Tensor) -> Tensor:
        scaled_BTD = x_BTD * torch.rsqrt(x_BTD.square().mean(-1, keepdim=True) + self.config.norm_eps)
        return scaled_BTD * (1 + weight_D if self._gemma else weight_D)

    def _attention(self, layer: int, inputs: Sequence[Tensor], start: int, cache: Cache | None) -> list[Tensor]:
        """Partial sums of the output projection."""
        config, (batch, tokens, _) = self.config, inputs[0].shape
        rope = rotary(self.frequency_K, start, tokens)
        if cache is None and start:
            raise ValueError(f"tokens that start at position {start} need the cache of those before: cache=None")
        mask_TS = causal_mask(start, tokens, config.window(layer), inputs[0].device)
        found, whole = [], self.layers[layer]
        for place, (part, shard, x_BTD) in enumerate(zip(whole.parts, whole.shards, inputs, strict=True)):
            if not shard.query_heads:
                found.append(x_BTD.new_zeros(x_BTD.shape, dtype=self.precision.partial))
                continue
            query_BHTK, key_BGSK, value_BGSK = self.project(part, x_BTD, rope)
            if cache is not None:
                key_BGSK, value_BGSK = cache.extend(layer, place, key_BGSK, value_BGSK)
            out_BHTK = attend(
                query_BHTK,
                key_BGSK,
                value_BGSK,
                shard.kv_of_query,
                mask_TS,
                config.query_scale,
                config.attention_softcap,
            )
            out_BTX = out_BHTK.transpose(1, 2).reshape(batch, tokens, -1)
            found.append(functional.linear(out_BTX, part.output_DxHK).to(self.precision.partial))
        return found

    def project(self, part: LayerPart, x_BTD: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """A rank's queries [B, H, T, K], turned keys and values [B, G, T, K] of normed inputs; rope: `rotary`'s."""
        query_BTX = functional.linear(x_BTD, part.query_HKxD, part.query_bias_HK)
        key_BTX = functional.linear(x_BTD, part.key_GKxD, part.key_bias_GK)
        value_BTX = functional.linear(x_BTD, part.value_GKxD, part.value_bias_GK)
        query_BHTK, key_BGTK, value_BGTK = (
            x.view(*x_BTD.shape[:2], -1, self.config.head_dim).transpose(1, 2) for x in (query_BTX, key_BTX, value_BTX)
        )
        return rotate(query_BHTK, rope), rotate(key_BGTK, rope), value_BGTK

    def _mlp(self, part: LayerPart, x_BTD: Tensor) -> Tensor:
        gate_BTF = self._activation(functional.linear(x_BTD, part.gate_FxD, part.gate_bias_F))
        up_BTF = functional.linear(x_BTD, part.up_FxD, part.up_bias_F)
        return functional.linear(gate_BTF * up_BTF, part.down_DxF).to(self.precision.partial)

    def _join(
        self,
        stream: Stream,
        point: Point,
        partials: list[Tensor],
        bias_D: Tensor | None,
        post_norm_D: Tensor | None,
        position: int,
        ends: bool,
        sync: Sync,
    ) -> Stream:
        """The stream behind a sync point, reduced or dropped."""
        residual = self.precision.residual
        if stream.pending is not None:  # what an earlier point left with the ranks travels with this one
            partials = [
                (pending + partial.to(residual)).to(partial.dtype)
                for pending, partial in zip(stream.pending, partials, strict=True)
            ]
        reduced = sync(*point, partials, position, ends)
        if reduced is None:
            if post_norm_D is not None:
                raise ValueError(f"{self.config.name} norms what attention and MLP give; {point} cannot be dropped")
            agreed = stream.agreed
            if bias_D is not None:
                agreed = _once(lambda x_BTD: x_BTD + bias_D.to(residual), agreed)
            return Stream(agreed, [partial.to(residual) for partial in partials])

        def whole(x_BTD: Tensor) -> Tensor:
            x_BTD = x_BTD.to(residual)
            x_BTD = x_BTD if bias_D is None else x_BTD + bias_D.to(residual)
            return x_BTD if post_norm_D is None else self._norm(x_BTD, post_norm_D)

        return Stream(_once(torch.add, stream.agreed, _once(whole, reduced)))


def _once(function: Callable[..., Tensor], *lists: Sequence[Tensor]) -> list[Tensor]:
    """`function` of each rank's tensors, called once for ranks that hold the same tensor objects."""
    made: dict[tuple[int, ...], Tensor] = {}
    found = []
    for arguments in zip(*lists, strict=True):
        key = tuple(map(id, arguments))
        if key not in made:
            made[key] = function(*arguments)
        found.append(made[key])
    return found
