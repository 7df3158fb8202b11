"""The one-kernel all-reduce on symmetric memory, as far as one GPU or none goes.

Phases of virtual ranks in turn show slices, addresses and buffers to be right, in any order that the signals allow.
Processes of the interpreter on shared memory run the whole kernel, waiting for each other's signals. Compiled code is
searched for the orders that the docstring's argument needs. On one GPU: ranks on streams, and real symmetric memory on
overlapping devices. Several GPUs: nobody has had them.

Run alone, a file chooses the interpreter as conftest.py does. Started with arguments, it is one rank (see `main`).
"""

import itertools
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from thinwire.kernels import symmetric
from thinwire.kernels.launch import Tuning
from thinwire.kernels.symmetric import Exchange, SymmetricAllReduce, available, judge, resident
from thinwire.reference import quantize
from thinwire.reference.allreduce import all_reduce_local
from thinwire.reference.catalog import scheme
from thinwire.reference.core.scheme import Codec

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
CUDA = torch.cuda.is_available()
BITS = {2: torch.int16, 4: torch.int32}
HERE = Path(__file__).resolve()


def partials(ranks: int, numel: int, dtype: torch.dtype, call: int = 0) -> Tensor:
    """Normal values with outliers, others in each call."""
    generator = torch.Generator().manual_seed(1000 * call + ranks)
    values = torch.randn(ranks, numel, generator=generator)
    values[:, call::53] *= 30
    # These nearly cancel, while the zeros behind them come out of two bits with a minimum as 0.73 on both ranks.
    values[0::2, -4:] = torch.tensor([-2.6, 2.4]).repeat(2)
    values[1::2, -4:] = torch.tensor([2.4, -2.6]).repeat(2)
    return values.to(dtype)


def assert_same_bits(got: Tensor, want: Tensor) -> None:
    """The same bits, but that a NaN is a NaN."""
    nan = want.isnan()
    assert torch.equal(got.isnan(), nan)
    kind = BITS[want.element_size()]
    assert torch.equal(got.view(kind).masked_fill(nan, 0), want.view(kind).masked_fill(nan, 0))


class Ranks:
    """Virtual ranks of one process, each with a memory of its own."""

    def __init__(self, exchange: Exchange, device: torch.device) -> None:
        self.exchange, self.device = exchange, device
        ranks = range(exchange.ranks)
        self.memories = [torch.zeros(exchange.nbytes, dtype=torch.uint8, device=device) for _ in ranks]
        for memory in self.memories:
            memory[exchange.copies_at :] = 0xA5
        self.peers = torch.tensor([memory.data_ptr() for memory in self.memories], dtype=torch.int64, device=device)
        self.calls = [torch.zeros(exchange.programs + 1, dtype=torch.int32, device=device) for _ in ranks]

    def run(self, rank: int, phase: int, values: Tensor, results: Tensor) -> None:
        self.exchange.launch(rank, values, results, self.peers, self.calls[rank], phase)

    @property
    def early(self) -> list[int]:
        """For each rank, 1 if a phase of its began before its signals had come."""
        return [int(calls[-1]) for calls in self.calls]


CASES = [
    ("flash-int5", 2, 1100, BF16, 2, 256),
    ("flash-int6", 3, 1031, FP16, 1, 128),  # another codec each way; several tiles a program
    ("quickreduce-fp8", 4, 700, FP32, 3, 64),
    ("flash2-int2-sr", 2, 700, BF16, 8, 128),  # fewer tiles than programs
    ("two_step:int4-g64-zp-h128/mx-e2m3-b32", 3, 900, FP32, 2, 128),  # a loop over ranks
    ("two_step:int2-g128-min/int4-g8-zp", 2, 900, FP32, 1, 128),  # padding that is not zero once it is decoded
    ("mxfp4-two-step", 4, 40, BF16, 1, 64),  # ranks without a part
]


@pytest.mark.parametrize(("name", "ranks", "numel", "dtype", "programs", "values"), CASES)
def test_phases_in_turn_give_the_references_bits(
    device: torch.device, name: str, ranks: int, numel: int, dtype: torch.dtype, programs: int, values: int
) -> None:
    exchange = Exchange(name, ranks, numel, dtype, device, programs, Tuning(values, 4))
    group = Ranks(exchange, device)
    given = partials(ranks, numel, dtype).to(device)
    results = torch.empty_like(given)
    for phase in (1, 2, 3):
        for rank in range(ranks):
            group.run(rank, phase, given[rank], results[rank])
    want = all_reduce_local(list(given.cpu()), name)
    for rank in range(ranks):
        assert_same_bits(results[rank].cpu(), want[rank])
    assert group.early == [0] * ranks
    assert all(calls[:-1].eq(1).all() for calls in group.calls)


