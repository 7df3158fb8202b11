"""A two-step all-reduce in one kernel over several GPUs, on torch symmetric memory. Off until somebody asks for it.

Every rank stores its encoded parts straight into the memory of the part's owner and tells it; the owner adds up what
came, encodes the sum and stores it into every rank's memory and tells them; every rank decodes. One launch, no copy in
between, for messages whose three launches would cost more than their bytes. Nobody has run it on two GPUs yet: none
could be had. What one GPU or none can show, tests/kernels/test_symmetric.py does; so `available` says no unless asked.

Contract: bf16, fp16 or fp32, contiguous; two_step with codecs whose groups are powers of two (`two_step.TwoStep` takes
the others); all ranks call in the same order, one call at a time, on a group of one host given to the constructor. The
bits are those of `reference.allreduce`. CUDA graphs work: what changes between calls is counted on the device.

A rank's memory: signals, int32 [2 phases, R sources, programs]; R wire copies of the own part; P encoded sums. Call
number e (from 1) of a program writes e as its signals.

Why no byte is read before it is written, nor overwritten while it is read. Programs are numbered alike on all ranks and
cut the tensor alike: tile t of every part belongs to program t % programs, in all three phases and on all ranks. So
program i talks with the programs i of its peers and nobody else, and no barrier spans a grid. Let p be one on rank r, q
one on rank s, any two. -> is happens-before of the PTX memory model.
1. q's stores of call e into r's copies -> a barrier of q's threads -> q's first signal, an exchange with release at
   system scope -> p's wait, loads with acquire at system scope until it sees e -> a barrier of p's threads -> p's
   loads. Release and acquire at system scope order the stores of other threads, too, that a barrier put before them.
   The same holds for the sums and the second signals.
2. Copies: p's loads of call e -> p's second signal of call e, after a barrier -> q's wait for it, without which q does
   not finish call e -> q's stores into r's copies in call e + 1.
3. Sums: p's loads of call e -> p's first signal of call e + 1, in a later launch -> q's wait for it, as for every
   rank's, before any sum of call e + 1 is stored.
   So copies and sums are each other's double buffer: one is filled while the other may still be read, and neither a
   second half nor a trailing barrier is needed. They must not share bytes, and both waits must be for all ranks.
4. A signal is a word that one program writes, in rising order; p waits for at least e, so a q that is ahead does no
   harm. q is at most one signal ahead: it needs p's own signal to go on.
5. Nobody waits for a program that cannot start: the grid is no larger than what fits the GPU at a time (`resident`,
   whose register count the compiler is told to keep), and all ranks launch the same grid. Another kernel that never
   ends would break this, a finite one only delays.
Signals start at zero, before a barrier of the group in the constructor. They wrap around after 2^32 calls, unharmed.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import triton
import triton.language as tl
from torch import Tensor

from thinwire.kernels.decode import restore_tile
from thinwire.kernels.encode import load_values
from thinwire.kernels.form import GROUPS, NUMEL, Form, fact, form, parts
from thinwire.kernels.launch import Tuning, cdiv, check_device, options
from thinwire.kernels.numbers import INTERPRETED
from thinwire.kernels.reduce import UNROLLED_RANKS, can_requantise, summed
from thinwire.kernels.tiles import encode_tile, part_row, value_offsets
from thinwire.kernels.two_step import FLOATS, check_scheme
from thinwire.reference.core.schedule import Interval, partition
from thinwire.reference.core.scheme import Scheme

OPT_IN = "THINWIRE_SYMMETRIC"
OVERLAP = "TORCH_SYMM_MEM_ALLOW_OVERLAPPING_DEVICES"
ASSUMED = Tuning(2048, 4)
REGISTERS = 168  # a thread; the compiler keeps to it, without spilling, and three programs fit a multiprocessor
REGISTERS_FROM_100 = 216  # from compute capability 10.0 on, where 168 would spill 8 bytes: two programs
SHARED_BYTES = 12  # a value of the tile at most, for exchanges between threads; tests/kernels/test_symmetric.py looks


# ---- device code. `base`: a rank's memory; `copies_at`, `sums_at`: bytes where its copies and its sums begin


@triton.jit
def memory_of(peers_ptr, rank):
    """Pointer to a rank's memory, of which the compiler may know that it is aligned."""
    return tl.multiple_of(tl.load(peers_ptr + rank).to(tl.pointer_type(tl.uint8)), 16)


