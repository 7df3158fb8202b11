"""Tables for people, with rich. Numbers only; every fact they show comes from a prediction or a catalog."""

import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from math import expm1
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.core.scheme import Scheme
from thinwire.reference.mixed import DROP, SITES, MixedScheme, Site, plan_of
from thinwire.sim.api import Comparison
from thinwire.sim.choices import Shown
from thinwire.sim.costs.spread import CONFIDENCE
from thinwire.sim.cross.predict import CrossComparison
from thinwire.sim.layers import formats
from thinwire.sim.quality.figures import Figure
from thinwire.sim.quality.published import Found, few, rows_of
from thinwire.sim.report import Prediction, host_sentence
from thinwire.topologies.choose import named
from thinwire.topologies.cluster import Cluster
from thinwire.topologies.draw import draw

if TYPE_CHECKING:
    from thinwire.sim.quality.auto import Chosen

# Piped output has no width: wide enough for the widest table, so that names are not cut.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


WAITING = "waiting for other ranks"
EXPERTS = ("dispatch", "combine")


def _machine(name: str, gpus: Sequence[int]) -> str:
    """Its name, and which of its GPUs are meant where they are not the first ones."""
    return " ".join([name, *([f"({said})"] if (said := named(gpus)) else [])])


def _heading(p: Prediction) -> str:
    prompt, c = p.prompt, p.cluster
    said = formats(p.model, prompt.weights, prompt.kv)
    return (
        f"[bold]{p.model.name}[/bold] ({said}) on {p.tp} x {c.gpu.name} of {_machine(c.name, c.indices)}, "
        f"batch {prompt.batch} x {prompt.input_tokens} tokens{_shared_out(p)}"
    )


def _shared_out(p: Prediction) -> str:
    """How a mixture's experts are shared out, and reached."""
    return f", {p.sharing.words}" if p.model.is_mixture and p.tp > 1 else ""


def _interval(p: Prediction, digits: int) -> str:
    low_ms, high_ms = p.interval.low_s * 1e3, p.interval.high_s * 1e3
    return f"{low_ms:.{digits}f} .. {high_ms:.{digits}f}"


def _bits(p: Prediction) -> str:
    phases = {phase: bits for phase, bits in p.bits_per_value.items() if bits} or p.bits_per_value
    shown = [f"{bits:.4g}" for bits in phases.values()]
    return "/".join(dict.fromkeys(shown))


MEMORY = {"weights": "weights", "kv_cache": "KV cache", "activations": "activations"}


def prediction(p: Prediction, explain: bool) -> None:
    """One prediction; `explain` adds where the time goes and what the number rests on."""
    b = p.breakdown
    console.print(_heading(p))
    console.print(
        f"TTFT [bold]{p.ttft_s * 1e3:.2f} ms[/bold] with {p.scheme.name}, {CONFIDENCE:.0%} interval "
        f"{_interval(p, 2)} ms ({p.interval.low_s / p.ttft_s - 1:+.1%} .. {p.interval.high_s / p.ttft_s - 1:+.1%})"
    )
    table = Table("", "ms", "% of TTFT", box=None, pad_edge=False)
    for name, seconds in (
        ("compute", b.compute_s),
        ("exposed communication", b.exposed_communication_s),
        (WAITING, b.waiting_s),
        ("communication, hidden or not", b.communication_s),
        ("codec, hidden or not", b.codec_s),
    ):
        table.add_row(name, f"{seconds * 1e3:.2f}", f"{seconds / p.ttft_s:.1%}")
    console.print(table)
    _another_host([(p.interval.another_host_share, p.interval.measurable)])
    traffic = p.traffic
    console.print(
        f"{traffic.all_reduce_count} all-reduces, {traffic.layer_bytes_per_gpu / 1e6:.1f} MB on the wire a GPU, "
        f"{_bits(p)} bits a value"
    )
    held = p.memory_bytes
    parts = " + ".join(f"{nbytes / 1e9:.1f} {MEMORY[name]}" for name, nbytes in held.items())
    memory_gb = p.cluster.gpu.memory_bytes / 1e9
    console.print(f"memory a GPU: {parts} = {sum(held.values()) / 1e9:.1f} of {memory_gb:.1f} GB")
    if explain:
        _explain(p)


