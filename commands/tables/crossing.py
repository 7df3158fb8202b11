"""Ways to do cross-attention side by side."""

from thinwire.commands.tables.console import say
from thinwire.commands.tables.fitting import Column, Fitted
from thinwire.commands.tables.resting import sentences
from thinwire.commands.tables.words import machine, plain
from thinwire.edge.quantities import in_unit, power_of, time_text, time_unit
from thinwire.sim.cross.predict import CrossComparison


def cross_comparison(c: CrossComparison, verbose: bool) -> None:
    """Ways to do cross-attention, fastest first, and from where on LV-XAttn sends least."""
    base = c.baseline
    prompt, config = base.prompt, base.model.config
    real = [row for row in c.rows if row.method != "none" and row.fits]
    if real:
        first = min(real, key=lambda row: row.time_s)
        say(
            f"Soonest: {first.method}, {time_text(first.time_s)}, {c.speedup(first):.2f} times as fast as "
            f"{base.method} ({time_text(base.time_s)}).",
            "bold",
        )
    say(
        f"{base.model.layers} cross-attention layers of {plain(config.name)} ({prompt.weights}, {base.model.heads} "
        f"heads, {base.model.kv_heads} key-value heads of {base.model.head_dim}) on {base.tp} x "
        f"{base.cluster.gpu.name} of {machine(base.cluster.name, base.cluster.indices)}, batch {prompt.batch}, "
        f"{prompt.text_tokens} text and {prompt.visual_tokens} visual tokens"
    )
    unit_s, unit = time_unit(max(row.time_s for row in c.rows))
    table = Fitted(
        [
            Column("scheme", left=True), Column(unit), Column("speed-up", 1), Column("exposed", 3),
            Column("compute", 4), Column("communication", 5), Column("codec", 6), Column("MB a GPU", 2),
            Column("memory"),
        ]
    )  # fmt: skip
    for row in c.rows:
        b, power = row.breakdown, power_of(row.time_s)
        exposed, compute, sent, codec = (
            in_unit(t, unit_s, power) for t in (b.exposed_communication_s, b.compute_s, b.communication_s, b.codec_s)
        )
        memory = f"{sum(row.memory_bytes.values()) / 1e9:.1f} GB" + ("" if row.fits else ", too much")
        table.add(
            row.method, in_unit(row.time_s, unit_s, power), f"{c.speedup(row):.2f}", exposed, compute, sent, codec,
            f"{max(row.sent_bytes_R) / 1e6:.1f}", memory, style="dim" if row.method == "none" else "",
        )  # fmt: skip
    table.show()
    say(
        f"speed-up over {base.method}; none is the floor, without exchanges; of {prompt.text_tokens} text tokens, "
        f"lv-xattn sends less from {c.crossover_visual_tokens} visual tokens on"
    )
    sentences(list(dict.fromkeys(s for row in c.rows for s in row.assumptions)), verbose)