def order_of(ranks: int, calls: int, seed: int) -> list[tuple[int, int, int]]:
    """(rank, call, phase) in some order that signals allow: a phase after all ranks' phase before it."""
    chooser = random.Random(seed)
    done: list[list[tuple[int, int]]] = [[] for _ in range(ranks)]
    plan = list(itertools.product(range(calls), (1, 2, 3)))
    order = []
    while any(len(one) < len(plan) for one in done):
        ready = []
        for rank in range(ranks):
            if len(done[rank]) < len(plan):
                call, phase = plan[len(done[rank])]
                if phase == 1 or all((call, phase - 1) in other for other in done):
                    ready.append((rank, call, phase))
        # Seeds take turns in pushing one rank as far ahead as it gets.
        chosen = (
            min(ready, key=lambda one: (one[0] + seed) % ranks) if chooser.random() < 0.7 else chooser.choice(ready)
        )
        done[chosen[0]].append(chosen[1:])
        order.append(chosen)
    return order


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fast_and_slow_ranks_do_not_disturb_each_other(device: torch.device, seed: int) -> None:
    """Three calls, ranks ahead of each other as far as signals let them."""
    name, ranks, numel, calls = "quickreduce-int4", 3, 150, 3
    exchange = Exchange(name, ranks, numel, BF16, device, 2, Tuning(32, 4))
    group = Ranks(exchange, device)
    given = [partials(ranks, numel, BF16, call).to(device) for call in range(calls)]
    results = [one.clone() for one in given]  # in place
    order = order_of(ranks, calls, seed)
    pairs = itertools.permutations(range(ranks), 2)
    ahead = [order.index((a, c + 1, 1)) < order.index((b, c, 3)) for a, b in pairs for c in range(calls - 1)]
    assert any(ahead)  # somebody writes for a call while somebody still reads in the one before
    for rank, call, phase in order:
        group.run(rank, phase, results[call][rank], results[call][rank])
    assert group.early == [0] * ranks
    for call in range(calls):
        want = all_reduce_local(list(given[call].cpu()), name)
        for rank in range(ranks):
            assert_same_bits(results[call][rank].cpu(), want[rank])


@pytest.mark.parametrize("hasty", [0, 1])
@pytest.mark.parametrize("missing", [1, 2])
def test_a_phase_before_its_signals_is_noticed(device: torch.device, missing: int, hasty: int) -> None:
    exchange = Exchange("quickreduce-int4", 2, 128, BF16, device, 2, Tuning(32, 4))
    group = Ranks(exchange, device)
    given = partials(2, 128, BF16).to(device)
    for phase in range(1, missing):
        for rank in range(2):
            group.run(rank, phase, given[rank], given[rank])
    group.run(hasty, missing, given[hasty], given[hasty])
    assert group.early == [0, 0]
    group.run(hasty, missing + 1, given[hasty], given[hasty])
    assert group.early == [int(rank == hasty) for rank in range(2)]


def test_memory_holds_the_wire_format_and_nothing_is_written_beside_it(device: torch.device) -> None:
    name, ranks, numel = "flash-int6", 3, 1000
    exchange = Exchange(name, ranks, numel, BF16, device, 2, Tuning(128, 4))
    group = Ranks(exchange, device)
    given = partials(ranks, numel, BF16).to(device)
    results = torch.empty_like(given)
    for phase in (1, 2, 3):
        for rank in range(ranks):
            group.run(rank, phase, given[rank], results[rank])
    assert exchange.copies_at >= 4 * 2 * ranks * exchange.programs
    reduce, gather = scheme(name).reduce, scheme(name).gather
    for rank in range(ranks):
        memory = group.memories[rank].cpu()
        untouched = torch.ones(exchange.nbytes, dtype=torch.bool)
        untouched[: exchange.copies_at] = False
        cut = exchange.cuts[rank]
        total = torch.zeros(())
        for source in range(ranks):
            copy = quantize.encode_flat(given[source, cut.start : cut.stop].cpu(), reduce)
            written(memory, exchange.copies_at + source * exchange.copy_bytes, copy, reduce, len(cut), untouched)
            total = total + quantize.decode_flat(copy, len(cut), reduce)
        copy = quantize.encode_flat(total, gather)
        for peer in range(ranks):
            at = exchange.sums_at + rank * exchange.sum_bytes
            reach = untouched if peer == rank else None
            written(group.memories[peer].cpu(), at, copy, gather, len(cut), reach)
        for other in range(ranks):
            size = len(exchange.cuts[other])
            at = exchange.sums_at + other * exchange.sum_bytes
            for section, start in zip(gather.sections(size), gather.offsets(size), strict=True):
                untouched[at + start : at + start + section.nbytes] = False
        assert (memory[untouched] == 0xA5).all()
        signals = memory[: exchange.copies_at].view(torch.int32)
        used = 2 * ranks * exchange.programs
        assert (signals[:used] == 1).all() and not signals[used:].any()


