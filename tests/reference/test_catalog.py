"""The names that INTERFACE.md promises, what they mean, and the grammar for the rest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.reference.catalog import parse_codec, scheme, schemes
from thinwire.reference.core.nvfp4 import NVFP4
from thinwire.reference.core.scheme import MX, Codec, Collective, GroupedInt, OutlierHybrid, Raw, Scheme

PROMISED = [
    "bf16",
    "nccl",
    "vllm",
    "sglang",
    "sglang-ipc",
    "trtllm",
    "bf16-ring",
    "none",
    "flash-int8",
    "flash-int6",
    "flash-int5",
    "flash-int4",
    "flash-int3",
    "flash-int2",
    "flash2-int6",
    "flash2-int5",
    "flash2-int3",
    "flash2-int6-sr",
    "flash2-int5-sr",
    "flash2-int4-sr",
    "flash-int4-h128",
    "flash2-int2-sr",
    "flash2-int4-hier",
    "mxfp4",
    "mxfp6",
    "mxfp8",
    "mxint8",
    "mxfp4-two-step",
    "hybrid-4.2",
    "hybrid-4.2-two-step",
    "quickreduce-int8",
    "quickreduce-int6",
    "quickreduce-int4",
    "quickreduce-fp8",
    "quickreduce-int3",
    "quickreduce-fp4",
    "vllm-symm-int8",
    "vllm-symm-fp8",
    "trtllm-fp8",
    *(f"b12x-{codec}-{way}" for codec in ("fp8", "int8", "mxfp8") for way in ("ag", "ring", "a2a")),
    "nvfp4-one-shot",
    "nvfp4-two-shot",
    "spd-50",
    "iso",
    "iso-int8",
    *(f"a2a-{word}" for word in ("int8", "int6", "int5", "int4", "int2-sr")),
    "deepep-fp8",
    "fp8-combine",
    "nvfp4-dispatch",
    "flash-int4+spd-50",
    "flash-int4+iso",
]


def test_the_promised_names_exist() -> None:
    assert list(schemes()) == PROMISED


@pytest.mark.parametrize("name", PROMISED)
def test_catalog_entries_are_themselves(name: str) -> None:
    entry = scheme(name)
    assert entry is schemes()[name] and entry.name == name and entry.source


def test_published_parameters() -> None:
    six = scheme("flash-int6")
    assert (six.reduce, six.gather, six.collective) == (GroupedInt(4), GroupedInt(8), "two_step")
    true_six = scheme("flash2-int6")
    assert true_six.reduce == true_six.gather == GroupedInt(6)
    assert scheme("flash2-int2-sr").reduce == GroupedInt(2, spikes=True)
    assert scheme("flash2-int4-hier").collective == "hierarchical"
    assert scheme("mxfp4").reduce == MX("e2m1") and scheme("mxfp4").collective == "all_gather"
    assert scheme("mxfp4-two-step").collective == "two_step"
    assert scheme("hybrid-4.2").reduce == OutlierHybrid(4, 64, "static")
    assert scheme("hybrid-4.2").collective == "all_gather"
    assert scheme("quickreduce-int4").reduce == GroupedInt(4, 32, "symmetric", metadata="fp16")
    assert scheme("quickreduce-fp8").reduce == MX("e4m3", 32, "fp16")
    assert {entry.name for entry in schemes().values() if entry.codec_launch == "fused"} == {
        name for name in PROMISED if name.startswith(("quickreduce", "vllm-symm", "trtllm-", "nvfp4-one", "nvfp4-two"))
    }
    assert scheme("iso").sequence_split == 0.5 and scheme("iso").reduce == Raw()
    assert scheme("iso-int8").reduce == GroupedInt(8) and scheme("iso-int8").sequence_split == 0.5
    assert scheme("none").collective == "none" and scheme("bf16").collective == "auto"


@pytest.mark.parametrize(
    ("name", "codec", "values", "nbytes"),
    [
        ("quickreduce-int3", GroupedInt(3, 32, "symmetric", metadata="fp16"), 2048, 896),  # a tile
        ("quickreduce-fp4", MX("e2m1", 32, "fp16"), 2048, 1152),
        ("vllm-symm-int8", GroupedInt(8, 256, "symmetric", metadata="fp32"), 1024, 1024 + 4 * 4),
        ("vllm-symm-fp8", MX("e4m3", 256, "fp32"), 1024, 1024 + 4 * 4),
        ("trtllm-fp8", MX("e4m3", 496, "fp32", slot=16), 496, 512),  # a packet
        ("b12x-fp8-ring", MX("e4m3", 128, "fp32"), 128 * 4, 132 * 4),
        ("b12x-int8-ring", GroupedInt(8, 128, "symmetric", metadata="fp32"), 128 * 4, 132 * 4),
        ("b12x-mxfp8-ring", MX("e4m3", mode="rceil"), 128 * 4, 132 * 4),
        ("nvfp4-one-shot", NVFP4(6144), 4 * 6144, 4 * (3456 + 4)),  # records, and a scale for each row
    ],
)
def test_bytes_of_what_others_ship(name: str, codec: Codec, values: int, nbytes: int) -> None:
    """As their sources count them, where our sections end on multiples of 16 bytes too."""
    assert scheme(name).gather == codec and codec.wire_bytes(values) == nbytes


def test_ways_of_what_others_ship() -> None:
    for word in ("fp8", "int8", "mxfp8"):
        gathered, ring, direct = (scheme(f"b12x-{word}-{way}") for way in ("ag", "ring", "a2a"))
        assert (gathered.collective, ring.collective, direct.collective) == ("ring", "ring", "two_step")
        assert gathered.reduce == Raw() and ring.reduce == direct.reduce == gathered.gather == ring.gather
    assert scheme("nvfp4-one-shot").collective == "all_gather" and scheme("nvfp4-two-shot").collective == "two_step"
    assert all(scheme(name).collective == "two_step" for name in ("trtllm-fp8", "vllm-symm-int8", "quickreduce-fp4"))


@pytest.mark.parametrize("name", ["spd-0", "spd-7", "spd-50", "spd-91.3", "spd-100"])
def test_plain_spd_leaves_the_baseline(name: str) -> None:
    entry = scheme(name)
    assert entry.drop_attention_percent == float(name[4:])
    assert (entry.reduce, entry.gather, entry.collective) == (Raw(), Raw(), "auto")
    assert entry.name == name


def test_combinations() -> None:
    three = scheme("flash-int4+spd-50+iso")
    assert three.reduce == GroupedInt(4) and three.collective == "two_step"
    assert three.drop_attention_percent == 50 and three.sequence_split == 0.5
    assert "2412.04964" in three.source and "2502.20727" in three.source and "2409.11155" in three.source
    assert scheme("iso+spd-50+flash-int4") == three
    assert scheme("spd-50+iso").name == "spd-50+iso" and scheme("spd-50+iso").collective == "auto"
    assert scheme("bf16+iso").name == "bf16+iso"
    assert scheme("iso-50") is scheme("iso") and scheme("iso-40").sequence_split == 0.4
    assert scheme("iso-int8+spd-20").drop_attention_percent == 20
    assert scheme("iso+flash-int4") is schemes()["flash-int4+iso"]
    assert scheme("ring:int8+spd-10").collective == "ring"
    four = scheme("iso+exempt-1+flash-int4+spd-50")
    assert four.name == "flash-int4+exempt-1+spd-50+iso" and (four.exempt_tokens, four.reduce) == (1, GroupedInt(4))
    assert scheme("iso-int8+exempt-3").exempt_tokens == 3


percents = st.one_of(st.integers(0, 100).map(float), st.floats(0, 100, allow_nan=False).map(lambda x: round(x, 6)))
bases = st.sampled_from(["bf16-ring", "flash-int4", "mxfp8", "two_step:int5-g64-zp", "tree:bf16@chunk=4096"])


@given(
    bases,
    st.integers(0, 40),
    st.one_of(st.none(), percents),
    st.one_of(st.none(), percents.filter(lambda x: 0 < x < 100)),
)
def test_names_round_trip(base: str, exempt: int, drop: float | None, split: float | None) -> None:
    exempt = 0 if "bf16" in base else exempt
    parts = [base, *([f"exempt-{exempt}"] if exempt else [])]
    parts += ([f"spd-{drop:f}"] if drop is not None else []) + ([f"iso-{split:f}"] if split is not None else [])
    entry = scheme("+".join(parts))
    assert scheme(entry.name) == entry
    assert entry.drop_attention_percent == (drop or 0.0) and entry.exempt_tokens == exempt
    assert entry.sequence_split == (None if split is None else split / 100)


@pytest.mark.parametrize(
    ("spec", "reduce", "gather", "collective"),
    [
        ("two_step:int5-g64-zp", GroupedInt(5, 64), GroupedInt(5, 64), "two_step"),
        ("ring:int8", GroupedInt(8), GroupedInt(8), "ring"),
        ("tree:bf16", Raw(), Raw(), "tree"),
        ("nvls:fp16", Raw("fp16"), Raw("fp16"), "nvls"),
        ("two_step:bf16/int8-sym", Raw(), GroupedInt(8, grid="symmetric"), "two_step"),
        (
            "hierarchical:mx-e3m2-b16-h64",
            MX("e3m2", 16, rotation=64),
            MX("e3m2", 16, rotation=64),
            "hierarchical",
        ),
        (
            "two_step:hybrid5-k32-dyn-g96",
            OutlierHybrid(5, 32, "dynamic", 96),
            OutlierHybrid(5, 32, "dynamic", 96),
            "two_step",
        ),
        (
            "all_gather:int3-sr-g32-min-h32",
            GroupedInt(3, 32, "minimum", True, 32),
            GroupedInt(3, 32, "minimum", True, 32),
            "all_gather",
        ),
    ],
)
def test_specs(spec: str, reduce: object, gather: object, collective: Collective) -> None:
    entry = scheme(spec)
    assert (entry.reduce, entry.gather, entry.collective) == (reduce, gather, collective)
    assert scheme(entry.name) == entry


def test_spec_options() -> None:
    entry = scheme("two_step:int4-g32-min/int8-g128-sym@chunk=1048576x2@fused")
    assert entry == Scheme(
        "two_step:int4-g32-min/int8-g128-sym@chunk=1048576x2@fused",
        GroupedInt(4, 32, "minimum"),
        GroupedInt(8, 128, "symmetric"),
        "two_step",
        chunk_values=1048576,
        chunks_in_flight=2,
        codec_launch="fused",
        source="spec string",
    )
    assert scheme("ring:bf16@chunk=8").chunks_in_flight == 1
    assert "," not in entry.name  # compare --schemes a,b splits at commas


@pytest.mark.parametrize(
    ("given_name", "message"),
    [
        ("flash-int", "unknown scheme 'flash-int'; did you mean flash-int8 or flash-int6 or flash-int5"),
        ("", "unknown scheme ''"),
        ("flash-int4+", "unknown scheme ''"),
        ("zzz", "two_step:int4-g32-min/int8-g128-sym"),
        ("none+iso", "'none' has no all-reduce left"),
        ("spd-10+none", "'none' has no all-reduce left"),
        ("iso-int8+iso", "'iso-int8' splits the sequence already"),
        ("iso+iso-40", "splits the sequence twice"),
        ("spd-1+spd-2", "drops sync points twice"),
        ("flash-int4+mxfp4", "names two codec schemes, 'flash-int4' and 'mxfp4'"),
        ("flash-int4+exempt-1+exempt-2", "exempts tokens twice"),
        ("flash-int4+exempt-0", "exempt-N needs N of 1 or more: 'exempt-0'"),
        ("exempt-1+spd-10", "exempt-N needs a scheme that compresses"),
        ("bf16-ring+exempt-1", "exempt-N needs a scheme that compresses"),
        ("spd-101", "spd-N needs N from 0 to 100: 'spd-101'"),
        ("spd-", "did you mean spd-50"),
        ("iso-100", "iso-N needs N above 0 and below 100: 'iso-100'"),
        ("star:int4", "unknown collective 'star' in 'star:int4'; allowed: auto, ring"),
        ("two_step:int9", "codec spec 'int9': bits must lie in 2..8: bits=9"),
        ("two_step:int4-q", "unknown option 'q'"),
        ("two_step:int4-g32-g64", "group is given twice: 'g64'"),
        ("two_step:", "unknown codec spec ''"),
        ("two_step:int4/", "unknown codec spec ''"),
        ("two_step:mx", "unknown codec spec 'mx'"),
        ("two_step:bf16-g32", "unknown codec spec 'bf16-g32'"),
        ("two_step:int4@chunks=4", "option 'chunks=4' in"),
        ("nvls:int4", "nvls carries raw values only"),
        ("all_gather:int4/int8", "one phase"),
    ],
)
def test_refusals_name_the_value_and_what_is_allowed(given_name: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        scheme(given_name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_codec_defaults() -> None:
    assert parse_codec("int4") == GroupedInt(4) == parse_codec("int4-g128-zp-bf16")
    assert parse_codec("mx-e2m1") == MX("e2m1") and parse_codec("hybrid4") == OutlierHybrid()


# --- carriers ---


@pytest.mark.parametrize("name", ["nccl", "vllm", "sglang", "sglang-ipc", "trtllm"])
def test_a_carrier_is_uncompressed_and_combines_like_bf16(name: str) -> None:
    entry = scheme(name)
    assert entry.is_raw and entry.collective == "auto" and entry.carrier == name
    assert scheme(f"{name}+iso").sequence_split == 0.5 and scheme(f"{name}+iso").carrier == name
    assert scheme(f"{name}+spd-50+iso").name == f"{name}+spd-50+iso"
    spelt = scheme(f"auto:bf16@by={name}")
    assert spelt.carrier == name and scheme(spelt.name) == spelt and spelt.name == f"auto:bf16@by={name}"


def test_a_carrier_needs_an_open_collective_and_a_name() -> None:
    with pytest.raises(ValueError, match="a carrier chooses the collective, which must be auto: ring"):
        scheme("ring:bf16@by=nccl")
    with pytest.raises(ValueError, match=r"allowed: .*@by=nccl\|vllm\|sglang\|sglang-ipc\|trtllm"):
        scheme("auto:bf16@by=mpi")
    with pytest.raises(ValueError, match="carries raw values only"):
        scheme("auto:int8@by=nccl")
    assert scheme("bf16").carrier is None and scheme("flash-int4").carrier is None


# --- experts ---


@pytest.mark.parametrize(
    ("name", "dispatch", "combine", "bits"),
    [
        *((f"a2a-int{b}", f"int{b}-g128-zp", f"int{b}-g128-zp", (b + 3 / 16,) * 2) for b in (8, 6, 5, 4)),
        ("a2a-int2-sr", "int2-g128-zp-sr", "int2-g128-zp-sr", (2.5625, 2.5625)),
        ("deepep-fp8", "mx-e4m3-b128-fp32", "bf16", (8.25, 16)),  # 7168 bytes and 56 scales a token of 7168 values
        ("fp8-combine", "bf16", "mx-e4m3-b128-fp32", (16, 8.25)),
        ("nvfp4-dispatch", "nvfp4-r512", "bf16", (4.5625, 16)),
    ],
)
def test_presets_of_experts_leave_all_reduces_alone(
    name: str, dispatch: str, combine: str, bits: tuple[float, float]
) -> None:
    entry = scheme(name)
    assert (entry.reduce, entry.gather, entry.collective) == (Raw(), Raw(), "auto")
    found = [(entry.of_experts(phase) or Raw()) for phase in ("dispatch", "combine")]
    assert [codec.spec for codec in found] == [dispatch, combine]
    assert tuple(codec.bits_per_value for codec in found) == bits
    assert entry.compresses_experts and not scheme("flash-int4").compresses_experts


def test_words_of_experts_join_any_scheme() -> None:
    """Under one name, the shortest: a preset's where one says the same."""
    both = scheme("flash-int4+a2a-int8")
    assert both == scheme("combine:int8+dispatch:int8-g128+flash-int4") and both.name == "flash-int4+a2a-int8"
    assert (both.reduce, both.dispatch, both.combine) == (GroupedInt(4), GroupedInt(8), GroupedInt(8))
    assert "2412.04964" in both.source and "2508.03760" in both.source
    assert scheme("dispatch:int4+combine:int4") is schemes()["a2a-int4"]
    assert scheme("fp8-combine+nvfp4-dispatch").name == "nvfp4-dispatch+fp8-combine"
    assert scheme("iso+deepep-fp8+spd-20+flash-int4+exempt-1").name == "flash-int4+deepep-fp8+exempt-1+spd-20+iso"
    assert scheme("flash-int8+dispatch:int5-g64-sym").name == "flash-int8+dispatch:int5-g64-sym"
    assert scheme("dispatch:bf16") == scheme("bf16") and scheme("iso+combine:bf16") == scheme("iso")
    assert scheme("none+a2a-int4").dispatch == GroupedInt(4)