def _explain(p: Prediction) -> None:
    table = Table(
        "on the rank that ends last",
        "ms",
        "%",
        title="Where the milliseconds go",
        title_justify="left",
        box=None,
    )
    waiting = {WAITING: p.breakdown.waiting_s} if p.breakdown.waiting_s else {}
    for name, seconds in (p.timeline.by_name() | waiting).items():
        table.add_row(name, f"{seconds * 1e3:.3f}", f"{seconds / p.ttft_s:.1%}")
    console.print(table)
    path = p.timeline.critical_path()
    total_ms = sum(s.seconds for s in path) * 1e3
    exchanges_ms = sum(s.seconds for s in path if s.stream == "communication") * 1e3
    console.print(f"critical path: {len(path)} spans, {total_ms:.2f} ms, {exchanges_ms:.2f} ms of it exchanges")
    _spreads(p)
    _assumptions(p.assumptions)


def _another_host(shares: Sequence[tuple[float, Collection[str]]]) -> None:
    """Of the widest of some intervals, in that respect."""
    share, measurable = max(shares, key=lambda one: one[0], default=(0.0, ()))
    said = host_sentence(share, measurable)
    if said is not None:
        console.print(f"{'up to ' if len(shares) > 1 else ''}{said}", markup=False)


def _spreads(p: Prediction) -> None:
    """What the interval is made of."""
    table = Table(
        "part of the critical path", "ms", "off by (90 %)", "known from",
        title="What the interval is made of", title_justify="left", box=None,
    )  # fmt: skip
    found = p.interval
    terms = [(term.what, term.seconds, term.spread) for term in sorted(found.terms, key=lambda term: -term.seconds)]
    more = [(f"{term.what}, once more", term.seconds, term.spread) for term in found.others]
    for what, seconds, spread in (*terms, ("all compute, once more", found.compute_s, found.prefill), *more):
        off = "" if spread is None else f"{expm1(spread.low):+.1%} .. {expm1(spread.high):+.1%}"
        source = "at the sustained rate: as all compute" if spread is None else spread.source
        table.add_row(what, f"{seconds * 1e3:.3f}", off, source)
    console.print(table)


def _assumptions(sentences: Sequence[str]) -> None:
    console.print("Rests on:")
    for sentence in sentences:
        console.print(f"  - {sentence}", markup=False)


def comparison(c: Comparison, published: Shown = "few") -> None:
    """Schemes, fastest first, at most 120 columns wide; below, what others published of their accuracy."""
    console.print(_heading(c.baseline))
    if c.baseline.scheme.name != "bf16":
        console.print(
            f"speed-up is over {c.baseline.scheme.name}, whose TTFT is {c.baseline.ttft_s * 1e3:.1f} ms", markup=False
        )
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    waits = any(row.breakdown.waiting_s for row in c.rows)
    times = ("compute", "codec", "wire", "exposed", *(["waiting"] if waits else []))
    for column in (
        *("scheme", "TTFT ms", f"{CONFIDENCE:.0%} interval", "speed-up"),
        *times,
        *("bits", "MB sent", "perplexity x"),
    ):
        table.add_column(column, justify="left" if column == "scheme" else "right", no_wrap=True)
    for row in c.rows:
        b = row.breakdown
        seconds = (b.compute_s, b.codec_s, b.communication_s, b.exposed_communication_s, b.waiting_s)
        cells = [
            f"{row.ttft_s * 1e3:.1f}",
            _interval(row, 0),
            f"{c.speedup(row):.2f}",
            *(f"{t * 1e3:.1f}" for t in seconds[: len(times)]),
        ]
        cells += [_bits(row), f"{row.traffic.layer_bytes_per_gpu / 1e6:.0f}", _perplexity(c.accuracy(row))]
        table.add_row(row.scheme.name, *cells)
    console.print(table)
    _another_host([(row.interval.another_host_share, row.interval.measurable) for row in c.rows])
    for sentence in _measured_on(c):
        console.print(sentence, markup=False)
    if c.compress == "prompt":
        _lookups(c)
    _published([(row.scheme.name, c.published(row)) for row in c.rows], published, c.baseline.model.name)
    shared = [s for s in c.baseline.assumptions if all(s in row.assumptions for row in c.rows)]
    own = dict.fromkeys(s for row in c.rows for s in row.assumptions if s not in shared)
    _assumptions([*shared, *own])


