"""Precision of a model's weights and of its KV cache: what each may be, its bits, and what a checkpoint says of both.

A checkpoint says it in `quantization_config` (or `compression_config`) of its config.json, at the top or in
`text_config`, or in a file of NVIDIA's ModelOpt beside it, `hf_quant_config.json`. Both name modules that stay as they
are, as names, globs or `re:` patterns; `checkpoint_of` makes of all that one precision a part of the model.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from typing import Any, Literal, get_args

from thinwire.edge.words import cut, shown

Precision = Literal["bf16", "fp8", "fp8-block", "int8", "int4", "nvfp4", "mxfp4"]
"""Of weights and products: fp8 with one scale a tensor, channel or token; fp8-block with one for 128 x 128 weights and
for 128 values of an activation; int8 of weights and activations; int4 and mxfp4 of weights alone, in groups, times bf16
activations (AWQ, GPTQ; gpt-oss); nvfp4 of both."""

Weights = Literal[Precision, "auto"]
"""A precision for all of a model, or each part as its checkpoint has it."""

Kv = Literal["auto", "bf16", "fp8", "int8"]
"""Precision of the KV cache; auto: as the checkpoint says, else bf16."""

Part = Literal["attention", "feed_forward", "experts", "shared_experts"]
PARTS: tuple[Part, ...] = get_args(Part)
"""What may differ in precision; router, norms, embedding and head are bf16."""

BITS: Mapping[Precision, float] = {
    "bf16": 16,
    "fp8": 8,
    "fp8-block": 8 + 32 / 128**2,  # an fp32 scale a block: DeepSeek-V3's config.json
    "int8": 8,
    "int4": 4 + 20 / 128,  # an fp16 scale and a 4-bit zero for 128 weights: AWQ's and GPTQ's usual group
    "nvfp4": 4 + 8 / 16,  # an e4m3 scale for 16
    "mxfp4": 4 + 8 / 32,  # an e8m0 scale for 32: OCP MX 1.0
}
"""Bits a weight takes in memory, scales included. Scales of a whole row or tensor count as nothing."""

KV_BITS: Mapping[Kv, int] = {"bf16": 16, "fp8": 8, "int8": 8}
"""Bits a value takes in the cache."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint's files say of precision: each part's, the cache's (None: nothing is said), and in `notes` what
    is simplified, in sentences.
    """

    weights: tuple[tuple[Part, Precision], ...] = tuple((part, "bf16") for part in PARTS)
    kv: Literal["fp8", "int8"] | None = None
    notes: tuple[str, ...] = ()
    unknown: str = ""  # why it is not known, for who asks

    def of(self, part: Part) -> Precision:
        """Precision of one part. ValueError for a checkpoint that is not understood."""
        if self.unknown:
            raise ValueError(self.unknown)
        return dict(self.weights)[part]

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """All that occur, each once."""
        return tuple(dict.fromkeys(precision for _, precision in self.weights))


PLAIN = Checkpoint()
"""A checkpoint that says nothing: bf16 throughout."""


def precision_of(checkpoint: Checkpoint, weights: Weights, part: Part) -> Precision:
    """Precision of a part: what was asked for all of the model, or with auto what the checkpoint has."""
    return checkpoint.of(part) if weights == "auto" else weights


def kv_of(checkpoint: Checkpoint, kv: Kv) -> Literal["bf16", "fp8", "int8"]:
    """Precision of the cache: what was asked, or with auto what the checkpoint has, else bf16."""
    return kv if kv != "auto" else checkpoint.kv or "bf16"


def checkpoint_of(config: Mapping[str, Any], hf_quant: Mapping[str, Any] | None, name: str) -> Checkpoint:
    """What a config.json, and `hf_quant_config.json` where there is one, say of a model's precision.

    Raises:
        ValueError: a method or a format that is not known, or that no kernel runs as it is; it names both, and `name`.
    """
    text = config.get("text_config")
    inner: Mapping[str, Any] = text if isinstance(text, Mapping) else {}
    own = next(
        (
            holder[key]
            for holder in (config, inner)
            for key in ("quantization_config", "compression_config")
            if isinstance(holder.get(key), Mapping)
        ),
        None,
    )
    beside = hf_quant.get("quantization", hf_quant) if isinstance(hf_quant, Mapping) else None
    beside = beside if isinstance(beside, Mapping) else None
    if own is None and beside is None:
        return PLAIN
    reading = _Reading(name, {**config, **inner})
    weights = reading.weights(own if own is not None else beside or {})
    said = [reading.kv(each) for each in (own, beside) if each is not None]
    kv = next((each for each in said if each is not None), None)
    return Checkpoint(tuple((part, weights[part]) for part in PARTS), kv, tuple(dict.fromkeys(reading.notes)))


# ---- which part a module belongs to

_GATED = (("gate_proj", "up_proj", "down_proj"), ("gate_up_proj", "down_proj"), ("w1", "w2", "w3"))
_DENSE = (*_GATED, ("up_proj", "down_proj"), ("fc1", "fc2"))
_FFN = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "mixer")
# Each container may hold one of these families of linear modules: names that models use.
_MODULES: Mapping[Part, tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]] = {
    "attention": (
        *(
            (
                each,
                (
                    ("q_proj", "k_proj", "v_proj", "o_proj"),
                    ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"),
                    ("qkv_proj", "o_proj"),
                ),
            )
            for each in ("self_attn", "attn", "attention", "self_attention")
        ),
        ("linear_attn", (("in_proj_qkv", "in_proj_z", "out_proj"), ("in_proj_qkvz", "out_proj"))),
        ("mixer", (("q_proj", "k_proj", "v_proj", "o_proj"), ("in_proj", "out_proj"))),
    ),
    "feed_forward": tuple((each, _DENSE) for each in _FFN[:3]),
    "experts": tuple((f"{each}.experts{at}", _DENSE) for each in _FFN for at in ("", ".0")),
    "shared_experts": tuple(
        (f"{each}.{shared}", _DENSE) for each in _FFN for shared in ("shared_expert", "shared_experts")
    ),
}
_ELSEWHERE = re.compile(r"^(?:re:)?\W*(?:model\W+)?(?:mtp|vision|visual|audio|embed|multi_modal)")  # not the decoder
_LAYER = re.compile(r"^(?:re:)?.*?\b(?:layers|h|blocks)\\?\.(\d+)(?!\d)")
_PREFIX = re.compile(r"^(?:re:)?((?:[a-z_]+\.)*?(?:layers|h|blocks))\.\d+")


class _Named:
    """Modules named by a list: which share of a layer's part it holds."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._of_layer: dict[int, set[str]] = {}
        self._always: list[str] = []
        prefixes: dict[str, None] = {}
        for pattern in patterns:
            if _ELSEWHERE.search(pattern):
                continue
            found, place = _LAYER.match(pattern), _PREFIX.match(pattern)
            if place:
                prefixes[place[1]] = None
            if found:
                self._of_layer.setdefault(int(found[1]), set()).add(pattern)
            else:
                self._always.append(pattern)
        self._prefixes = tuple(prefixes) or ("model.layers",)
        self._fixed = not any(re.search(r"\d", p) for p in self._always if p.startswith("re:"))
        self._known: dict[tuple[Part, frozenset[str], int], float] = {}

    def share(self, part: Part, layer: int) -> float:
        """Of the modules that the layer's part may consist of, in the family of which most are named."""
        own = self._of_layer.get(layer, set())
        alike = frozenset(re.sub(rf"(?<!\d){layer}(?!\d)", "#", pattern, count=1) for pattern in own)
        key = part, alike, 0 if self._fixed else layer
        if key not in self._known:
            matchers = [_matcher(pattern) for pattern in (*self._always, *own)]
            self._known[key] = max(
                sum(any(named(f"{prefix}.{layer}.{container}.{leaf}") for named in matchers) for leaf in family)
                / len(family)
                for prefix in self._prefixes
                for container, families in _MODULES[part]
                for family in families
            )
        return self._known[key]


