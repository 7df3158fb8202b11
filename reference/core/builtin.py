"""The codecs that thinwire ships, registered as anybody's are: raw, grouped integers, MX, NVFP4, the outlier hybrid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from thinwire.reference.core.nvfp4 import NVFP4
from thinwire.reference.core.registry import register
from thinwire.reference.core.scheme import (
    GRID_WORDS,
    MX,
    RAW_FORMATS,
    SCALE_FORMATS,
    Grid,
    GroupedInt,
    OutlierHybrid,
    Raw,
    ScaleMode,
)

_SCALES = "|".join(SCALE_FORMATS)
_GRIDS: dict[str, Grid] = {word: grid for grid, word in GRID_WORDS.items()}
_MODES: dict[str, ScaleMode] = {word: word for word in get_args(ScaleMode)}


def register_all() -> None:
    """Once, before anybody's own."""
    register(
        Raw,
        *RAW_FORMATS,
        build=lambda words: Raw(words["name"]),
        grammar=", ".join(RAW_FORMATS),
        numerics="thinwire.reference.codecs.raw",
        examples=RAW_FORMATS,
        kernels=True,
    )
    register(
        GroupedInt,
        "int#",
        build=_integer,
        options={
            "group": r"g(\d+)",
            "grid": "|".join(_GRIDS),
            "spikes": "sr",
            "rotation": r"h(\d+)",
            "metadata": _SCALES,
        },
        grammar="intB[-gGROUP][-sym|-min|-zp][-sr][-hSIZE][-fp16|-fp32|-e8m0]",
        numerics="thinwire.reference.codecs.grouped",
        examples=("int4", "int8-g32-sym-fp16", "int5-g64-min", "int2-sr", "int3-g32-zp-h64", "int7-g8-sym-e8m0"),
        kernels=True,
    )
    register(
        MX,
        "mx",
        build=_mx,
        required=("element",),
        options={
            "block": r"b(\d+)",
            "rotation": r"h(\d+)",
            "scale": _SCALES,
            "mode": "|".join(_MODES),
            "slot": r"s(\d+)",
        },
        grammar="mx-ELEMENT[-bBLOCK][-hSIZE][-bf16|-fp16|-fp32][-rceil|-ceil|-even][-sBYTES]",
        numerics="thinwire.reference.codecs.grouped",
        examples=(
            "mx-e2m1", "mx-e3m2-b16-rceil", "mx-e4m3-fp16", "mx-int8-even", "mx-e2m3-h64", "mx-e4m3-b496-fp32-s16",
        ),
        kernels=True,
    )  # fmt: skip
    register(
        NVFP4,
        "nvfp4",
        build=lambda words: NVFP4(int(words.get("row", 6144))),
        options={"row": r"r(\d+)"},
        grammar="nvfp4[-rROW]",
        numerics="thinwire.reference.codecs.nvfp4",
        examples=("nvfp4", "nvfp4-r16", "nvfp4-r48"),
        kernels=True,
    )
    register(
        OutlierHybrid,
        "hybrid#",
        build=_hybrid,
        options={"keep": r"k(\d+)", "dyn": "dyn", "group": r"g(\d+)"},
        grammar="hybridB[-kKEEP][-dyn[-gGROUP]]",
        numerics="thinwire.reference.codecs.hybrid",
        examples=("hybrid4", "hybrid4-k64-dyn", "hybrid8-k7-dyn-g21"),
        kernels=True,
    )


def _integer(words: Mapping[str, str]) -> GroupedInt:
    return GroupedInt(
        int(words["number"]),
        int(words.get("group", 128)),
        _GRIDS[words.get("grid", "zp")],
        "spikes" in words,
        int(words["rotation"]) if "rotation" in words else None,
        words.get("metadata", "bf16"),
    )


def _mx(words: Mapping[str, str]) -> MX:
    return MX(
        words["element"],
        int(words.get("block", 32)),
        words.get("scale", "e8m0"),
        int(words["rotation"]) if "rotation" in words else None,
        _MODES[words.get("mode", "floor")],
        int(words["slot"]) if "slot" in words else None,
    )


def _hybrid(words: Mapping[str, str]) -> OutlierHybrid:
    keep = int(words.get("keep", 64))
    scale: Literal["static", "dynamic"] = "dynamic" if "dyn" in words else "static"
    return OutlierHybrid(int(words["number"]), keep, scale, int(words.get("group", keep)))
