"""Mixtures head to head, as a report: both errors where somebody measured, the distance by part where nobody did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from thinwire.reference.families.config import load_model
from thinwire.validation.peers.mixture_rows import Head, distances, heads
from thinwire.validation.targets import mixtures as ours
from thinwire.validation.targets.compare import table

PARTS = ("attention and its products", "other products", "experts", "exchanges", "rest")
MINE = {"attention": PARTS[0], "around it": PARTS[0]}  # the other parts have the names that the section has


def markdown(raw: Mapping[str, Any]) -> str:
    """peers-mixtures.md."""
    found = heads(raw)
    answered = [head for head in found if head.closer is not None]
    versions = sorted({a["version"] for a in raw["answers"].values() if "version" in a})
    lines = [
        "# Mixtures of experts: thinwire and AIConfigurator",
        "",
        "Written by `python -m thinwire.validation.peers.mixtures`; with `--report` again from "
        "`validation/raw/peers-mixtures.json`, without the peer. thinwire's predictions are today's. Errors are "
        "predicted over measured, less one; figures in pairs are median and 90th percentile of their size.",
        "",
        f"AIConfigurator {raw['facts']['version']} is asked by `cli_estimate` in modes static_ctx and static_gen, with "
        "its own model files where it has them and tables of the engine that ran (versions "
        f"{', '.join(versions)}); fp8 weights in blocks. Both are asked the same passes and steps; a whole batch is "
        "their sum. Neither prices sampling, a host or other requests. Its experts are loaded by a power law, ours "
        "evenly. Nothing of either is fitted to these rows; thinwire's kernels are fitted to tables of the peer's.",
        "",
        f"thinwire is closer on {sum(bool(h.closer) for h in answered)} of {len(answered)} rows that both answer.",
        "",
        "## Rows that somebody measured",
        "",
        *table(("source", "of", "rows", "thinwire", "AIConfigurator", "closer"), list(groups(answered))),
        "",
        *(f"- {text}" for text in unanswered(found)),
        "",
        "## By how many sequences are at work",
        "",
        *table(("what", "sequences", "rows", "thinwire", "AIConfigurator", "closer"), list(sizes(answered))),
        "",
        "## Where nobody measured: prefills, by part",
        "",
        "One prompt on vLLM's tables, milliseconds: thinwire / AIConfigurator, and ours over theirs in all. MLA is one "
        "module there, its products and norms within; other models' norms are in the rest on both sides.",
        "",
        *table(("setup", "tokens", *PARTS, "in all", "ours over theirs"), list(parts(raw))),
        "",
        *REASONS,
    ]
    return "\n".join(lines) + "\n"


REASONS = (
    "Why they differ:",
    "",
    "- Experts spread over ranks: it loads them by a power law and times the busiest rank, so that EP takes longer "
    "than TP; ours is even unless `--expert-skew` is asked for (at skew 1 the busiest of 8 ranks has 1.6 times the "
    "mean of DeepSeek-V3's rows), and holds what kernels take to pass over other ranks' rows, on Hopper in bf16 most.",
    "- Products in fp8 blocks: its table of vLLM has 60 us on H100 and 175 us on B200 for any product of up to 1,024 "
    "rows, as long as a launch takes and not a kernel; ours are TensorRT-LLM's, a fifth of that and less. vLLM 0.11's "
    "steps in fp8 (ML.ENERGY) lie nearer to its sums, SGLang's nearer to ours.",
    "- Exchanges of DeepSeek-V3: on vLLM's tables it counts an all-reduce behind attention and two around the "
    "experts, whose sum is another two; ours are two a layer.",
    "- Attention and the rest: ours hold a gap before every kernel and products to a sustained rate, fitted to whole "
    "prefills; its are tables as they are.",
    "- Mixtral under TP: its two tables, H100's and H200's, lie 5 % apart at 8,192 tokens; our fit of H100 is a fifth "
    "slower than its table there.",
    "- Prompts of SGLang and TensorRT-LLM: it asks those engines' own tables; ours know one kernel a precision, vLLM's "
    "for experts. First tokens hold the host, which neither has.",
)


def groups(found: Iterable[Head]) -> Iterable[Sequence[str]]:
    """By source and what was measured."""
    by: dict[tuple[str, str], list[Head]] = {}
    for head in found:
        source = next(s for s in ours.SOURCES if head.row["source"].startswith(s.start))
        mixture = load_model(ours.MODELS[head.row["model"]]).is_mixture
        what = ours.METRICS[head.row["metric"]][0]
        by.setdefault((source.what, what if mixture else f"{what}, dense models"), []).append(head)
    for (named, what), some in by.items():
        yield named, what, *figures(some)


def sizes(found: Iterable[Head]) -> Iterable[Sequence[str]]:
    """Times between tokens by sequences."""
    by: dict[tuple[bool, int], list[Head]] = {}
    for head in found:
        if head.row["metric"] == "itl_ms":
            mixture = load_model(ours.MODELS[head.row["model"]]).is_mixture
            batch = float(head.row["batch"])
            by.setdefault((not mixture, next(i for i, most in enumerate(SIZES) if batch <= most)), []).append(head)
    for (dense, size), some in sorted(by.items()):
        least = 1 if size == 0 else SIZES[size - 1] + 1
        most = SIZES[size]
        named = f"{least} to {most}" if most < SIZES[-1] else f"{least} and more"
        yield "between tokens" + (", dense models" if dense else ""), named, *figures(some)


SIZES = (8, 16, 64, 128, 10_000)


def figures(some: Sequence[Head]) -> Sequence[str]:
    """Rows, both errors, and on how many we are closer."""
    mine = [abs(head.errors[0]) for head in some]
    theirs = [abs(error) for head in some if (error := head.errors[1]) is not None]
    bias = [median(head.errors[0] for head in some), median(e for h in some if (e := h.errors[1]) is not None)]
    cells = (
        f"{median(sizes):.1%}, {ninetieth(sizes):.1%} ({signed:+.1%})"
        for sizes, signed in zip((mine, theirs), bias, strict=True)
    )
    return f"{len(some)}", *cells, f"{sum(bool(head.closer) for head in some)} of {len(some)}"


def ninetieth(values: Sequence[float]) -> float:
    """The value that nine of ten do not exceed."""
    return sorted(values)[min(int(0.9 * len(values)), len(values) - 1)]


def unanswered(found: Sequence[Head]) -> list[str]:
    """What the peer does not answer, and why."""
    reasons: dict[tuple[str, str, str], int] = {}
    for head in found:
        if isinstance(head.theirs, str):
            key = head.row["model"], head.row["gpu"], head.theirs.split(" at /")[0][:120]
            reasons[key] = reasons.get(key, 0) + 1
    return [f"no answer to {rows} rows of {model} on {gpu}: {why}" for (model, gpu, why), rows in reasons.items()]


def parts(raw: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    """Both tools' parts of each prefill that nobody measured."""
    for one in distances():
        answer = raw["answers"][one.id]
        mine = ours.prompt(one.setup, one.batch, one.tokens)
        my = grouped(mine.parts, MINE)
        if "parts" not in answer:
            yield str(one.setup), f"{one.tokens:,}", *(f"{my[part] * 1e3:.1f} / -" for part in PARTS), "-", "-"
            continue
        their = dict.fromkeys(PARTS, 0.0)
        for name, seconds in answer["parts"].items():
            their[part_of(name)] += seconds
        cells = (f"{my[part] * 1e3:.1f} / {their[part] * 1e3:.1f}" for part in PARTS)
        whole = f"{mine.value * 1e3:.1f} / {answer['seconds'] * 1e3:.1f}"
        yield str(one.setup), f"{one.tokens:,}", *cells, whole, f"{mine.value / answer['seconds']:.2f}"


def grouped(found: Mapping[str, float], names: Mapping[str, str]) -> dict[str, float]:
    """Seconds by PARTS."""
    by = dict.fromkeys(PARTS, 0.0)
    for name, seconds in found.items():
        by[names.get(name, name)] += seconds
    return by


def part_of(name: str) -> str:
    """Of an operator of AIConfigurator's."""
    if any(word in name for word in ("dispatch", "allreduce", "_ar", "p2p")):
        return "exchanges"
    if name.startswith("moe"):
        return "experts"
    if any(word in name for word in ("mla", "attention", "qkv", "proj_gemm")):
        return PARTS[0]
    return "other products" if name.endswith("gemm") else "rest"
