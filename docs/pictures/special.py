"""Pictures of what is no all-reduce under a codec: fewer of them, at other times, by others, or of other things."""

from collections.abc import Sequence

from exchange import steps_of
from layout import LEFT, WIDTH
from svg import CODE, CODE_2, CODE_3, INK, RAW, SCALE, SOFT, Drawing

from thinwire.reference.catalog import scheme
from thinwire.reference.core.cross_schedule import Wire, crossover_visual_tokens, lv_bytes, ring_bytes
from thinwire.reference.core.schedule import Schedule
from thinwire.reference.core.scheme import Raw
from thinwire.reference.core.tokens import exchange_of_tokens
from thinwire.reference.families.config import load_model
from thinwire.sim import api
from thinwire.sim.cross.workload import CrossModel, CrossPrompt
from thinwire.sim.events.timeline import Span

ASKED = ("llama-3-70b", "8xl40s-pcie")
PROMPT = {"tp": 4, "batch": 8, "input_tokens": 1024}


def dropped(names: Sequence[str], model: str = "llama-3-8b") -> Drawing:
    """Which all-reduces sync-point drop leaves: two a block, the attention's in the last blocks gone."""
    layers = load_model(model).num_layers
    found = Drawing(WIDTH, 74 + 64 * len(names), "Which all-reduces are left")
    found.text(LEFT, 30, f"Which all-reduces are left: {model}, {layers} blocks", size=15, bold=True)
    found.text(LEFT, 50, "above: after attention, below: after the MLP; hollow: dropped", size=12, fill=SOFT)
    for at, name in enumerate(names):
        y = 80 + 64 * at
        kept = scheme(name).kept_attention(layers)
        found.text(LEFT, y + 8, name, bold=True)
        found.text(LEFT, y + 26, f"{sum(kept) + layers} of {2 * layers}", size=12, fill=SOFT)
        for layer, stays in enumerate(kept):
            x = LEFT + 110 + layer * (WIDTH - 2 * LEFT - 120) / (layers - 1)
            found.circle(x, y, 6, CODE if stays else "#ffffff", CODE)
            found.circle(x, y + 22, 6, CODE, CODE)
    return found


def streams(names: Sequence[str], layer: int = 1) -> Drawing:
    """What the two streams of a rank do through one block, as predicted."""
    model, cluster = ASKED
    found = Drawing(WIDTH, 92 + 96 * len(names) + 26, "One block on one rank")
    asked = f"{model} on {PROMPT['tp']} GPUs of {cluster}, {PROMPT['batch']} x {PROMPT['input_tokens']:,} tokens"
    found.text(LEFT, 30, "One block on one rank: compute above, the wire below", size=15, bold=True)
    found.text(LEFT, 50, f"{asked}, as predicted; darker: the second half of the tokens", size=12, fill=SOFT)
    shown = {name: _block(name, layer) for name in names}
    longest_s = max(spans[-1].end_s - spans[0].start_s for spans, _ in shown.values())
    per_s = (WIDTH - 2 * LEFT - 110) / longest_s
    for at, (name, (spans, ttft_s)) in enumerate(shown.items()):
        y = 76.0 + 96 * at
        found.text(LEFT, y + 18, name, bold=True)
        found.text(LEFT, y + 36, f"TTFT {ttft_s:.2f} s", size=12, fill=SOFT)
        for span in spans:
            x = LEFT + 110 + (span.start_s - spans[0].start_s) * per_s
            compute = span.stream == "compute"
            fill = (CODE_3, CODE_2)[span.part] if compute else ("#efc08c", SCALE)[span.part]
            found.rect(x, y if compute else y + 30, span.seconds * per_s - 0.6, 26, fill)
            words = span.name.split()[0] if compute else "all-reduce"
            if span.seconds * per_s > 7 * len(words):
                found.text(
                    x + span.seconds * per_s / 2, y + (17 if compute else 47), words, size=11, anchor="middle"
                )  # fmt: skip
    y = 76.0 + 96 * len(names)
    found.line(LEFT + 110, y, LEFT + 110 + 0.01 * per_s, y, INK, 2)
    found.text(LEFT + 116 + 0.01 * per_s, y + 4, "10 ms", size=12)
    return found


def _block(name: str, layer: int) -> tuple[list[Span], float]:
    p = api.predict(ASKED[0], ASKED[1], name, **PROMPT)  # type: ignore[arg-type]
    mine = [s for s in p.timeline.simulated if s.rank == 0 and s.layer == layer]
    return sorted(mine, key=lambda s: s.start_s), p.ttft_s