def written(memory: Tensor, at: int, copy: Tensor, codec: Codec, numel: int, untouched: Tensor | None) -> None:
    """Every section of a copy stands in the memory (the zeros between them are nobody's business)."""
    for section, start in zip(codec.sections(numel), codec.offsets(numel), strict=True):
        run = slice(at + start, at + start + section.nbytes)
        assert torch.equal(memory[run], copy[start : start + section.nbytes])
        if untouched is not None:
            untouched[run] = False


# ---- the whole kernel, in processes


def start(mode: str, folder: Path, ranks: int, environment: dict[str, str], timeout_s: float) -> list[str]:
    """Run this file as `ranks` processes (or as one that holds them all) and give back their results' files."""
    count = 1 if mode == "streams" else ranks
    settings = {**os.environ, **environment}
    commands = [[sys.executable, str(HERE), mode, str(folder), str(rank), str(ranks)] for rank in range(count)]
    processes = [subprocess.Popen(command, env=settings) for command in commands]
    try:
        deadline = time.monotonic() + timeout_s
        codes = [process.wait(timeout=max(1.0, deadline - time.monotonic())) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0] * count
    return [str(folder / f"{rank}.pt") for rank in range(ranks)]


PROTOCOL = ("quickreduce-int4", 300, BF16, 4)  # scheme, numel, dtype, calls


def agree(files: list[str], ranks: int) -> None:
    name, numel, dtype, calls = PROTOCOL
    found = [torch.load(file) for file in files]
    for call in range(calls):
        want = all_reduce_local(list(partials(ranks, numel, dtype, call)), name)
        for rank in range(ranks):
            assert_same_bits(found[rank][call], want[rank])


@pytest.mark.skipif(CUDA, reason="the interpreter's processes share memory of the CPU")
def test_processes_wait_for_each_others_signals(tmp_path: Path) -> None:
    """The kernel as it is launched on GPUs, its loops over signals too, in three processes at different speeds."""
    name, numel, dtype, _ = PROTOCOL
    exchange = Exchange(name, 3, numel, dtype, torch.device("cpu"), 2, Tuning(64, 4))
    assert exchange.programs == 2
    for rank in range(3):
        (tmp_path / f"memory{rank}").write_bytes(bytes(exchange.nbytes))
    agree(start("interpreter", tmp_path, 3, {"TRITON_INTERPRET": "1"}, 100), 3)


@pytest.mark.skipif(not CUDA, reason="needs a GPU")
def test_ranks_on_streams_of_one_gpu(tmp_path: Path) -> None:
    """Three kernels at the same time, waiting for each other; in a process that can be ended if they do for ever."""
    agree(start("streams", tmp_path, 3, {}, 100), 3)


@pytest.mark.skipif(not CUDA, reason="needs a GPU")
def test_overlapping_devices(tmp_path: Path) -> None:
    """Symmetric memory itself: two processes, one GPU, which they share by turns: right, if slow."""
    agree(start("overlap", tmp_path, 2, {symmetric.OVERLAP: "1", symmetric.OPT_IN: "1"}, 100), 2)


