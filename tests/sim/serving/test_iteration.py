"""Durations of iterations: tables with a proven bound, held against the predictor, and never far from it."""

import random
from dataclasses import replace
from functools import cache
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.reference.catalog import scheme
from thinwire.reference.core.architecture import Layer
from thinwire.reference.core.scheme import Scheme
from thinwire.reference.families.config import load_model
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.events.exchange import Exchanger, slowdown
from thinwire.sim.predict import run, timeline_of
from thinwire.sim.serving.iteration import DIP, IterationModel
from thinwire.sim.serving.table import BOUND, MonotoneTable
from thinwire.sim.serving.workload import Iteration, Share, build

from ..helpers import machine

CASES = (
    ("llama-3-70b", "8xh100-nvlink", 8, "flash-int4", "bf16", None),
    ("llama-3-8b", "8xl40s-pcie", 4, "flash-int4+spd-50", "fp8", None),
    ("gemma-2-27b", "8xh100-nvlink", 2, "flash-int4+iso", "bf16", None),
    ("llama-3-8b", "8xl40s-pcie", 4, "iso-int8", "bf16", None),
    ("mistral-7b", "8xl40s-pcie", 1, "bf16", "bf16", None),
    ("llama-3-8b", "8xl40s-pcie", 4, "mxfp4", "bf16", 2),
    ("gemma-2-27b", "8xmi300x-xgmi", 8, "tree:bf16", "fp8", 1),
    ("llama-3-8b", "2x8xh100-ib", 16, "tree:bf16+iso", "bf16", 1),
    ("llama-3-8b", "8xl40s-pcie", 4, "flash-int4+exempt-last-4", "bf16", None),
    ("llama-3-8b", "8xl40s-pcie", 4, "mxfp4+exempt-1+exempt-last-1+iso", "bf16", 2),
)


@cache
def paced(model: str, cluster: str, tp: int, name: str, weights: str, slow: int | None) -> IterationModel:
    gpus, profile = machine(cluster, tp)
    slowed = slowdown(tp, {} if slow is None else {slow: 1.5})
    on = [Exchanger(gpus, CostModel(profile, gpus.gpu, launch), slowed) for launch in ("eager", "graph")]  # type: ignore[arg-type]
    return IterationModel(load_model(model), scheme(name), weights, on[0], on[1], 2048, 256)  # type: ignore[arg-type]


def predicted(model: IterationModel, share: Share, finishing: int) -> float:
    """The same by `sim.predict`."""
    on = model.exchanger if share.chunks else model.decode_exchanger
    work = build(model.model, model.scheme, Iteration(share, finishing), on.ranks, model.weights)
    return timeline_of(*run(work, on, on.cost, True)).ttft_s


# --- the table ---


@given(
    st.lists(st.floats(0, 2), min_size=1, max_size=200),
    st.sampled_from((0.001, 0.01, 0.1)),
    st.randoms(use_true_random=False),
)
def test_a_table_is_within_its_bound_of_any_function_that_never_decreases(
    steps: list[float], bound: float, order: random.Random
) -> None:
    """Jumps, plateaus and slopes, asked in any order."""
    truth = [1.0]
    for step in steps:
        truth.append(truth[-1] * (1 + step if step > 1 else 1 + step / 100))
    table = MonotoneTable(lambda n: truth[n - 1], len(truth), bound)
    places = list(range(1, len(truth) + 1))
    order.shuffle(places)
    for n in places:
        assert abs(table(n) / truth[n - 1] - 1) <= bound * (1 + 1e-9)
    assert table.asked <= len(truth)


def test_a_table_asks_little_of_a_smooth_function() -> None:
    table = MonotoneTable(lambda n: 1e-3 + 1e-6 * n, 1 << 20, 0.01)
    assert [table(n) for n in (1, 1 << 20)] == [1e-3 + 1e-6, 1e-3 + 1e-6 * (1 << 20)]
    for n in range(1, 1 << 20, 97):
        table(n)
    assert table.asked < 1200
    with pytest.raises(ValueError, match="covers"):
        table(0)
    with pytest.raises(ValueError, match="largest"):
        MonotoneTable(lambda n: 1.0, 0)


def test_between_two_knots_a_table_is_straight() -> None:
    """A line that rises by less than the bound takes two questions and is told as it is."""
    table = MonotoneTable(lambda n: 1 + 1e-5 * n, 900, 0.01)
    assert [table(n) for n in range(1, 901)] == pytest.approx([1 + 1e-5 * n for n in range(1, 901)], rel=1e-14)
    assert table.asked == 2


