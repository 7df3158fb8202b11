"""Every scheme by name, and the grammar for those without one.

A name is one of `schemes()`, `spd-N` (sync-point drop in N % of the blocks, N from 0 to 100, decimals
allowed), `iso` (the sequence split in halves, or `iso-N` with N % of the tokens in the first half),
`exempt-N` (the first N tokens of every sequence travel uncompressed) or a spec. Joined by `+`, one
codec-and-collective scheme takes at most one of each: `flash-int4+exempt-1+spd-50+iso`. Without one,
`spd-N` and `iso` leave what remains to the `bf16` baseline, and `exempt-N` means nothing.

`dispatch:CODEC` and `combine:CODEC` compress tokens on their way to experts on other ranks, and what comes back;
`a2a-int4` and its like are names of such pairs. They join any scheme of all-reduces: `flash-int4+a2a-int4`,
`flash-int8+dispatch:int4`. Without one, all-reduces are left to the `bf16` baseline; bf16 is what is not named.

Spec strings, for schemes that have no name:

    COLLECTIVE:REDUCE[/GATHER][@OPTION][@OPTION]   two_step:int4-g32-min/int8-g128-sym@chunk=1048576x2@fused

    COLLECTIVE  auto ring tree two_step all_gather hierarchical nvls none
    REDUCE      codec of the reduce phase; GATHER, of the gather phase, is the same where left out:
        bf16 fp16 fp32
        intB[-gGROUP][-sym|-min|-zp][-sr][-hSIZE][-fp16|-fp32|-e8m0]
                B = 2..8 bits; g128, zp (integer zero point) and bf16 metadata where left out;
                sr = spike reserving, hSIZE = Hadamard blocks
        mx-ELEMENT[-bBLOCK][-hSIZE][-bf16|-fp16|-fp32][-rceil|-ceil|-even][-sBYTES]
                ELEMENT = e2m1 e2m3 e3m2 e4m3 e5m2 int8; b32 and an e8m0 scale where left out;
                rceil, ceil, even = other ways to choose an e8m0 scale than the specification's floor;
                sBYTES = bytes that a scale takes on the wire, where that is more than its own
        nvfp4[-rROW]
                e2m1 in blocks of 16 with e4m3 scales, and an fp32 scale for ROW values; r6144 where left out
        hybridB[-kKEEP][-dyn[-gGROUP]]
                one value in KEEP stays bf16; k64 and static scales where left out
        any other that is registered (docs/own-codec.md)
    OPTION      by=CARRIER: who chooses, for auto: nccl vllm sglang sglang-ipc trtllm
                chunk=VALUES[xIN_FLIGHT]: pipelined chunks of VALUES values, IN_FLIGHT (1) at a time
                fused: codec kernels run inside the collective's kernel
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache
from types import MappingProxyType
from typing import Literal, get_args

from thinwire.edge.words import meant, shown
from thinwire.reference.core import registry
from thinwire.reference.core.lookup import parse_codec as parse_codec
from thinwire.reference.core.nvfp4 import NVFP4
from thinwire.reference.core.registry import Cost as Cost
from thinwire.reference.core.registry import Numerics as Numerics
from thinwire.reference.core.registry import register as register
from thinwire.reference.core.registry import unregister as unregister
from thinwire.reference.core.scheme import MX, Carrier, Collective, GroupedInt, OutlierHybrid, Phase, Raw, Scheme
from thinwire.reference.core.scheme import Codec as Codec
from thinwire.reference.core.scheme import Section as Section

_BF16 = Raw()
_INT8, _INT6, _INT5, _INT4, _INT3, _INT2 = (GroupedInt(bits) for bits in (8, 6, 5, 4, 3, 2))
_INT6_SR, _INT5_SR, _INT4_SR = (GroupedInt(bits, spikes=True) for bits in (6, 5, 4))
_INT4_H = GroupedInt(4, rotation=128)
_MXFP4, _MXFP6, _MXFP8, _MXINT8 = (MX(element) for element in ("e2m1", "e2m3", "e4m3", "int8"))
_HYBRID = OutlierHybrid()
_Q8, _Q6, _Q4 = (GroupedInt(bits, 32, "symmetric", metadata="fp16") for bits in (8, 6, 4))
_Q3, _QF4, _QF8 = GroupedInt(3, 32, "symmetric", metadata="fp16"), MX("e2m1", scale="fp16"), MX("e4m3", scale="fp16")
_VLLM8, _VLLMF8 = GroupedInt(8, 256, "symmetric", metadata="fp32"), MX("e4m3", 256, "fp32")
_PACKET = MX("e4m3", 496, "fp32", slot=16)
# What b12x calls e4m3, i8 and mx: each 132 bytes for 128 values.
_B12X = {
    "fp8": MX("e4m3", 128, "fp32"),
    "int8": GroupedInt(8, 128, "symmetric", metadata="fp32"),
    "mxfp8": MX("e4m3", mode="rceil"),
}
_NVFP4 = NVFP4()
_FP8 = _B12X["fp8"]
_INT2_SR = GroupedInt(2, spikes=True)

_A2A_CODECS = {"int8": _INT8, "int6": _INT6, "int5": _INT5, "int4": _INT4, "int2-sr": _INT2_SR}

_FLASH = "Flash Communication, arXiv 2412.04964, Algorithm 1"
_FLASH_WIDER = "Flash Communication's two steps (arXiv 2412.04964) at a width that only V2 (2508.03760) gives"
_FLASH2 = "FlashCommunication V2, arXiv 2508.03760, bit splitting"
_FLASH2_SR = f"{_FLASH2} and spike reserving"
_SPIKES = "spike reserving, arXiv 2508.03760"
_BEST = "decision 021: least loss in two steps at"
_COMPRESS = "Communication Compression for Tensor Parallel LLM Inference, arXiv 2411.09510"
_LOW_BIT = "Towards Low-bit Communication for Tensor Parallel LLM Inference, arXiv 2411.07942"
_QUICK = "QuickReduce: mk1-project/quickreduce and its port in vLLM"
_QUICK_ON = ("CDNA 3", "CDNA 4")  # vLLM 0.33 builds it for ROCm alone, its kernels for gfx94x and gfx95x
_CAKE_ON = ("Blackwell", "Blackwell GB20x")  # FlashInfer 0.7.4: SM100 and newer
_QUICK3 = f"{_QUICK} and aiter; INT3 in ROCm/rocm-blogs@50641b2, quick-reduce-3"
_QUICK4 = f"{_QUICK}; FP4 in ROCm/rocm-blogs@d060848, quick-reduce-2"
_VLLM_SYMM = "vllm#39783 (open), two-shot on symmetric memory, an fp32 scale for 256 values; FlashInfer #3759"
_TRTLLM = "TensorRT-LLM customLowPrecisionAllReduceKernels, packets of 512 B with 496 e4m3 and an fp32 scale"
_DMA = "b12x PCIeDmaAllReduce, local-inference-lab/b12x@0531c59, README; 132 B for 128 values"
_DMA_WAYS: dict[str, tuple[Collective, str]] = {
    "ag": ("ring", "bf16 ring reduce-scatter, compressed all-gather"),
    "ring": ("ring", "requantised at every hop of the reduce-scatter, once for the all-gather"),
    "a2a": ("two_step", "each input quantised once, all-to-all, summed in fp32, quantised for the broadcast"),
}
_CAKE = "FlashInfer 0.7.4 cake_fp4_allreduce, rows of 6,144 in 3,456 B and an fp32 row scale"
_SPD = "SPD: Sync-Point Drop, arXiv 2502.20727"
_CARRIED = "uncompressed, as {} chooses by size: docs/decisions/025-carriers.md"
_EXEMPT = "first tokens uncompressed: docs/decisions/012-auto.md"
_EXEMPT_LAST = "a prompt's last tokens uncompressed: docs/decisions/021-prompt-accuracy.md"
_A2A = "FlashCommunication V2, arXiv 2508.03760, All2All; its groups and metadata are those of docs/decisions/001"
_DEEPEP = "DeepEP (deepseek-ai), FP8 dispatch, an fp32 scale for 128 values of a token, BF16 combine"
_FP8_COMBINE = "TensorRT-LLM#11844, moe_a2a fp8_combine; the scale for 128 values is DeepEP's, theirs was not read"
_NVFP4_DISPATCH = (
    "vllm#30014, FP4 before the gather; theirs has one fp32 scale for a tensor or, in sglang#38216, a token, "
    "ours for 512 values, 0.06 bits"
)
_ISO = "ISO: Overlap of Computation and Communication within Sequence, arXiv 2409.11155"

_ALL = (
    Scheme("bf16", _BF16, _BF16, "auto", source="uncompressed: the best algorithm NCCL or the engine has"),
    Scheme("nccl", _BF16, _BF16, "auto", source=_CARRIED.format("NCCL alone"), carrier="nccl"),
    Scheme("vllm", _BF16, _BF16, "auto", source=_CARRIED.format("vLLM"), carrier="vllm"),
    Scheme("sglang", _BF16, _BF16, "auto", source=_CARRIED.format("SGLang"), carrier="sglang"),
    Scheme("sglang-ipc", _BF16, _BF16, "auto", source=_CARRIED.format("SGLang with PCIe-IPC"), carrier="sglang-ipc"),
    Scheme("trtllm", _BF16, _BF16, "auto", source=_CARRIED.format("TensorRT-LLM"), carrier="trtllm"),
    Scheme("bf16-ring", _BF16, _BF16, "ring", source="uncompressed ring, the baseline of arXiv 2412.04964"),
    Scheme("none", _BF16, _BF16, "none", source="all-reduces removed: a floor, not a scheme"),
    Scheme("flash-int8", _INT8, _INT8, "two_step", source=_FLASH),
    Scheme("flash-int6", _INT4, _INT8, "two_step", source=f"{_FLASH}; INT4 reduce, INT8 gather as published"),
    Scheme("flash-int5", _INT5, _INT5, "two_step", source=_FLASH_WIDER),
    Scheme("flash-int4", _INT4, _INT4, "two_step", source=_FLASH),
    Scheme("flash-int3", _INT3, _INT3, "two_step", source=_FLASH_WIDER),
    Scheme("flash-int2", _INT2, _INT2, "two_step", source=_FLASH_WIDER),
    Scheme("flash2-int6", _INT6, _INT6, "two_step", source=_FLASH2),
    Scheme("flash2-int5", _INT5, _INT5, "two_step", source=_FLASH2),
    Scheme("flash2-int3", _INT3, _INT3, "two_step", source=_FLASH2),
    Scheme("flash2-int6-sr", _INT6_SR, _INT6_SR, "two_step", source=f"{_SPIKES}; {_BEST} 8 bits"),
    Scheme("flash2-int5-sr", _INT5_SR, _INT5_SR, "two_step", source=f"{_SPIKES}; {_BEST} 6 bits"),
    Scheme("flash2-int4-sr", _INT4_SR, _INT4_SR, "two_step", source=f"{_SPIKES}; {_BEST} 5 bits"),
    Scheme("flash-int4-h128", _INT4_H, _INT4_H, "two_step", source=f"flash-int4, rotated; {_BEST} 4.2 bits"),
    Scheme(
        "flash2-int2-sr",
        GroupedInt(2, spikes=True),
        GroupedInt(2, spikes=True),
        "two_step",
        source=_FLASH2_SR,
    ),
    Scheme("flash2-int4-hier", _INT4, _INT4, "hierarchical", source=f"{_FLASH2}, over NUMA islands"),
    Scheme("mxfp4", _MXFP4, _MXFP4, "all_gather", source=_COMPRESS),
    Scheme("mxfp6", _MXFP6, _MXFP6, "all_gather", source=_COMPRESS),
    Scheme("mxfp8", _MXFP8, _MXFP8, "all_gather", source=_COMPRESS),
    Scheme("mxint8", _MXINT8, _MXINT8, "all_gather", source=_COMPRESS),
    Scheme("mxfp4-two-step", _MXFP4, _MXFP4, "two_step", source=f"{_COMPRESS}; in two steps"),
    Scheme("hybrid-4.2", _HYBRID, _HYBRID, "all_gather", source=_LOW_BIT),
    Scheme("hybrid-4.2-two-step", _HYBRID, _HYBRID, "two_step", source=_LOW_BIT),
    Scheme("quickreduce-int8", _Q8, _Q8, "two_step", codec_launch="fused", kernels_on=_QUICK_ON, source=_QUICK),
    Scheme("quickreduce-int6", _Q6, _Q6, "two_step", codec_launch="fused", kernels_on=_QUICK_ON, source=_QUICK),
    Scheme("quickreduce-int4", _Q4, _Q4, "two_step", codec_launch="fused", kernels_on=_QUICK_ON, source=_QUICK),
    Scheme("quickreduce-fp8", _QF8, _QF8, "two_step", codec_launch="fused", kernels_on=_QUICK_ON, source=_QUICK),
    Scheme(
        "quickreduce-int3",
        _Q3,
        _Q3,
        "two_step",
        codec_launch="fused",
        kernels_on=_QUICK_ON,
        source=f"{_QUICK3}; theirs at TP 2 only",
    ),
    Scheme("quickreduce-fp4", _QF4, _QF4, "two_step", codec_launch="fused", kernels_on=_QUICK_ON, source=_QUICK4),
    Scheme("vllm-symm-int8", _VLLM8, _VLLM8, "two_step", codec_launch="fused", source=_VLLM_SYMM),
    Scheme("vllm-symm-fp8", _VLLMF8, _VLLMF8, "two_step", codec_launch="fused", source=_VLLM_SYMM),
    Scheme("trtllm-fp8", _PACKET, _PACKET, "two_step", codec_launch="fused", source=_TRTLLM),
    *(
        Scheme(f"b12x-{word}-{way}", _BF16 if way == "ag" else codec, codec, collective, source=f"{_DMA}; {said}")
        for word, codec in _B12X.items()
        for way, (collective, said) in _DMA_WAYS.items()
    ),
    Scheme(
        "nvfp4-one-shot",
        _NVFP4,
        _NVFP4,
        "all_gather",
        codec_launch="fused",
        kernels_on=_CAKE_ON,
        source=f"{_CAKE}; theirs at TP 2",
    ),
    Scheme(
        "nvfp4-two-shot",
        _NVFP4,
        _NVFP4,
        "two_step",
        codec_launch="fused",
        kernels_on=_CAKE_ON,
        source=f"{_CAKE}; theirs at TP 4",
    ),
    Scheme("spd-50", _BF16, _BF16, "auto", drop_attention_percent=50, source=_SPD),
    Scheme("iso", _BF16, _BF16, "auto", sequence_split=0.5, source=_ISO),
    Scheme("iso-int8", _INT8, _INT8, "two_step", sequence_split=0.5, source=f"{_ISO}; INT8 as in flash-int8"),
    *(
        Scheme(f"a2a-{word}", _BF16, _BF16, "auto", source=_A2A, dispatch=codec, combine=codec)
        for word, codec in _A2A_CODECS.items()
    ),
    Scheme("deepep-fp8", _BF16, _BF16, "auto", source=_DEEPEP, dispatch=_FP8),
    Scheme("fp8-combine", _BF16, _BF16, "auto", source=_FP8_COMBINE, combine=_FP8),
    Scheme("nvfp4-dispatch", _BF16, _BF16, "auto", source=_NVFP4_DISPATCH, dispatch=NVFP4(512)),
    Scheme("flash-int4+spd-50", _INT4, _INT4, "two_step", 50, source=f"{_FLASH}; {_SPD}"),
    Scheme("flash-int4+iso", _INT4, _INT4, "two_step", sequence_split=0.5, source=f"{_FLASH}; {_ISO}"),
)
_CATALOG: Mapping[str, Scheme] = MappingProxyType({entry.name: entry for entry in _ALL})
_EXPERTS = tuple(entry for entry in _ALL if entry.compresses_experts)  # they say nothing of all-reduces

_GRAMMAR = (
    "a catalog name, spd-N, iso or iso-N, exempt-N, exempt-last-N, dispatch:CODEC, combine:CODEC, a spec "
    "COLLECTIVE:CODEC[/CODEC][@chunk=VALUES[xIN_FLIGHT]][@fused][@by=CARRIER] such as "
    "two_step:int4-g32-min/int8-g128-sym@chunk=1048576x2, or these joined by +: flash-int4+spd-50+iso"
)


def schemes() -> Mapping[str, Scheme]:
    """Every named scheme, in catalog order. `scheme` knows more: any spd-N, iso-N, combination and spec."""
    return _CATALOG


def scheme(name_or_spec: str) -> Scheme:
    """The scheme of a catalog name, a combination or a spec string; `scheme(s.name) == s`.

    Raises ValueError naming what was given and, where the name is unknown, near matches and the grammar.
    """
    return _scheme(name_or_spec, registry.generation())


@lru_cache(maxsize=1024)
def _scheme(name_or_spec: str, generation: int) -> Scheme:
    if name_or_spec in _CATALOG:
        return _CATALOG[name_or_spec]
    base: Scheme | None = None
    exempt: int | None = None
    exempt_last: int | None = None
    drop: float | None = None
    split: float | None = None  # percent of the tokens in the first half
    experts: dict[Phase, Codec | None] = {}
    for part in name_or_spec.split("+"):
        if (percent := _percent(part, "spd")) is not None:
            if drop is not None:
                raise ValueError(f"scheme {shown(name_or_spec)} drops sync points twice; give one spd-N")
            drop = percent
        elif part == "iso" or (percent := _percent(part, "iso")) is not None:
            if split is not None:
                raise ValueError(f"scheme {shown(name_or_spec)} splits the sequence twice; give one iso")
            split = 50.0 if percent is None else percent
            if not 0 < split < 100:
                raise ValueError(f"iso-N needs N above 0 and below 100: {shown(part)}")
        elif match := re.fullmatch(r"exempt(-last)?-(\d+)", part):
            registry.check_digits(part)
            family, count = f"exempt{match[1] or ''}-N", int(match[2])
            if (exempt_last if match[1] else exempt) is not None:
                raise ValueError(f"scheme {shown(name_or_spec)} exempts tokens twice; give one {family}")
            if not count:
                raise ValueError(f"{family} needs N of 1 or more: {shown(part)}")
            exempt, exempt_last = (exempt, count) if match[1] else (count, exempt_last)
        elif said := _of_experts(part):
            if twice := experts.keys() & said.keys():
                phase = min(twice)
                raise ValueError(f"scheme {shown(name_or_spec)} says {phase} twice; give one {phase}:CODEC")
            experts |= said
        else:
            second = _CATALOG.get(part) or _parse_spec(part)
            if base is not None:
                raise ValueError(
                    f"scheme {shown(name_or_spec)} names two codec schemes, {base.name!r} and {second.name!r}; "
                    "only exempt-N, exempt-last-N, spd-N, iso, dispatch:CODEC and combine:CODEC combine with one"
                )
            base = second
    return _combine(name_or_spec, base, experts, exempt, exempt_last, drop, split)


def _of_experts(part: str) -> dict[Phase, Codec | None]:
    """What a word says of experts' traffic: by phase, None for bf16; empty where it says nothing of that."""
    preset = next((entry for entry in _EXPERTS if entry.name == part), None)
    phases: tuple[Phase, ...] = get_args(Phase)
    if preset is not None:
        return {phase: codec for phase in phases if (codec := preset.of_experts(phase)) is not None}
    word, colon, spec = part.partition(":")
    for phase in phases:
        if colon and word == phase:
            codec = parse_codec(spec)
            return {phase: None if codec == _BF16 else codec}
    return {}


