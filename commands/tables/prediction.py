"""One prediction: the answer first, where the time goes, and what it rests on."""

from math import expm1

from thinwire.commands.tables.console import console, heading, say
from thinwire.commands.tables.fitting import Column, Fitted
from thinwire.commands.tables.resting import another_host, rests_on
from thinwire.commands.tables.words import asked, bits, exchanges_of, parts_of
from thinwire.edge.quantities import bytes_text, in_unit, percent_text, time_power, time_text, time_unit
from thinwire.sim.costs.spread import CONFIDENCE
from thinwire.sim.grounds import grounds
from thinwire.sim.interval import ALL_COMPUTE
from thinwire.sim.report import Prediction

EXPOSED = "exposed communication, codecs included"
WAITING = "waiting for other ranks"
MEMORY = {"weights": "weights", "kv_cache": "KV cache", "activations": "activations"}
AGAIN = "once more: "
SMALL = 0.01  # of the whole: below that, parts are summed up


def prediction(p: Prediction, explain: bool, verbose: bool) -> None:
    """One prediction; `explain` adds where the milliseconds go, `verbose` every part and sentence."""
    found, b = p.interval, p.breakdown
    say(
        f"First token after {time_text(p.ttft_s, found.low_s, found.high_s)} with {p.scheme.name} "
        f"({CONFIDENCE:.0%} interval, {found.low_s / p.ttft_s - 1:+.0%} to {found.high_s / p.ttft_s - 1:+.0%}).",
        "bold",
    )
    say(asked(p))
    console.print()
    table = Fitted(_columns(p, "", "% of TTFT"))
    unit_s, power = time_unit(p.ttft_s)[0], time_power(p.ttft_s, found.low_s, found.high_s)
    compute_s, exposed_s, waiting_s = parts_of(b, p.ttft_s, power)
    wire_s, codec_s = exchanges_of(b, power)
    for name, seconds, shown_s in (
        ("compute", b.compute_s, compute_s),
        (WAITING, b.waiting_s, waiting_s),
        (EXPOSED, b.exposed_communication_s, exposed_s),
        ("  wire, hidden or not", b.communication_s, wire_s),
        ("  codec, hidden or not", b.codec_s, codec_s),
    ):
        if seconds or name != WAITING:
            table.add(name, in_unit(shown_s, unit_s, power), _share(p, seconds))
    table.show()
    traffic = p.traffic
    say(
        f"{traffic.all_reduce_count} all-reduces, {bytes_text(traffic.layer_bytes_per_gpu)} on the wire a GPU, "
        f"{bits(p)} bits a value"
    )
    held = p.memory_bytes
    sizes = " + ".join(f"{nbytes / 1e9:.1f} {MEMORY[name]}" for name, nbytes in held.items())
    say(
        f"memory a GPU: {sizes} = {sum(held.values()) / 1e9:.1f} of {p.cluster.gpu.memory_bytes / 1e9:.1f} GB", indent=2
    )
    another_host(found)
    if explain:
        _where(p, verbose)
        _spreads(p, verbose)
    rests_on(grounds(p), verbose)


def _columns(p: Prediction, *heads: str) -> list[Column]:
    first, second = heads
    return [Column(first, left=True), Column(time_unit(p.ttft_s)[1]), Column(second)]


def _part(p: Prediction, seconds: float) -> tuple[str, str]:
    """A part of the time in the unit of the whole, with its digits."""
    unit_s, _ = time_unit(p.ttft_s)
    power = time_power(p.ttft_s, p.interval.low_s, p.interval.high_s)
    return in_unit(seconds, unit_s, power), _share(p, seconds)


def _share(p: Prediction, seconds: float) -> str:
    return percent_text(seconds / p.ttft_s) if p.ttft_s else "-"


def _where(p: Prediction, verbose: bool) -> None:
    """Where the time goes, kernel by kernel."""
    heading("Where the time goes, on the rank that ends last")
    waiting = {WAITING: p.breakdown.waiting_s} if p.breakdown.waiting_s else {}
    parts = p.timeline.by_name() | waiting
    table = Fitted(_columns(p, "part", "% of TTFT"))
    small = {name: seconds for name, seconds in parts.items() if seconds < SMALL * p.ttft_s and not verbose}
    for name, seconds in parts.items():
        if name not in small:
            table.add(name, *_part(p, seconds))
    if small:
        table.add(f"{len(small)} others (--verbose)", *_part(p, sum(small.values())))
    table.show()
    path = p.timeline.critical_path()
    total_s = sum(s.seconds for s in path)
    exchanges_s = sum(s.seconds for s in path if s.stream == "communication")
    say(f"critical path: {len(path)} spans, {time_text(total_s)}, {time_text(exchanges_s)} of it exchanges")


def _spreads(p: Prediction, verbose: bool) -> None:
    """What the interval is made of."""
    found = p.interval
    heading(f"What the interval is made of ({CONFIDENCE:.0%})")
    table = Fitted(
        [
            Column("part of the critical path", left=True, wraps=True),
            Column(time_unit(p.ttft_s)[1]),
            Column("off by"),
            Column("of the interval"),
            Column("known from", 1, left=True, wraps=True, least=36),
        ]
    )
    shares = found.shares
    terms = [(term.what, term.seconds, term.spread) for term in found.terms]
    more = [(f"{AGAIN}{term.what}", term.seconds, term.spread) for term in found.others]
    rows = [*terms, (f"{AGAIN}{ALL_COMPUTE}", found.compute_s, found.prefill), *more]
    share_of = {what: shares.get(what.removeprefix(AGAIN), 0.0) for what, _, _ in rows}
    rows.sort(key=lambda row: (-share_of[row[0]], -row[1]))
    shown = rows if verbose else [row for row in rows if share_of[row[0]] >= SMALL]
    for what, seconds, spread in shown:
        off = "" if spread is None else f"{expm1(spread.low):+.0%}..{expm1(spread.high):+.0%}"
        source = "at the sustained rate: as all compute" if spread is None else spread.source
        table.add(what, _part(p, seconds)[0], off, percent_text(share_of[what]), source)
    table.show(where="a wider terminal has it")
    if len(shown) < len(rows):
        say(f"{len(rows) - len(shown)} parts make less than {SMALL:.0%} of it each: --verbose")