@triton.jit
def signal_pointer(base, phase, source, ranks):
    """The word that program i of `source` writes and program i of this memory's rank reads."""
    index = (phase * ranks + source) * tl.num_programs(0) + tl.program_id(0)
    return base.to(tl.pointer_type(tl.int32)) + index


@triton.jit
def wait(base, phase, source, ranks, epoch, early_ptr, SPINS: tl.constexpr):
    """Until `source` has signalled `epoch`. Without SPINS, for nothing runs meanwhile, it notes having been early."""
    word_ptr = signal_pointer(base, phase, source, ranks)
    seen = tl.atomic_add(word_ptr, 0, sem="acquire", scope="sys")
    if SPINS:
        while seen - epoch < 0:
            seen = tl.atomic_add(word_ptr, 0, sem="acquire", scope="sys")
    else:
        if seen - epoch < 0:
            tl.store(early_ptr, 1)
    tl.debug_barrier()


@triton.jit
def tiles_in(at, sums, FORM: tl.constexpr, SUMS: tl.constexpr, TILE_VALUES: tl.constexpr):
    """Tiles of a part, padding of either codec included."""
    values = tl.maximum(at[GROUPS] * fact(FORM, "group"), sums[GROUPS] * fact(SUMS, "group"))
    return ((values + TILE_VALUES - 1) // TILE_VALUES).to(tl.int32)


@triton.jit
def push_partials(
    values_ptr, peers_ptr, table_ptr, sums_table_ptr, rank, ranks, copies_at, copy_bytes,
    FORM: tl.constexpr, SUMS: tl.constexpr, TILE_VALUES: tl.constexpr,
):  # fmt: skip
    """First phase: this program's tiles of each part, encoded into the owner's memory, the own part last."""
    TILE_GROUPS: tl.constexpr = TILE_VALUES // fact(FORM, "group")
    SHORT: tl.constexpr = values_ptr.dtype.element_ty != tl.float32 and fact(FORM, "rotation") == 0
    local_G = tl.arange(0, TILE_GROUPS)
    for step in range(1, ranks + 1):
        owner = (rank + step) % ranks
        at = part_row(table_ptr, owner)
        sums = part_row(sums_table_ptr, owner)
        base = memory_of(peers_ptr, owner)
        spot = copies_at.to(tl.int64) + copy_bytes.to(tl.int64) * rank
        for tile in range(tl.program_id(0), tiles_in(at, sums, FORM, SUMS, TILE_VALUES), tl.num_programs(0)):
            first = tl.cast(tile, tl.int64) * TILE_GROUPS
            if first < at[GROUPS]:
                x = load_values(values_ptr, at, first, local_G, FORM)
                encode_tile(x, base, spot, at, first, local_G, first + local_G < at[GROUPS], SHORT, FORM)


@triton.jit
def push_sums(
    peers_ptr, table_ptr, sums_table_ptr, rank, ranks, copies_at, copy_bytes, sums_at, sum_bytes,
    UNROLLED: tl.constexpr, FORM: tl.constexpr, SUMS: tl.constexpr, TILE_VALUES: tl.constexpr,
):  # fmt: skip
    """Second phase: this program's tiles of the own part, added up in rank order and encoded into every memory."""
    TILE_GROUPS: tl.constexpr = TILE_VALUES // fact(FORM, "group")
    SUMS_GROUPS: tl.constexpr = TILE_VALUES // fact(SUMS, "group")
    local_G = tl.arange(0, TILE_GROUPS)
    sums_G = tl.arange(0, SUMS_GROUPS)
    at = part_row(table_ptr, rank)
    sums = part_row(sums_table_ptr, rank)
    own = memory_of(peers_ptr, rank)
    copies = copies_at.to(tl.int64)
    spot = sums_at.to(tl.int64) + sum_bytes.to(tl.int64) * rank
    for tile in range(tl.program_id(0), tiles_in(at, sums, FORM, SUMS, TILE_VALUES), tl.num_programs(0)):
        first = tl.cast(tile, tl.int64) * TILE_GROUPS
        sums_first = tl.cast(tile, tl.int64) * SUMS_GROUPS
        ok_G = first + local_G < at[GROUPS]
        total = summed(own, copies, copy_bytes, at, first, local_G, ok_G, ranks, UNROLLED, FORM)
        if (first + TILE_GROUPS) * fact(FORM, "group") > at[NUMEL]:  # what pads the last group is encoded as zeros
            _, inside = value_offsets(at, first, local_G, FORM)
            total = tl.where(inside, total, 0.0)
        total = tl.reshape(total, (SUMS_GROUPS, fact(SUMS, "group")))
        ok_sums_G = sums_first + sums_G < sums[GROUPS]
        for step in range(1, ranks + 1):
            base = memory_of(peers_ptr, (rank + step) % ranks)
            encode_tile(total, base, spot, sums, sums_first, sums_G, ok_sums_G, False, SUMS)


@triton.jit
def take_sum(
    source, peers_ptr, values_ptr, table_ptr, sums_table_ptr, rank, sums_at, sum_bytes,
    FORM: tl.constexpr, SUMS: tl.constexpr, TILE_VALUES: tl.constexpr,
):  # fmt: skip
    """Third phase: this program's tiles of the part that `source` summed, decoded from the own memory."""
    SUMS_GROUPS: tl.constexpr = TILE_VALUES // fact(SUMS, "group")
    at = part_row(table_ptr, source)
    sums = part_row(sums_table_ptr, source)
    own = memory_of(peers_ptr, rank)
    spot = sums_at.to(tl.int64) + sum_bytes.to(tl.int64) * source
    for tile in range(tl.program_id(0), tiles_in(at, sums, FORM, SUMS, TILE_VALUES), tl.num_programs(0)):
        first = tl.cast(tile, tl.int64) * SUMS_GROUPS
        if first < sums[GROUPS]:
            restore_tile(own, spot, sums, first, values_ptr, False, SUMS, SUMS_GROUPS)


@triton.jit
def signal_all(peers_ptr, phase, rank, ranks, epoch):
    """Tell every rank, this one too, that this program's stores of the phase are done."""
    tl.debug_barrier()
    for step in range(1, ranks + 1):
        word_ptr = signal_pointer(memory_of(peers_ptr, (rank + step) % ranks), phase, rank, ranks)
        tl.atomic_xchg(word_ptr, epoch, sem="release", scope="sys")


@triton.jit(do_not_specialize=["rank"])
def symmetric_kernel(
    values_ptr,  # [N], this rank's partial sum
    results_ptr,  # [N], may be values_ptr: a program stores only what it has read itself
    peers_ptr,  # int64 [R], addresses of every rank's memory as this rank reaches them
    table_ptr,
    sums_table_ptr,
    calls_ptr,  # int32 [programs], calls so far
    early_ptr,  # int32 [1], set where a phase began before its signals were there
    rank,
    ranks,
    copies_at,  # bytes
    copy_bytes,
    sums_at,
    sum_bytes,
    UNROLLED: tl.constexpr,
    FORM: tl.constexpr,
    SUMS: tl.constexpr,
    TILE_VALUES: tl.constexpr,
    PHASE: tl.constexpr,
):
    """Grid: as many programs on every rank. PHASE 0: the all-reduce; 1, 2, 3: a phase, ranks in turn, no waits."""
    epoch = tl.load(calls_ptr + tl.program_id(0)) + 1
    if PHASE == 0 or PHASE == 1:
        push_partials(
            values_ptr,
            peers_ptr,
            table_ptr,
            sums_table_ptr,
            rank,
            ranks,
            copies_at,
            copy_bytes,
            FORM,
            SUMS,
            TILE_VALUES,
        )
        signal_all(peers_ptr, 0, rank, ranks, epoch)
    own = memory_of(peers_ptr, rank)
    if PHASE == 0 or PHASE == 2:
        for source in range(ranks):
            wait(own, 0, source, ranks, epoch, early_ptr, PHASE == 0)
        push_sums(
            peers_ptr, table_ptr, sums_table_ptr, rank, ranks, copies_at, copy_bytes, sums_at, sum_bytes,
            UNROLLED, FORM, SUMS, TILE_VALUES,
        )  # fmt: skip
        signal_all(peers_ptr, 1, rank, ranks, epoch)
    if PHASE == 0 or PHASE == 3:
        for step in range(ranks):
            source = (rank + step) % ranks
            wait(own, 1, source, ranks, epoch, early_ptr, PHASE == 0)
            take_sum(
                source, peers_ptr, results_ptr, table_ptr, sums_table_ptr, rank, sums_at, sum_bytes,
                FORM, SUMS, TILE_VALUES,
            )  # fmt: skip
        tl.store(calls_ptr + tl.program_id(0), epoch)


# ---- host code


class Exchange:
    """How one all-reduce is laid out in the memories of its ranks, and its launches; where memories are is not its
    business. Tests give it R tensors of one process.

    Args:
        scheme: collective two_step, grouped integers or MX with groups of powers of two, no chunks.
        ranks: of the group, two or more.
        numel, dtype: of a rank's tensor.
        programs: of the grid, on every rank; no more are used than there are tiles in a part.
        tuning: values of a tile and warps.

    nbytes: of each rank's memory, which starts as zeros. Raises ValueError for anything else.
    """

    def __init__(
        self,
        scheme: Scheme | str,
        ranks: int,
        numel: int,
        dtype: torch.dtype,
        device: torch.device,
        programs: int,
        tuning: Tuning = ASSUMED,
    ) -> None:
        self.scheme = check_scheme(scheme, ("two_step",))
        if self.scheme.exempt_last_tokens:
            raise ValueError(
                "the one-kernel all-reduce carries no exact values beside the coded ones: exempt-last-"
                f"{self.scheme.exempt_last_tokens} in {self.scheme.name!r}; reference.allreduce does"
            )
        self.form, self.sums_form = form(self.scheme.reduce), form(self.scheme.gather)
        if not can_requantise(self.form, self.sums_form):
            raise ValueError(
                "groups must be powers of two to be reduced and encoded in one kernel: "
                f"{self.scheme.reduce.spec} and {self.scheme.gather.spec} in {self.scheme.name!r}"
            )
        if ranks < 2 or numel < 1 or programs < 1 or dtype not in FLOATS:
            raise ValueError(
                "two ranks at least, a value and a program at least, bf16, fp16 or fp32: "
                f"ranks={ranks}, numel={numel}, programs={programs}, {dtype}"
            )
        self.ranks, self.numel, self.dtype, self.tuning = ranks, numel, dtype, tuning
        self.registers = registers(torch.cuda.get_device_capability(device)) if device.type == "cuda" else REGISTERS
        self.tile_values = tile_values(self.scheme, tuning)
        self.cuts = partition(Interval(0, numel), ranks, self.scheme.align)
        numels = tuple(len(cut) for cut in self.cuts)
        self.parts, self.sums = (parts(codec, numels, device) for codec in (self.scheme.reduce, self.scheme.gather))
        most = max(self.parts.most_groups * self.form.group, self.sums.most_groups * self.sums_form.group)
        self.programs = min(programs, cdiv(most, self.tile_values))
        self.copy_bytes, self.sum_bytes = max(self.parts.nbytes), max(self.sums.nbytes)
        self.copies_at = cdiv(4 * 2 * ranks * self.programs, 128) * 128
        self.sums_at = self.copies_at + ranks * self.copy_bytes
        self.nbytes = self.sums_at + ranks * self.sum_bytes

    def launch(
        self, rank: int, values_N: Tensor, results_N: Tensor, peers_R: Tensor, calls_C: Tensor, phase: int = 0
    ) -> None:
        """Run `rank`'s all-reduce, or one phase of it.

        Args:
            values_N, results_N: flat, contiguous; may be the same tensor.
            peers_R: int64, addresses of all ranks' memories.
            calls_C: int32 [programs + 1], zeros at first; the last one is set where a phase run alone was early.
        """
        check_device(values_N, results_N, peers_R, calls_C, self.parts.table)
        symmetric_kernel[(self.programs,)](
            values_N, results_N, peers_R, self.parts.table, self.sums.table, calls_C, calls_C[self.programs :], rank,
            self.ranks, self.copies_at, self.copy_bytes, self.sums_at, self.sum_bytes,
            UNROLLED=written_out(self.form, self.ranks), FORM=self.form, SUMS=self.sums_form,
            TILE_VALUES=self.tile_values, PHASE=phase, **options(self.tuning),
            **({} if INTERPRETED.value else {"maxnreg": self.registers}),
        )  # fmt: skip


def written_out(compiled: Form, ranks: int) -> int:
    """Ranks whose sum is written out at compile time, as far as registers go; 0 = a loop."""
    most = 2 if compiled.rotation else 4 if compiled.spikes else UNROLLED_RANKS
    return ranks if ranks <= most else 0


def registers(capability: tuple[int, int]) -> int:
    """Registers a thread may have on GPUs of a compute capability."""
    return REGISTERS if capability < (10, 0) else REGISTERS_FROM_100


def tile_values(scheme: Scheme, tuning: Tuning) -> int:
    """Values of a tile: whole groups and rotation blocks of both codecs."""
    forms = form(scheme.reduce), form(scheme.gather)
    return max(tuning.values, *(max(one.group, one.rotation) for one in forms))


def resident(properties: Any, tuning: Tuning, values: int) -> int:
    """Programs that fit a GPU at a time, whatever they are compiled to: registers and shared memory are bounded.

    properties: of `torch.cuda.get_device_properties`. values: of a tile. 0 where not even one fits.
    """
    threads = 32 * tuning.warps
    by_registers = properties.regs_per_multiprocessor // (registers((properties.major, properties.minor)) * threads)
    by_threads = properties.max_threads_per_multi_processor // threads
    by_shared = properties.shared_memory_per_multiprocessor // (SHARED_BYTES * values + 1024)  # 1 KiB is the system's
    return int(properties.multi_processor_count * min(by_registers, by_threads, by_shared))


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a group can use symmetric memory: true where there are no reasons against; as text, the reasons."""

    reasons: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.reasons

    def __str__(self) -> str:
        return "; ".join(self.reasons) or "available"


def available(group: dist.ProcessGroup | None, *, opt_in: bool = False) -> Availability:
    """Whether `SymmetricAllReduce` would run on a group, and in words why not. The same answer on every rank.

    Collective: every rank of the group must call. opt_in: yes, although nobody has run this on several GPUs; the same
    as THINWIRE_SYMMETRIC=1 in every rank's environment.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return Availability(("torch.distributed is not initialised",))
    if group is None:
        return Availability(("no group was given, and the default one is never taken",))
    cuda = torch.cuda.is_available()
    mine = {
        "host": _host(),
        "gpu": str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid) if cuda else None,
        "opted": opt_in or os.environ.get(OPT_IN) == "1",
        "overlap": os.environ.get(OVERLAP) == "1",
    }
    facts: list[dict[str, Any]] = [{} for _ in range(dist.get_world_size(group))]
    dist.all_gather_object(facts, mine, group=group)
    return judge(facts)