def chosen(c: "Chosen", rows: Comparison) -> None:
    """What was chosen, site by site, and what it is worth next to the best single scheme."""
    comparison(rows)
    console.print(
        f"expected perplexity x {c.perplexity_ratio:.4f} of x {1 + c.budget:g} allowed; the best single scheme within "
        f"the same budget is {c.uniform}"
    )
    counts = Counter((DROP if entry is None else entry.name, site) for site, entry in _sites(c.scheme))
    names = sorted({name for name, _ in counts}, key=lambda name: (-sum(counts[name, site] for site in SITES), name))
    table = Table("sync points", *SITES, box=None, pad_edge=False)
    for name in names:
        table.add_row(name, *(str(counts[name, site] or "") for site in SITES))
    console.print(table)
    console.print(c.scheme.source, markup=False)


def _sites(scheme: MixedScheme) -> list[tuple[Site, Scheme | None]]:
    return [(site, entry) for (_, site), entry in plan_of(scheme, scheme.layers).items()]


def _perplexity(known: Figure | None) -> str:
    """The ratio and its interval."""
    if known is None:
        return ""
    if known.perplexity_ratio is None:
        return "not finite"
    interval = known.perplexity_ratio_interval
    places = 3 if known.perplexity_ratio < 10 else 0
    shown = f"{known.perplexity_ratio:.{places}f}"
    return shown if interval is None else f"{shown} ({interval[0]:.{places}f}..{interval[1]:.{places}f})"


def _measured_on(c: Comparison) -> list[str]:
    """Whose the last column is: one sentence a model and TP degree; and what it is of nobody."""
    known = [found for row in c.rows if (found := c.accuracy(row)) is not None]
    by_source: dict[tuple[str, int], list[Figure]] = {}
    for found in known:
        by_source.setdefault((found.title, found.tp), []).append(found)
    sentences = []
    for (title, tp), figures in sorted(by_source.items()):
        near = (
            "" if tp == c.baseline.tp else f", the nearest to TP {c.baseline.tp} measured (of {len(figures)} schemes)"
        )
        other = "" if figures[0].model == c.baseline.model.name else f", not on {c.baseline.model.name}"
        tokens = sorted({found.tokens for found in figures})
        counted = f"{tokens[0]}" if len(tokens) == 1 else f"{tokens[0]} to {tokens[-1]}"
        how = {
            "prompt": "of exact answers behind compressed prompts (--compress all: every position compressed)",
            "all": "with every position compressed, decode's too (--compress prompt: prompts alone)",
        }[c.compress]
        sentences.append(
            f"perplexity x: perplexity over the uncompressed model's, {how}, {figures[0].confidence:.0%} interval, "
            f"measured on {title}{other}: {counted} predictions at TP {tp}{near}"
        )
    unknown = [row.scheme.name for row in c.rows if row.compresses_experts and c.accuracy(row) is None]
    if unknown:
        sentences.append(f"what codecs of experts' tokens cost in accuracy was not measured: {', '.join(unknown)}")
    return sentences


