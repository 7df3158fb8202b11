"""The families of schemes: of each its page, the pictures on it and the rows of its table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from exchange import exchange
from layout import layout
from special import carriers, cross_attention, dropped, streams, tokens
from svg import Drawing

from thinwire.reference.catalog import scheme
from thinwire.reference.core.scheme import Codec

ISLANDS = ((0, 1), (2, 3))
DYNAMIC = "all_gather:hybrid4-k64-dyn-g128"
SHORT = {DYNAMIC: "dynamic scales"}


@dataclass(frozen=True, slots=True)
class Family:
    """`page` is docs/schemes/PAGE.md; `pictures` are the words behind PAGE- and what draws each."""

    page: str
    schemes: tuple[str, ...]
    pictures: tuple[tuple[str, Callable[[], Drawing]], ...]


def _bits(title: str, names: Sequence[str], phase: str = "reduce") -> Callable[[], Drawing]:
    """The layout of the codecs of schemes."""

    def codec_of(name: str) -> Codec:
        found = getattr(scheme(name), phase)
        if not isinstance(found, Codec):
            raise ValueError(f"{name} has no codec for {phase}")
        return found

    return lambda: layout(title, [(SHORT.get(name, name), codec_of(name)) for name in names])


def _steps(title: str, name: str, islands: tuple[tuple[int, ...], ...] | None = None) -> Callable[[], Drawing]:
    return lambda: exchange(title, scheme(name), islands)


FAMILIES = (
    Family(
        "flash",
        ("flash-int8", "flash-int6", "flash-int5", "flash-int4", "flash-int3", "flash-int2", "flash-int4-h128"),
        (
            ("bits", _bits("Groups of 128 integers share a scale and a zero point", ("flash-int8", "flash-int4"))),
            ("steps", _steps("flash-int4: two steps", "flash-int4")),
        ),
    ),
    Family(
        "flash2",
        ("flash2-int6", "flash2-int5", "flash2-int3", "flash2-int6-sr", "flash2-int5-sr", "flash2-int4-sr",
         "flash2-int2-sr"),
        (
            ("bits", _bits("Odd widths in planes, and spikes by themselves",
                           ("flash2-int6", "flash2-int5", "flash2-int5-sr", "flash2-int2-sr"))),
        ),
    ),
    Family(
        "hierarchical",
        ("flash2-int4-hier",),
        (("steps", _steps("flash2-int4-hier: within an island, across, within", "flash2-int4-hier", ISLANDS)),),
    ),
    Family(
        "mx",
        ("mxfp8", "mxint8", "mxfp6", "mxfp4", "mxfp4-two-step"),
        (
            ("bits", _bits("Blocks of 32 share a power of two", ("mxfp8", "mxfp6", "mxfp4"))),
            ("steps", _steps("mxfp4: everybody gets every partial sum", "mxfp4")),
        ),
    ),
    Family(
        "hybrid",
        ("hybrid-4.2", "hybrid-4.2-two-step", DYNAMIC),
        (("bits", _bits("One value in 64 stays bf16", ("hybrid-4.2", DYNAMIC))),),
    ),
    Family(
        "quickreduce",
        ("quickreduce-int8", "quickreduce-fp8", "quickreduce-int6", "quickreduce-int4", "quickreduce-fp4",
         "quickreduce-int3"),
        (("bits", _bits("Groups of 32 share an fp16 scale, and nothing else",
                        ("quickreduce-fp8", "quickreduce-int6", "quickreduce-int4"))),),
    ),
    Family(
        "engines",
        ("trtllm-fp8", "vllm-symm-fp8", "vllm-symm-int8", "b12x-fp8-ag", "b12x-fp8-ring", "b12x-fp8-a2a",
         "b12x-int8-a2a", "b12x-mxfp8-a2a", "nvfp4-one-shot", "nvfp4-two-shot"),
        (
            ("bits", _bits("FP8 and NVFP4 as engines send them",
                           ("trtllm-fp8", "b12x-fp8-a2a", "vllm-symm-fp8", "nvfp4-two-shot"))),
            ("steps", _steps("b12x-fp8-ring: encoded anew at every hop", "b12x-fp8-ring")),
        ),
    ),
    Family(
        "uncompressed",
        ("bf16-ring",),
        (
            ("carriers", partial(carriers, ("nccl", "vllm", "sglang", "trtllm", "bf16"), ("8xh100-nvlink",))),
            ("steps", _steps("bf16-ring: sums travel round, then round again", "bf16-ring")),
        ),
    ),
    Family("spd", (), (("layers", partial(dropped, ("bf16", "spd-50", "spd-100"))),)),
    Family("iso", ("iso-int8",), (("streams", partial(streams, ("bf16", "iso", "iso-int8"))),)),
    Family("cross-attention", (), (("bytes", cross_attention),)),
    Family(
        "experts",
        (),
        (
            ("bits", _bits("Tokens on their way to experts", ("deepep-fp8", "a2a-int8", "a2a-int4", "nvfp4-dispatch"),
                           "dispatch")),
            ("steps", partial(tokens, "deepep-fp8")),
        ),
    ),
)  # fmt: skip
