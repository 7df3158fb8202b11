"""All-reduces over virtual ranks: the reference's bits, the schedule's bytes, nothing allocated on the way.

Run alone, a file chooses the interpreter as conftest.py does.
"""

import os
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from thinwire.kernels.launch import Tuning
from thinwire.kernels.two_step import TwoStep
from thinwire.reference import quantize
from thinwire.reference.allreduce import all_reduce_local
from thinwire.reference.catalog import scheme, schemes
from thinwire.reference.core.schedule import build
from thinwire.reference.core.scheme import OutlierHybrid, Raw

from .inputs import same

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
CUDA = torch.cuda.is_available()
SMALL = None if CUDA else dict.fromkeys(("encode", "reduce", "requantise", "decode"), Tuning(512, 4))


def catalog() -> list[str]:
    """A name for each pair of codecs and collective in the catalog that kernels can run."""
    found: dict[Any, str] = {}
    for name, entry in schemes().items():
        codecs = (entry.reduce, entry.gather)
        if entry.collective in ("two_step", "all_gather") and not any(
            isinstance(c, OutlierHybrid | Raw) for c in codecs
        ):
            found.setdefault((entry.collective, *codecs), name)
    return list(found.values())


def partials(ranks: int, numel: int, dtype: torch.dtype) -> Tensor:
    """Normal values with some outliers, and at the end what is no ordinary group."""
    generator = torch.Generator().manual_seed(ranks * numel)
    values = torch.randn(ranks, numel, generator=generator)
    values[:, ::97] *= 20
    if numel > 8:
        # These nearly cancel, while the zeros behind them come out of two bits with a minimum as 0.73 on both ranks.
        values[0::2, -4:] = torch.tensor([-2.6, 2.4]).repeat(2)
        values[1::2, -4:] = torch.tensor([2.4, -2.6]).repeat(2)
    if numel > 900:
        values[:, 300:400] = 0
        values[0, 520] = float("nan")
        values[1, 700] = float("inf")
        values[:, 780:880] *= 3e37  # near the end of bf16
        if dtype == FP16:
            values[:, 780:880] = 4e4 + torch.arange(100)  # the sum lies beyond
    return values.to(dtype)


def agrees(name: str, ranks: int, numel: int, dtype: torch.dtype, device: torch.device) -> None:
    given = partials(ranks, numel, dtype)
    want = all_reduce_local(list(given), name)
    runner = TwoStep(name, ranks, numel, dtype, device, SMALL)
    for buffer in (runner.wire, runner.gathered):
        buffer.fill_(0xA5)
    got = runner.run(given.to(device)).cpu()
    for rank in range(ranks):
        assert same(got[rank], want[rank])


# In the interpreter four and eight ranks take seconds each, so some schemes stand for all; on a GPU every one runs.
FEW = ("flash-int6", "flash2-int2-sr", "mxfp4", "quickreduce-fp8")
CASES = [
    (name, ranks, index + ranks)
    for index, name in enumerate(catalog())
    for ranks in (2, 3, 4, 8)
    if CUDA or ranks < 4 or name in FEW
]


