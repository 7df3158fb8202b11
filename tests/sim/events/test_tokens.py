"""Experts' tokens in time: bytes counted are bytes simulated, codecs at both ends, the slowest rank sets the pace."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.reference.catalog import parse_codec, scheme
from thinwire.reference.core.scheme import Scheme
from thinwire.reference.core.tokens import Counts, exchange_of_tokens, row_values
from thinwire.sim import api
from thinwire.sim.events.engine import Engine, Issue
from thinwire.sim.events.exchange import Exchanger, slowdown
from thinwire.sim.workload import Exchange

from ..helpers import CATALOG, close, exchanger, machine

PRESETS = ("bf16", "a2a-int8", "a2a-int6", "a2a-int4", "a2a-int2-sr", "deepep-fp8", "nvfp4-dispatch")
SPECS = ("bf16", "int4-g128-zp", "int2-g128-zp-sr", "int5-g24-min", "mx-e4m3-b128-fp32", "nvfp4-r48", "hybrid4-k64-dyn")
HIDDEN = 7168


def on(cluster: str, ranks: int | None = None) -> Exchanger:
    return exchanger(*machine(cluster, ranks))


def under(spec: str) -> Scheme:
    return scheme(f"dispatch:{spec}").for_experts("dispatch")


def alike(ranks: int, rows: int) -> Counts:
    return ((rows,) * ranks,) * ranks


@st.composite
def deals(draw: st.DrawFn) -> tuple[str, Counts]:
    cluster = draw(st.sampled_from(CATALOG))
    ranks = draw(st.integers(2, len(machine(cluster)[0].gpus)))
    row = st.lists(st.integers(0, 40) | st.just(0), min_size=ranks, max_size=ranks).map(tuple)
    return cluster, tuple(draw(st.lists(row, min_size=ranks, max_size=ranks)))


@settings(max_examples=60, deadline=None)
@given(deals(), st.integers(1, 700), st.sampled_from(SPECS))
def test_bytes_counted_are_bytes_simulated(deal: tuple[str, Counts], width: int, spec: str) -> None:
    """Of every rank, and on every link of every route."""
    cluster, counts = deal
    of, codec, most = on(cluster, len(counts)), parse_codec(spec), max(map(sum, counts))
    timed = of.timed(Exchange("all_to_all", most * width, under(spec), counts=counts))
    found, schedule = of.alone(timed), exchange_of_tokens(codec, counts, width)
    assert found.wire_bytes_R.tolist() == [schedule.sent_bytes()[rank] for rank in range(of.ranks)]
    expected = dict.fromkeys(found.link_bytes, 0.0)
    for i, row in enumerate(counts):
        for j, rows in enumerate(row):
            for link in of.cluster.route(i, j) if i != j and rows else ():
                expected[link.source, link.target] += codec.wire_bytes(rows * row_values(codec, width))
    assert all(close(nbytes, expected[link]) for link, nbytes in found.link_bytes.items())
    if not codec.is_raw and most:
        busy = [any(row) or any(of_source[rank] for of_source in counts) for rank, row in enumerate(counts)]
        assert [seconds > 0 for seconds in found.codec_s_R] == busy
    assert found.seconds >= found.codec_s_R.max() > 0 or codec.is_raw or not most


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("cluster", ["8xh200-nvlink", "8xrtx-pro-6000-pcie", "2x8xh100-ib"])
def test_alike_counts_take_what_the_flat_exchange_takes(cluster: str, name: str) -> None:
    of, rows = on(cluster), 16
    chosen, numel = scheme(name).for_experts("dispatch"), of.ranks * rows * HIDDEN
    flat = of.alone(of.time("all_to_all", numel, chosen))
    uneven = of.alone(of.time("all_to_all", numel, chosen, counts=alike(of.ranks, rows)))
    assert close(flat.seconds, uneven.seconds) and flat.wire_bytes_R.tolist() == uneven.wire_bytes_R.tolist()


@pytest.mark.parametrize("cluster", ["8xh200-nvlink", "8xrtx-pro-6000-pcie"])
def test_fewer_bits_are_sooner_for_a_prompt(cluster: str) -> None:
    """4096 tokens a GPU to eight experts each: the wire is what costs."""
    of = on(cluster)
    numel, counts = 8 * 4096 * HIDDEN, alike(8, 4096)

    def seconds(name: str) -> float:
        return of.alone(of.time("all_to_all", numel, scheme(name).for_experts("dispatch"), counts=counts)).seconds

    times = [seconds(name) for name in ("bf16", "a2a-int8", "a2a-int4")]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("name", ["bf16", "a2a-int4"])
def test_the_rank_that_most_is_sent_to_sets_the_pace(name: str) -> None:
    """A rank that gets twice as much as in the even case receives for as long; tokens that stay cost no wire."""
    of, rows = on("8xh200-nvlink"), 512
    chosen, numel = scheme(name).for_experts("dispatch"), 8 * rows * HIDDEN

    def seconds(counts: Sequence[Sequence[int]]) -> float:
        asked = tuple(tuple(row) for row in counts)
        return of.alone(of.time("all_to_all", numel, chosen, counts=asked)).seconds

    even = seconds(alike(8, rows))
    hot = seconds([[2 * rows, 0, *(rows,) * 6]] * 8)
    home = seconds([[8 * rows if i == j else 0 for j in range(8)] for i in range(8)])
    assert hot > 1.5 * even and home < (0.2 if name == "bf16" else 0.6) * even


@pytest.mark.parametrize("replayed", [True, False])
def test_a_timeline_has_codec_kernels_of_both_ends(replayed: bool) -> None:
    """Each rank's span holds encoding what it sends and decoding what it gets; none where a rank does neither."""
    of, counts = on("8xh200-nvlink", 4), ((0, 0, 0, 900), (0, 0, 0, 100), (0, 0, 0, 0), (0, 0, 0, 0))
    timed = of.timed(Exchange("all_to_all", 900 * HIDDEN, under("int4-g128-zp"), counts=counts))
    program = [Issue(0, 0, "experts", exchange=timed)]
    result = Engine(of.routes, 4, slowdown(4, {0: 2.0}), of.alone if replayed else None).run(program)
    codec_s = {span.rank: span.codec_s for span in result.spans}
    assert codec_s[2] == 0 and codec_s[0] > 2 * codec_s[1] > 0 and codec_s[3] > codec_s[0] / 3
    ends = {span.rank: span.end_s for span in result.spans}
    assert ends[2] == 0 and ends[3] >= ends[0] > ends[1] and ends[3] == pytest.approx(result.end_s)