def _matcher(pattern: str) -> Callable[[str], bool]:
    if pattern == "Linear":
        return lambda module: True
    if pattern.startswith("re:"):
        try:
            found = re.compile(pattern[3:])
        except re.error as error:
            raise ValueError(f"no pattern of modules: {shown(pattern)} ({error})") from None
        return lambda module: found.match(module) is not None
    if "*" in pattern:
        glob = re.compile(translate(pattern))
        return lambda module: glob.match(module) is not None or glob.match(module.rpartition(".")[0]) is not None
    # A name without layers is one of a kind: transformers looks for it anywhere in the module's name.
    if "." not in pattern or _LAYER.match(pattern) is None:
        return lambda module: f".{pattern}." in f".{module}."
    return lambda module: module == pattern or module.startswith(f"{pattern}.")


# ---- what methods there are


class _Reading:
    """One checkpoint being read: `name` for messages, `config` with the text model's keys on top."""

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        self.name, self.config, self.notes = name, config, list[str]()
        layers = config.get("num_hidden_layers")
        first = config.get("first_k_dense_replace")
        self.layers = layers if isinstance(layers, int) and 0 < layers <= 4096 else 1
        self.first_dense = first if isinstance(first, int) and first > 0 else 0

    def refused(self, what: str) -> ValueError:
        """The error that says what is not understood."""
        return ValueError(f"{cut(self.name)}: {what}; --weights prices it as another precision")

    def weights(self, said: Mapping[str, Any]) -> dict[Part, Precision]:
        """Precision by part."""
        method = _text(said.get("quant_method")) or _guessed(said)
        read = METHODS.get(method.replace("_", "-"))
        if read is None:
            raise self.refused(f"quant_method {shown(method)} is unknown; known are {', '.join(METHODS)}")
        return read(self, said)

    def names(self, said: Mapping[str, Any], *keys: str) -> list[str]:
        """Modules, of the first key that says any."""
        key, found = next(((key, said[key]) for key in keys if said.get(key)), ("", ()))
        if not isinstance(found, list | tuple) or not all(isinstance(each, str) for each in found):
            raise self.refused(f"{key} must be a list of modules' names; given {shown(found)}")
        return [*found]

    def table(self, said: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
        """A table by module; None where nothing is said."""
        found = said.get(key)
        if found and not isinstance(found, Mapping):
            raise self.refused(f"{key} must be a table by module; given {shown(found)}")
        return found if isinstance(found, Mapping) else None

    def kv(self, said: Mapping[str, Any]) -> Literal["fp8", "int8"] | None:
        """Precision of the cache, where it is said."""
        keys = ("kv_cache_scheme", "kv_cache_quant_algo", "kv_cache_quant_config")
        key, scheme = next(((key, said[key]) for key in keys if said.get(key)), ("", ""))
        if not isinstance(scheme, str | Mapping):
            raise self.refused(f"{key} must be a text or a table; given {shown(scheme)}")
        if isinstance(scheme, Mapping) and "num_bits" in scheme:
            scheme = f"{scheme.get('type', 'float')}{scheme['num_bits']}".replace("float", "fp")
        if isinstance(scheme, Mapping):  # Quark: by module, all alike
            scheme = next((_dtype(each) for each in scheme.values() if isinstance(each, Mapping)), "")
        word = _text(scheme).lower()
        if not word or word == "none":
            return None
        if word.startswith(("fp8", "float8")):
            return "fp8"
        if word == "int8":
            return "int8"
        self.notes.append(f"the checkpoint's KV cache of {cut(word)} is taken as fp8, the nearest that is measured")
        return "fp8"

    def all_but(self, precision: Precision, excluded: Iterable[str]) -> dict[Part, Precision]:
        """One precision for all parts but those whose modules are named, which stay bf16."""
        return self.by_part([(precision, ["Linear"])], excluded)

    def by_part(
        self, groups: Sequence[tuple[Precision, Sequence[str]]], excluded: Iterable[str], rest: Precision = "bf16"
    ) -> dict[Part, Precision]:
        """Of each part the precision that most of its modules have; `rest` is that of modules in no group. A layer that
        no list names has no such part, where modules are listed one by one.
        """
        kept = _Named(excluded)
        named = [(precision, _Named(targets)) for precision, targets in groups]
        found: dict[Part, Precision] = {}
        for part in PARTS:
            shares: dict[Precision, float] = {}
            for layer in self.layers_of(part):
                out = kept.share(part, layer)
                each = [(precision, min(modules.share(part, layer), 1 - out)) for precision, modules in named]
                if out or any(share for _, share in each):
                    left = 1 - out - min(1 - out, sum(share for _, share in each))
                    for precision, share in (("bf16", out), *each, (rest, left)):
                        shares[precision] = shares.get(precision, 0.0) + share
            found[part] = max(shares, key=lambda one: shares[one], default=rest)
            share = shares.get(found[part], 0.0) / (sum(shares.values()) or 1.0)
            if 0 < share < 0.999:
                others = " and ".join(one for one in shares if shares[one] and one != found[part])
                self.notes.append(
                    f"{share:.0%} of the {part} modules are {found[part]}, the others {others}: all are priced as the "
                    "former"
                )
        if set(found.values()) == {"bf16"} and groups:  # experts beside an MLP that is kept, as in Gemma 4
            found["experts"] = groups[0][0]
        return found

    def layers_of(self, part: Part) -> range:
        """The layers that have the part, as far as a config says: dense ones come first."""
        dense = min(self.first_dense, self.layers - 1)
        if part == "feed_forward" and dense:
            return range(dense)
        return range(self.layers) if part in ("attention", "feed_forward") else range(dense, self.layers)


def _guessed(said: Mapping[str, Any]) -> str:
    if "quant_algo" in said or "quantized_layers" in said:
        return "modelopt"
    return "compressed-tensors" if "config_groups" in said else ""


def _fp8(reading: _Reading, said: Mapping[str, Any]) -> dict[Part, Precision]:
    block = said.get("weight_block_size")
    if block is not None and list(block if isinstance(block, list | tuple) else [block]) != [128, 128]:
        raise reading.refused(f"weight_block_size {shown(block)} is unknown; known is [128, 128]")
    base: Precision = "fp8" if block is None else "fp8-block"
    layers = reading.table(said, "quantized_layers")
    if layers is not None:
        return reading.by_part(_algorithms(reading, layers), (), rest=base)
    return reading.all_but(base, reading.names(said, "modules_to_not_convert", "ignored_layers"))


def _four_bit(reading: _Reading, said: Mapping[str, Any]) -> dict[Part, Precision]:
    bits = said.get("bits", said.get("w_bit"))
    if bits != 4:
        method = _text(said.get("quant_method"))
        raise reading.refused(f"{method} of {shown(bits)} bits a weight is not priced; {method} of 4 is")
    dynamic = reading.table(said, "dynamic") or {}  # GPTQModel: "-:pattern" leaves modules as they are
    more = [f"re:{p[2:]}" for p in dynamic if p.startswith("-:")]
    return reading.all_but("int4", [*reading.names(said, "modules_to_not_convert"), *more])


def _mxfp4(reading: _Reading, said: Mapping[str, Any]) -> dict[Part, Precision]:
    """gpt-oss: nothing but experts, whatever else is listed as kept."""
    return {"attention": "bf16", "feed_forward": "bf16", "experts": "mxfp4", "shared_experts": "bf16"}


def _fbgemm(reading: _Reading, said: Mapping[str, Any]) -> dict[Part, Precision]:
    return reading.all_but("fp8", reading.names(said, "modules_to_not_convert"))


def _bitsandbytes(reading: _Reading, said: Mapping[str, Any]) -> dict[Part, Precision]:
    near = "int8" if said.get("load_in_8bit") else "int4"
    raise reading.refused(
        f"bitsandbytes unpacks weights before each product, which no table has; {near} is the nearest with kernels"
    )


def _compressed(reading: _Reading, said: Mapping[str, Any]) -> dict[Part, Precision]:
    groups = said.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise reading.refused(f"compressed-tensors without config_groups: {shown(groups)}")
    found = []
    for group in groups.values():
        given: Mapping[str, Any] = group if isinstance(group, Mapping) else {}
        targets = reading.names(given, "targets") or ["Linear"]
        found.append((_of_tensors(reading, given.get("weights"), given.get("input_activations")), targets))
    return reading.by_part(found, reading.names(said, "ignore"))


def _of_tensors(reading: _Reading, weights: object, activations: object) -> Precision:
    """Precision of a group of compressed-tensors: bits and type of its weights and activations."""
    w: Mapping[str, Any] = weights if isinstance(weights, Mapping) else {}
    a: Mapping[str, Any] = activations if isinstance(activations, Mapping) else {}
    what = w.get("type", "int"), w.get("num_bits"), a.get("num_bits")
    block = w.get("block_structure")
    if what == ("float", 8, 8):
        if w.get("strategy") != "block":
            return "fp8"
        if block in ([128, 128], "128x128"):
            return "fp8-block"
        raise reading.refused(f"blocks of {shown(block)} are unknown; known are [128, 128]")
    if what == ("int", 8, 8):
        return "int8"
    if what == ("int", 4, None):
        return "int4"
    if what[:2] == ("float", 4):
        if w.get("group_size") == 32:
            return "mxfp4"
        if what[2] == 4:
            return "nvfp4"
        if what[2] is None:
            return _weight_only_nvfp4(reading)
    raise reading.refused(
        f"weights of {shown(w.get('type'))} with {shown(what[1])} bits and activations with {shown(what[2])} are not "
        "priced; known are float 8/8, int 8/8, int 4 alone, float 4/4"
    )


def _weight_only_nvfp4(reading: _Reading) -> Precision:
    reading.notes.append("nvfp4 weights times bf16 activations are priced as int4, whose weights are 8 % smaller")
    return "int4"


_ALGORITHMS: Mapping[str, Precision] = {
    "FP8": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "FP8_PB_WO": "fp8-block",
    "FP8_BLOCK_SCALES": "fp8-block",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "MXFP4": "mxfp4",
    "W4A16_MXFP4": "mxfp4",
    "W4A16_AWQ": "int4",
    "W4A16": "int4",
    "INT8_SQ": "int8",
    "W8A8_SQ_PER_CHANNEL": "int8",
    "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN": "int8",
}


def _algorithm(reading: _Reading, algorithm: object) -> Precision:
    word = _text(algorithm).upper()
    if word == "W4A16_NVFP4":
        return _weight_only_nvfp4(reading)
    if word == "MXFP8":
        reading.notes.append("mxfp8, with a scale for 32 values, is priced as fp8-block")
        return "fp8-block"
    if word not in _ALGORITHMS:
        known = ", ".join([*_ALGORITHMS, "W4A16_NVFP4", "MXFP8", "MIXED_PRECISION"])
        raise reading.refused(f"quant_algo {shown(algorithm)} is unknown; known are {known}")
    return _ALGORITHMS[word]


def _algorithms(reading: _Reading, layers: Mapping[str, Any]) -> list[tuple[Precision, list[str]]]:
    """ModelOpt's modules by precision."""
    found: dict[Precision, list[str]] = {}
    for module, given in layers.items():
        algorithm = given.get("quant_algo") if isinstance(given, Mapping) else given
        found.setdefault(_algorithm(reading, algorithm), []).append(str(module))
    return list(found.items())


def _modelopt(reading: _Reading, said: Mapping[str, Any]) -> dict[Part, Precision]:
    algorithm, layers = said.get("quant_algo"), reading.table(said, "quantized_layers")
    excluded = reading.names(said, "exclude_modules", "ignore")
    if _text(algorithm).upper() == "MIXED_PRECISION":
        if layers is not None:
            return reading.by_part(_algorithms(reading, layers), excluded)
        return _compressed(reading, said)
    if algorithm is None and "config_groups" in said:
        return _compressed(reading, said)
    return reading.all_but(_algorithm(reading, algorithm), excluded)


def _quark(reading: _Reading, said: Mapping[str, Any]) -> dict[Part, Precision]:
    given = said.get("global_quant_config")
    whole: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    weight, activation = _dtype(whole.get("weight")), _dtype(whole.get("input_tensors"))
    known: Mapping[tuple[str, str], Precision] = {
        ("fp8", "fp8"): "fp8",
        ("int8", "int8"): "int8",
        ("int4", ""): "int4",
        ("uint4", ""): "int4",
        ("fp4", "fp4"): "mxfp4",
        ("fp4", ""): "mxfp4",
    }
    precision = known.get((weight.partition("_")[0], activation.partition("_")[0]))
    if precision is None:
        pairs = ", ".join(f"{w}/{a or 'none'}" for w, a in known)
        raise reading.refused(f"quark's weights of {shown(weight)}, activations of {shown(activation)}; known: {pairs}")
    if (precision, activation) != ("mxfp4", "") and precision == "mxfp4":
        reading.notes.append("mxfp4 weights are priced times bf16 activations, though the checkpoint has both in mxfp4")
    return reading.all_but(precision, reading.names(said, "exclude"))


METHODS: Mapping[str, Callable[[_Reading, Mapping[str, Any]], dict[Part, Precision]]] = {
    "fp8": _fp8,
    "fbgemm-fp8": _fbgemm,
    "awq": _four_bit,
    "gptq": _four_bit,
    "auto-round": _four_bit,
    "compressed-tensors": _compressed,
    "modelopt": _modelopt,
    "modelopt-fp4": _modelopt,
    "mxfp4": _mxfp4,
    "quark": _quark,
    "bitsandbytes": _bitsandbytes,
}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _dtype(tensor: object) -> str:
    """Quark's word for a tensor's format; a list is one of two levels."""
    first = tensor[0] if isinstance(tensor, list) and tensor else tensor
    return _text(first.get("dtype")).lower() if isinstance(first, Mapping) else ""
