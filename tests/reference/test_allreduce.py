"""Compressed all-reduce over a LocalGroup: same bits everywhere, right sums, bytes as the schedule says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thinwire.reference.allreduce import all_reduce_local, executable, form_of, uncompressed
from thinwire.reference.catalog import scheme, schemes
from thinwire.reference.codecs import error
from thinwire.reference.codecs.calibration import Calibration
from thinwire.reference.core.schedule import build
from thinwire.reference.core.scheme import Raw, Scheme
from thinwire.reference.groups.group import LocalGroup
from thinwire.reference.quantize import decode_flat, encode_flat

from .gloo import FEATURES, calibrated, digest, partial

torch.set_num_threads(1)
RUNNABLE = [name for name, s in schemes().items() if name != "none" and not s.compresses_experts]


def case(name: str, numel: int, dtype: str = "bfloat16", seed: int = 0) -> dict[str, object]:
    return {"scheme": name, "numel": numel, "dtype": dtype, "seed": seed}


def reduced(
    name: str, ranks: int, numel: int, dtype: str = "bfloat16", seed: int = 0
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    given_case = case(name, numel, dtype, seed)
    partials = [partial(given_case, rank) for rank in range(ranks)]
    return partials, all_reduce_local(partials, name, calibration=calibrated(given_case, ranks))


@pytest.mark.parametrize("name", RUNNABLE)
@pytest.mark.parametrize("ranks", [2, 3, 5, 8])
def test_every_rank_ends_with_the_same_bits(name: str, ranks: int) -> None:
    for numel in (1, 63, 64 * FEATURES, 64 * FEATURES + 17):
        _, results = reduced(name, ranks, numel)
        assert len({digest(r) for r in results}) == 1


@pytest.mark.parametrize("name", ["bf16", "bf16-ring"])
@pytest.mark.parametrize("ranks", [1, 2, 4, 7])
def test_uncompressed_sum_is_the_sum(name: str, ranks: int) -> None:
    """bf16 partials, fp32 sums: each ring hop rounds a partial sum to bf16 once, so the error is at most one bf16
    rounding a hop.
    """
    partials, results = reduced(name, ranks, 1024)
    exact = torch.stack([p.double() for p in partials]).sum(0)
    magnitude = torch.stack([p.double().abs() for p in partials]).sum(0)
    assert ((results[0].double() - exact).abs() <= ranks * 2.0**-8 * magnitude + 1e-30).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype_and_shape_stay(dtype: str) -> None:
    partials, results = reduced("flash-int8", 4, 4 * FEATURES, dtype)
    assert results[0].dtype == partials[0].dtype
    assert results[0].shape == partials[0].shape


def test_none_leaves_the_partials_alone() -> None:
    partials, results = reduced("none", 3, 256)
    for before, after in zip(partials, results, strict=True):
        assert torch.equal(before, after)


EXACT = (
    "two_step:int4-g32-zp", "two_step:int4-g32-zp@chunk=300x2", "ring:int5-g8-sym", "tree:int8-g128-zp",
    "all_gather:mx-e2m1-b32", "hierarchical:int4-g32-zp/int8-g128-zp", "hybrid-4.2", "flash2-int2-sr",
    "two_step:int4-g32-zp/bf16",
)  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5])
def test_exact_values_are_summed_raw_and_the_others_as_without_them(name: str, ranks: int) -> None:
    """Bit for bit, for every size of the tail: the tail as an all-reduce of its own in the tensor's dtype, by the same
    collective; the rest as one of its own by the codec. Bytes are the sum of both's."""
    found, islands = scheme(name), (tuple(range(1 + ranks // 2)), tuple(range(1 + ranks // 2, ranks)))
    grouping = islands if ranks > 1 and all(islands) else None
    numel = 9 * FEATURES
    for dtype in ("bfloat16", "float32") if ranks < 4 else ("bfloat16",):
        asked = case(name, numel, dtype, seed=ranks)
        partials = [partial(asked, rank).reshape(-1) for rank in range(ranks)]
        calibration = calibrated({**asked, "scheme": "hybrid" if "hybrid" in name else name}, ranks)
        raw = uncompressed(partials[0].dtype).reduce
        plain = Scheme("raw", raw, raw, found.collective)
        group = LocalGroup(ranks)
        for exact in (0, 1, 2, 5, FEATURES, 100, numel - FEATURES, numel - 1):
            group.reset_counters()
            got = all_reduce_local(partials, found, group=group, calibration=calibration, islands=grouping, exact=exact)
            sent = sum(group.sent_bytes.values())
            group.reset_counters()
            head, tail = ([p[:-exact] for p in partials], [p[-exact:] for p in partials]) if exact else (partials, [])
            want = all_reduce_local(head, found, group=group, calibration=calibration, islands=grouping)[0]
            if exact:
                want = torch.cat([want, all_reduce_local(tail, plain, group=group, islands=grouping)[0]])
            assert len({digest(one) for one in got}) == 1 and digest(got[0]) == digest(want), exact
            assert sent == sum(group.sent_bytes.values())


def test_all_values_exact_is_uncompressed() -> None:
    partials = [partial(case("flash-int4", 512), rank) for rank in range(3)]
    group = LocalGroup(3)
    for exact, gate_bytes in ((512, 0), (4, 1025)):
        group.reset_counters()
        got = all_reduce_local(partials, "flash-int4", group=group, exact=exact, gate_bytes=gate_bytes)[0]
        assert torch.equal(got, all_reduce_local(partials, "bf16-ring")[0])
        assert sum(group.sent_bytes.values()) == 2 * 2 * 2 * 512
    assert not torch.equal(all_reduce_local(partials, "flash-int4", exact=4, gate_bytes=1024)[0], got)
    for wrong in (-1, 513):
        with pytest.raises(ValueError, match=f"exact must lie in 0..512, the values of x: exact={wrong}"):
            all_reduce_local(partials, "flash-int4", exact=wrong)
    kept = all_reduce_local(partials, "none", exact=512)
    assert all(torch.equal(a, b) for a, b in zip(kept, partials, strict=True))
    assert form_of(partials[0], scheme("flash-int4"), exact=4).also == "the last 4 values exact"
    assert form_of(partials[0], scheme("flash-int4")).also == ""


def test_inputs_are_not_written() -> None:
    partials = [partial(case("flash-int4", 512), rank) for rank in range(4)]
    kept = [p.clone() for p in partials]
    all_reduce_local(partials, "flash-int4")
    assert all(torch.equal(a, b) for a, b in zip(partials, kept, strict=True))


@pytest.mark.parametrize(
    "name", ["flash-int8", "flash-int4", "mxfp4", "mxint8", "flash2-int2-sr", "hybrid-4.2", "quickreduce-int6"]
)
def test_one_rank_needs_no_wire(name: str) -> None:
    partials, results = reduced(name, 1, 300)
    assert torch.equal(results[0], partials[0])


@given(
    st.sampled_from(
        [n for n in RUNNABLE if not n.startswith("hybrid") and scheme(n).collective in ("two_step", "all_gather")]
    ),
    st.integers(2, 6),
    st.integers(1, 700),
    st.integers(0, 50),
)
def test_error_stays_within_the_sum_of_its_parts(name: str, ranks: int, numel: int, seed: int) -> None:
    """Each partial is off by its codec's bound at most, and the sum of what was decoded by the gather codec's once
    more."""
    partials, results = reduced(name, ranks, numel, "float32", seed)
    found = scheme(name)
    flat = [p.reshape(-1) for p in partials]
    decoded = [decode_flat(encode_flat(p, found.reduce), numel, found.reduce) for p in flat]
    allowed = torch.stack([error.bound(p, found.reduce) for p in flat]).sum(0)
    if found.collective == "two_step":
        allowed = allowed + error.bound(torch.stack(decoded).sum(0), found.gather)
    exact = torch.stack([p.double() for p in flat]).sum(0)
    rounding = ranks * 2.0**-23 * torch.stack([d.double().abs() for d in decoded]).sum(0)  # of the fp32 sums
    assert ((results[0].reshape(-1).double() - exact).abs() <= allowed + 2 * rounding).all()


@pytest.mark.parametrize(
    "islands", [((0, 1, 2, 3), (4, 5, 6, 7)), ((0, 2, 4), (1, 3, 5, 6, 7)), ((0,), (1, 2, 3, 4, 5, 6, 7))]
)
def test_hierarchical_on_any_islands(islands: tuple[tuple[int, ...], ...]) -> None:
    partials = [partial(case("flash2-int4-hier", 4096, seed=3), rank) for rank in range(8)]
    results = all_reduce_local(partials, "two_step:int8", islands=islands)
    layered = all_reduce_local(partials, "hierarchical:int8", islands=islands)
    assert len({digest(r) for r in layered}) == 1
    exact = torch.stack([p.double() for p in partials]).sum(0)
    assert error.measure(exact, layered[0]).snr_db > error.measure(exact, results[0]).snr_db - 6


def test_nvls_sums_in_the_switch() -> None:
    nvls = Scheme("nvls", Raw(), Raw(), "nvls")
    partials = [partial(case("bf16", 512), rank) for rank in range(4)]
    group = LocalGroup(4)
    results = all_reduce_local(partials, nvls, group=group)
    exact = torch.stack([p.double() for p in partials]).sum(0)
    assert len({digest(r) for r in results}) == 1
    assert error.measure(exact, results[0]).snr_db > 40
    assert sum(group.sent_bytes.values()) == sum(build(nvls, 4, 512).sent_bytes().values())


@pytest.mark.parametrize("chunk", [128, 1000, 4096])
@pytest.mark.parametrize("in_flight", [1, 3])
def test_chunks_change_the_order_of_work_not_the_sum(chunk: int, in_flight: int) -> None:
    """Groups never straddle chunks, so two-step gives the same bits however the tensor is cut."""
    partials = [partial(case("flash-int8", 10_000), rank) for rank in range(4)]
    whole = all_reduce_local(partials, "two_step:int8-g128-zp")[0]
    cut = all_reduce_local(partials, f"two_step:int8-g128-zp@chunk={chunk}x{in_flight}")[0]
    assert torch.equal(whole, cut)


def test_size_gate_sends_small_messages_uncompressed() -> None:
    partials = [partial(case("flash-int4", 256), rank) for rank in range(2)]
    gated = all_reduce_local(partials, "flash-int4", gate_bytes=513)[0]
    assert torch.equal(gated, all_reduce_local(partials, "bf16-ring")[0])
    assert not torch.equal(gated, all_reduce_local(partials, "flash-int4", gate_bytes=512)[0])


def test_auto_is_a_ring_here() -> None:
    assert executable(scheme("bf16"), 10, 0, torch.bfloat16).collective == "ring"


@pytest.mark.parametrize(
    ("partials", "said"),
    [
        ([torch.zeros(4, dtype=torch.int32)] * 2, "all_reduce takes"),
        ([torch.zeros(4), torch.zeros(5)], "must agree in shape"),
    ],
)
def test_bad_input_is_named(partials: list[torch.Tensor], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        all_reduce_local(partials, "flash-int4")


@pytest.mark.parametrize(
    ("name", "calibration", "said"),
    [
        ("ring:hybrid4-k64", None, "static hybrid has no scales"),
        ("hybrid-4.2", None, "needs a calibration"),
        ("hybrid-4.2", Calibration(torch.ones(2, 64), torch.ones(64)), "for 2 ranks, the group has 4"),
        ("hybrid-4.2", Calibration(torch.ones(4, 32), torch.ones(32)), "has 32 features, x has 64"),
    ],
)
def test_a_static_hybrid_is_checked_before_anything_moves(
    name: str, calibration: Calibration | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        all_reduce_local([torch.ones(2, 64)] * 4, name, calibration=calibration)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_baseline_keeps_the_tensors_own_precision(dtype: torch.dtype) -> None:
    """1 + 2**-10 has more bits than bf16; `bf16` names the baseline of bf16 models, not a cast."""
    results = all_reduce_local([torch.tensor([1 + 2.0**-10, 0.0], dtype=dtype), torch.zeros(2, dtype=dtype)], "bf16")
    assert results[0][0] == 1 + 2.0**-10


@given(st.integers(1, 900), st.integers(0, 30))
def test_hierarchical_error_is_that_of_its_three_encodings(numel: int, seed: int) -> None:
    """Partials within an island, island sums across, the total once: each is off by its own bound at most."""
    islands, codec = ((0, 1, 2), (3, 4)), scheme("flash2-int4-hier").reduce
    given_case = case("flash2-int4-hier", numel, "float32", seed)
    flat = [partial(given_case, rank).reshape(-1) for rank in range(5)]

    def sent(values: torch.Tensor) -> torch.Tensor:
        return decode_flat(encode_flat(values, codec), numel, codec)

    sums = [torch.stack([sent(flat[rank]) for rank in island]).sum(0) for island in islands]
    total = torch.stack([sent(s) for s in sums]).sum(0)
    allowed = torch.stack([error.bound(values, codec) for values in (*flat, *sums, total)]).sum(0)
    got = all_reduce_local(flat, "flash2-int4-hier", islands=islands)[0].double()
    exact = torch.stack([p.double() for p in flat]).sum(0)
    rounding = 10 * 2.0**-23 * torch.stack([p.double().abs() for p in (*flat, *sums, total)]).sum(0)
    assert ((got - exact).abs() <= allowed + rounding).all()


@pytest.mark.parametrize("name", ["hybrid-4.2", "hybrid-4.2-two-step"])
@pytest.mark.parametrize("numel", [FEATURES, 7 * FEATURES])
def test_hybrid_error_is_that_of_its_encodings(name: str, numel: int) -> None:
    given_case, ranks = case(name, numel, "float32", 9), 3
    partials = [partial(given_case, rank) for rank in range(ranks)]
    calibration, codec = calibrated(given_case, ranks), scheme(name).reduce
    flat = [p.reshape(-1) for p in partials]
    allowed = torch.stack(
        [error.bound(p, codec, calibration=calibration, rank=rank) for rank, p in enumerate(flat)]
    ).sum(0)
    decoded = [
        decode_flat(
            encode_flat(p, codec, calibration=calibration, rank=r), numel, codec, calibration=calibration, rank=r
        )
        for r, p in enumerate(flat)
    ]
    if name.endswith("two-step"):
        allowed = allowed + error.bound(torch.stack(decoded).sum(0), codec, calibration=calibration)
    got = all_reduce_local(partials, name, calibration=calibration)[0].reshape(-1).double()
    exact = torch.stack([p.double() for p in flat]).sum(0)
    assert ((got - exact).abs() <= allowed * (1 + 1e-5) + 1e-5).all()