def _lookups(c: Comparison) -> None:
    """What perplexity does not see, in a sentence: what look-ups lose under these schemes, and who was not asked."""
    coded = [row for row in c.rows if not row.acting.is_raw]
    known = {row.scheme.name: found for row in coded if (found := c.lookup(row)) is not None}
    if not known:
        return
    one = max(known.values(), key=lambda found: found.trials)
    points = [
        f"{name} {round(-100 * found.lost)}" + ("" if found.trials == one.trials else f" ({found.trials} trials)")
        for name, found in sorted(known.items(), key=lambda pair: (-pair[1].lost, pair[0]))
    ]
    unasked = [row.scheme.name for row in coded if row.scheme.name not in known]
    others = f"; not asked: {', '.join(unasked)}" if 0 < len(unasked) <= len(known) + 3 else "; others were not asked"
    console.print(
        f"Perplexity does not see all: {one.task} look-ups in prompts of {one.prompt_tokens} tokens are right in "
        f"{one.exact:.0%} of {one.trials} trials on {one.model} at TP {one.tp} uncompressed, and lose points: "
        f"{', '.join(points)}{others if unasked else ''} (docs/accuracy.md)",
        markup=False,
    )


def _published(rows: Sequence[tuple[str, Sequence[Found]]], how_many: Shown, model: str | None = None) -> None:
    """One line a row; what is not shown is counted, and how little of a score it keeps."""
    found = [(name, one) for name, ones in rows for one in ones]
    if how_many == "none" or not found:
        return
    of_model = sum(one.same_model for _, one in found)
    are = "are" if of_model > 1 else "is"
    whose = "" if model is None else f" ({of_model or 'none'} of {len(found)} rows {are} of {model})"
    console.print(f"Published by others, each of its own model and set-up{whose}; nothing of it is in the table:")
    shown = found if how_many == "all" else few(rows)
    for name, one in shown:
        console.print(f"  {name}: {one.row.line}", markup=False)
    left = [each[1].row for each in found if each not in shown]
    least = min((row.retained for row in left if row.decides and row.retained is not None), default=None)
    if left:
        kept = "" if least is None else f", of which the worst measured keeps {least:.1%} of a score"
        console.print(f"  ... and {len(left)} more{kept}: --published all")


def cross_comparison(c: CrossComparison) -> None:
    """Ways to do cross-attention, fastest first, and from where on LV-XAttn sends least."""
    base = c.baseline
    prompt, config = base.prompt, base.model.config
    console.print(
        f"{base.model.layers} cross-attention layers of [bold]{config.name}[/bold] ({prompt.weights}, "
        f"{base.model.heads} heads, {base.model.kv_heads} key-value heads of {base.model.head_dim}) on {base.tp} x "
        f"{base.cluster.gpu.name} of {_machine(base.cluster.name, base.cluster.indices)}, batch {prompt.batch}, "
        f"{prompt.text_tokens} text and {prompt.visual_tokens} visual tokens"
    )
    table = Table(box=None, pad_edge=False)
    for column in ("scheme", "ms", "speed-up", "compute", "codec", "communication", "exposed", "MB a GPU", "memory"):
        table.add_column(column, justify="left" if column == "scheme" else "right", no_wrap=True)
    for row in c.rows:
        b = row.breakdown
        times = (b.compute_s, b.codec_s, b.communication_s, b.exposed_communication_s)
        memory = f"{sum(row.memory_bytes.values()) / 1e9:.1f} GB" + ("" if row.fits else ", too much")
        cells = [f"{row.time_s * 1e3:.2f}", f"{c.speedup(row):.2f}", *(f"{t * 1e3:.2f}" for t in times)]
        table.add_row(row.method, *cells, f"{max(row.sent_bytes_R) / 1e6:.1f}", memory)
    console.print(table)
    console.print(
        f"speed-up over {base.method}; of {prompt.text_tokens} text tokens, lv-xattn sends less from "
        f"{c.crossover_visual_tokens} visual tokens on"
    )
    _assumptions(list(dict.fromkeys(s for row in c.rows for s in row.assumptions)))


