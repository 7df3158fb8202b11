"""What a codec puts on the wire, drawn: its bits a value beside bf16's, and the bytes of one run of values."""

from collections.abc import Sequence

from svg import CODE, CODE_2, CODE_3, INK, LINE, POINT, RAW, SCALE, SOFT, SPIKE, Drawing

from thinwire.reference.core.scheme import Codec, Section

WIDTH, LEFT, BAR = 760.0, 24.0, 520.0
_PLANES = {"plane8": CODE, "plane4": CODE, "plane2": CODE_2, "plane1": CODE_3}
_COLOURS = _PLANES | {
    "scales": SCALE, "row_scales": "#f0b474", "zero_points": POINT, "minima": POINT, "spike_values": SPIKE,
    "spike_indices": "#c3a5dc", "kept_values": SPIKE, "kept_indices": "#c3a5dc", "values": RAW,
}  # fmt: skip
_WORDS = {
    "scales": "scales", "row_scales": "row scale", "zero_points": "zero points", "minima": "minima",
    "spike_values": "spikes", "spike_indices": "their places", "kept_values": "kept in bf16",
    "kept_indices": "their places", "values": "values",
}  # fmt: skip


def run_of(codec: Codec) -> tuple[int, tuple[Section, ...]]:
    """The fewest values whose sections, unpadded, take exactly `bits_per_value` of each; and those sections."""
    for times in range(1, 65):
        values = codec.align * times
        sections = codec.sections(values)
        if abs(sum(s.nbytes for s in sections) * 8 - codec.bits_per_value * values) < 1e-6:
            return values, sections
    raise ValueError(f"no run of up to 64 groups shows the bits of {codec.spec}")


def words_of(section: Section) -> str:
    """A section's name for people."""
    return f"{section.name.removeprefix('plane')}-bit plane" if section.name in _PLANES else _WORDS[section.name]


def layout(title: str, codecs: Sequence[tuple[str, Codec]]) -> Drawing:
    """Bars of bits a value, bf16's first, then the bytes of one run under each codec. codecs: (name, codec)."""
    runs = [(name, codec, *run_of(codec)) for name, codec in codecs]
    height = 74 + 30 * (len(runs) + 1) + 34 + 62 * len(runs)
    found = Drawing(WIDTH, height, title)
    found.text(LEFT, 30, title, size=15, bold=True)
    found.text(LEFT, 50, "bits of one value on the wire, all that its group shares counted", size=12, fill=SOFT)
    y = 62.0
    found.rect(LEFT + 120, y, BAR, 20, RAW)
    found.text(LEFT, y + 15, "bf16")
    found.text(LEFT + 126 + BAR, y + 15, "16 bits", fill=SOFT)
    for name, codec, values, sections in runs:
        y += 30
        found.text(LEFT, y + 15, name)
        x = LEFT + 120
        for section in sections:
            width = BAR * section.nbytes * 8 / values / 16
            found.rect(x, y, width, 20, _COLOURS[section.name], round=0)
            x += width
        found.text(x + 6, y + 15, f"{codec.bits_per_value:.6g} bits", fill=SOFT)
    y += 54
    found.text(
        LEFT, y, "the bytes of one run of values, in the order of the buffer (widths not to scale)", size=12, fill=SOFT
    )
    for name, codec, values, sections in runs:
        total = sum(s.nbytes for s in sections)
        found.text(LEFT, y + 26, f"{name}: {values:,} values, {total:,} B ({codec.spec})")
        _bytes(found, y + 34, sections, total)
        y += 62
    return found


def _bytes(found: Drawing, y: float, sections: Sequence[Section], total: int) -> None:
    room = WIDTH - 2 * LEFT
    least = min(128.0, 0.94 * room / len(sections))
    spare = room - least * len(sections)
    x = LEFT
    for section in sections:
        width = least + spare * section.nbytes / total
        found.rect(x, y, width - 2, 24, _COLOURS[section.name])
        dark = section.name in ("plane1", "spike_indices", "kept_indices", "row_scales")
        words, colour = f"{words_of(section)}: {section.nbytes:,} B", INK if dark else "#ffffff"
        size = 12 if least > 120 else 11
        found.text(x + width / 2 - 1, y + 16.5, words, size=size, fill=colour, anchor="middle")
        x += width
    found.line(LEFT, y + 24.5, LEFT + room, y + 24.5, LINE)
