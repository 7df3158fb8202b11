"""How fast the kernels are on the device at hand, against the bytes they must move: `rows` for the campaign.

    PYTHONPATH=src python3 -m thinwire.kernels.bench       # a table; `make gpu` runs the same and keeps the rows

Every kernel reads and writes each byte once, so bytes / time against the device copy of the same run says how far it is
from the best possible. Inputs are normal random numbers, rotated beyond the L2 (`timing.py`). Rows named `...:tuning`
time other block sizes; whoever finds a better one writes it into `launch.MEASURED` with the file's name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from thinwire.kernels.decode import decode_into
from thinwire.kernels.encode import encode_into
from thinwire.kernels.form import Parts, parts
from thinwire.kernels.hybrid_dynamic import decode_into as decode_hybrid
from thinwire.kernels.hybrid_dynamic import encode_into as encode_hybrid
from thinwire.kernels.launch import Tuning, cdiv
from thinwire.kernels.norm import norm_into
from thinwire.kernels.reduce import reduce_into, requantise_into
from thinwire.kernels.timing import Call, Limits, measure, sets_needed
from thinwire.kernels.two_step import TwoStep
from thinwire.reference.catalog import parse_codec
from thinwire.reference.core.schedule import Interval, partition
from thinwire.reference.core.scheme import Codec

KIB, MIB = 1 << 10, 1 << 20
SIZES = tuple(64 * KIB << (2 * i) for i in range(8))  # bytes of the bf16 tensor: 64 KiB to 1 GiB
# The first gets every size, the others those that the goals speak of.
CODECS = (
    "int4-g128-zp", "int8-g128-zp", "int5-g128-zp", "int2-g128-zp-sr", "mx-e2m1-b32", "mx-e4m3-b32", "mx-int8-b32",
    "mx-e2m3-b32", "int4-g32-sym-fp16", "int4-g128-zp-h128",
)  # fmt: skip
HYBRID = "hybrid4-k64-dyn-g128"
SCHEMES = ("flash-int4", "flash-int8", "flash2-int5", "mxfp4", "mxfp4-two-step", "quickreduce-int4")
HIDDEN = 8192  # of the norm's rows: Llama-3-70B's
LARGE = (16 * MIB, 64 * MIB, 256 * MIB)
RANKS = (8, 4, 2)
TUNINGS = tuple(Tuning(values, warps) for values in (1024, 2048, 4096, 8192) for warps in (2, 4, 8))

Row = dict[str, float | int | bool | str | None]


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One measurement: what to call on each input set, and what a call moves."""

    kernel: str
    codec: str
    numel: int
    ranks: int
    bytes_read: int
    bytes_written: int
    prepare: Callable[[torch.Generator], Call]
    tuning: Tuning | None = None


def measured(job: Job, limits: Limits) -> Row:
    """The row of a job: its own columns, then those of `timing.measure`, then its share of the copy bandwidth."""
    moved = job.bytes_read + job.bytes_written
    generator = torch.Generator(limits.device).manual_seed(limits.seed)
    calls = [job.prepare(generator) for _ in range(sets_needed(moved, limits.l2_bytes))]
    row: Row = {
        "kernel": job.kernel, "codec": job.codec, "dtype": "bf16", "numel": job.numel, "ranks": job.ranks,
        "bytes_read": job.bytes_read, "bytes_written": job.bytes_written,
    }  # fmt: skip
    if job.tuning is not None:
        row |= {"tile_values": job.tuning.values, "warps": job.tuning.warps}
    row |= measure(calls, limits.watch(), limits, moved)
    seconds = row["seconds_graph"] or row["seconds"]
    if limits.copy_bytes_per_s and isinstance(seconds, float):
        row["share_of_copy"] = moved / seconds / limits.copy_bytes_per_s
    return row


def normal(numel: int, generator: torch.Generator) -> Tensor:
    """Random bf16 values [numel]."""
    return torch.randn(numel, generator=generator, device=generator.device, dtype=torch.float32).bfloat16()


