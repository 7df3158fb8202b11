"""Every format that nccl-tests and people have printed says the same; what is none is refused by what it is."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.edge.limits import LOG_BYTES
from thinwire.topologies.load import load_cluster
from thinwire.validation.logs import markdown, tables
from thinwire.validation.logs.evidence import Told, UnclearError, tell
from thinwire.validation.logs.fitting import calibrated, read_logs
from thinwire.validation.logs.placing import place
from thinwire.validation.logs.rows import Row
from thinwire.validation.logs.runs import Run
from thinwire.validation.logs.text import lines_of, split, text_of

from .twins import HEADER, TIMES_US, rank_lines, row, table


def runs_of(text: str, name: str = "a.log") -> list[Run]:
    return tables.read(split(text.encode()), name)


def only(text: str, name: str = "a.log") -> Run:
    (run,) = runs_of(text, name)
    return run


def times(run: Run) -> dict[int, float]:
    return {r.nbytes: r.groups[0].seconds * 1e6 for r in run.rows}


NCCL_SAYS = "node-0:497888:497888 [0] NCCL INFO 8192 Bytes -> Algo 0 proto 0 time 26.549810"


def broken(text: str) -> str:
    """Each row cut after its root, NCCL's words in the middle, mpirun's tags everywhere."""
    out = []
    for line in text.splitlines():
        found = re.match(r"(.*-1)(  .*)", line)
        out += [f"[0]{found[1]}[0] {NCCL_SAYS}", f"[0] {found[2]}"] if found else [f"[0]{line}"]
    return "\n".join(out)


FORMATS: dict[str, Callable[[], str]] = {
    "today's": table,
    "no check of results": lambda: table(wrong="N/A"),
    "error column": lambda: table(wrong="5e-07", root=False),
    "no error column": lambda: table(wrong=None),
    "one group": lambda: table(groups=1),
    "one group, no error column": lambda: table(groups=1, wrong=None),
    "no rank lines": lambda: table(lines=[]),
    "first and last rank line": lambda: table(lines=rank_lines(8, keep=lambda rank: rank == 7)),
    "rank lines without a group": lambda: table(lines=[line.replace("Group  0 ", "") for line in rank_lines(8)]),
    "mpirun's tags": lambda: "\n".join(f"[1,0]<stdout>:{line}" for line in table().splitlines()),
    "slurm's labels": lambda: "\n".join(f" 0: {line}" for line in table().splitlines()),
    "docker's labels": lambda: "\n".join(f"worker-0  | {line}" for line in table().splitlines()),
    "time stamps": lambda: "\n".join(f"2026-11-02T10:11:12.131Z {line}" for line in table().splitlines()),
    "a host before": lambda: "\n".join(f"node-0: {line}" for line in table().splitlines()),
    "kubectl's pods": lambda: "\n".join(f"[pod/nccl-0/main] {line}" for line in table().splitlines()),
    "quoted in a thread": lambda: "\n".join(f"> {line}" for line in table().splitlines()),
    "broken by NCCL": lambda: broken(table()),
    "noise of mpirun": lambda: table().replace("\n", "\n8 more processes have sent help message help-mtl-ofi.txt\n"),
    "CRLF": lambda: table().replace("\n", "\r\n"),
    "colours": lambda: table().replace("  ", "\x1b[32m  \x1b[0m"),
    "time stamps behind": lambda: re.sub(r"(-1 .*)$", r"\1  2026-11-02 10:11:12", table(), flags=re.M),
    "a header a size": lambda: table().replace("\n   ", f"\n{HEADER}\n   ", 1),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_says_the_same(name: str) -> None:
    run = only(FORMATS[name]())
    assert times(run) == pytest.approx(TIMES_US, rel=1e-9)
    assert (tell(run).op, tell(run).ranks) == ("all_reduce", 8)
    assert not run.dropped and not run.failed


@pytest.mark.parametrize("code", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings(code: str, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(table().encode(code))
    assert times(tables.read(lines_of(path), "a")[0]) == pytest.approx(TIMES_US)


@pytest.mark.parametrize("ranks", [2, 3, 6, 8, 16, 24])
@pytest.mark.parametrize(
    ("op", "name"),
    [("all_reduce", ""), ("reduce_scatter", ""), ("all_gather", "all_gather"), ("alltoall", "alltoall_perf")],
)
def test_ranks_and_operation_are_told_by_the_numbers(op: str, name: str, ranks: int) -> None:
    """Sizes that divide; all_gather and alltoall have the same rows, so a name says which, and a file's will do."""
    sizes = {1 << 14: 21.5, 1 << 20: 61.0, 1 << 26: 712.3}
    given = {size // 3 * 3 // ranks * ranks // 4 * 4 if ranks in (3, 6, 24) else size: us for size, us in sizes.items()}
    given = {size - size % (4 * ranks): us for size, us in given.items()}
    told = tell(only(table(op, ranks, given, lines=[]), f"my {name}.log"))
    assert told.ranks == ranks
    assert told.op == {"alltoall": "all_to_all"}.get(op, op)


def test_all_gather_or_alltoall_is_asked() -> None:
    with pytest.raises(UnclearError, match=r"all_gather or all_to_all: name the file after it, as in all_gather\.log"):
        tell(only(table("all_gather", 4, lines=[])))
    named = table("all_gather", 4, lines=[], head=["# Collective test starting: alltoall_perf"])
    assert tell(only(named)).op == "all_to_all"
    shell = table("all_gather", 4, lines=[], head=["+ mpirun -np 4 ./build/all_gather_perf -b 8 -e 1G -f 2"])
    assert tell(only(shell)).op == "all_gather"


def test_old_versions_counted_what_crosses_the_wire() -> None:
    """busbw = algbw = size x (n - 1)/n / time, no reduction: all_gather; with one, reduce_scatter."""
    told = tell(only(table("all_gather", 2, lines=[], old=True, redop=False, root=False, wrong="0e+00")))
    assert (told.op, told.ranks) == ("all_gather", 2)
    told = tell(only(table("reduce_scatter", 4, lines=[], old=True, root=False, wrong="0e+00")))
    assert (told.op, told.ranks) == ("reduce_scatter", 4)


def test_where_text_and_numbers_differ_the_numbers_are_believed_and_both_said() -> None:
    told = tell(only(table(ranks=16, lines=rank_lines(8))))
    assert told.ranks == 16
    assert told.said == ("8 rank lines would be 8 ranks, busbw over algbw say 16: the numbers are believed",)


def test_one_rank_failed_checks_and_other_operations_are_not_used() -> None:
    for text, said in (
        (table(ranks=1), "one rank ran"),
        (table("all_reduce", 8, head=["./build/sendrecv_perf"]), "sendrecv is none of all_reduce"),
        (table("all_reduce", 8, head=["./build/broadcast_perf"]), "broadcast is none of all_reduce"),
        (re.sub(r"\bsum(\s+)-1\b", r"sum\g<1> 0", table(ranks=2)), "a root of 0, so it is a reduce or a broadcast"),
    ):
        with pytest.raises(UnclearError, match=said):
            tell(only(text))
    good, bad = table(), table(times={1048576: 9.9}, wrong="12")
    failed = table(times={1048576: 9.9}).replace("values : 0 OK", "values : 24 FAILED")
    cluster = load_cluster("8xa100-nvlink")
    for text in (good + bad, good + failed):
        found = calibrated(runs_of(text), cluster)
        assert [one.why[:16] for one in found.unused] == ["its check of the"]
        assert len(found.parts["fabric"].found[0].series.nbytes) == len(TIMES_US)
    with pytest.raises(ValueError, match=r"no run of the logs can be used: a\.log, run 1: its check of the results"):
        calibrated(runs_of(bad), cluster)


def test_a_row_that_ends_with_its_type_is_no_row() -> None:
    assert not runs_of("1024 256 float\n") or not runs_of("1024 256 float\n")[0].rows


def test_several_runs_in_one_file() -> None:
    text = (
        table("all_reduce", 8, head=["./all_reduce_perf -g 8"])
        + table("all_gather", 8, head=["./all_gather_perf -g 8"])
        + table("alltoall", 4, head=["./alltoall_perf -g 4"]) + table("all_reduce", 4, head=["./all_reduce_perf -g 4"])
    )  # fmt: skip
    told = [(tell(run).op, tell(run).ranks) for run in runs_of(text)]
    assert told == [("all_reduce", 8), ("all_gather", 8), ("all_to_all", 4), ("all_reduce", 4)]


def test_a_row_whose_numbers_differ_is_dropped_and_said() -> None:
    """Cut digits, a column lost, and a head that got another row's columns."""
    good = row("all_reduce", 8, 1048576, 40.3)
    for bad, said in (
        (good.replace("40.30", "140.30"), "algbw x time is .* so the row is cut or shifted"),
        (good.replace("  1048576  ", "  8192  "), "8192 bytes: algbw x time is"),
        (" ".join(good.split()[:6]), "1048576 bytes: the row is cut"),
    ):
        run = only(table().replace("# Out of bounds", f"{bad}\n# Out of bounds"))
        assert times(run) == pytest.approx(TIMES_US)
        (told,) = run.dropped
        assert re.search(said, told)


def test_in_place_columns_alone_are_used_with_a_word() -> None:
    text = table(groups=1).replace("out-of-place                       in-place", "in-place")
    run = only(text)
    assert run.place == "in-place"
    (one,) = calibrated([run], load_cluster("8xa100-nvlink")).parts["fabric"].found
    assert "timed in place: there were no out-of-place columns" in one.said


def test_the_hosts_time_is_no_collectives() -> None:
    run = only(table().replace("time   algbw", "cputime   algbw"))
    with pytest.raises(ValueError, match="it shows the host's time"):
        calibrated([run], load_cluster("8xa100-nvlink"))


def test_versions_and_settings_are_kept() -> None:
    head = [
        "NCCL version 2.23.4+cuda12.6",
        "export NCCL_P2P_LEVEL=SYS",
        "CUDA_VISIBLE_DEVICES=4,5,6,7 ./all_reduce_perf",
    ]
    run = only(table(ranks=4, lines=[], head=head))
    assert (run.version, run.visible) == ("2.23.4+cuda12.6", (4, 5, 6, 7))
    assert "run with NCCL_P2P_LEVEL=SYS" in run.said
    assert only(table(head=["# nccl-tests version 2.19.4 nccl-headers=21903 nccl-library=21903"])).version == "2.19.3"
    graph = table().replace("agg iters: 1", "agg iters: 4 validation: 1 graph: 1")
    assert len([said for said in only(graph).said if said.startswith("timed ")]) == 2


# --- tables of torch.distributed ---

TORCH = """8x RTX, torch.distributed NCCL 2.27.5 ring
| Size | Group A algbw | Group B algbw | Group A busbw | Group B busbw |
|---|---|---|---|---|
| 1 MB    | 12.33 GB/s | 12.39 GB/s | 21.57 GB/s | 21.67 GB/s |
| 64 MB   | 26.07 GB/s | 26.14 GB/s | 45.63 GB/s | 45.74 GB/s |
"""


def test_a_pasted_table_has_a_run_a_group() -> None:
    runs = markdown.read(TORCH.splitlines(), "t.md")
    assert [(run.label, run.version, tell(run).op, tell(run).ranks) for run in runs] == [
        ("group a", "2.27.5", "all_reduce", 8), ("group b", "2.27.5", "all_reduce", 8),
    ]  # fmt: skip
    assert times(runs[0]) == pytest.approx({2**20: 2**20 / 12330, 2**26: 2**26 / 26070})
    assert "sizes taken as powers of 1,024; the table does not say" in runs[0].said


def test_a_pasted_time_says_what_its_sizes_are() -> None:
    text = "all_gather:\n| size (bytes) | time (us) | algbw (GB/s) | busbw |\n| 1 MB | 100.0 | 10.00 | 7.5 |\n"
    (run,) = markdown.read(text.splitlines(), "t.md")
    assert times(run) == {1_000_000: pytest.approx(100.0)}
    assert (tell(run).op, tell(run).ranks) == ("all_gather", 4)
    (run,) = markdown.read(text.replace("10.00", "10.49").replace("7.5", "7.86").splitlines(), "t.md")
    assert times(run) == {2**20: pytest.approx(100.0)}
    (run,) = markdown.read(text.replace("10.00", "3.00").replace("7.5", "2.25").splitlines(), "t.md")
    assert not run.rows and "algbw x time is not the size" in run.dropped[0]


# --- where it ran ---


def placed(text: str, machine: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    run = only(text)
    return place(run, tell(run), load_cluster(machine))


def test_hosts_and_devices_say_which_gpus() -> None:
    two = table(ranks=4, lines=rank_lines(4, hosts=2, gpu="NVIDIA H100 80GB HBM3"))
    assert placed(two, "2x8xh100-ib")[0] == (0, 1, 8, 9)
    alike = re.sub("node-1", "node-0", two)
    assert placed(alike, "2x8xh100-ib")[0] == (0, 1, 8, 9), "a bus address twice is two machines"
    part = table(ranks=16, lines=rank_lines(16, hosts=2, gpu="NVIDIA H100 80GB HBM3", keep=lambda rank: rank == 15))
    assert placed(part, "2x8xh100-ib")[0] == tuple(range(16))
    shuffled = re.sub(r"device  ([0-3])", lambda found: f"device  {7 - int(found[1])}", table(ranks=4))
    assert placed(shuffled, "8xa100-nvlink")[0] == (7, 6, 5, 4)
    one_each = re.sub(r"device  \d", "device  0", table(ranks=4))
    assert placed(one_each, "8xa100-nvlink")[0] == (0, 1, 2, 3)
    visible = table(ranks=4, head=["CUDA_VISIBLE_DEVICES=4,5,6,7"])
    assert placed(visible, "8xa100-nvlink")[0] == (4, 5, 6, 7)
    assert placed(table(ranks=4, lines=[], head=["CUDA_VISIBLE_DEVICES=4,5,6,7"]), "8xa100-nvlink")[0] == (4, 5, 6, 7)


def test_another_gpu_is_used_with_a_word() -> None:
    assert placed(table(), "8xa100-nvlink")[1] == ()
    (said,) = placed(table(), "8xh200-nvlink")[1]
    assert said == "the log names NVIDIA A100-SXM4-80GB, 8xh200-nvlink has h200-sxm: taken for the machine's"


@pytest.mark.parametrize(
    ("text", "machine", "said"),
    [
        (table(ranks=16, lines=[]), "8xa100-nvlink", r"16 ranks \(by .* algbw\), 8xa100-nvlink has 8 GPUs"),
        (table(lines=rank_lines(8, hosts=2)), "8xa100-nvlink", "ran on 2 machines, 8xa100-nvlink is one machine"),
        (table(ranks=12, lines=rank_lines(12)), "2x8xh100-ib", "12 GPUs of one machine, a machine of .* has 8"),
    ],
)  # fmt: skip
def test_a_machine_that_cannot_be_the_logs_is_refused(text: str, machine: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        placed(text, machine)


# --- what is no log ---


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b" \n\n", "it is empty"),
        (b"\x1f\x8b\x08\x00" + bytes(range(256)), "gzip archive: unpack it first"),
        (b"\x7fELF\x02\x01" + bytes(200), "a program, not what it printed"),
        (bytes(range(256)) * 40, "it is binary"),
        (b"<?xml version='1.0'?><system/>", "XML; a topology that NCCL dumped is read by `thinwire cluster import`"),
        (b"\tGPU0\tGPU1\nGPU0\t X \tNV4\n", "nvidia-smi topo -m` is read by `thinwire cluster import`"),
        (b'{"a": 1}', "it looks like JSON"),
        (b"hello\n", "no row of nccl-tests in it"),
        (b"host: Test NCCL failure common.cu:958 'unhandled system error'", "failed before its first row"),
        (b"x" * (LOG_BYTES.most + 2), "it holds more than 33554432 bytes"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_log_is_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(said)) as refused:
        read_logs([path])
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


def test_too_many_rows_are_refused() -> None:
    text = "\n".join([row("all_reduce", 8, 1048576, 40.3)] * ((1 << 14) + 1))
    with pytest.raises(ValueError, match=r"rows of a\.log must lie in 0\.\.16384"):
        runs_of(text)


# --- mutations ---


def check(text: str) -> None:
    """Runs that hold only rows whose numbers agree, or one line."""
    for run in [*runs_of(text), *markdown.read(text.splitlines(), "a.log")]:
        for found in run.rows:
            assert isinstance(found, Row) and found.nbytes > 0 and all(group.seconds > 0 for group in found.groups)
        try:
            assert isinstance(tell(run), Told)
        except UnclearError as error:
            assert "\n" not in str(error)


TWINS = [FORMATS["today's"](), FORMATS["broken by NCCL"](), FORMATS["error column"](), TORCH]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(TWINS), st.data())
def test_mutated_logs_are_read_or_refused(twin: str, data: st.DataObject) -> None:
    """Characters cut, doubled, swapped and put in, words of other rows, lines moved."""
    text = twin
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        stop = min(len(text), start + data.draw(st.integers(0, 60)))
        other = data.draw(st.integers(0, len(text)))
        piece = data.draw(
            st.sampled_from(
                ["", text[start:stop] * 2, text[other : other + 40], "\n", "9" * 400, "1e999", "-1", "nan", "|"]
            )
            | st.text(max_size=8)
        )
        text = text[:start] + piece + text[stop:]
    check(text)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_text_or_refused(content: bytes) -> None:
    try:
        check("\n".join(split(text_of(content, "a.log"))))
    except ValueError as error:
        assert "\n" not in str(error)
