"""Small logs in the formats that versions of nccl-tests print, made of times: what people paste has the same traps."""

from collections.abc import Callable, Iterable, Sequence

TIMES_US = {
    1024: 18.2, 16384: 20.7, 131072: 26.4, 1048576: 40.3, 4194304: 89.6, 16777216: 229.8, 67108864: 667.3,
    268435456: 2301.0, 1073741824: 8488.0,
}  # fmt: skip
HEADER = "#    size    count   type  redop  root   time   algbw   busbw #wrong   time   algbw   busbw #wrong"


def digits(value: float) -> str:
    """A time as nccl-tests prints it: four to six digits."""
    return f"{value:.2f}" if value < 100 else f"{value:.1f}" if value < 10000 else f"{value:.0f}"


def factor(op: str, ranks: int) -> float:
    """busbw over algbw."""
    return (2 if op == "all_reduce" else 1) * (ranks - 1) / ranks


def row(
    op: str, ranks: int, nbytes: int, us: float, *, redop: bool = True, root: bool = True, wrong: str | None = "0",
    groups: int = 2, old: bool = False,
) -> str:  # fmt: skip
    """One row. old: versions before 2.1 counted what crosses the wire."""
    count = nbytes // 4 if op == "all_reduce" else nbytes // 4 // ranks
    name = "sum" if op in ("all_reduce", "reduce_scatter") else "none"
    algbw = nbytes / us / 1e3 * (factor(op, ranks) if old else 1)
    busbw = algbw if old else algbw * factor(op, ranks)
    cells = [str(nbytes), str(count), "float", *([name] if redop else []), *(["-1"] if root else [])]
    for _ in range(groups):
        cells += [digits(us), f"{algbw:.2f}", f"{busbw:.2f}", *([] if wrong is None else [wrong])]
    return "  ".join(f"{cell:>10}" for cell in cells)


def rank_lines(
    ranks: int, hosts: int = 1, gpu: str = "NVIDIA A100-SXM4-80GB", keep: Callable[[int], bool] = bool
) -> list[str]:
    """`# Rank ...`, those that `keep` keeps, and the first."""
    each = ranks // hosts
    return [
        f"#  Rank {rank:2d} Group  0 Pid  {5000 + rank} on node-{rank // each} device {rank % each:2d} "
        f"[0x{rank % each:02x}] {gpu}"
        for rank in range(ranks)
        if rank == 0 or keep(rank)
    ]


def table(
    op: str = "all_reduce", ranks: int = 8, times: dict[int, float] | None = None, lines: Sequence[str] | None = None,
    head: Iterable[str] = (), **columns: object,
) -> str:  # fmt: skip
    """A log: what stands before, rank lines, the table's head, rows, the end."""
    given = TIMES_US if times is None else times
    said = rank_lines(ranks) if lines is None else lines
    rows = [row(op, ranks, nbytes, us, **columns) for nbytes, us in given.items()]  # type: ignore[arg-type]
    return "\n".join(
        [*head, "# nThread 1 nGpus 8 minBytes 8 maxBytes 1 step: 2(factor) warmup iters: 5 iters: 20 agg iters: 1",
         "#", "# Using devices", *said, "#", "#      out-of-place                       in-place", HEADER,
         "#        (B)    (elements)         (us)  (GB/s)  (GB/s)", *rows, "# Out of bounds values : 0 OK",
         "# Avg bus bandwidth    : 34.9024", "#", ""]
    )  # fmt: skip