codecs = st.sampled_from(["bf16", "int4", "int2-sr", "mx-e4m3-b128-fp32", "nvfp4-r512", "hybrid4-k64-dyn", "int6-g64"])


@given(bases | st.none(), codecs, codecs, st.booleans())
def test_names_of_experts_round_trip(base: str | None, dispatch: str, combine: str, split: bool) -> None:
    words = [*([base] if base else []), f"combine:{combine}", f"dispatch:{dispatch}", *(["iso"] if split else [])]
    entry = scheme("+".join(words))
    assert scheme(entry.name) == entry and entry.sequence_split == (0.5 if split else None)
    for phase, spec in (("dispatch", dispatch), ("combine", combine)):
        assert (entry.of_experts(phase) or Raw()) == parse_codec(spec)  # type: ignore[arg-type]
        alone = entry.for_experts(phase)  # type: ignore[arg-type]
        assert alone.reduce == alone.gather == parse_codec(spec) and scheme(alone.name).reduce == alone.reduce
        assert alone.collective == ("auto" if spec == "bf16" else "two_step")


def test_what_is_uncompressed_is_the_carrier_s_choice() -> None:
    alone = scheme("vllm+deepep-fp8").for_experts("combine")
    assert alone.carrier == "vllm" and alone.is_raw and scheme(alone.name).carrier == "vllm"


@pytest.mark.parametrize(
    ("given_name", "message"),
    [
        ("a2a-int4+dispatch:int8", "says dispatch twice; give one dispatch:CODEC"),
        ("combine:int4+combine:int4", "says combine twice"),
        ("dispatch:hybrid4", "dispatch must be a codec that compresses by itself, tokens have no calibrated scales"),
        ("combine:fp16", "combine must be a codec that compresses by itself, None says uncompressed: fp16"),
        ("dispatch:", "unknown codec spec ''"),
        ("dispatch:zz", "unknown codec spec 'zz'"),
        ("flash-int4+mxfp4", "only exempt-N, exempt-last-N, spd-N, iso, dispatch:CODEC and combine:CODEC combine"),
        ("a2a-int4+exempt-1", "exempt-N needs a scheme that compresses"),
    ],
)
def test_what_experts_cannot_have(given_name: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        scheme(given_name)
    assert message in str(caught.value)
