"""One collective, or one under several schemes."""

from collections.abc import Sequence

from thinwire.commands.tables.console import say
from thinwire.commands.tables.fitting import Column, Fitted
from thinwire.commands.tables.resting import another_host, rests_on
from thinwire.commands.tables.words import machine
from thinwire.edge.quantities import (
    bytes_text,
    column_powers,
    in_unit,
    power_of,
    time_column,
    time_power,
    time_text,
    time_unit,
)
from thinwire.sim.api import Collected
from thinwire.sim.costs.spread import CONFIDENCE
from thinwire.sim.grounds import grounds, together

HOSTS = ("exchanges",)


def collective(found: Collected, verbose: bool) -> None:
    """One collective."""
    row, interval = found.document, found.interval
    took = time_text(found.seconds, interval.low_s, interval.high_s)
    off = f", {interval.low_s / found.seconds - 1:+.0%} to {interval.high_s / found.seconds - 1:+.0%}"
    say(f"{took} with {row['scheme']} ({CONFIDENCE:.0%} interval{off if found.seconds else ''}).", "bold")
    say(_asked(found))
    if row["algbw_gb_per_s"] is not None:
        half = (interval.high_s - interval.low_s) / 2 / found.seconds
        rates = [_rate(row[name], half) for name in ("algbw_gb_per_s", "busbw_gb_per_s")]
        say(f"algbw {rates[0]} GB/s, busbw {rates[1]} GB/s")
    say(f"{bytes_text(row['wire_bytes_per_gpu'])} on the wire a GPU, codec {_codec(found)}")
    another_host(interval, HOSTS)
    rests_on(grounds(found), verbose)


def collectives(rows: Sequence[Collected], verbose: bool) -> None:
    """The same collective under several schemes, in the order asked for."""
    first = min(rows, key=lambda row: (row.seconds == 0, row.seconds))  # what takes nothing does nothing
    took = time_text(first.seconds, first.interval.low_s, first.interval.high_s)
    say(f"Soonest: {first.document['scheme']}, {took}.", "bold")
    say(_asked(rows[0]))
    spans = [(row.seconds, row.interval.low_s, row.interval.high_s) for row in rows]
    unit, unit_s, times = time_column(spans)
    table = Fitted(
        [
            Column("scheme", left=True), Column(unit), Column(f"{CONFIDENCE:.0%} interval", 2), Column("codec", 3),
            Column("busbw GB/s", 1), Column("algbw GB/s", 5), Column("MB sent", 4),
        ]
    )  # fmt: skip
    for row, (value, ends), power in zip(rows, times, column_powers(spans), strict=True):
        document, half_s = row.document, (row.interval.high_s - row.interval.low_s) / 2
        bus, alg = (
            "" if document[name] is None else _rate(document[name], half_s / row.seconds)
            for name in ("busbw_gb_per_s", "algbw_gb_per_s")
        )
        codec = in_unit(document["codec_us"] / 1e6, unit_s, power)
        sent = f"{document['wire_bytes_per_gpu'] / 1e6:.3g}" if document["wire_bytes_per_gpu"] < 1e9 else ""
        sent = sent or f"{document['wire_bytes_per_gpu'] / 1e6:.0f}"
        table.add(document["scheme"], value, ends, codec, bus, alg, sent, style="bold green" if row is first else "")
    table.show()
    another_host(first.interval, HOSTS)
    rests_on(together(rows, [first]), verbose)


def _asked(found: Collected) -> str:
    row = found.document
    return (
        f"{row['op']} of {row['bytes']} bytes on {row['tp']} GPUs of {machine(row['cluster'], row['gpus'])}, as "
        "nccl-tests counts them"
    )


def _codec(found: Collected) -> str:
    """With the digits of the whole."""
    interval = found.interval
    power = time_power(found.seconds, interval.low_s, interval.high_s)
    unit_s, unit = time_unit(found.seconds)
    return f"{in_unit(found.document['codec_us'] / 1e6, unit_s, power)} {unit}"


def _rate(value: float, share: float) -> str:
    power = power_of(value, value * share)
    return in_unit(value, 1.0, power)