# --- against the predictor ---


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_durations_are_within_the_bound_of_the_predictor(case: tuple[str, str, int, str, str, int | None]) -> None:
    """Iterations of all kinds, at token counts that are nobody's knot on purpose."""
    model, dice = paced(*case), random.Random(5)
    worst = 0.0
    for _ in range(12):
        sequences = dice.choice((0, 3, 50, 200))
        context = sequences * dice.randint(1, 6000)
        chunks = [dice.randint(1, 500) for _ in range(dice.choice((0, 1, 1, 3)))]
        if not chunks and not sequences:
            continue
        share = Share(tuple((c, c + dice.choice((0, 0, 700))) for c in chunks), sequences, context)
        finishing = dice.randint(0, len(chunks))
        if chunks:
            found = model.mixed_s(share.chunks, finishing, sequences, context)
        else:
            found = model.line(sequences, context).first_s
        worst = max(worst, abs(found / predicted(model, share, finishing) - 1))
    assert worst <= BOUND


def test_every_token_count_is_within_the_bound() -> None:
    """Exhaustive where it is cheap, tile edges included."""
    model = paced("llama-3-8b", "8xl40s-pcie", 4, "flash-int4+spd-50", "fp8", None)
    errors = [
        model._eager.whole(n) / model._whole_s(model.exchanger, model._eager.schemes, n) - 1 for n in range(1, 2049)
    ]
    assert max(map(abs, errors)) <= BOUND
    assert model._eager.whole.asked < 700


def test_times_never_decrease_in_tokens_as_the_bound_supposes() -> None:
    for case in CASES[:3]:
        model = paced(*case)
        assert model.dip == 0
        times = [
            model._whole_s(model.exchanger, model._eager.schemes, n) for n in (*range(1, 300), *range(300, 2048, 61))
        ]
        assert all(later >= earlier * (1 - 1e-9) for earlier, later in pairwise(times))


@pytest.mark.parametrize(
    ("cluster", "tp", "width", "name"),
    [
        ("2x8xh100-ib", 16, 576, "flash-int4"),  # less than a group for every rank
        ("2x8xh100-ib", 16, 1000, "flash-int6"),  # groups cut short
        ("8xrtx4090-pcie", 8, 2880, "flash-int4"),
        ("2x8xh100-ib", 12, 6144, "flash2-int4-hier"),  # eight and four GPUs
    ],
)
def test_where_parts_are_uneven_more_tokens_are_faster_by_no_more_than_is_carried(
    cluster: str, tp: int, width: int, name: str
) -> None:
    gpus, profile = machine(cluster, tp)
    on = Exchanger(gpus, CostModel(profile, gpus.gpu), slowdown(tp, {}))
    known = load_model("llama-3-8b")
    layer = Layer(replace(known.attention, heads=48, kv_heads=tp), replace(known.feed_forward, width=48 * tp))
    model = replace(known, hidden_size=width, layers=(layer,) * known.num_layers)
    pace = IterationModel(model, scheme(name), "bf16", on, on, 64, 8)
    assert pace.dip == DIP
    assert "within 6.0%" in pace.sentences()[0]
    times = [pace._all_reduce(on, scheme(name), n).seconds for n in (*range(1, 40), 64)]
    highest = list(accumulate(times, max))
    assert all(later >= (1 - DIP) * most for most, later in zip(highest, times, strict=True))
    whole = paced("llama-3-8b", "8xl40s-pcie", 4, "flash-int4+spd-50", "fp8", None)
    assert pace.floor_s(3, 1) < (1 - 0.9 * DIP) * pace.mixed_s([(3, 3)], 0, 1, 1) and whole.dip == 0


@pytest.mark.parametrize(("cluster", "name"), [("8xh100-nvlink", "trtllm"), ("8xb200-nvlink", "vllm+iso")])
def test_where_a_carrier_steps_down_tables_follow_and_floors_hold(cluster: str, name: str) -> None:
    """TensorRT-LLM takes NCCL between 1 and 2 MiB, which is slower than its two-shot kernel from 2 MiB on."""
    model = paced("llama-3-70b", cluster, 8, name, "bf16", None)
    on = model.exchanger
    times = [model._whole_s(on, model._eager.schemes, n) for n in range(1, 600)]
    errors = [model._eager.whole(n) / exact - 1 for n, exact in enumerate(times, 1)]
    assert max(map(abs, errors)) <= BOUND and "within 1.0%" in model.sentences()[0]
    falls = [n for n, (before, after) in enumerate(pairwise(times), 2) if after < before * (1 - 1e-9)]
    assert bool(falls) == (name == "trtllm") and set(falls) <= set(model._edges)
    lowest = list(accumulate(reversed(times), min))[::-1]
    assert all(low >= exact * (1 - model.dip) for low, exact in zip(lowest, times, strict=True))
    assert (model.dip > 0.1) == (name == "trtllm")