def copies(numel: int, ranks: int, laid_out: Parts, generator: torch.Generator) -> Tensor:
    """Encoded random values of `ranks` ranks, uint8 [ranks, 1, bytes]."""
    wire = torch.empty(ranks, 1, laid_out.nbytes[0], dtype=torch.uint8, device=generator.device)
    for rank in range(ranks):
        encode_into(normal(numel, generator), wire[rank : rank + 1], laid_out)
    return wire


def codec_jobs(codec: Codec, numel: int, device: torch.device, ranks: Sequence[int] = RANKS) -> Iterator[Job]:
    """The four kernels on `numel` values; the reducing ones on a rank's share of them, so every job is one rank's."""
    whole = parts(codec, (numel,), device)
    job = partial(codec_job, codec=codec)
    yield job("encode", whole, 1)
    yield job("decode", whole, 1)
    for count in ranks:
        chunk = parts(codec, (cdiv(cdiv(numel, count), codec.align) * codec.align,), device)
        yield job("reduce_encode", chunk, count)
        yield job("reduce", chunk, count)


def codec_job(kernel: str, laid_out: Parts, ranks: int, codec: Codec, tuning: Tuning | None = None) -> Job:
    """One of `encode`, `decode`, `reduce`, `reduce_encode` on the one part of `laid_out`."""
    numel, nbytes = laid_out.numels[0], laid_out.nbytes[0]
    reads = 2 * numel if kernel == "encode" else ranks * nbytes
    writes = nbytes if kernel in ("encode", "reduce_encode") else 2 * numel

    def prepare(generator: torch.Generator) -> Call:
        device = generator.device
        out_N = torch.empty(numel, dtype=torch.bfloat16, device=device)
        wire = torch.empty(1, 1, nbytes, dtype=torch.uint8, device=device)
        if kernel == "encode":
            return partial(encode_into, normal(numel, generator), wire, laid_out, tuning)
        received = copies(numel, ranks, laid_out, generator)
        if kernel == "decode":
            return partial(decode_into, received, out_N, laid_out, tuning)
        if kernel == "reduce":
            return partial(reduce_into, received, out_N, laid_out, tuning)
        return partial(requantise_into, received, laid_out, wire, laid_out, tuning)

    name = kernel if tuning is None else f"{kernel}:tuning"
    return Job(name, codec.spec, numel, ranks, reads, writes, prepare, tuning)


def hybrid_jobs(numel: int, device: torch.device) -> Iterator[Job]:
    """The dynamic outlier hybrid there and back."""
    codec = parse_codec(HYBRID)
    laid_out = parts(codec, (numel,), device)
    nbytes = laid_out.nbytes[0]

    def encode(generator: torch.Generator) -> Call:
        wire = torch.empty(1, 1, nbytes, dtype=torch.uint8, device=device)
        return partial(encode_hybrid, normal(numel, generator), wire, laid_out)

    def decode(generator: torch.Generator) -> Call:
        values_N = normal(numel, generator)
        wire = torch.empty(1, 1, nbytes, dtype=torch.uint8, device=device)
        encode_hybrid(values_N, wire, laid_out)
        return partial(decode_hybrid, wire, values_N, laid_out)

    yield Job("hybrid encode", codec.spec, numel, 1, 2 * numel, nbytes, encode)
    yield Job("hybrid decode", codec.spec, numel, 1, nbytes, 2 * numel, decode)


