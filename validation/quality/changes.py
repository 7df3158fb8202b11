"""Codecs changed in one thing, held against the plain ones: which change wins? The words follow from the numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from thinwire.sim.choices import Compress
from thinwire.validation.quality.measured import Estimate, Measured, bits, kl

Verdict = Literal["wins", "loses", "no difference seen"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True, slots=True)
class Pair:
    """A codec before and after; label: what it is called in the table."""

    label: str
    plain: str
    changed: str


@dataclass(frozen=True, slots=True)
class Change:
    """One change, of several codecs. why: said where every pair's verdict is `because`."""

    what: str
    pairs: tuple[Pair, ...]
    because: Verdict
    why: str
    variant: bool = False  # names are those of `variants`, not of schemes


def _specs(*parts: tuple[str, str, str], steps: str = "two_step") -> tuple[Pair, ...]:
    return tuple(Pair(label, f"{steps}:{plain}", f"{steps}:{changed}") for label, plain, changed in parts)


def _widths(after: str, *widths: int) -> tuple[Pair, ...]:
    return _specs(*((f"INT{n}", f"int{n}-g128-zp", f"int{n}-{after}") for n in widths))


def _one_step(*parts: tuple[str, str]) -> tuple[Pair, ...]:
    return tuple(Pair(label, f"two_step:{codec}", f"all_gather:{codec}") for label, codec in parts)


def _exempt(what: str, *parts: tuple[str, str]) -> tuple[Pair, ...]:
    return tuple(Pair(label, name, f"{name}+{what}") for label, name in parts)


def _variants(what: str) -> tuple[Pair, ...]:
    names = (("INT8", "int8-g128"), ("INT4", "int4-g128"), ("INT4 g32", "int4-g32"), ("INT3", "int3-g128"))
    return tuple(Pair(label, f"{codec}-zp nearest", f"{codec}-zp {what}") for label, codec in names)