def _words_of_experts(dispatch: Codec | None, combine: Codec | None) -> list[tuple[str, str]]:
    """The shortest words for two codecs, each with its source: a preset of both, or one each."""
    for entry in _EXPERTS:
        if (entry.dispatch, entry.combine) == (dispatch, combine):
            return [(entry.name, entry.source)]
    found = []
    for phase, codec in (("dispatch", dispatch), ("combine", combine)):
        alone = (codec, None) if phase == "dispatch" else (None, codec)
        preset = next((entry for entry in _EXPERTS if (entry.dispatch, entry.combine) == alone), None)
        if codec is not None:
            found.append((preset.name, preset.source) if preset else (f"{phase}:{codec.spec}", "spec string"))
    return found


def _percent(part: str, family: str) -> float | None:
    match = re.fullmatch(rf"{family}-(\d+(?:\.\d+)?)", part)
    if match is None:
        return None
    if float(match[1]) > 100:
        raise ValueError(f"{family}-N needs N from 0 to 100: {shown(part)}")
    return float(match[1])


def _combine(
    given: str,
    base: Scheme | None,
    experts: Mapping[Phase, Codec | None],
    exempt: int | None,
    exempt_last: int | None,
    drop: float | None,
    split: float | None,
) -> Scheme:
    """`base` (None = bf16) with codecs for experts' traffic, tokens exempt, sync points dropped and the sequence split,
    under its canonical name.
    """
    if base is not None and base.collective == "none" and (drop is not None or split is not None):
        raise ValueError(f"scheme {shown(given)}: 'none' has no all-reduce left to drop or to overlap")
    if split is not None and base is not None and base.sequence_split is not None:
        raise ValueError(f"scheme {shown(given)}: {shown(base.name)} splits the sequence already")
    exempts = exempt is not None or exempt_last is not None
    if exempts and (base is None or base.is_raw):
        family = "exempt-N" if exempt is not None else "exempt-last-N"
        example = "exempt-1" if exempt is not None else "exempt-last-1"
        raise ValueError(
            f"scheme {shown(given)}: {family} needs a scheme that compresses, such as flash-int4+{example}"
        )
    names, sources, found = [], [], base or _CATALOG["bf16"]
    if base is not None:
        names.append(base.name)
        sources.append(base.source)
    if experts:
        dispatch, combine = experts.get("dispatch"), experts.get("combine")
        for name, source in _words_of_experts(dispatch, combine):
            names.append(name)
            sources.append(source)
        found = replace(found, dispatch=dispatch, combine=combine)
    if exempt is not None:
        names.append(f"exempt-{exempt}")
        sources.append(_EXEMPT)
        found = replace(found, exempt_tokens=exempt)
    if exempt_last is not None:
        names.append(f"exempt-last-{exempt_last}")
        sources.append(_EXEMPT_LAST)
        found = replace(found, exempt_last_tokens=exempt_last)
    if drop is not None:
        names.append(f"spd-{_number(drop)}")
        sources.append(_SPD)
        found = replace(found, drop_attention_percent=drop)
    if split is not None:
        names.append("iso" if split == 50 else f"iso-{_number(split)}")
        sources.append(_ISO)
        found = replace(found, sequence_split=split / 100)
    name = "+".join(names) or "bf16"
    return _CATALOG.get(name) or replace(found, name=name, source="; ".join(sources))