def norm_job(codec: Codec, numel: int, ranks: int, device: torch.device) -> Job:
    """Decode of a gathered tensor, residual and RMSNorm in one kernel: four tensors and the wire move."""
    tokens = max(1, numel // HIDDEN)
    whole = Interval(0, tokens * HIDDEN)
    laid_out = parts(codec, tuple(len(cut) for cut in partition(whole, ranks, codec.align)), device)
    wire_bytes, values_bytes = sum(laid_out.nbytes), 2 * len(whole)

    def prepare(generator: torch.Generator) -> Call:
        residual_TH = normal(len(whole), generator).view(tokens, HIDDEN)
        weight_H = normal(HIDDEN, generator)
        wire = torch.empty(1, ranks, max(laid_out.nbytes), dtype=torch.uint8, device=device)
        encode_into(normal(len(whole), generator), wire, laid_out)
        sums_TH, normed_TH = torch.empty_like(residual_TH), torch.empty_like(residual_TH)
        return partial(norm_into, wire[0], laid_out, residual_TH, weight_H, sums_TH, normed_TH)

    read, written = wire_bytes + values_bytes + 2 * HIDDEN, 2 * values_bytes
    return Job("decode_norm", codec.spec, len(whole), ranks, read, written, prepare)


def all_reduce_job(name: str, numel: int, ranks: int, device: torch.device) -> Job:
    """All ranks of an all-reduce, one after the other on this GPU: divide by the ranks for one."""
    example = TwoStep(name, ranks, numel, torch.bfloat16, device)
    values_bytes = 2 * ranks * numel

    def prepare(generator: torch.Generator) -> Call:
        virtual = TwoStep(name, ranks, numel, torch.bfloat16, device)
        return partial(virtual.run, normal(ranks * numel, generator).view(ranks, numel))

    # Values are read once and results written once; what lies between is read and written.
    between = example.bytes_floor - 2 * values_bytes
    return Job("all_reduce", name, numel, ranks, values_bytes + between // 2, values_bytes + between // 2, prepare)


def jobs(limits: Limits) -> Iterator[Job]:
    """Everything worth measuring, the most important first, no tensor above `limits.largest_bytes`."""
    device = torch.device(limits.device)
    first, *others = (parse_codec(spec) for spec in CODECS)

    def fitting(sizes: Sequence[int]) -> list[int]:
        return [size for size in sizes if size <= limits.largest_bytes] or [limits.largest_bytes]

    for size in reversed(fitting(SIZES)):
        yield from codec_jobs(first, size // 2, device)
    for codec in others:
        yield from codec_jobs(codec, fitting(LARGE)[-1] // 2, device, ranks=(8,))
    for name in SCHEMES:
        yield all_reduce_job(name, fitting(LARGE[:2])[-1] // 2, RANKS[0], device)
    yield norm_job(first, fitting(LARGE)[-1] // 2, RANKS[0], device)
    yield from hybrid_jobs(fitting(LARGE)[-1] // 2, device)
    tuned = fitting(LARGE[:2])[-1] // 2
    for kernel, ranks in (("encode", 1), ("reduce_encode", 8), ("decode", 1), ("reduce", 8)):
        share = cdiv(cdiv(tuned, ranks), first.align) * first.align
        for tuning in TUNINGS:
            yield codec_job(kernel, parts(first, (share,), device), ranks, first, tuning)
    for codec in others:
        for size in fitting(LARGE)[:-1]:
            yield from codec_jobs(codec, size // 2, device, ranks=(8,))


def rows(limits: Limits) -> Iterator[Row]:
    """A row for each job, until the deadline. An input set that does not fit the memory is told in its row."""
    for job in jobs(limits):
        if limits.late():
            return
        yield measured(job, limits)


def main() -> int:
    """Print the rows as they come."""
    if not torch.cuda.is_available():
        print("no CUDA device: kernels are only timed on one (make gpu says more)", file=sys.stderr)
        return 2
    properties = torch.cuda.get_device_properties(0)
    limits = Limits(l2_bytes=int(properties.L2_cache_size))
    copied = torch.empty(2, 512 * MIB, dtype=torch.uint8, device="cuda").random_()
    copy = measure([partial(copied[0].copy_, copied[1])], limits.watch(), limits, 2**30)
    limits = replace(limits, copy_bytes_per_s=2**30 / float(copy["seconds"] or 1))
    print(f"{properties.name}: copy {limits.copy_bytes_per_s / 1e9:,.0f} GB/s" if limits.copy_bytes_per_s else "")
    for row in rows(limits):
        seconds = float(row["seconds_graph"] or row["seconds"] or 0)
        print(
            f"{row['kernel']:22} {row['codec']:20} ranks {row['ranks']} {int(row['numel'] or 0) / MIB:8.2f} Mi values "
            f"{seconds * 1e6:9.1f} us {100 * float(row.get('share_of_copy') or 0):5.1f} % of copy",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
