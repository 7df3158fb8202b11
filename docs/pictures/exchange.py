"""The steps of a collective among four ranks, drawn from its schedule: who sends how many bytes to whom, and when."""

from collections import Counter

from layout import LEFT, WIDTH
from svg import CODE, INK, LINE, RAW, SOFT, Drawing

from thinwire.reference.catalog import scheme
from thinwire.reference.core.schedule import Islands, Schedule, Step, build
from thinwire.reference.core.scheme import Scheme

RANKS, MESSAGE_BYTES = 4, 1 << 20
_COLUMNS = tuple(LEFT + 46 + 112 * rank for rank in range(RANKS))
_ASIDE = 482.0
_WORK = {"encode": "encode", "reduce": "decode + sum", "decode": "decode"}
_NAMES = {
    "ring": "to the next rank", "all_to_all": "to its owner", "all_gather": "a copy each", "tree": "in the tree",
    "reduce_scatter": "to its owner", "nvls": "through the switch",
}  # fmt: skip


def sent_bytes(entry: Scheme, islands: Islands | None = None, numel: int = MESSAGE_BYTES // 2) -> int:
    """Bytes that the rank which sends most puts on the wire, for an all-reduce of `numel` values among four ranks."""
    return max(build(entry, RANKS, numel, islands).sent_bytes().values())


def ring_bytes() -> int:
    """The same of bf16's ring."""
    return sent_bytes(scheme("bf16-ring"))


def exchange(title: str, entry: Scheme, islands: Islands | None = None) -> Drawing:
    """An all-reduce of 1 MiB of bf16 among four ranks, step by step."""
    made = build(entry, RANKS, MESSAGE_BYTES // 2, islands)
    sent = max(made.sent_bytes().values())
    total = f"each rank sends {sent:,} B; bf16's ring {ring_bytes():,} B ({sent / ring_bytes():.0%} of it)"
    return steps_of(title, made, f"all-reduce of 1 MiB of bf16 ({MESSAGE_BYTES // 2:,} values) among 4 ranks", total)


def steps_of(title: str, made: Schedule, subtitle: str, total: str) -> Drawing:
    """Any schedule of one lane among four ranks. Copying what travels as it is is no work worth a box."""
    (lane,) = made.lanes
    arrows = 40.0 if len(lane.steps) > 4 else 74.0
    height = 96 + sum((26 if _kinds(step) else 8) + (arrows if step.transfers else 0) for step in lane.steps) + 42
    found = Drawing(WIDTH, height, title)
    found.text(LEFT, 30, title, size=15, bold=True)
    found.text(LEFT, 50, subtitle, size=12, fill=SOFT)
    for rank, x in enumerate(_COLUMNS):
        found.text(x, 76, f"rank {rank}", anchor="middle", bold=True)
        found.line(x, 84, x, height - 40)
    y = 88.0
    for step in lane.steps:
        if _kinds(step):
            _work(found, y, step)
            y += 26
        else:
            y += 8
        if step.transfers:
            _transfers(found, y, arrows, step)
            y += arrows
    found.text(LEFT, height - 16, total, bold=True)
    return found


def _kinds(step: Step) -> dict[int, Counter[str]]:
    """What each rank does how often: of raw values only sums."""
    found: dict[int, Counter[str]] = {}
    for work in step.work:
        if work.kind == "reduce" or not work.codec.is_raw:
            words = "sum" if work.codec.is_raw else _WORK[work.kind]
            found.setdefault(work.rank, Counter())[words] += 1
    return found


def _work(found: Drawing, y: float, step: Step) -> None:
    kinds = _kinds(step)
    for rank, times in kinds.items():
        x = _COLUMNS[rank]
        found.rect(x - 53, y + 2, 106, 20, "#eef2f6", stroke=LINE, round=4)
        found.text(x, y + 16, " + ".join(times).replace("decode + sum + ", "sum, "), size=11, anchor="middle")
    most = max(kinds.values(), key=lambda times: times.total())
    said = ", ".join(f"{words} {count}" + (" part" if count == 1 else " parts") for words, count in most.items())
    found.text(_ASIDE, y + 16, said, size=12, fill=SOFT)


def _transfers(found: Drawing, y: float, arrows: float, step: Step) -> None:
    for sent in step.transfers:
        colour = RAW if sent.codec.is_raw else CODE
        found.arrow(_COLUMNS[sent.source], y, _COLUMNS[sent.destination], y + arrows, colour)
    sizes = Counter((sent.nbytes, sent.codec.spec) for sent in step.transfers)
    for at, ((nbytes, spec), count) in enumerate(sizes.items()):
        middle = y + arrows / 2 + 30 * at - 15 * (len(sizes) - 1)
        found.text(_ASIDE, middle - 3, f"{count} x {nbytes:,} B {_NAMES[step.primitive]}", size=12, fill=INK)
        found.text(_ASIDE, middle + 12, spec, size=11, fill=SOFT)
