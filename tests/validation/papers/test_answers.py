"""Our figures are those of the commands, and a knob turns what it says and nothing else."""

from dataclasses import replace

import pytest

from thinwire.sim import api
from thinwire.validation.papers import page
from thinwire.validation.papers.answers import PLAIN, Answer, Knobs, answer, figure, machine
from thinwire.validation.papers.headlines import Headline, file_of, shipped
from thinwire.validation.papers.ratios import Estimate
from thinwire.validation.papers.verdicts import Verdict, judge, knobs_of, relation_of, turned

CLAIMS = {headline.id: headline for headline in shipped().headlines}
FLASH = CLAIMS["flash-ttft-l40"]


def predicted(headline: Headline, scheme: str, **more: object) -> float:
    assert headline.model is not None and headline.cluster is not None
    return api.predict(
        file_of(headline.model),
        file_of(headline.cluster),
        scheme,
        headline.tp,
        headline.batch,
        headline.input_tokens,
        scaled_links={"*": headline.scale_link},
        **more,
    ).ttft_s


def test_a_speed_up_a_saving_and_a_share_are_of_two_predictions() -> None:
    base = predicted(FLASH, "bf16-ring")
    assert answer(FLASH).ours.value == pytest.approx(base / predicted(FLASH, "flash-int4"))
    share = answer(CLAIMS["flash-share-l40"])
    assert share.ours.value == pytest.approx(100 * (1 - predicted(FLASH, "none") / base))
    assert share.share == pytest.approx(share.ours.value / 100, rel=1e-2)  # what waits is what goes without
    iso = CLAIMS["iso-a800"]
    assert answer(iso).ours.value == pytest.approx(100 * (1 - predicted(iso, "iso") / predicted(iso, "bf16")))


def test_a_collective_is_the_commands_and_the_best_scheme_is_taken() -> None:
    claim = CLAIMS["flash2-all-reduce"]
    assert claim.bytes is not None and claim.cluster is not None
    times = {s: api.collective(claim.cluster, s, claim.bytes, 8)["time_us"] for s in (*claim.schemes, "bf16-ring")}
    found = answer(claim)
    assert found.scheme == min(claim.schemes, key=lambda name: times[name])
    assert found.ours.value == pytest.approx(times["bf16-ring"] / times[found.scheme])


def test_bits_are_the_codecs() -> None:
    assert answer(CLAIMS["mx-bits"]).ours.value == pytest.approx(16 / 4.25)
    assert answer(CLAIMS["low-bit-bits"]).ours.value == pytest.approx(4 + 12 / 64)


def test_slower_codec_kernels_slow_codec_kernels_alone() -> None:
    """The memory's bandwidth that is scaled for it is looked up by nothing else."""
    plain = replace(FLASH, schemes=("bf16",))
    for factor in (0.25, 4.0):
        assert answer(plain, Knobs(codec=factor)).other_s == answer(plain).other_s
        gpus, profile = machine(FLASH, Knobs(codec=factor))
        times = [
            api.collective(cluster, "flash-int4", 2**26, profile=costs)
            for cluster, costs in ((gpus, profile), machine(FLASH, PLAIN))
        ]
        gaps = 3 * profile.gpu.kernel_gap_s.value * 1e6  # what lies between two kernels is the host's
        codec_us = [time["codec_us"] - gaps for time in times]
        assert codec_us[0] == pytest.approx(factor * codec_us[1], rel=0.01)
        rest = [time["time_us"] - time["codec_us"] for time in times]
        assert rest[0] == pytest.approx(rest[1], rel=1e-9)


def test_faster_links_and_kernels_are_the_commands_what_ifs() -> None:
    wire, kernels = answer(FLASH, Knobs(wire=0.5)), answer(FLASH, Knobs(kernels=2.0))
    half = replace(FLASH, scale_link=0.5)
    assert wire.ours.value == pytest.approx(predicted(half, "bf16-ring") / predicted(half, "flash-int4"))
    slow = dict.fromkeys(range(4), 2.0)
    base, other = (predicted(FLASH, name, slow_ranks=slow) for name in ("bf16-ring", "flash-int4"))
    assert kernels.ours.value == pytest.approx(base / other)
    plain = answer(FLASH)
    assert wire.share is not None and plain.share is not None and kernels.share is not None
    assert kernels.share < plain.share < wire.share
    assert wire.bus_gb_per_s == pytest.approx(plain.bus_gb_per_s / 2, rel=0.02)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["flash-ttft-l40", "flash-kernel", "spd-nvlink", "iso-a800", "sglang-fp8-ring"])
def test_what_is_solved_for_gives_the_claim(name: str) -> None:
    verdict = judge(CLAIMS[name])
    found = [lever for lever in verdict.levers if lever.factor is not None]
    assert found
    for lever in found:
        assert lever.factor is not None
        value = figure(verdict.headline, turned(lever.knob, lever.factor))
        assert value == pytest.approx(verdict.headline.low, rel=1e-4)


@pytest.mark.parametrize(
    ("bound", "value", "relation"),
    [
        ("about", (1.27,), "agrees"),
        ("up to", (1.0, 1.05), "we say more"),
        ("about", (1.0, 1.2), "agrees"),
        ("about", (1.6, 1.7), "we say less"),
        ("slower", (1.0,), "we say more"),
        ("slower", (1.6,), "agrees"),
        ("slower", (1.2,), "undecided"),
    ],
)
def test_a_verdict_is_where_the_interval_lies(bound: str, value: tuple[float, ...], relation: str) -> None:
    """Ours is 1.27, between 1.14 and 1.40: the paper's host is another one than the measured."""
    found = answer(FLASH)
    assert 1.1 < found.ours.low < 1.2 and 1.35 < found.ours.high < 1.45
    claim = replace(FLASH, bound=bound, value=value)  # type: ignore[arg-type]
    assert relation_of(claim, found) == relation


def test_a_speed_up_does_not_agree_with_slower() -> None:
    """Nor does an interval that holds both."""
    claim = CLAIMS["mx-a100"]
    assert claim.bound == "slower" and claim.value == (1.0,)
    for ours, relation, said in (
        (Estimate(1.3, 0.95, 1.9), "undecided", "Undecided: our interval, 0.95 to 1.90, holds both"),
        (Estimate(0.9, 0.8, 1.0), "undecided", "Undecided: our interval, 0.80 to 1.00, holds both"),
        (Estimate(0.9, 0.8, 0.99), "agrees", "Agrees: slower here too, 0.99 at best"),
        (Estimate(1.3, 1.1, 1.9), "we say more", "We say more: 1.10 at least against 1.00"),
    ):
        found = Answer(ours, "mxfp4")
        verdict = Verdict(claim, found, relation_of(claim, found), ())
        assert verdict.relation == relation and verdict.sentence.startswith(said)
    assert "; 1 are undecided" not in page.tally([judge(claim)])


def test_only_what_a_claim_depends_on_is_solved_for() -> None:
    assert knobs_of(FLASH, answer(FLASH)) == ("wire", "codec", "kernels")
    assert knobs_of(CLAIMS["iso-a800"], answer(CLAIMS["iso-a800"])) == ("wire", "kernels")
    assert knobs_of(CLAIMS["flash-kernel"], answer(CLAIMS["flash-kernel"])) == ("wire", "codec")
    assert knobs_of(CLAIMS["mx-bits"], answer(CLAIMS["mx-bits"])) == ()
