"""What `make gpu` measures, in shapes: the TP shards of Llama-3-8B and 70B, read off the shipped model files.

Torch-free, and free of the packages a GPU machine lacks (reference/core/config.py needs pydantic), so that the machine
that measures and the one that calibrates read the same lists. Each list stands in the order of importance: a campaign
that runs out of time leaves its tail out.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from typing import Any

KIB = 2**10

FUSED = ("add_rms_norm", "silu_mul", "rope", "rms_norm", "gelu_mul")
"""Operators that an engine runs as one kernel and plain torch as several: torch.compile fuses them."""
SINGLE = ("residual_add", "copy", "embedding")
"""Operators that are one kernel in plain torch."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank's share of a Llama."""

    model: str
    tp: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int

    @property
    def qkv(self) -> int:
        """Columns of the fused query, key and value projection."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def rotated(self) -> int:
        """Values of a token that rotary embedding turns."""
        return (self.heads + self.kv_heads) * self.head_dim

    def layer_weights(self) -> int:
        """Weights of one layer, in values."""
        return self.hidden * (self.qkv + self.heads * self.head_dim + 3 * self.intermediate)

    def products(self) -> dict[str, tuple[int, int]]:
        """(n, k) of each product of [tokens, k] x [k, n]."""
        return {
            "qkv": (self.qkv, self.hidden),
            "o": (self.hidden, self.heads * self.head_dim),
            "gate_up": (2 * self.intermediate, self.hidden),
            "down": (self.hidden, self.intermediate),
            "lm_head": (self.vocabulary, self.hidden),
        }


def shard(model: str, tp: int) -> Shard:
    """One rank's share, from reference/models/<model>.json; ValueError where the heads do not divide."""
    path = files("thinwire.reference") / "models" / f"{model}.json"
    sizes: dict[str, Any] = json.loads(path.read_text("utf-8"))
    heads, kv_heads = sizes["num_attention_heads"], sizes["num_key_value_heads"]
    if heads % tp or kv_heads % tp or sizes["intermediate_size"] % tp:
        raise ValueError(f"{model} does not divide over tp={tp}: {heads} heads, {kv_heads} key-value heads")
    return Shard(
        model=model,
        tp=tp,
        hidden=sizes["hidden_size"],
        heads=heads // tp,
        kv_heads=kv_heads // tp,
        head_dim=sizes.get("head_dim", sizes["hidden_size"] // heads),
        intermediate=sizes["intermediate_size"] // tp,
        vocabulary=-(-sizes["vocab_size"] // tp),
    )


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure: its fields are columns of its row, and its key says whether a row has it already."""

    def columns(self) -> dict[str, Any]:
        """Field by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Product(Case):
    """[m, k] x [k, n]; `name` is that of the first model it was met in."""

    name: str
    dtype: str
    m: int
    n: int
    k: int


@dataclass(frozen=True, slots=True)
class Attention(Case):
    """Keys and values written into a cache, then causal attention of `batch` sequences of `length` tokens."""

    backend: str
    batch: int
    length: int
    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class Elementwise(Case):
    """An operator of sim/costs/elementwise.py, as plain torch (`eager`) or fused by torch.compile (`compiled`).

    The fields after `width` are needed to build the inputs of one operator and are 0 for the others.
    """

    op: str
    how: str
    tokens: int
    width: int
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0


@dataclass(frozen=True, slots=True)
class Layer(Case):
    """A decoder layer of one rank; `stand_in` is what each of its two all-reduces is replaced by: none or a copy."""

    model: str
    tp: int
    tokens: int
    stand_in: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of a campaign; FULL is the one, TINY rehearses its code on a CPU."""

    shards: tuple[Shard, ...]
    rows: tuple[int, ...]  # tokens of a product
    head_rows: tuple[int, ...]  # of the LM head, which sees a sequence's last token only
    lengths: tuple[int, ...]
    batches: tuple[int, ...]
    most_tokens: int  # of attention: batch x length
    elementwise_tokens: tuple[int, ...]
    layer_tokens: tuple[int, ...]
    copies: tuple[int, ...]  # bytes of the device copies
    sustained: tuple[int, int, int]  # m, n, k
    sustained_s: float
    launches: int

    def products(self, dtype: str) -> list[Product]:
        """Every product of the shards, each (n, k) once: all m of every other shape first, so that a cut campaign
        still spans n and k. The LM head is bf16 always (sim/workload.py).
        """
        shapes: dict[tuple[int, int], str] = {}
        for one in self.shards:
            for name, shape in one.products().items():
                if name != "lm_head" or dtype == "bf16":
                    shapes.setdefault(shape, name)
        ordered = sorted(shapes.items())
        found = []
        for (n, k), name in ordered[::2] + ordered[1::2]:
            for m in self.head_rows if name == "lm_head" else self.rows:
                found.append(Product(name, dtype, m, n, k))
        return found

    def attentions(self, backends: Sequence[str] = ("flash", "cudnn")) -> list[Attention]:
        """Every pair of heads of the shards, at every length and batch that fits; short of time, fewer batches."""
        pairs = dict.fromkeys((one.heads, one.kv_heads, one.head_dim) for one in self.shards)
        return [
            Attention(backend, batch, length, *pair)
            for batch in self.batches
            for length in self.lengths
            if batch * length <= self.most_tokens
            for pair in pairs
            for backend in backends
        ]

    def elementwises(self) -> list[Elementwise]:
        """Every operator at the widths of the first and the last shard; what costs are fitted to first."""
        cases = []
        for one in (self.shards[0], self.shards[-1]):
            widths = {"rope": one.rotated, "silu_mul": one.intermediate, "gelu_mul": one.intermediate}
            for tokens in self.elementwise_tokens:
                for op in (*FUSED, *SINGLE):
                    how = "compiled" if op in FUSED else "eager"
                    heads = (one.heads, one.kv_heads, one.head_dim) if op == "rope" else (0, 0, 0)
                    cases.append(Elementwise(op, how, tokens, widths.get(op, one.hidden), *heads))
        return cases + [replace(case, how="eager") for case in cases if case.op in FUSED]

    def layers(self) -> list[Layer]:
        """Every shard at every token count; those with a stand-in for the all-reduce last. At TP1 there is none."""
        cases = [Layer(one.model, one.tp, tokens, "none") for one in self.shards for tokens in self.layer_tokens]
        return cases + [
            Layer(one.model, one.tp, tokens, "copy")
            for one in self.shards
            if one.tp > 1
            for tokens in self.layer_tokens
        ]

    def shard(self, model: str, tp: int) -> Shard:
        """The plan's shard of that name."""
        return next(one for one in self.shards if (one.model, one.tp) == (model, tp))


def full() -> Plan:
    """Llama-3-8B and 70B at TP 1, 2, 4, 8, tokens 1 to 16,384."""
    return Plan(
        shards=tuple(shard(model, tp) for model in ("llama-3-8b", "llama-3-70b") for tp in (1, 2, 4, 8)),
        # 192, 768 and 3072 lie between powers of two, 129 and 1025 start a tile with one row
        rows=(1, 16, 64, 128, 129, 192, 256, 512, 768, 1024, 1025, 2048, 3072, 4096, 8192, 16384),
        head_rows=(1, 8, 64, 256),
        lengths=(128, 256, 512, 1024, 2048, 4096, 8192, 16384),
        batches=(1, 4, 2, 8),
        most_tokens=32768,
        elementwise_tokens=(16, 128, 512, 2048, 8192, 16384),
        layer_tokens=(1024, 4096, 256, 8192),
        copies=tuple(64 * KIB << shift for shift in range(14, -1, -1)),  # 1 GiB down to 64 KiB
        sustained=(8192, 8192, 8192),
        sustained_s=8.0,
        launches=1000,
    )


def tiny() -> Plan:
    """A few of each kind, on a CPU, in seconds."""
    return Plan(
        shards=(
            Shard("rehearsal", 1, 64, 4, 2, 16, 96, 160),
            Shard("rehearsal", 2, 64, 2, 1, 16, 48, 80),
        ),
        rows=(1, 16),
        head_rows=(1,),
        lengths=(16, 32),
        batches=(1, 2),
        most_tokens=48,
        elementwise_tokens=(16, 32),
        layer_tokens=(16, 32),
        copies=(64 * KIB,),
        sustained=(64, 64, 64),
        sustained_s=0.02,
        launches=10,
    )