def main(mode: str, folder: Path, rank: int, ranks: int) -> None:
    """One rank (`streams`: all of them), PROTOCOL's calls in a row; results go to folder/<rank>.pt."""
    name, numel, dtype, calls = PROTOCOL
    given = [partials(ranks, numel, dtype, call) for call in range(calls)]
    if mode == "overlap":
        torch.cuda.set_device(0)
        store = dist.FileStore(str(folder / "store"), ranks)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
        group = dist.new_group(list(range(ranks)))
        reduce = SymmetricAllReduce(name, numel, dtype, group, programs=2, tuning=Tuning(64, 4))
        results = [reduce(one[rank].cuda()) for one in given]
        torch.cuda.synchronize()
        torch.save([one.cpu() for one in results], folder / f"{rank}.pt")
        dist.barrier(group)
        return
    device = torch.device("cuda" if mode == "streams" else "cpu")
    exchange = Exchange(name, ranks, numel, dtype, device, 2, Tuning(64, 4))
    if mode == "streams":
        virtual = Ranks(exchange, device)
        # Tensors of their own: rows off the 16-byte grid would be another kernel, to be compiled and loaded while the
        # first already waits for it.
        outs = [[row.to(device).clone() for row in one] for one in given]
        streams = [torch.cuda.Stream() for _ in range(ranks)]
        torch.cuda.synchronize()
        for call, turn in itertools.product(range(calls), range(ranks)):
            with torch.cuda.stream(streams[turn]):
                virtual.run(turn, 0, outs[call][turn], outs[call][turn])
        torch.cuda.synchronize()
        for turn in range(ranks):
            torch.save([out[turn].cpu() for out in outs], folder / f"{turn}.pt")
        return
    files = [str(folder / f"memory{peer}") for peer in range(ranks)]
    memories = [torch.from_file(file, shared=True, size=exchange.nbytes, dtype=torch.uint8) for file in files]
    peers = torch.tensor([memory.data_ptr() for memory in memories])
    counts = torch.zeros(exchange.programs + 1, dtype=torch.int32)
    chooser = random.Random(rank)
    found = []
    for one in given:
        time.sleep(chooser.choice((0.0, 0.0, 0.1)))
        found.append(torch.empty(numel, dtype=dtype))
        exchange.launch(rank, one[rank], found[-1], peers, counts)
    torch.save(found, folder / f"{rank}.pt")


# ---- compiled code

COMPILE = """
import re, subprocess, sys, tempfile
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from thinwire.kernels import symmetric
from thinwire.kernels.form import form
from thinwire.kernels.launch import options
from thinwire.reference.catalog import parse_codec

kernel = symmetric.symmetric_kernel
dump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
pointers = {"values_ptr": "*bf16", "results_ptr": "*bf16", "peers_ptr": "*i64", "table_ptr": "*i64"}
pointers |= {"sums_table_ptr": "*i64", "calls_ptr": "*i32", "early_ptr": "*i32"}
free = ("rank", "ranks", "early_ptr")
for row in sys.argv[1:]:
    capability, ranks, spec = row.split()
    compiled = form(parse_codec(spec))
    values = symmetric.ASSUMED.values
    constants = dict(UNROLLED=symmetric.written_out(compiled, int(ranks)), FORM=compiled, SUMS=compiled)
    constants |= dict(TILE_VALUES=values, PHASE=0)
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else pointers.get(n, "i32") for n in names}
    aligned = [i for i, n in enumerate(names) if n not in constants and n not in free]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants,
                       attrs={(i,): [["tt.divisibility", 16]] for i in aligned})
    target = GPUTarget("cuda", int(capability), 32)
    most = symmetric.registers(divmod(int(capability), 10))
    built = triton.compile(source, target=target, options=options(symmetric.ASSUMED) | {"maxnreg": most})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        said = subprocess.run([dump, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    used = re.search(r"REG:(\\d+) STACK:(\\d+) SHARED:(\\d+)", said).groups()
    signals = r"(?:atom|ld|red)\\.global\\.\\w+\\.(?:release|acquire|acq_rel|relaxed)"
    wanted = r"bar\\.sync|" + signals + r"|(?:st|ld)\\.global(?:\\.v[24])?"
    print(*used, *re.findall(wanted, built.asm["ptx"]))
"""


SIGNALS = {"atom.global.sys.release", "ld.global.sys.acquire", "atom.global.sys.acquire"}


