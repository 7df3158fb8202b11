"""What every codec must keep, tried on the examples of everything that is registered; and that each fault is found."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from thinwire.reference.catalog import Codec, Numerics, Section, parse_codec, register, unregister
from thinwire.reference.check import check_codec
from thinwire.reference.codecs.calibration import Calibration
from thinwire.reference.codecs.error import bound
from thinwire.reference.codecs.layout import HELD
from thinwire.reference.core.formats import HELD as HELD_BY_NAME
from thinwire.reference.core.lookup import codecs
from thinwire.reference.quantize import decode, decode_flat, encode, encode_flat, reduce_flat

torch.set_num_threads(1)
EXAMPLES = [spec for entry in codecs() for spec in entry.examples]
# Encoding again what was decoded: docs/decisions/006-numerics.md, "What is promised".
SAME_AGAIN = ("bf16", "fp16", "fp32", "int8-g32-sym-fp16", "mx-e2m1", "mx-e3m2-b16-rceil", "mx-int8-even", "hybrid4")


@pytest.mark.parametrize("spec", EXAMPLES)
def test_every_registered_codec_keeps_its_word(spec: str) -> None:
    more: dict[str, Any] = {}
    if parse_codec(spec).needs_calibration:
        generator = torch.Generator().manual_seed(0)
        reach_RF, sum_F = torch.rand(3, 48, generator=generator) * 8, torch.rand(48, generator=generator) * 20
        more = {"calibration": Calibration(reach_RF, sum_F), "rank": 1, "keeps_nan": False, "local": False}
    check_codec(spec, idempotent=spec in SAME_AGAIN, **more)


@pytest.mark.parametrize("spec", ["log4", "log4-g8", "log4-g130"])
def test_the_example_keeps_its_word(log4: str, spec: str) -> None:
    for seed in range(3):
        check_codec(spec, idempotent=True, seed=seed)


def test_what_sections_may_hold_is_what_tensors_are_made_of() -> None:
    assert set(HELD) == set(HELD_BY_NAME)


# ---- faults, each found


@dataclass(frozen=True, slots=True)
class Half(Codec):
    """Groups of 8 values in fp16, saturating, and a byte that says how many of them there are."""

    fault: str = "none"

    @property
    def group(self) -> int:
        return 8

    @property
    def spec(self) -> str:
        return f"half-{self.fault}"

    @property
    def bits_per_value(self) -> float:
        return 17.0

    def _sections(self, numel: int) -> tuple[Section, ...]:
        groups = -(-numel // 8)
        return Section("values", 16 * groups, "fp16"), Section("counts", groups)


counter = iter(range(10**9))


def encode_half(values_N: Tensor, codec: Half) -> Any:
    numel, fault = values_N.numel(), codec.fault
    if fault == "touches":
        values_N[0] = 1.0
    padded_N = torch.nn.functional.pad(values_N.float(), (0, -numel % 8))
    if fault == "leaks":
        padded_N = padded_N + 0 * padded_N[-1]
        padded_N = torch.where(padded_N.isnan().any(), torch.nan, padded_N)
    if fault == "whole":
        padded_N = padded_N * (1 + 2.0**-13 * (numel > 24))
    if fault == "drifts":
        padded_N = padded_N * (1 - 2.0**-8)
    half_N = padded_N.clamp(-65504, 65504).to(torch.float16)
    counts_G = torch.full((len(half_N) // 8,), 8, dtype=torch.uint8)
    if fault == "random":
        counts_G[0] = next(counter) % 2
    buffer = torch.zeros(codec.wire_bytes(numel), dtype=torch.uint8)
    buffer[: 2 * len(half_N)] = half_N.view(torch.uint8)
    start = codec.offsets(numel)[1]
    buffer[start : start + len(counts_G)] = counts_G
    odd = {"long": lambda: torch.cat((buffer, buffer[:1])), "bf16": lambda: buffer.float(), "nothing": lambda: None}
    return odd.get(fault, lambda: buffer)()


def decode_half(buffer: Tensor, numel: int, codec: Half, dtype: torch.dtype) -> Any:
    values_N = buffer[: 2 * numel].clone().view(torch.float16)
    if codec.fault == "no nan":
        values_N = values_N.nan_to_num(0.0)
    if codec.fault == "zero":
        values_N = torch.where(values_N == 0, 2.0**-24, values_N)
    odd: dict[str, Callable[[], Any]] = {
        "more": lambda: torch.zeros(-(-numel // 8) * 8 + 8),
        "codes": lambda: values_N.to(torch.int32),
        "list": lambda: values_N.tolist(),
    }
    return odd.get(codec.fault, lambda: values_N)()


def bound_half(exact_N: Tensor, codec: Half) -> Any:
    found_N = (exact_N.abs() * 2.0**-11).clamp_min(2.0**-25).maximum(exact_N.abs() - 65504)
    odd: dict[str, Callable[[], Any]] = {
        "drifts": lambda: found_N + exact_N.abs() * 2.0**-8,
        "whole": lambda: found_N * 2,
        "zero": lambda: found_N * 2,
        "tight": lambda: found_N / 4,
        "negative": lambda: found_N - 1,
        "unsure": lambda: found_N * torch.nan,
        "one": lambda: found_N.max(),
        "number": lambda: 1.0,
        "endless": lambda: found_N * torch.inf,
        "large": lambda: found_N.masked_fill(exact_N.abs() > 2**15, torch.inf),
    }
    return odd.get(codec.fault, lambda: found_N)()


@pytest.fixture(autouse=True)
def half() -> Iterator[None]:
    register(
        Half,
        "half",
        build=lambda words: Half(words["fault"]),
        required=("fault",),
        grammar="half-FAULT",
        numerics=Numerics(encode_half, decode_half, bound_half),
        examples=("half-none",),
    )
    yield
    unregister(Half)


def test_without_a_fault_nothing_is_found() -> None:
    check_codec("half-none", idempotent=True)
    check_codec(Half("no nan"), keeps_nan=False)
    check_codec(Half("drifts"))
    check_codec(Half("large"))  # promises nothing beyond what fp16 holds


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "long",
            r"encode of codec half-long must give uint8 \[32\], its wire_bytes\(1\), on cpu: given .* \[33\]",
        ),
        ("bf16", r"must give uint8 \[32\].* given torch.float32 \[32\] on cpu"),
        ("nothing", r"must give uint8 \[32\].* given NoneType"),
        ("touches", "codec half-touches changes the 1 values that it encodes"),
        ("random", "codec half-random encodes 1 values of torch.float32 in two ways"),
        (
            "more",
            r"decode of codec half-more must give floating-point values \[1\] on cpu: given .* \[16\]",
        ),
        ("codes", r"must give floating-point values \[1\] on cpu: given torch.int32 \[1\]"),
        ("list", r"must give floating-point values \[1\] on cpu: given list"),
        ("tight", r"codec half-tight: value 0 of 1, .* in torch.float32, decodes to .*: off by .*, its bound is "),
        ("negative", "bound of codec half-negative must give 1 numbers of 0 or more: given torch.float64"),
        ("unsure", "bound of codec half-unsure must give 1 numbers of 0 or more"),
        ("one", r"bound of codec half-one must give 1 numbers of 0 or more: given torch.float64 \[\]"),
        ("number", "bound of codec half-number must give 1 numbers of 0 or more: given float"),
        (
            "endless",
            r"codec half-endless: its bound promises nothing, infinity, for value 0 of 1, .* in torch.float32 decoded "
            r"in torch.float32: it must be finite where no value is larger than 32768",
        ),
        ("zero", r"codec half-zero makes \[5.96\d+e-08\] of 1 zeros"),
        ("whole", "codec half-whole decodes 2 runs of 8 values otherwise in 5 runs"),
        ("leaks", "codec half-leaks lets a NaN out of its run of 8 values"),
        ("no nan", "codec half-no nan makes 0 of a NaN"),
        ("drifts", "codec half-drifts decodes to other values when what it decoded is encoded again"),
    ],
)
def test_each_fault_is_found(fault: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check_codec(Half(fault), idempotent=fault == "drifts")
    assert "\n" not in str(caught.value)


# ---- what thinwire does for a codec of one's own


def test_any_floating_type_is_decoded_to_the_wanted_one() -> None:
    """Here from fp16 upwards."""
    packed = encode(torch.tensor([3.0, -70000.0, 0.0]), Half())
    for dtype, least in ((torch.float32, -65504.0), (torch.bfloat16, -65536.0), (torch.float16, -65504.0)):
        found = decode(packed, dtype=dtype)
        assert found.dtype == dtype and found.float().tolist() == [3.0, least, 0.0]
    assert bool(decode(encode(torch.full((3,), torch.nan), Half())).isnan().all())


def test_finite_values_stay_finite_in_narrower_types(log4: str) -> None:
    codec = parse_codec(log4)
    x = torch.full((64,), 3e38)
    assert decode(encode(x, codec), dtype=torch.float16).tolist() == [65504.0] * 64
    assert bool(decode(encode(x, codec), dtype=torch.bfloat16).isfinite().all())


def test_backends_without_its_kernels_run_its_own(log4: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name or as `auto`; ours are still asked for what they know."""
    from thinwire.reference.codecs import backend as registry

    asked = []

    def backend(name: str) -> Any:
        asked.append(name)
        return registry.import_module("thinwire.reference.codecs.numerics")

    monkeypatch.setattr("thinwire.reference.quantize.find_backend", backend)
    x = torch.randn(100)
    for spec, who in ((log4, ["triton", "torch"]), ("int4", ["triton"])):
        codec = parse_codec(spec)
        for call in (
            lambda codec=codec: encode_flat(x, codec, "triton"),
            lambda codec=codec: decode_flat(encode_flat(x, codec, "triton"), 100, codec, "triton"),
            lambda codec=codec: reduce_flat([encode_flat(x, codec, "triton")], 100, codec, "triton", ranks=[0]),
        ):
            asked.clear()
            call()
            assert asked[: len(who)] == who


def test_a_class_that_nobody_registered_is_refused() -> None:
    @dataclass(frozen=True, slots=True)
    class Stray(Half):
        pass

    for call in (
        lambda: encode(torch.ones(8), Stray()),
        lambda: bound(torch.ones(8), Stray()),
    ):
        with pytest.raises(ValueError, match=r"codec half-none is of a class that is not registered: .*Stray"):
            call()