@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[4]], ids=["plain", "windows", "one GPU"])
@pytest.mark.parametrize(("sequences", "each"), [(1, 4090), (7, 4000), (7, 4096), (3, 9000), (40, 100), (200, 2)])
def test_a_line_holds_as_long_as_it_says(
    case: tuple[str, str, int, str, str, int | None], sequences: int, each: int
) -> None:
    model = paced(*case)
    context = sequences * each - (sequences > 1)
    line = model.line(sequences, context)
    steps = {0, 1, 5, min(line.holds, 5000) - 1}
    for step in (s for s in steps if s < line.holds):
        later = context + step * sequences
        assert model.line(sequences, later).first_s == pytest.approx(
            line.first_s + line.per_token_s * (later - context), rel=1e-12
        )
    if line.holds < 5000:
        beyond = context + line.holds * sequences
        straight = line.first_s + line.per_token_s * (beyond - context)
        assert model.line(sequences, beyond).first_s != pytest.approx(straight, rel=1e-9), "it would have held on"


def test_a_scheme_that_sends_less_and_a_machine_that_is_whole_are_faster() -> None:
    shares = (((512, 512),), 1, 8, 8000)
    plain, thin = (paced("llama-3-8b", "8xl40s-pcie", 4, name, "bf16", None) for name in ("bf16", "flash-int4"))
    assert thin.mixed_s(*shares) < plain.mixed_s(*shares)
    slow = paced("llama-3-8b", "8xl40s-pcie", 4, "bf16", "bf16", 1)
    assert slow.mixed_s(*shares) > plain.mixed_s(*shares)
    assert slow.line(8, 8000).first_s > plain.line(8, 8000).first_s


def test_a_host_that_adds_time_adds_it_to_every_iteration() -> None:
    gpus, profile = machine("8xl40s-pcie", 1)
    on = Exchanger(gpus, CostModel(profile, gpus.gpu), slowdown(1, {}))
    model = load_model("llama-3-8b")
    quick, slow = (IterationModel(model, scheme("bf16"), "bf16", on, on, 256, 8, host_s) for host_s in (0.0, 2e-3))
    assert slow.line(2, 50).first_s == pytest.approx(quick.line(2, 50).first_s + 2e-3)
    assert slow.mixed_s([(9, 9)], 1, 2, 50) == pytest.approx(quick.mixed_s([(9, 9)], 1, 2, 50) + 2e-3)
    assert any("2 ms" in sentence for sentence in slow.sentences())


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_tables_that_may_not_interpolate_are_the_predictor(case: tuple[str, str, int, str, str, int | None]) -> None:
    """To rounding: a term that a bound of a percent would hide (a launch, a gap, the host's part) is seen."""
    found, dice = exact(paced(*case)), random.Random(7)
    for chunks, sequences in (((1,), 0), ((3, 17), 0), ((40,), 5), ((2, 30, 9), 11), ((), 1), ((), 6)):
        context = sequences * dice.randint(1, 5000)
        share = Share(tuple((c, c + dice.choice((0, 900))) for c in chunks), sequences, context)
        for finishing in {0, len(chunks)}:
            if chunks:
                seconds = found.mixed_s(share.chunks, finishing, sequences, context)
            else:
                seconds = found.line(sequences, context).first_s
            assert seconds == pytest.approx(predicted(found, share, finishing) + found.host_s, rel=1e-9)


def exact(model: IterationModel) -> IterationModel:
    """The same on tables without interpolation, with a host that takes its time."""
    return replace(model, bound=1e-15, host_s=0.25)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_floors_are_near_what_they_are_below(case: tuple[str, str, int, str, str, int | None]) -> None:
    """A floor of nothing would be one, too. Where contexts are short and numbers have four bits little is left out."""
    model = exact(paced(*case))
    slope = model.least_token_s()
    promised_s = model.host_s  # alone, where times depend on where chunks lie
    for sequences in (1, 2):
        line_s = model.line(sequences, sequences).first_s - promised_s
        assert 0.998 < (model.floor_s(0, sequences) + slope * sequences - promised_s) / line_s <= 1 + 1e-12
    for tokens, sequences in ((1, 0), (8, 0), (8, 4), (48, 16), (1, 1)):
        mixed_s = model.mixed_s([(tokens, tokens)], 0, sequences, sequences) - promised_s
        floor_s = model.floor_s(tokens, sequences) - promised_s
        if isinstance(model.scheme, Scheme) and model.scheme.exempt_last_tokens and model.scheme.sequence_split is None:
            ended_s = model.mixed_s([(tokens, tokens)], 1, sequences, sequences) - promised_s
            ended_s -= model._eager.head(sequences + 1) - (model._eager.head(sequences) if sequences else 0.0)
            least_s = floor_s + slope * sequences  # all coded or all raw, what is less: nothing in between is faster
            assert 0.85 < least_s / min(mixed_s, ended_s) <= 1 + 1e-12
        elif model.scheme.sequence_split is None or case[2] == 1:
            assert 0.975 < (floor_s + slope * sequences) / mixed_s <= 1 + 1e-12
        else:
            assert floor_s == 0.0