def test_combine_is_an_exchange_of_its_own() -> None:
    found = {}
    for phase in ("dispatch", "combine"):
        answer = api.collective("8xh200-nvlink", "deepep-fp8", 2**24, op="all_to_all", phase=phase)  # type: ignore[arg-type]
        found[phase] = answer["wire_bytes_per_gpu"]
        assert answer["scheme"] == "deepep-fp8" and answer["op"] == "all_to_all"
    assert found["combine"] == 2**24 * 7 // 8 and found["dispatch"] == found["combine"] // 2 * 33 // 32
    plain = api.collective("8xh200-nvlink", "flash-int4", 2**24, op="all_to_all")  # as asked for: its reduce codec
    assert plain["wire_bytes_per_gpu"] < found["dispatch"]
    reduced = api.collective("8xh200-nvlink", "deepep-fp8", 2**24)
    assert reduced["time_us"] == api.collective("8xh200-nvlink", "bf16", 2**24)["time_us"]


def test_what_counts_cannot_be() -> None:
    for counts, op, nbytes, said in (
        ([1, 2], "all_reduce", 64, "counts are an all_to_all's: op=all_reduce"),
        ([1, 2, 3], "all_to_all", 64, "rows from each of 2 ranks"),
        ([1, 2], "all_to_all", 64, "values must be whole rows: 32 values, the rank that sends most has 3 rows"),
        ([[1, 2], [3]], "all_to_all", 64, "rows from each of 2 ranks"),
    ):
        with pytest.raises(ValueError, match=said):
            api.collective("8xh200-nvlink", "a2a-int4", nbytes, 2, op, counts=counts)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="collective ring cannot do op all_to_all"):
        api.collective("8xh200-nvlink", "ring:int4", 64, 2, "all_to_all", counts=[1, 1])
    assert api.collective("8xh200-nvlink", "none", 64, 2, "all_to_all", counts=[1, 1])["time_us"] == 0
