"""Published NCCL series taken for a user's logs: what `calibrate --logs` predicts of what a log does not hold."""

from collections.abc import Iterable

from thinwire.validation.logs import carrying
from thinwire.validation.logs.carrying import Guess
from thinwire.validation.targets.fabric import other_hosts, regime, size
from thinwire.validation.targets.targets import Entry, Limits, Point, Section

SECOND_LIMITS = Limits(median=0.05, percentile_90=0.15)


def logs() -> Section:
    """Sizes, numbers of ranks and operations that are not in a log."""
    entries = (
        Entry("logs.second", "sizes between those of a log", "every second size out",
              _points(carrying.second_sizes()), SECOND_LIMITS),
        Entry("logs.tables", "the same, tables of other machines", "every second size out",
              _points(carrying.second_sizes([s for _, s in other_hosts()])), SECOND_LIMITS),
        Entry("logs.below", "sizes below a log's", "sizes below 16 MiB out", _points(carrying.small_sizes()),
              gated=False),
        Entry("logs.ranks", "numbers of ranks not in a log", "other numbers of ranks out",
              _points(carrying.other_ranks()), gated=False),
        Entry("logs.ops", "operations not in a log", "all but the all-reduce out", _points(carrying.other_ops()),
              gated=False),
        Entry("logs.none", "no log", "as on another fabric", _points(carrying.kept_borrowed()), gated=False),
    )  # fmt: skip
    return Section(
        "logs",
        "Logs of one's own",
        "calibrated on every second size, the others <= 5 % median, <= 15 % 90th percentile; the rest stated",
        """
        Rows: nccl_collectives.csv (half), each series taken for the log of a host that the lending fabric never saw
        (A100, H200 and B200 lend to each other, L40S to RTX PRO 6000); where sizes below, ranks or operations are
        out, a row counts once for each lender. Tables of other machines: those of nccl_tests_tables.csv that the
        section on NCCL holds out; nothing is lent to the two InfiniBand nodes.

        What a log lacks takes the lender's time on the host's own links, times the ratio of the log's rows to it. The
        last claim is the lender's time as it is: what a log is worth.
        """,
        entries,
    )  # fmt: skip


def _points(guesses: Iterable[Guess]) -> tuple[Point, ...]:
    found = []
    for guess in guesses:
        s, i = guess.series, guess.index
        nbytes = float(s.nbytes[i])
        where = f"{s.machine} {s.op} x{s.ranks}"
        label = f"{where}, {size(nbytes)} ({s.table} row {s.row_numbers[i] + 1})"
        detail = f"{s.collective}, by {guess.by}"
        found.append(Point(s.machine, regime(nbytes), label, float(s.seconds[i]), guess.seconds, detail))
    return tuple(found)
