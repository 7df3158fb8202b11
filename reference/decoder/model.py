"""A plain decoder under tensor parallelism: what a model computes when its all-reduces are not what they were.

Every family of attention and latent attention, dense or a mixture of experts, that `ModelConfig` describes, on the
ranks that a `Group` has in this process: all of them (LocalGroup) or one (TorchGroup). Matrices are split by
`reference.decoder.shard`, partial sums go through a `Sync` (`reference.decoder.sync`), and everything else is computed
on every rank alike. Embedding and head are held whole. Experts are cut as an MLP is, or lie whole on `ep` groups of
ranks; with an `Exchange` (`reference.decoder.exchange`) each rank holds its own sequences and all matrices but those of
others' experts, and tokens travel to experts instead of partial sums.

The residual stream is kept for each rank, since a policy may leave the ranks with different values. Where a sync point
is dropped, a rank goes on with its own partial sum added to what all agree on; the next sync point carries that partial
along, and with it the ranks agree again. Biases of row-parallel matrices are added once, to what all agree on.

Not computed: recurrences (DeltaNet, state space, lightning attention), sparse attention beyond the tokens that its
index would choose, and what some models do beyond a context of their own (Llama 4 scales queries from 8192 tokens on).

Legend: B sequences of equal length, T new tokens, S tokens so far (those of the cache included), D width, H query heads
and G key-value heads of a rank, K values of a head, F columns of a rank's part of the MLP, V vocabulary, N = B T.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from thinwire.reference.core.architecture import Experts, FeedForward, ModelConfig
from thinwire.reference.core.mixers import Attention, Latent
from thinwire.reference.decoder.attention import (
    Cache,
    attend,
    causal_mask,
    expanded,
    head_norm,
    latents,
    projected,
    rms,
    turned,
)
from thinwire.reference.decoder.exchange import Exchange, spread
from thinwire.reference.decoder.experts import chosen, mixed, shared, through
from thinwire.reference.decoder.names import layer_shapes, naming
from thinwire.reference.decoder.rope import Turn, turning
from thinwire.reference.decoder.shard import (
    AttentionPart,
    ExpertsPart,
    LatentPart,
    MlpPart,
    Shard,
    cut,
    even,
    shards,
)
from thinwire.reference.decoder.state import (
    BF16,
    FP32,
    Layer,
    Precision,
    Projected,
    Stream,
    check_known,
    longest,
    once,
    own_keys,
)
from thinwire.reference.decoder.sync import ExactSync, SchemeSync, Sync, ranks_here
from thinwire.reference.groups.group import Group
from thinwire.reference.mixed import Point

__all__ = ["BF16", "FP32", "Decoder", "Layer", "Precision", "Stream"]

LOGIT_CHUNK = 256  # tokens whose logits exist at a time where only their loss is wanted


class Decoder:
    """A model on the ranks that `group` has in this process.

    Args:
        config: sizes and facts.
        weights: tensors by the names of `decoder.names`, in any floating dtype (`names.renamed` finds them in others');
            each is read once and layer by layer, so a lazy mapping (`weights.open_checkpoint`) keeps the peak near the
            weights' size.
        group: the tensor-parallel ranks.
        precision: dtypes.
        sync: what happens at sync points unless a call says otherwise; None = exact sums.
        heads: query heads of each rank, in the layers named; in others they are in order and as even as can be.
        ep: groups of ranks with experts of their own.
        exchange: how tokens reach experts where each rank has sequences of its own; ep is then the number of ranks, and
            there is no sync. None = all ranks have all sequences.

    Raises ValueError for what `shard.shards` refuses, a layer that is none, what is not computed here (recurrences,
    values that the description only counts, unknown rotary scaling and activations), ep without experts, and a sync or
    heads beside an exchange; KeyError for a missing tensor.
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
        ep: int = 1,
        exchange: Exchange | None = None,
    ) -> None:
        check_known(config)
        if ep > 1 and not config.is_mixture:
            raise ValueError(f"{config.name} has no experts to spread: ep={ep}")
        if exchange is not None and (sync is not None or heads):
            raise ValueError("where each rank has sequences of its own there is no sync, and heads are not dealt out")
        self.config, self.group, self.precision, self.exchange = config, group, precision, exchange
        self.ep = ep if exchange is None else group.size
        self._exact = ExactSync(group)
        self.sync: Sync = self._exact if sync is None else sync
        self._here = ranks_here(group)
        self._offset = naming(config).norm_offset
        self._embedding_VD = weights["model.embed_tokens.weight"]
        self._head_VD = self._embedding_VD if config.tied_embeddings else weights["lm_head.weight"]
        self._head_VD = self._head_VD.to(precision.logits)
        self._norms = self._norm_tensors({"norm": "model.norm"}, weights)
        heads = heads or {}
        if not heads.keys() <= set(range(config.num_layers)):
            raise ValueError(f"heads are given for layers 0..{config.num_layers - 1}: layers={sorted(heads)}")
        self.layers = [self.load(layer, weights, heads.get(layer)) for layer in range(config.num_layers)]

    def load(self, layer: int, weights: Mapping[str, Tensor], heads: Sequence[Sequence[int]] | None = None) -> Layer:
        """One layer from the model's weights; heads: query heads of each rank. `replaced` takes it."""
        split = shards(self.config, self.group.size, heads, layer, self.ep, self.exchange is not None)
        held = tuple(split[rank] for rank in self._here)
        prefix, precision = f"model.layers.{layer}.", self.precision
        names = layer_shapes(self.config, layer)
        stems = {
            name.rpartition(".")[0] for name in names if "layernorm" in name and "." not in name.rpartition(".")[0]
        }
        tensors = {}
        for name in names:
            if name.rpartition(".")[0] in stems:
                continue
            small = name.startswith("mlp.router") or "norm" in name
            tensors[name] = weights[prefix + name].to(precision.residual if small else precision.compute)
            if name in ("self_attn.q_norm.weight", "self_attn.k_norm.weight"):
                tensors[name] = tensors[name] + self._offset
        alone = len(held) < self.group.size
        down = [tensors.pop(f"{name}.down_proj.bias", None) for name in ("mlp", "mlp.shared")]
        return Layer(
            held,
            self._norm_tensors({stem: prefix + stem for stem in sorted(stems)}, weights),
            tensors.pop("self_attn.o_proj.bias", None),
            next((bias for bias in down if bias is not None), None),
            [cut(self.config, shard, tensors, own=alone, layer=layer) for shard in held],
            own_keys(split, self._here, self.exchange is not None),
        )

    def _norm_tensors(self, names: Mapping[str, str], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Norms by ours of these names: weights, and biases behind `.bias`."""
        found, kind = {}, self.config.norm
        for ours, theirs in names.items():
            if kind != "weightless":
                weight = weights[f"{theirs}.weight"].to(self.precision.residual)
                found[ours] = weight + self._offset if self._offset else weight
            if kind == "layer":
                found[f"{ours}.bias"] = weights[f"{theirs}.bias"].to(self.precision.residual)
        return found

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
        """An empty cache for `batch` sequences, of all ranks, of up to `capacity` tokens."""
        batches = [len(rows) for rows in self._sequences(batch)]
        return Cache(self.config, self.held, batch, capacity, self.precision.compute, self.device, batches)

    def _sequences(self, batch: int) -> list[range]:
        """Which of `batch` sequences each rank here holds: all, or its own."""
        if self.exchange is None:
            return [range(batch)] * len(self._here)
        return [even(batch, self.group.size)[rank] for rank in self._here]

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
        if sync is not None and self.exchange is not None:
            raise ValueError("where each rank has sequences of its own nothing is summed: give no sync")
        if isinstance(chosen, SchemeSync) and chosen.layers > self.config.num_layers:
            raise ValueError(f"the plan is for {chosen.layers} layers, {self.config.name} has {self.config.num_layers}")
        if cache is not None:
            if cache.held != self.held:
                raise ValueError(f"the cache is of another split over ranks than this decoder of {self.group.size}")
            cache.check(*ids_BT.shape)
        self._check_reach(ids_BT.shape[1] + (0 if cache is None else cache.length))

    def _check_reach(self, tokens: int) -> None:
        """ValueError where a sparse attention would leave tokens out, or the model does something else."""
        most = longest(self.config)
        if most is not None and tokens > most:
            raise ValueError(
                f"{self.config.name} treats positions beyond {most} otherwise, which the decoder does not: "
                f"{tokens} tokens"
            )
        for layer, _ in self.config.distinct:
            mixer = layer.mixer
            if isinstance(mixer, Latent) and mixer.indexer is not None and tokens > mixer.indexer.top_k:
                raise ValueError(
                    f"{self.config.name} reads the {mixer.indexer.top_k} tokens that its index chooses; the decoder "
                    f"computes no more than those: {tokens} tokens"
                )

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
        found = found if self.config.logit_scale == 1 else found * self.config.logit_scale
        cap = self.config.final_softcap
        return found if cap is None else cap * torch.tanh(found / cap)

    def nll(self, ids_BT: Tensor, sync: Sync | None = None, split: float | None = None) -> Tensor:
        """-log p of tokens 1 .. T-1 given those before, fp32 [B, T-1], of the sequences held here."""
        held = self._sequences(len(ids_BT)) if self.exchange is not None else [range(len(ids_BT))]
        rows = [row for found in held for row in found]
        return self.losses(self.prefill(ids_BT, sync=sync, split=split), ids_BT[rows])

    def generate(self, ids_BT: Tensor, new_tokens: int, stop: int | None = None, sync: Sync | None = None) -> Tensor:
        """Greedy continuation [B, <= new_tokens]: ends when every sequence has had the token `stop`, which also fills
        what follows it.
        """
        if new_tokens < 1:
            raise ValueError(f"new_tokens must be positive: new_tokens={new_tokens}")
        if self.exchange is not None and len(self._here) < self.group.size:
            raise ValueError("a rank that holds some of the sequences continues none: give it one of all ranks")
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
        if self.config.embedding_scale != 1:  # the factor too is rounded to the weights' dtype, in training as well
            factor = torch.tensor(self.config.embedding_scale, dtype=self.precision.compute)
            hidden_BTD = hidden_BTD * factor.to(self.precision.residual)
        if self.exchange is None:
            return Stream([hidden_BTD] * len(self._here))
        return Stream([hidden_BTD[rows.start : rows.stop] for rows in self._sequences(len(ids_BT))])

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
        whole, spec = self.layers[layer], self.config.layers[layer]
        chosen_sync = self.sync if sync is None else sync
        before = {"before": "post_attention_layernorm", "both": "pre_feedforward_layernorm"}.get(spec.norms)
        first = None if spec.norms == "after" else "input_layernorm"

        def join(
            stream: Stream, point: Point, partials: list[Tensor], biases: list[Tensor | None], after: str
        ) -> Stream:
            norm = None if spec.norms == "before" else after
            return self._join(stream, point, partials, biases, norm, start, ends, chosen_sync)

        if spec.parallel:
            inputs = self.normed(stream, layer, first)
            others = inputs if spec.one_norm else self.normed(stream, layer, before)
            halves = self._mixed(layer, inputs, start, cache), self._fed(layer, others)
            wide, kept = self.precision.residual, self.precision.partial
            partials = [(a.to(wide) + b.to(wide)).to(kept) for a, b in zip(*halves, strict=True)]
            biases = [whole.output_bias_D, whole.down_bias_D]
            return join(stream, (layer, "mlp"), partials, biases, "post_feedforward_layernorm")
        if spec.mixer is not None:
            partials = self._mixed(layer, self.normed(stream, layer, first), start, cache)
            stream = join(stream, (layer, "attention"), partials, [whole.output_bias_D], "post_attention_layernorm")
        if spec.feed is not None:
            partials = self._fed(layer, self.normed(stream, layer, before))
            stream = join(stream, (layer, "mlp"), partials, [whole.down_bias_D], "post_feedforward_layernorm")
        return stream

    def hidden(self, stream: Stream) -> Tensor:
        """Normalised hidden states [B, T, D] of the stream behind the last block: of all sequences held here.

        ValueError where ranks differ.
        """
        if stream.pending is not None:
            raise ValueError(
                "the last sync point of a model cannot be dropped: its ranks would end with different values"
            )
        last_BTD = stream.agreed[0] if self.exchange is None else torch.cat(stream.agreed)
        return self._norm(last_BTD, self._norms, "norm")

    def losses(self, hidden_BTD: Tensor, ids_BT: Tensor) -> Tensor:
        """-log p of tokens 1 .. T-1 from the hidden states of all, fp32 [B, T-1]; few logits exist at a time."""
        found = [
            functional.cross_entropy(self.logits(row_TD), target_T, reduction="none")
            for hidden_TD, next_T in zip(hidden_BTD[:, :-1], ids_BT[:, 1:].long(), strict=True)
            for row_TD, target_T in zip(hidden_TD.split(LOGIT_CHUNK), next_T.split(LOGIT_CHUNK), strict=True)
        ]
        return torch.cat(found).reshape(ids_BT.shape[0], -1) if found else hidden_BTD.new_empty(ids_BT.shape[0], 0)

    def normed(self, stream: Stream, layer: int, name: str | None) -> list[Tensor]:
        """The inputs of each rank's products: the stream under a layer's norm (None: as it is), in compute's dtype."""
        norms, compute = self.layers[layer].norms, self.precision.compute
        if name is None:
            return once(lambda x_BTD: x_BTD.to(compute), stream.values())
        return once(lambda x_BTD: self._norm(x_BTD, norms, name).to(compute), stream.values())

    def _norm(self, x_BTD: Tensor, norms: Mapping[str, Tensor], name: str) -> Tensor:
        eps = self.config.norm_eps
        if self.config.norm == "rms":
            return rms(x_BTD, norms[name], eps)
        return functional.layer_norm(x_BTD, x_BTD.shape[-1:], norms.get(name), norms.get(f"{name}.bias"), eps)

    def _mixed(self, layer: int, inputs: Sequence[Tensor], start: int, cache: Cache | None) -> list[Tensor]:
        """Partial sums of the output projection."""
        if cache is None and start:
            raise ValueError(f"tokens that start at position {start} need the cache of those before: cache=None")
        mixer, tokens = self.config.layers[layer].mixer, inputs[0].shape[1]
        assert isinstance(mixer, Attention | Latent)
        turn = self.turn(layer, start, tokens)
        if isinstance(mixer, Latent):
            return self._latent(layer, mixer, inputs, turn, start, cache)
        mask_TS = causal_mask(start, tokens, mixer.window, inputs[0].device, mixer.chunk)
        found, whole = [], self.layers[layer]
        for place, ready in enumerate(self.project(layer, inputs, turn)):
            part, shard, x_BTD = whole.parts[place].mixer, whole.shards[place], inputs[place]
            if ready is None:
                found.append(x_BTD.new_zeros(x_BTD.shape, dtype=self.precision.partial))
                continue
            assert isinstance(part, AttentionPart)
            key_BGSK, value_BGSV = ready.key, ready.value
            if cache is not None:
                key_BGSK, value_BGSV = cache.extend(layer, place, key_BGSK, value_BGSV)
            out_BHTV = attend(
                ready.query,
                key_BGSK,
                value_BGSV,
                shard.kv_of_query,
                mask_TS,
                mixer.scale,
                mixer.softcap,
                part.sink_H,
            )
            out_BTX = out_BHTV.transpose(1, 2).flatten(-2)
            if ready.gate is not None:
                out_BTX = out_BTX * torch.sigmoid(ready.gate)
            found.append(functional.linear(out_BTX, part.output_DxHV).to(self.precision.partial))
        return found

    def turn(self, layer: int, start: int, tokens: int) -> Turn | None:
        """Cosines and sines of positions `start` to `start + tokens` in a layer; None where it has no positions."""
        mixer = self.config.layers[layer].mixer
        rope = mixer.rope if isinstance(mixer, Attention | Latent) else None
        return None if rope is None else turning(rope, start, tokens, self.device)

    def project(self, layer: int, inputs: Sequence[Tensor], turn: Turn | None) -> list[Projected | None]:
        """Of each rank's normed inputs; None of a rank without heads. turn: `turn`'s."""
        mixer, whole, eps = self.config.layers[layer].mixer, self.layers[layer], self.config.norm_eps
        assert isinstance(mixer, Attention)
        raw = []
        for part, shard, x_BTD in zip(whole.parts, whole.shards, inputs, strict=True):
            assert isinstance(part.mixer, AttentionPart)
            raw.append(projected(mixer, part.mixer, x_BTD) if shard.query_heads else None)
        means: Sequence[Tensor | None] = [None] * len(raw)
        if mixer.qk_norm == "row":
            means = self._row_means(whole, mixer, inputs, [None if found is None else found[:2] for found in raw])
        ready: list[Projected | None] = []
        for part, found, mean_BT2 in zip(whole.parts, raw, means, strict=True):
            if found is None:
                ready.append(None)
                continue
            assert isinstance(part.mixer, AttentionPart)
            query_BTHK, key_BTGK, value_BTGV, gate_BTX = found
            mean_q, mean_k = (None, None) if mean_BT2 is None else mean_BT2.unbind(-1)
            query_BTHK = head_norm(mixer, query_BTHK, part.mixer.query_norm, eps, mean_q)
            key_BTGK = head_norm(mixer, key_BTGK, part.mixer.key_norm, eps, mean_k)
            query_BHTK, key_BGTK = (turned(mixer, x_BTHK, turn, eps) for x_BTHK in (query_BTHK, key_BTGK))
            ready.append(Projected(query_BHTK, key_BGTK, value_BTGV.transpose(1, 2), gate_BTX))
        return ready

    def _row_means(
        self,
        whole: Layer,
        mixer: Attention,
        inputs: Sequence[Tensor],
        raw: Sequence[tuple[Tensor, Tensor] | None],
    ) -> list[Tensor]:
        """Mean squares of all queries, and of all keys, of each token, [B, T, 2]: ranks add up those of their heads.

        A sum of 8 bytes a token that is no sync point: it travels exact whatever the scheme.
        """
        sums = []
        for x_BTD, found, own in zip(inputs, raw, whole.own_keys, strict=True):
            sum_BT2 = x_BTD.new_zeros(*x_BTD.shape[:2], 2, dtype=self.precision.residual)
            if found is not None:
                query_BTHK, key_BTGK = (x.to(sum_BT2.dtype) for x in found)
                sum_BT2[..., 0] = query_BTHK.square().sum((-1, -2))
                sum_BT2[..., 1] = key_BTGK[:, :, list(own)].square().sum((-1, -2))
            sums.append(sum_BT2)
        if self.exchange is None and self.group.size > 1:
            sums = self._exact(0, "attention", sums, 0, True)
        count = sums[0].new_tensor([mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim])
        return [sum_BT2 / count for sum_BT2 in sums]

    def _latent(
        self,
        layer: int,
        mixer: Latent,
        inputs: Sequence[Tensor],
        turn: Turn | None,
        start: int,
        cache: Cache | None,
    ) -> list[Tensor]:
        """Partial sums of the output projection of latent attention."""
        assert turn is not None
        found, whole, tokens = [], self.layers[layer], inputs[0].shape[1]
        mask_TS = causal_mask(start, tokens, None, inputs[0].device)
        for place, (part, shard, x_BTD) in enumerate(zip(whole.parts, whole.shards, inputs, strict=True)):
            assert isinstance(part.mixer, LatentPart)
            query_BHTK, key_B1SP, latent_B1SR = latents(mixer, part.mixer, x_BTD, turn)
            if cache is not None:
                key_B1SP, latent_B1SR = cache.extend(layer, place, key_B1SP, latent_B1SR)
            if not shard.query_heads:
                found.append(x_BTD.new_zeros(x_BTD.shape, dtype=self.precision.partial))
                continue
            key_BHSK, value_BHSV = expanded(mixer, part.mixer, key_B1SP, latent_B1SR)
            every = range(len(shard.query_heads))
            out_BHTV = attend(query_BHTK, key_BHSK, value_BHSV, every, mask_TS, mixer.scale, None)
            out_BTX = out_BHTV.transpose(1, 2).flatten(-2)
            found.append(functional.linear(out_BTX, part.mixer.output_DxHV).to(self.precision.partial))
        return found

    def _fed(self, layer: int, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Partial sums of the feed-forward."""
        feed, whole, partial = self.config.layers[layer].feed, self.layers[layer], self.precision.partial
        if isinstance(feed, FeedForward):
            found = []
            for part, x_BTD in zip(whole.parts, inputs, strict=True):
                assert isinstance(part.feed, MlpPart)
                found.append(through(feed, part.feed, x_BTD).to(partial))
            return found
        assert isinstance(feed, Experts)
        parts = [part.feed for part in whole.parts if isinstance(part.feed, ExpertsPart)]
        rows = [x_BTD.flatten(0, 1) for x_BTD in inputs]
        if self.exchange is not None:
            held = even(feed.count, self.group.size)
            totals = spread(feed, parts, held, self._here, rows, layer, self.exchange, partial)
        else:
            totals = [
                mixed(feed, part, shard.experts, x_ND, *chosen(feed, part, x_ND))
                for part, shard, x_ND in zip(parts, whole.shards, rows, strict=True)
            ]
        found = []
        for held_part, x_BTD, total_ND in zip(parts, inputs, totals, strict=True):
            beside = shared(feed, held_part, x_BTD)
            total_BTD = total_ND.view(x_BTD.shape)
            found.append((total_BTD if beside is None else total_BTD + beside).to(partial))
        return found

    def _join(
        self,
        stream: Stream,
        point: Point,
        partials: list[Tensor],
        biases: Sequence[Tensor | None],
        post_norm: str | None,
        position: int,
        ends: bool,
        sync: Sync,
    ) -> Stream:
        """The stream behind a sync point, reduced or dropped."""
        residual, scale, norms = self.precision.residual, self.config.residual_scale, self.layers[point[0]].norms
        if stream.pending is not None:  # what an earlier point left with the ranks travels with this one
            partials = [
                (pending + partial.to(residual)).to(partial.dtype)
                for pending, partial in zip(stream.pending, partials, strict=True)
            ]
        added = [bias_D.to(residual) for bias_D in biases if bias_D is not None]
        reduced = list(partials) if self.exchange is not None else sync(*point, partials, position, ends)
        if reduced is None:
            if post_norm is not None:
                raise ValueError(f"{self.config.name} norms what attention and MLP give; {point} cannot be dropped")
            if scale != 1:
                raise ValueError(f"{self.config.name} scales what attention and MLP give; {point} cannot be dropped")
            agreed = stream.agreed
            for bias_D in added:
                agreed = once(lambda x_BTD, bias_D=bias_D: x_BTD + bias_D, agreed)
            return Stream(agreed, [partial.to(residual) for partial in partials])

        def whole(x_BTD: Tensor) -> Tensor:
            x_BTD = x_BTD.to(residual)
            for bias_D in added:
                x_BTD = x_BTD + bias_D
            x_BTD = x_BTD if post_norm is None else self._norm(x_BTD, norms, post_norm)
            return x_BTD if scale == 1 else x_BTD * scale

        return Stream(once(torch.add, stream.agreed, once(whole, reduced)))