def collective(row: Mapping[str, Any]) -> None:
    """One collective."""
    low_us, high_us = row["interval_us"]
    off = [f"{us / row['time_us'] - 1:+.1%}" for us in (low_us, high_us)] if row["time_us"] else ["0%", "0%"]
    console.print(
        f"{row['op']} of {row['bytes']} bytes on {row['tp']} GPUs of {_machine(row['cluster'], row['gpus'])}: "
        f"[bold]{row['time_us']:.2f} us[/bold], {CONFIDENCE:.0%} interval {low_us:.2f} .. {high_us:.2f} us "
        f"({off[0]} .. {off[1]})"
    )
    _another_host([(row["interval_another_host_share"], ("exchanges",))])
    if row["algbw_gb_per_s"] is not None:
        console.print(f"algbw {row['algbw_gb_per_s']:.2f} GB/s, busbw {row['busbw_gb_per_s']:.2f} GB/s")
    console.print(f"{row['wire_bytes_per_gpu']} bytes on the wire a GPU, codec {row['codec_us']:.2f} us")
    _assumptions(row["assumptions"])


def catalog(kind: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A catalog; sources go last, one a line."""
    last = "sources" if kind == "clusters" else "source"
    columns = [c for c in rows[0] if c not in (last, "bits_per_value", "published")]
    table = Table(*columns, last, box=None, pad_edge=False)
    for row in rows:
        source = row[last] if isinstance(row[last], str) else "\n".join(row[last])
        table.add_row(*(_cell(row[c]) for c in columns), source)
    console.print(table)


def models(rows: Sequence[Mapping[str, Any]]) -> None:
    """The catalog of models: values trained and used for a token, in billions, and what a token keeps in the cache."""
    table = Table(box=None, pad_edge=False)
    for column in ("name", "10^9 values", "active", "layers", "experts", "KV kB/token", "Hugging Face ids"):
        table.add_column(
            column,
            justify="left" if column in ("name", "Hugging Face ids") else "right",
            no_wrap=column != "Hugging Face ids",
        )
    for row in rows:
        mixture = f"{row['experts_per_token']} of {row['experts']}" if row["experts"] else ""
        sizes = f"{row['parameters'] / 1e9:.1f}", f"{row['active_parameters'] / 1e9:.1f}", str(row["num_layers"])
        kept = f"{row['kv_bytes_per_token'] / 1e3:.0f}"
        few = row["ids"][:IDS_SHOWN]
        more = f" and {len(row['ids']) - len(few)} more" if len(row["ids"]) > len(few) else ""
        table.add_row(row["name"], *sizes, mixture, kept, ", ".join(few) + more)
    console.print(table)


IDS_SHOWN = 2


def gpus(rows: Sequence[Mapping[str, Any]]) -> None:
    """The catalog of GPUs."""
    table = Table(box=None, pad_edge=False)
    for column in ("name", "chip", "GB", "GB/s", "bf16 TFLOP/s", "fp8", "predictions rest on"):
        table.add_column(column, justify="left" if column in ("name", "chip", "predictions rest on") else "right")
    for row in rows:
        peak = row["peak_tflops"]
        table.add_row(
            row["name"], row["chip"] or "-", f"{row['memory_gb']:.0f}", f"{row['memory_bandwidth_gb_per_s']:,.0f}",
            f"{peak['bf16']:,.0f}", f"{peak['fp8']:,.0f}" if "fp8" in peak else "-", row["rests_on"],
        )  # fmt: skip
    console.print(table)


def schemes(rows: Sequence[Mapping[str, Any]], published: Shown) -> None:
    """The catalog of schemes, and what others published of their accuracy. Codecs of experts' traffic, which few have,
    stand in words before the source.
    """
    catalog("schemes", [_in_words(row) for row in rows])
    _published([(row["name"], rows_of(find_scheme(row["name"]))) for row in rows], published)


def _in_words(row: Mapping[str, Any]) -> dict[str, Any]:
    said = ", ".join(f"{phase} {row[phase]}" for phase in EXPERTS if row[phase] != "bf16")
    rest = {key: value for key, value in row.items() if key not in EXPERTS}
    return rest | {"source": f"{said}; {row['source']}"} if said else rest


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def cluster(c: Cluster) -> None:
    """A machine as a tree of links."""
    console.print(draw(c), markup=False)