@pytest.mark.parametrize(("name", "ranks", "index"), CASES)
def test_the_catalog(device: torch.device, name: str, ranks: int, index: int) -> None:
    numel = (1031, 5, 904)[index % 3] if CUDA or ranks < 8 or name == FEW[0] else 500
    agrees(name, ranks, numel, (BF16, FP16, FP32)[index // 3 % 3], device)


@pytest.mark.parametrize(
    ("name", "ranks", "numel", "dtype"),
    [
        ("two_step:int4-g48-zp", 3, 1000, BF16),  # reduced, then encoded
        ("two_step:int5-g24-min/mx-e4m3-b32", 3, 1003, FP16),  # one of two
        ("two_step:mx-e2m1-b32/int6-g72-sym-sr", 2, 1000, FP32),
        ("two_step:int5-g64-h128/int8-g128-sym", 2, 1000, BF16),  # rotation blocks of two groups
        ("two_step:int2-g128-min/int4-g8-zp", 2, 900, FP32),  # padding that is not zero once it is decoded
        ("two_step:int3-g32-sym-e8m0/int4-g256-min-fp16", 3, 1031, FP16),  # cuts at 256
        ("two_step:mx-int8-b32-ceil/mx-e3m2-b64-even", 9, 150, BF16),  # more ranks than are written out
        ("all_gather:int7-g40-zp-fp32", 2, 333, FP32),
        ("flash-int4", 2, 128 * 8, BF16),  # no tail anywhere
        ("flash-int4", 4, 1, BF16),  # three ranks without a part
    ],
)
def test_other_codecs(device: torch.device, name: str, ranks: int, numel: int, dtype: torch.dtype) -> None:
    agrees(name, ranks, numel, dtype, device)


@pytest.mark.parametrize(
    ("name", "ranks", "numel", "exact", "dtype"),
    [
        ("flash-int4", 2, 700, 130, BF16),
        ("flash-int6", 3, 1031, 1, FP16),  # two ranks without an exact value
        ("flash2-int2-sr", 4, 500, 499, FP32),  # three ranks without a code
        ("mxfp4", 3, 333, 77, BF16),
        ("two_step:int4-g40-zp", 3, 600, 100, FP32),  # reduced, then encoded
        ("two_step:int4-g48-zp/int8-g128-zp", 2, 904, 31, FP16),
    ],
)
def test_exact_values_ride_behind_the_codes(
    device: torch.device, name: str, ranks: int, numel: int, exact: int, dtype: torch.dtype
) -> None:
    """The reference's bits, and each rank's messages as long as the schedule says."""
    given = partials(ranks, numel, dtype)
    want = all_reduce_local(list(given), name, exact=exact)
    runner = TwoStep(name, ranks, numel, dtype, device, SMALL, exact)
    for buffer in (runner.wire, runner.gathered):
        buffer.fill_(0xA5)
    got = runner.run(given.to(device)).cpu()
    assert all(same(got[rank], want[rank]) for rank in range(ranks))
    raw = Raw({BF16: "bf16", FP16: "fp16", FP32: "fp32"}[dtype])
    sent = build(scheme(name), ranks, numel, exact=exact, raw=raw).sent_bytes()
    bytes_of = [len(tail) * dtype.itemsize for tail in runner.tails]
    copies, sums = ([n + m for n, m in zip(c.nbytes, bytes_of, strict=True)] for c in (runner.parts, runner.sums))
    for rank in range(ranks):
        reduced = (ranks - 1) * copies[0] if runner.gathers else sum(copies) - copies[rank]
        assert sent[rank] == reduced + (0 if runner.gathers else (ranks - 1) * sums[rank])
    plain = TwoStep(name, ranks, numel - exact, dtype, device, SMALL)
    assert runner.bytes_floor > plain.bytes_floor
    with Made() as made:
        runner.run(given.to(device) if device.type == "cpu" else given.to(device).clone())
    assert device.type != "cpu" or made.names == []


@pytest.mark.parametrize("name", ["flash-int4", "ring:int8-g128-zp@chunk=300x2", "mxfp4", "tree:int4-g32-zp"])
def test_the_backend_runs_exact_values_too(device: torch.device, name: str) -> None:
    """Through the schedule: codes by kernels, what is raw by a cast."""
    given = partials(3, 700, BF16)
    want = all_reduce_local(list(given), name, exact=130)
    got = all_reduce_local(list(given.to(device)), name, backend="triton", exact=130)
    assert all(same(one.cpu(), other) for one, other in zip(got, want, strict=True))


@pytest.mark.parametrize("exact", [-1, 256])
def test_exact_values_are_some_of_the_tensors(device: torch.device, exact: int) -> None:
    with pytest.raises(ValueError, match=f"leave a value to encode: exact={exact}, numel=256"):
        TwoStep("flash-int4", 2, 256, BF16, device, SMALL, exact)


@pytest.mark.skipif(not CUDA, reason="large tensors take minutes in the interpreter: needs a GPU")
@pytest.mark.parametrize("dtype", [BF16, FP16, FP32])
def test_large_tensors(device: torch.device, dtype: torch.dtype) -> None:
    for name in catalog():
        agrees(name, 8, (1 << 20) + 5, dtype, device)


@pytest.mark.parametrize("name", ["flash-int6", "mxfp6", "two_step:int2-g24-zp-sr/int5-g40-min"])
def test_wire_bytes_are_the_schedules(device: torch.device, name: str) -> None:
    """Each transfer's bytes, and that the buffers hold the reference's bytes and nothing beyond them."""
    ranks, numel = 3, 700
    runner = TwoStep(name, ranks, numel, BF16, device, SMALL)
    for buffer in (runner.wire, runner.gathered):
        buffer.fill_(0xA5)
    given = partials(ranks, numel, BF16)
    runner.run(given.to(device))
    found = scheme(name)
    steps = build(found, ranks, numel).lanes[0].steps
    places = [(cut.start, cut.stop) for cut in runner.cuts]
    seen: Counter[str] = Counter()
    for step in steps:
        for transfer in step.transfers:
            part = places.index((transfer.interval.start, transfer.interval.stop))
            gathering = found.collective == "two_step" and step.primitive == "all_gather"
            if gathering:
                held, copy = runner.sums.nbytes[part], runner.gathered[transfer.destination, part]
                assert part == transfer.source
            else:
                held, copy = runner.parts.nbytes[part], runner.wire[transfer.source, part]
                assert part == transfer.destination or found.collective == "all_gather"
                values = given[transfer.source, transfer.interval.start : transfer.interval.stop]
                assert torch.equal(copy[:held].cpu(), quantize.encode_flat(values, transfer.codec))
            assert held == transfer.nbytes
            assert (copy[held:] == 0xA5).all()
            seen["gather" if gathering else "reduce"] += 1
    assert seen == ({"reduce": 6} if found.collective == "all_gather" else {"reduce": 6, "gather": 6})
    for row in runner.gathered[1:]:
        assert torch.equal(row, runner.gathered[0])


@pytest.mark.parametrize("name", ["flash-int5", "mxfp8", "two_step:int4-g40-zp"])
def test_bytes_floor(name: str) -> None:
    """Every rank's values in and out, every copy written once and read by whoever adds it: counted from the works."""
    ranks, numel = 4, 3000
    runner = TwoStep(name, ranks, numel, FP16, "cpu")
    codings: Counter[str] = Counter()
    for index, step in enumerate(build(scheme(name), ranks, numel).lanes[0].steps):
        for work in step.work:
            codings[f"{work.kind} {index}"] += work.codec.wire_bytes(len(work.interval)) * max(1, len(work.sources))
    values = 2 * ranks * numel
    launches = runner.launch_bytes
    assert launches["encode"] == values + codings["encode 0"]
    if name == "mxfp8":  # one copy of each rank's tensor, which every rank reads
        assert launches["reduce"] == codings["reduce 1"] + values
        assert list(launches) == ["encode", "reduce"]
    else:
        assert launches["decode"] == codings["decode 2"] + values
        pushed = codings["encode 1"] * ranks
        if "g40" in name:
            assert launches["reduce"] == codings["reduce 1"] + 4 * numel
            assert launches["encode sums"] == 4 * numel + pushed
        else:
            assert launches["requantise"] == codings["reduce 1"] + pushed
    assert runner.bytes_floor == sum(launches.values())


def test_every_rank_decodes_what_it_was_sent(device: torch.device) -> None:
    runner = TwoStep("flash-int4", 3, 1000, BF16, device, SMALL)
    given = partials(3, 1000, FP32).to(BF16).to(device)
    want = runner.run(given).clone()
    runner.gathered[1].fill_(0)
    runner.decode()
    assert not runner.results[1].any()
    for rank in (0, 2):
        assert same(runner.results[rank].cpu(), want[rank].cpu())


class Made(TorchDispatchMode):
    """Notes what makes memory, by operator name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, Tensor)}
        result = func(*args, **(kwargs or {}))
        if str(func).startswith("aten.set_"):  # the interpreter's way of sharing an argument's memory
            return result
        if isinstance(result, Tensor) and result.numel() and result.untyped_storage().data_ptr() not in known:
            self.names.append(str(func))
        return result


@pytest.mark.parametrize("name", ["flash-int4", "mxfp4", "two_step:int4-g40-zp"])
def test_a_run_makes_no_tensor_and_needs_none_of_the_last(device: torch.device, name: str) -> None:
    runner = TwoStep(name, 2, 600, BF16, device, SMALL)
    given = partials(2, 600, BF16).to(device)
    first = runner.run(given).clone()
    address = runner.results.data_ptr()
    for buffer in (runner.wire, runner.gathered, runner.results.view(torch.uint8)):
        buffer.fill_(0x5A)
    with Made() as made:
        second = runner.run(given)
    assert made.names == []
    if CUDA:
        before = torch.cuda.memory_stats(device)["allocation.all.allocated"]
        runner.run(given)
        assert torch.cuda.memory_stats(device)["allocation.all.allocated"] == before
    assert second.data_ptr() == address
    assert torch.equal(first, second)


@pytest.mark.skipif(not CUDA, reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("name", ["flash-int4", "mxfp4", "two_step:int4-g40-zp"])
def test_a_graph_replays(device: torch.device, name: str) -> None:
    runner = TwoStep(name, 4, 5003, BF16, device)
    given = torch.zeros(4, 5003, dtype=BF16, device=device)
    graph = runner.capture(given)
    for seed in (1, 2):
        given.copy_(torch.randn(4, 5003, generator=torch.Generator().manual_seed(seed)))
        graph.replay()
        torch.cuda.synchronize()
        want = all_reduce_local(list(given.cpu()), name)
        for rank in range(4):
            assert same(runner.results[rank].cpu(), want[rank])


def test_no_graph_without_cuda() -> None:
    runner = TwoStep("flash-int4", 2, 128, BF16, "cpu")
    with pytest.raises(RuntimeError, match="CUDA graphs need a CUDA device, these buffers are on cpu"):
        runner.capture(torch.zeros(2, 128, dtype=BF16))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bf16-ring", "collective must be one of two_step, all_gather: ring in 'bf16-ring'"),
        ("flash2-int4-hier", "collective must be one of two_step, all_gather: hierarchical"),
        ("bf16", "collective must be one of two_step, all_gather: auto"),
        ("two_step:bf16", "codecs must be grouped integers, MX or NVFP4 .*: bf16 in 'two_step:bf16'"),
        ("two_step:int4-g128-zp/bf16", "codecs must be grouped integers, MX or NVFP4"),
        ("hybrid-4.2", "codecs must be grouped integers, MX or NVFP4 .*: hybrid4-k64 in 'hybrid-4.2'"),
        ("two_step:int4@chunk=1024x2", "the tensor is reduced whole, without chunks: 1024 values"),
        ("two_step:int4-g24-zp-h16", "triton kernels rotate groups of a power of two only"),
    ],
)
def test_schemes_it_does_not_run(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TwoStep(name, 2, 256, BF16, "cpu")


def test_arguments_it_does_not_take(device: torch.device) -> None:
    for ranks, numel, dtype in ((1, 10, BF16), (2, 0, BF16), (2, 10, torch.float64)):
        with pytest.raises(ValueError, match="two ranks at least, a value at least, bf16, fp16 or fp32: ranks="):
            TwoStep("flash-int4", ranks, numel, dtype, device)
    runner = TwoStep("flash-int4", 2, 256, BF16, device)
    for wrong in (torch.zeros(2, 255, dtype=BF16), torch.zeros(3, 256, dtype=BF16), torch.zeros(2, 256)):
        with pytest.raises(ValueError, match=r"partial sums must be torch.bfloat16 \[2, 256\]: given"):
            runner.run(wrong.to(device))