CHANGES = (
    Change(
        "groups of 32 for 128 (`-g32`)", _widths("g32-zp", 8, 6, 5, 4), "wins",
        "a huge value spoils the step of fewer neighbours",
    ),
    Change(
        "spike reserving (`-sr`)", _widths("g128-zp-sr", 8, 6, 5, 4, 3), "wins",
        "a group's two extremes travel in bf16 and no longer set its step",
    ),
    Change(
        "rotation (`-h128`, `-h64`; `-h32` with `-g32`)",
        _specs(("INT4 h128", "int4-g128-zp", "int4-g128-zp-h128"), ("INT4 h64", "int4-g128-zp", "int4-g128-zp-h64"),
               ("INT3 h64", "int3-g128-zp", "int3-g128-zp-h64"), ("INT4 g32", "int4-g32-zp", "int4-g32-zp-h32")),
        "wins", "it spreads a spike over its block, for no byte",
    ),
    Change(
        "a minimum for the zero point (`-min`)",
        (*_widths("g128-min", 6, 5, 4), *_specs(("INT4 g32", "int4-g32-zp", "int4-g32-min"))),
        "loses", "zero is no longer exact, and most values lie near it",
    ),
    Change(
        "a symmetric grid for the zero point (`-sym`)", _specs(("INT4 g32", "int4-g32-zp", "int4-g32-sym")), "loses",
        "codes of a skewed group's other side go unused",
    ),
    Change(
        "MXFP4 scales rounded to even", _specs(("MXFP4", "mx-e2m1-b32", "mx-e2m1-b32-even")), "wins",
        "fewer blocks are clipped",
    ),
    Change(
        "MXFP4 scales rounded up (`-ceil`)", _specs(("MXFP4", "mx-e2m1-b32", "mx-e2m1-b32-ceil")), "loses",
        "nothing is clipped, but steps double",
    ),
    Change(
        "MXFP4 scales in bf16, or blocks of 16",
        _specs(("bf16", "mx-e2m1-b32", "mx-e2m1-b32-bf16"), ("b16", "mx-e2m1-b32", "mx-e2m1-b16")),
        "wins", "powers of two are coarse scales",
    ),
    Change(
        "the first token exact (`+exempt-1`)",
        _exempt("exempt-1", ("INT6", "flash2-int6"), ("INT5", "flash2-int5"), ("INT4", "flash-int4"),
                ("INT4 g32", "two_step:int4-g32-zp"), ("INT3", "flash-int3")),
        "wins", "every answer looks back at it, and its activations are the largest",
    ),
    Change(
        "the last row exact (`+exempt-last-1`)",
        _exempt("exempt-last-1", ("INT8", "flash-int8"), ("INT4", "flash-int4"),
                ("INT4 g32", "two_step:int4-g32-zp"), ("MXFP4 one step", "mxfp4"), ("INT3", "flash-int3")),
        "no difference seen", "it helps the first token, one of those scored",
    ),
    Change(
        "the last 16 rows exact (`+exempt-last-16`)",
        _exempt("exempt-last-16", ("INT5", "flash2-int5"), ("INT4", "flash-int4"), ("INT4 g32", "two_step:int4-g32-zp"),
                ("INT3", "flash-int3")),
        "wins", "the answer's nearest neighbours are whole",
    ),
    Change(
        "one step for two (`all_gather`)",
        _one_step(("INT8", "int8-g128-zp"), ("INT5", "int5-g128-zp"), ("INT4", "int4-g128-zp"),
                  ("INT4 g32", "int4-g32-zp"), ("INT3", "int3-g128-zp"), ("MXFP8", "mx-e4m3-b32"),
                  ("MXFP4", "mx-e2m1-b32")),
        "wins", "the sum is not quantised again; a GPU sends TP / 2 times the bytes",
    ),
    Change(
        "three steps for two (`hierarchical`)", (Pair("INT4", "flash-int4", "flash2-int4-hier"),), "loses",
        "quantised once more",
    ),
    Change(
        "more bits to reduce alone (`int5/int4`, `int8/int4`)",
        _specs(("INT5", "int4-g128-zp", "int5-g128-zp/int4-g128-zp"),
               ("INT8", "int4-g128-zp", "int8-g128-zp/int4-g128-zp")),
        "wins", "partial sums are rounded finer, and their sum as before",
    ),
    Change(
        "more bits to gather alone (`int4/int5`, `int4/int8`)",
        _specs(("INT5", "int4-g128-zp", "int4-g128-zp/int5-g128-zp"),
               ("INT8", "int4-g128-zp", "int4-g128-zp/int8-g128-zp")),
        "wins", "the sum is rounded finer, and partial sums as before",
    ),
    Change(
        "the wider codec to gather, not to reduce",
        _specs(("INT5", "int5-g128-zp/int4-g128-zp", "int4-g128-zp/int5-g128-zp"),
               ("INT8", "int8-g128-zp/int4-g128-zp", "int4-g128-zp/int8-g128-zp")),
        "wins", "rounding the sum loses more than rounding what is summed",
    ),
    Change(
        "static outlier hybrid for INT4",
        (Pair("two steps", "flash-int4", "hybrid-4.2-two-step"),
         Pair("one step", "all_gather:int4-g128-zp", "hybrid-4.2")),
        "wins", "the largest features stay in bf16",
    ),
    Change(
        "stochastic rounding", _variants("stochastic"), "loses", "it is unbiased and has more variance",
        variant=True,
    ),
    Change(
        "scales rounded up, nothing clipped", _variants("scales up"), "no difference seen",
        "clipping is no part of the loss", variant=True,
    ),
    Change(
        "a rank's own partial sum exact", _variants("own partial exact"), "wins", "for no byte", variant=True,
    ),
    Change(
        "the sum's error carried to the next sync point", _variants("error carried"), "wins",
        "for no byte, but a rank must keep what was lost", variant=True,
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Judged:
    """A pair's KL: after over before, and whether the change is more than chance."""

    pair: Pair
    ratio: float
    verdict: Verdict
    added_bits: float


def judge(measured: Measured, change: Change, compress: Compress = "prompt") -> list[Judged]:
    """Each pair that was measured. A change wins or loses where the two 95 % intervals do not meet."""
    found = []
    for pair in change.pairs:
        before, after = (_kl(measured, change, name, compress) for name in (pair.plain, pair.changed))
        if before is None or after is None:
            continue
        verdict: Verdict = "no difference seen"
        if after.high < before.low:
            verdict = "wins"
        elif after.low > before.high:
            verdict = "loses"
        added = 0.0 if change.variant else bits(pair.changed) - bits(pair.plain)
        found.append(Judged(pair, after.value / before.value, verdict, added))
    return found


def sentence(judged: Sequence[Judged], everywhere: Sequence[Judged], change: Change) -> str:
    """What the verdicts come to. The reason where they are as it says, and every position where it says otherwise."""
    verdicts = {one.verdict for one in judged}
    said = "; ".join(
        verdict if len(verdicts) == 1 else f"{verdict} for {', '.join(_labels(judged, verdict))}"
        for verdict in VERDICTS
        if verdict in verdicts
    )
    if change.because in verdicts and not verdicts - {change.because, "no difference seen"}:
        said += f": {change.why}"
    others = {one.verdict for one in everywhere}
    if len(others) == 1 and len(verdicts) == 1 and others != verdicts and "no difference seen" not in others:
        said += f"; with every position compressed it {others.pop()}"
    return f"{said[:1].upper()}{said[1:]}."


def _labels(judged: Sequence[Judged], verdict: Verdict) -> list[str]:
    return [one.pair.label for one in judged if one.verdict == verdict]


def _kl(measured: Measured, change: Change, name: str, compress: Compress) -> Estimate | None:
    if change.variant:
        row = measured.variant(name) if compress == "prompt" else None
    else:
        row = measured.loss(name, compress)
    return None if row is None else kl(row)