def judge(facts: list[dict[str, Any]]) -> Availability:
    """The answer for what the ranks have said of themselves: host, gpu (None = no CUDA), opted, overlap."""
    ranks, reasons = len(facts), []
    if ranks < 2:
        reasons.append("the group has one rank")
    if without := [rank for rank, fact in enumerate(facts) if fact["gpu"] is None]:
        reasons.append(f"no CUDA on ranks {without}")
    elif len(gpus := {fact["gpu"] for fact in facts}) < ranks and not all(fact["overlap"] for fact in facts):
        reasons.append(f"{ranks} ranks share {len(gpus)} GPUs ({OVERLAP}=1 allows that, for tests)")
    if len(hosts := {fact["host"] for fact in facts}) > 1:
        reasons.append(f"the group spans {len(hosts)} hosts")
    if not all(fact["opted"] for fact in facts):
        reasons.append(
            f"nobody has run it on several GPUs yet: ask for it with opt_in=True or {OPT_IN}=1 on every rank"
        )
    return Availability(tuple(reasons))


def _host() -> str:
    """What tells hosts apart: names may repeat, the kernel's boot id does not."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.exists() else ''}"


class SymmetricAllReduce:
    """`all_reduce(x)` in one kernel, on the group given. Constructing is collective, and so is every call: a rank that
    does not call leaves the others' GPUs waiting for ever.

    Args:
        scheme, numel, dtype: as for `Exchange`; the same on every rank.
        group: of one host, one GPU a rank, the current CUDA device of each.
        opt_in: see `available`.
        programs: of the grid; left out, as many as fit the smallest GPU of the group.

    Keeps its memory until it is dropped; no rank may drop it while another is inside a call. Raises RuntimeError where
    `available` says no, ValueError for a scheme, size or dtype that the kernel does not take or ranks disagree on.
    """

    def __init__(
        self,
        scheme: Scheme | str,
        numel: int,
        dtype: torch.dtype,
        group: dist.ProcessGroup,
        *,
        opt_in: bool = False,
        programs: int | None = None,
        tuning: Tuning = ASSUMED,
    ) -> None:
        if not (answer := available(group, opt_in=opt_in)):
            raise RuntimeError(f"symmetric memory cannot be used: {answer}")
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.rank = dist.get_rank(group)
        found = check_scheme(scheme, ("two_step",))
        fit = resident(torch.cuda.get_device_properties(self.device), tuning, tile_values(found, tuning))
        asked = _everyone(group, (found.name, numel, str(dtype), tuning, min(fit, programs or fit)))
        if len({given[:4] for given in asked}) != 1 or min(given[4] for given in asked) < 1:
            raise ValueError(f"ranks must agree, and a program must fit each GPU: {asked}")
        least = min(given[4] for given in asked)
        self.exchange = Exchange(found, len(asked), numel, dtype, self.device, least, tuning)
        self._memory, self._handle, addresses = _rendezvous(self.exchange.nbytes, self.device, group)
        self._peers_R = torch.tensor(addresses, dtype=torch.int64, device=self.device)
        self._calls_C = torch.zeros(self.exchange.programs + 1, dtype=torch.int32, device=self.device)
        torch.cuda.synchronize(self.device)
        dist.barrier(group)  # nobody signals into memory that is still to be zeroed

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """The sum of all ranks' `x`, into `out` (may be `x`; left out, a new tensor), on the current stream."""
        result = torch.empty_like(x) if out is None else out
        for tensor in (x, result):
            if tensor.numel() != self.exchange.numel or tensor.dtype != self.exchange.dtype:
                raise ValueError(
                    f"made for {self.exchange.numel} values of {self.exchange.dtype}: given {list(tensor.shape)}, "
                    f"{tensor.dtype}"
                )
            if not tensor.is_contiguous() or tensor.device != self.device:
                raise ValueError(f"tensors must be contiguous, on {self.device}: {tensor.stride()}, {tensor.device}")
        self.exchange.launch(self.rank, x.view(-1), result.view(-1), self._peers_R, self._calls_C)
        return result


