"""Attention with other heads, windows and caches than the base models were fitted to (head size 128, none, bf16).

`sim/profiles/attention-<gpu>.json` has, for each (head size, window, cache) that is measured on a GPU, what its prefill
takes more than the base model says (`AttentionModel.adjust`), and a decode model of its own. The nearest of them serves
a call: first by head size, then by window, each in octaves. The base is one of them, and serves its own calls and those
it is nearest to untouched. An int8 cache is priced as an fp8 one; docs/decisions/031-weights-and-cache.md.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from math import log2
from typing import Any, Literal, NamedTuple

from pydantic import TypeAdapter

from thinwire.sim.costs.attention import AttentionModel
from thinwire.sim.costs.decode_attention import ELEMENT_BYTES, DecodeAttentionModel
from thinwire.sim.costs.spread import Spread
from thinwire.sim.costs.tables import listed, mapping

Cache = Literal["bf16", "fp8", "int8"]
CACHES: tuple[Cache, ...] = ("bf16", "fp8", "int8")
WITHOUT = 2**16  # a window that is none, as far as distances go: longer than nearly all contexts


class Variant(NamedTuple):
    """What a model of attention is fitted to; window 0: none."""

    head_dim: int
    window: int
    cache: str


BASE = Variant(128, 0, "bf16")
_SPREADS = TypeAdapter(tuple[Spread, ...])


@dataclass(frozen=True, slots=True)
class Heads:
    """A GPU's variants: of prefill their adjustments, of decode their models. Without any the base serves all."""

    prefill: tuple[tuple[Variant, tuple[int, ...]], ...] = ()
    decode: tuple[tuple[Variant, DecodeAttentionModel], ...] = ()
    source: str = ""
    spreads: tuple[Spread, ...] = ()

    def attention(self, base: AttentionModel, head_dim: int, window: int | None, cache: Cache) -> AttentionModel:
        """The model of prefill attention for such calls; `base` itself where it is the nearest."""
        if (head_dim, window or 0, cache) == BASE:
            return base
        found = nearest(tuple(variant for variant, _ in self.prefill), head_dim, window, cache)
        return base if found == BASE else _adjusted(base, dict(self.prefill)[found])

    def decode_attention(
        self, base: DecodeAttentionModel, head_dim: int, window: int | None, cache: Cache
    ) -> DecodeAttentionModel:
        """The model of decode attention for such calls; `base` itself where it is the nearest and the cache is bf16."""
        if (head_dim, window or 0, cache) == BASE:
            return base
        found = nearest(tuple(variant for variant, _ in self.decode), head_dim, window, cache)
        model = base if found == BASE else dict(self.decode)[found]
        value_bytes = ELEMENT_BYTES if cache == "bf16" else 1
        return model if model.value_bytes == value_bytes else _of_bytes(model, value_bytes)

    def moved_to(self, gpu: str, memory_bandwidth_bytes_per_s: float, sm_count: int, said: str) -> "Heads":
        """The same on another GPU's facts."""
        decode = tuple((v, m.moved_to(gpu, memory_bandwidth_bytes_per_s, sm_count)) for v, m in self.decode)
        return Heads(self.prefill, decode, said)

    def parts(self, part: str, head_dim: int, window: int | None, cache: Cache) -> tuple[str, ...]:
        """Parts of a profile's spreads that say how far off such calls are, the first that it has."""
        known = self.prefill if part == "attention" else self.decode
        found = nearest(tuple(variant for variant, _ in known), head_dim, window, cache)
        return (part,) if found == BASE and cache == "bf16" else (f"{part} other", part)

    def sentences(self, gpu: str, head_dim: int, window: int | None, cache: Cache) -> tuple[str, ...]:
        """What a prediction must say of attention of such calls: nothing of the base's own."""
        asked = Variant(head_dim, window or 0, cache)
        if asked == BASE:
            return ()
        prefill = nearest(tuple(variant for variant, _ in self.prefill), head_dim, window, cache)
        decode = nearest(tuple(variant for variant, _ in self.decode), head_dim, window, cache)
        named = dict.fromkeys((prefill, decode))
        if tuple(named) == (asked,) and self.source.startswith("measured"):
            return (f"attention on {gpu} with {_words(asked)}: {self.source}",)
        nearest_ones = " and ".join(map(_words, named))
        ratio = "" if cache == "bf16" or decode.cache != "bf16" else ", its bytes halved"
        source = self.source or "assumed: that size alone is measured"
        return (f"attention on {gpu} with {_words(asked)} is priced as with {nearest_ones}{ratio} ({source})",)


NO_HEADS = Heads()


@lru_cache(maxsize=1024)
def nearest(known: tuple[Variant, ...], head_dim: int, window: int | None, cache: Cache) -> Variant:
    """The variant that serves a call, of those known and the base."""
    of_cache = "bf16" if cache == "bf16" else "fp8"
    every = [BASE, *known]
    own = [variant for variant in every if variant.cache == of_cache] or every

    def octaves(variant: Variant) -> tuple[float, float, Variant]:
        apart = log2((variant.window or WITHOUT) / (window or WITHOUT))
        return abs(log2(variant.head_dim / head_dim)), abs(apart), variant

    return min(own, key=octaves)


def heads_dict(heads: Heads) -> dict[str, Any]:
    """What `heads_of` reads."""
    return {
        "source": heads.source,
        "spreads": [asdict(spread) for spread in heads.spreads],
        "prefill": [{**variant._asdict(), "adjust": list(adjust)} for variant, adjust in heads.prefill],
        "decode": [{**variant._asdict(), "model": model.to_dict()} for variant, model in heads.decode],
    }


def heads_of(data: Mapping[str, Any]) -> Heads:
    """A GPU's variants from a file; ValueError for what is none."""
    prefill, decode = (
        [mapping(each, f"attention variants: {key}") for each in listed(data.get(key), f"attention variants: {key}")]
        for key in ("prefill", "decode")
    )
    return Heads(
        tuple((_variant(each), tuple(each["adjust"])) for each in prefill),
        tuple((_variant(each), DecodeAttentionModel.from_dict(each["model"])) for each in decode),
        str(data.get("source")),
        _SPREADS.validate_python(data.get("spreads")),
    )


def _variant(data: Mapping[str, Any]) -> Variant:
    return Variant(data["head_dim"], data["window"], data["cache"])


def _words(variant: Variant) -> str:
    window = f", a window of {variant.window}" if variant.window else ""
    return f"head size {variant.head_dim}{window}, a {variant.cache} cache"


@lru_cache(maxsize=256)
def _adjusted(base: AttentionModel, adjust: tuple[int, ...]) -> AttentionModel:
    return replace(base, adjust=adjust)


@lru_cache(maxsize=256)
def _of_bytes(model: DecodeAttentionModel, value_bytes: float) -> DecodeAttentionModel:
    return replace(model, value_bytes=value_bytes)