def _number(percent: float) -> str:
    """The shortest plain decimal that reads back as `percent`: 50, 91.3, never 1e-05."""
    return str(int(percent)) if percent.is_integer() else format(Decimal(repr(percent)), "f")


def _parse_spec(spec: str) -> Scheme:
    collective, colon, rest = spec.partition(":")
    if not colon:
        hint = meant(spec, _CATALOG)
        raise ValueError(f"unknown scheme {shown(spec)}; {hint + ' ' if hint else ''}Allowed: {_GRAMMAR}")
    collectives: dict[str, Collective] = {word: word for word in get_args(Collective)}
    if collective not in collectives:
        raise ValueError(f"unknown collective {shown(collective)} in {shown(spec)}; allowed: {', '.join(collectives)}")
    codecs, *options = rest.split("@")
    reduce_spec, slash, gather_spec = codecs.partition("/")
    reduce = parse_codec(reduce_spec)
    gather = parse_codec(gather_spec) if slash else reduce
    chunk, in_flight, launch, carrier = _parse_options(options, spec)
    name = f"{collective}:{reduce.spec}" + (f"/{gather.spec}" if gather != reduce else "")
    words = [] if chunk is None else [f"chunk={chunk}" + (f"x{in_flight}" if in_flight > 1 else "")]
    words += ["fused"] if launch == "fused" else []
    words += [f"by={carrier}"] if carrier else []
    return Scheme(
        "@".join([name, *words]),
        reduce,
        gather,
        collectives[collective],
        chunk_values=chunk,
        chunks_in_flight=in_flight,
        codec_launch=launch,
        source="spec string",
        carrier=carrier,
    )


def _parse_options(
    options: list[str], spec: str
) -> tuple[int | None, int, Literal["fused", "separate"], Carrier | None]:
    chunk, in_flight = None, 1
    carriers: dict[str, Carrier] = {word: word for word in get_args(Carrier)}
    carrier: Carrier | None = None
    launch: Literal["fused", "separate"] = "separate"
    for option in options:
        if match := re.fullmatch(r"chunk=(\d+)(?:x(\d+))?", option):
            registry.check_digits(option)
            chunk, in_flight = int(match[1]), int(match[2] or 1)
        elif option == "fused":
            launch = "fused"
        elif option.startswith("by=") and option[3:] in carriers:
            carrier = carriers[option[3:]]
        else:
            allowed = f"@chunk=VALUES[xIN_FLIGHT], @fused, @by={'|'.join(carriers)}"
            raise ValueError(f"option {shown(option)} in {shown(spec)}; allowed: {allowed}")
    return chunk, in_flight, launch, carrier