def _everyone(group: dist.ProcessGroup, mine: Any) -> list[Any]:
    """What every rank of the group says, in rank order."""
    found: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(found, mine, group=group)
    return found


def _rendezvous(nbytes: int, device: torch.device, group: dist.ProcessGroup) -> tuple[Tensor, Any, list[int]]:
    """(zeroed memory, what keeps the peers' mapped, addresses of every rank's as this rank reaches them)."""
    import torch.distributed._symmetric_memory as symmetric  # not in every build of torch

    if tuple(int(number) for number in torch.__version__.split(".")[:2]) < (2, 11):  # later versions need no such call
        symmetric.enable_symm_mem_for_group(group.group_name)
    memory = symmetric.empty(nbytes, dtype=torch.uint8, device=device)
    memory.zero_()
    handle = symmetric.rendezvous(memory, group)
    if handle is None or handle.rank != dist.get_rank(group) or handle.world_size != dist.get_world_size(group):
        raise RuntimeError("symmetric memory numbers the ranks otherwise than the group, or could not be set up")
    # Where torch took the memory from a pool, it lies somewhere inside what was mapped; ranks need not agree where.
    inside = memory.data_ptr() - handle.buffer_ptrs[handle.rank]
    if not 0 <= inside <= handle.buffer_size - nbytes:
        raise RuntimeError(f"memory lies outside what was mapped: {inside} of {handle.buffer_size} bytes")
    offsets = _everyone(group, inside)
    return memory, handle, [base + at for base, at in zip(handle.buffer_ptrs, offsets, strict=True)]