def test_compiled_code_keeps_the_promises_of_the_docstring() -> None:
    """No spills and few enough registers at eight ranks; stores, barrier, release; acquire, barrier, loads."""
    rows = ["80 2 int4-g128-zp", "90 8 int2-g128-zp-sr", "100 8 mx-e2m1-b32"]
    settings = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", COMPILE, *rows]
    said = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr[-2000:]
    for row, line in zip(rows, said.stdout.splitlines(), strict=True):
        capability = divmod(int(row.split()[0]), 10)
        registers, stack, shared, *operations = line.split()
        assert int(registers) <= symmetric.registers(capability)
        assert stack == "0"
        assert int(shared) <= symmetric.SHARED_BYTES * symmetric.ASSUMED.values
        assert {"ld.global.v2", "st.global.v4"} <= set(operations)  # nothing that matters goes byte by byte
        assert {operation for operation in operations if operation.count(".") == 3} <= SIGNALS
        order = [operation for operation in operations if not operation.startswith("ld.global") or "sys" in operation]
        releases = [i for i, operation in enumerate(order) if "release" in operation]
        acquires = [i for i, operation in enumerate(order) if "acquire" in operation]
        assert releases and acquires
        for i in releases:  # behind the last store a barrier, other signals between them or not
            before = next(operation for operation in reversed(order[:i]) if "release" not in operation)
            assert before == "bar.sync"
        for i in acquires:  # other stores may lie between, but a barrier before anything else
            assert next(operation for operation in order[i + 1 :] if "st.global" not in operation) == "bar.sync"


# ---- when it may run


def fact(**changes: object) -> dict[str, object]:
    return {"host": "a", "gpu": "GPU-1", "opted": True, "overlap": False, **changes}


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ([fact(), fact(gpu="GPU-2")], None),
        ([fact(overlap=True), fact(overlap=True)], None),
        ([fact()], "the group has one rank"),
        ([fact(), fact(gpu=None)], "no CUDA on ranks [1]"),
        ([fact(), fact(overlap=True)], "2 ranks share 1 GPUs"),
        ([fact(), fact(host="b", gpu="GPU-2")], "the group spans 2 hosts"),
        (
            [fact(), fact(gpu="GPU-2", opted=False)],
            "nobody has run it on several GPUs yet: ask for it with opt_in=True",
        ),
    ],
)
def test_why_not(facts: list[dict[str, object]], said: str | None) -> None:
    answer = judge(facts)
    assert bool(answer) == (said is None)
    assert (said or "available") in str(answer)


def test_a_group_of_this_machine(tmp_path: Path) -> None:
    assert str(available(None)) == "torch.distributed is not initialised"
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        assert str(available(None)) == "no group was given, and the default one is never taken"
        answer = available(dist.new_group([0]))
        assert not answer
        assert "the group has one rank" in str(answer) and "nobody has run it on several GPUs yet" in str(answer)
        assert ("no CUDA on ranks [0]" in str(answer)) is not CUDA
        with pytest.raises(RuntimeError, match="symmetric memory cannot be used: the group has one rank"):
            SymmetricAllReduce("flash-int4", 1024, BF16, dist.new_group([0]), opt_in=True)
    finally:
        dist.destroy_process_group()


def test_the_grid_fits_the_gpu() -> None:
    h100 = SimpleNamespace(
        multi_processor_count=132, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048,
        shared_memory_per_multiprocessor=233472, major=9, minor=0,
    )  # fmt: skip
    assert resident(h100, Tuning(2048, 4), 2048) == 3 * 132  # 65536 / (168 x 128)
    assert resident(h100, Tuning(2048, 8), 2048) == 132
    assert resident(h100, Tuning(8192, 1), 8192) == 2 * 132  # shared memory
    assert resident(h100, Tuning(1024, 4), 32768) == 0


@pytest.mark.parametrize(
    ("name", "ranks", "numel", "said"),
    [
        ("mxfp4", 2, 100, "collective must be one of two_step: all_gather in 'mxfp4'"),
        ("two_step:bf16", 2, 100, "codecs must be grouped integers, MX or NVFP4"),
        ("two_step:int4-g24-zp", 2, 100, "groups must be powers of two to be reduced and encoded in one kernel"),
        ("flash-int4", 1, 100, "two ranks at least"),
        ("flash-int4", 2, 0, "two ranks at least"),
        ("flash-int4+exempt-last-4", 2, 100, "carries no exact values beside the coded ones: exempt-last-4 in"),
    ],
)
def test_what_it_does_not_take(name: str, ranks: int, numel: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Exchange(name, ranks, numel, BF16, torch.device("cpu"), 2)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