def carriers(names: Sequence[str], clusters: Sequence[str], tp: int = 4) -> Drawing:
    """Who carries an uncompressed all-reduce, by size, as each engine is known to choose on a machine."""
    powers = range(12, 29, 2)
    rows = len(names) + 1
    found = Drawing(WIDTH, 66 + len(clusters) * (rows * 30 + 30), "Who carries what is not compressed")
    found.text(LEFT, 30, "Who carries what is not compressed", size=15, bold=True)
    found.text(LEFT, 50, "microseconds, predicted; blue: the engine's own kernels, grey: NCCL's", size=12, fill=SOFT)
    step = (WIDTH - 2 * LEFT - 100) / len(powers)
    y = 78.0
    for cluster in clusters:
        found.text(LEFT, y, f"{tp} GPUs of {cluster}", bold=True)
        for at, power in enumerate(powers):
            words = f"{1 << power >> 10} KiB" if power < 20 else f"{1 << power >> 20} MiB"
            found.text(LEFT + 100 + (at + 0.5) * step, y + 20, words, size=11, fill=SOFT, anchor="middle")
        for name in names:
            y += 30
            found.text(LEFT, y + 14, name)
            for at, power in enumerate(powers):
                asked = api.collective(cluster, name, 1 << power, tp=tp)
                own = not asked["algorithm"].endswith("by nccl")
                x = LEFT + 100 + at * step
                found.rect(x, y - 2, step - 3, 24, CODE if own else RAW)
                words = f"{asked['time_us']:,.0f}"
                found.text(x + step / 2 - 1, y + 14.5, words, size=12, fill="#ffffff" if own else INK, anchor="middle")
        y += 60
    return found


def cross_attention(text_tokens: int = 1024, visual_tokens: int = 65536, ranks: int = 16) -> Drawing:
    """Bytes a GPU sends in one cross-attention: queries and partial outputs, or keys and values."""
    model = CrossModel(load_model("llama-3-8b"), 1)
    counts = [visual_tokens >> shift for shift in (6, 4, 2, 0)]
    shapes = [model.shape(CrossPrompt(1, text_tokens, count), ranks) for count in counts]
    wire = Wire()
    found = Drawing(WIDTH, 78 + 58 * len(counts), "What a GPU sends in one cross-attention")
    found.text(LEFT, 30, "What a GPU sends in one cross-attention", size=15, bold=True)
    meets = crossover_visual_tokens(shapes[0], wire)
    said = (
        f"{ranks} GPUs, {text_tokens:,} text tokens, heads of llama-3-8b; "
        f"LV-XAttn sends less from {meets:,} visual tokens on"
    )
    found.text(LEFT, 50, said, size=12, fill=SOFT)
    sent = [(max(lv_bytes(shape, wire)), max(ring_bytes(shape, wire))) for shape in shapes]
    per_byte = (WIDTH - 2 * LEFT - 300) / max(most for pair in sent for most in pair)
    for at, (count, (lv, ring)) in enumerate(zip(counts, sent, strict=True)):
        y = 72.0 + 58 * at
        found.text(LEFT, y + 26, f"{count:,} visual tokens")
        for row, (words, nbytes, colour) in enumerate((("LV-XAttn", lv, CODE), ("ring attention", ring, RAW))):
            found.rect(LEFT + 160, y + 22 * row, max(2.0, nbytes * per_byte), 18, colour)
            x = LEFT + 166 + max(2.0, nbytes * per_byte)
            found.text(x, y + 22 * row + 14, f"{words}: {nbytes / 1e6:.3g} MB", size=12)
    return found


def tokens(name: str, rows: int = 64, model: str = "deepseek-v3") -> Drawing:
    """Tokens on their way to experts and back: `rows` from each rank to each, under a scheme's two codecs."""
    width = load_model(model).hidden_size
    counts = tuple((rows,) * 4 for _ in range(4))
    entry = scheme(name)
    there, back = (
        exchange_of_tokens(codec or Raw(), counts, width) for codec in (entry.dispatch, entry.combine)
    )  # fmt: skip
    lanes = (there.lanes[0].steps, back.lanes[0].steps)
    lane = type(there.lanes[0])(there.lanes[0].interval, (*lanes[0], *lanes[1]))
    made = Schedule("all_to_all", 4, there.numel, (lane,), 1)
    sent, plain = max(made.sent_bytes().values()), 2 * 3 * rows * width * 2
    return steps_of(
        f"{name}: to experts on other ranks, and back", made,
        f"{rows} rows from each of 4 ranks to each, {width:,} values a row ({model}); experts compute between",
        f"each rank sends {sent:,} B; bf16 both ways {plain:,} B ({sent / plain:.0%} of it)",
    )  # fmt: skip
