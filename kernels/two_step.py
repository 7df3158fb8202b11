"""All-reduce over virtual ranks on one GPU: every rank's partial sum in, every rank's result out.

What R GPUs would do side by side, one does for all of them: wire[source, destination, bytes] lies in one memory, the
end of a launch is the barrier, and a transfer is an address. Two steps take three launches: encode every rank's parts
for their owners; add up each part's copies and push the encoded sum to every rank; decode every rank's copies. A gather
of partials takes two: encode each rank's tensor, whose one copy all ranks read; add up for every rank. It validates
numerics, kernel bandwidth and launch costs; it says nothing about links, barriers and overlap. Divide by R for a rank.

Results are those of `reference.allreduce.all_reduce_local` bit for bit, bytes those of `reference.core.schedule.build`.
Codecs: grouped integers, MX and NVFP4. A tile must be whole groups of both codecs to be reduced and encoded at once;
groups that are no powers of two take a launch and an fp32 tensor more. Exact values travel behind the codes in the
same buffers; torch copies and adds them, in small launches of its own. Legend: R ranks, P parts, N values, B bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from thinwire.kernels.decode import decode_into
from thinwire.kernels.encode import encode_into
from thinwire.kernels.form import Parts, form, parts
from thinwire.kernels.launch import Tuning
from thinwire.kernels.reduce import can_requantise, reduce_into, requantise_into
from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.core.nvfp4 import NVFP4
from thinwire.reference.core.schedule import Interval, partition
from thinwire.reference.core.scheme import ALIGNMENT_BYTES, MX, GroupedInt, Scheme

FLOATS = (torch.bfloat16, torch.float16, torch.float32)


def check_scheme(scheme: Scheme | str, collectives: tuple[str, ...] = ("two_step", "all_gather")) -> Scheme:
    """The scheme, if kernels can run it whole; ValueError says what is allowed."""
    found = find_scheme(scheme) if isinstance(scheme, str) else scheme
    if found.collective not in collectives:
        raise ValueError(f"collective must be one of {', '.join(collectives)}: {found.collective} in {found.name!r}")
    if found.chunk_values is not None:
        raise ValueError(f"the tensor is reduced whole, without chunks: {found.chunk_values} values in {found.name!r}")
    for codec in (found.reduce, found.gather):
        if not isinstance(codec, GroupedInt | MX | NVFP4):
            known = "grouped integers, MX or NVFP4 (int..., mx-..., nvfp4...)"
            raise ValueError(f"codecs must be {known}: {codec.spec} in {found.name!r}")
        form(codec)
    return found


class TwoStep:
    """The buffers of one all-reduce of `numel` values over `ranks` virtual ranks, and the launches that run it.

    Args:
        scheme: collective two_step or all_gather, grouped integers, MX or NVFP4, no chunks; a value, name or spec.
        ranks: two or more.
        numel: values of a rank's tensor.
        dtype: of partial sums and results: bf16, fp16 or fp32.
        device: where everything lies.
        exact: values at the end of each tensor that travel raw, in `dtype`; not all of them.
        tunings: by launch, where the defaults will not do: encode, reduce, requantise, decode.

    wire: uint8 [source, destination, B] (all_gather: [source, 1, B]). gathered: uint8 [rank, part, B], two_step only.
    results: [R, N], overwritten by every run.

    Raises ValueError for anything else.
    """

    def __init__(
        self,
        scheme: Scheme | str,
        ranks: int,
        numel: int,
        dtype: torch.dtype,
        device: torch.device | str,
        tunings: Mapping[str, Tuning] | None = None,
        exact: int = 0,
    ) -> None:
        self.scheme = check_scheme(scheme)
        if ranks < 2 or numel < 1 or dtype not in FLOATS:
            raise ValueError(
                f"two ranks at least, a value at least, bf16, fp16 or fp32: ranks={ranks}, numel={numel}, {dtype}"
            )
        if not 0 <= exact < numel:
            raise ValueError(f"exact must be 0 or more and leave a value to encode: exact={exact}, numel={numel}")
        self.ranks, self.numel, self.dtype, self.exact = ranks, numel, dtype, exact
        self.device = torch.empty(0, device=device).device  # cuda becomes cuda:0, as tensors have it
        self.tunings = dict(tunings or {})
        self.gathers = self.scheme.collective == "all_gather"
        whole, tail = Interval(0, numel - exact), Interval(numel - exact, numel)
        self.cuts = (whole,) if self.gathers else partition(whole, ranks, self.scheme.align)
        self.tails = (tail,) if self.gathers else partition(tail, ranks, 1)
        numels = tuple(len(cut) for cut in self.cuts)
        self.parts = parts(self.scheme.reduce, numels, self.device)
        self.sums = parts(self.scheme.gather, numels, self.device)
        self.fused = can_requantise(form(self.scheme.reduce), form(self.scheme.gather))
        self.wire = self._bytes(ranks, len(self.cuts), self._longest(self.parts))
        self.gathered = self._bytes(0 if self.gathers else ranks, len(self.cuts), self._longest(self.sums))
        self.results = torch.empty(ranks, numel, dtype=dtype, device=self.device)
        between = 0 if self.gathers or self.fused else numel - exact
        self._total_N = torch.empty(between, dtype=torch.float32, device=self.device)
        self._tail_N = torch.empty(exact, dtype=torch.float32, device=self.device)

    def _bytes(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.uint8, device=self.device)

    def _longest(self, coded: Parts) -> int:
        """Bytes of the longest message, to where the next one is aligned."""
        ends = (nbytes + len(tail) * self.dtype.itemsize for nbytes, tail in zip(coded.nbytes, self.tails, strict=True))
        return -(-max(ends) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES

    def _exact(self, buffers_RPB: Tensor, coded: Parts, part: int) -> Tensor:
        """[R, N] of `dtype`: the exact values of a part, in each row's buffer behind its codes."""
        start = coded.nbytes[part]
        return buffers_RPB[:, part, start : start + len(self.tails[part]) * self.dtype.itemsize].view(self.dtype)

    def run(self, partials_RN: Tensor) -> Tensor:
        """The results, [R, N], of partial sums [R, N]; no allocation, and nothing waits for the host.

        Raises ValueError for partial sums of another shape, dtype or device.
        """
        self.encode(partials_RN)
        self.reduce()
        if not self.gathers:
            self.decode()
        return self.results

    def encode(self, partials_RN: Tensor) -> None:
        """First launch: every rank's parts into the wire copies for their owners."""
        if tuple(partials_RN.shape) != (self.ranks, self.numel) or partials_RN.dtype != self.dtype:
            raise ValueError(
                f"partial sums must be {self.dtype} [{self.ranks}, {self.numel}]: "
                f"given {partials_RN.dtype} {list(partials_RN.shape)}"
            )
        encode_into(self._coded(partials_RN), self.wire, self.parts, self.tunings.get("encode"))
        for part, tail in self._with_tails():
            self._exact(self.wire, self.parts, part).copy_(partials_RN[:, tail.start : tail.stop])

    def _coded(self, values_RN: Tensor) -> Tensor:
        return values_RN[:, : self.numel - self.exact]

    def _with_tails(self) -> list[tuple[int, Interval]]:
        return [(part, tail) for part, tail in enumerate(self.tails) if len(tail)]

    def reduce(self) -> None:
        """Second launch: add up the copies, and push the encoded sums to every rank (all_gather: the results)."""
        if self.gathers:
            reduce_into(self.wire, self._coded(self.results), self.parts, self.tunings.get("reduce"))
        elif self.fused:
            requantise_into(self.wire, self.parts, self.gathered, self.sums, self.tunings.get("requantise"))
        else:
            reduce_into(self.wire, self._total_N, self.parts, self.tunings.get("reduce"))
            everyone = self._total_N.expand(self.ranks, self.numel - self.exact)
            encode_into(everyone, self.gathered, self.sums, self.tunings.get("encode"))
        for part, tail in self._with_tails():
            copies_RN = self._exact(self.wire, self.parts, part)
            total_N = self._tail_N[: len(tail)].copy_(copies_RN[0])
            for copy_N in copies_RN[1:]:
                total_N.add_(copy_N)
            sums = self.results[:, tail.start :] if self.gathers else self._exact(self.gathered, self.sums, part)
            sums.copy_(total_N.expand(self.ranks, len(tail)))

    def decode(self) -> None:
        """Third launch of two steps: what every rank has gathered into its result."""
        decode_into(self.gathered, self._coded(self.results), self.sums, self.tunings.get("decode"), saturates=False)
        for part, tail in self._with_tails():
            self.results[:, tail.start : tail.stop].copy_(self._exact(self.gathered, self.sums, part))

    def capture(self, partials_RN: Tensor) -> torch.cuda.CUDAGraph:
        """A CUDA graph of `run(partials_RN)`: each replay reads that tensor anew and overwrites `results`.

        Raises RuntimeError on devices other than CUDA.
        """
        if self.device.type != "cuda":
            raise RuntimeError(f"CUDA graphs need a CUDA device, these buffers are on {self.device}")
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            self.run(partials_RN)  # compile and load before the capture, not in it
        torch.cuda.current_stream(self.device).wait_stream(stream)
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            self.run(partials_RN)
        return graph

    @property
    def launch_bytes(self) -> Mapping[str, int]:
        """Bytes that a rank's part in each launch must read or write, over all ranks; padding of buffers included."""
        values = self.ranks * self.numel * self.dtype.itemsize
        exact = self.exact * self.dtype.itemsize
        copies = self.ranks * (sum(self.parts.nbytes) + exact)
        sums = self.ranks * (sum(self.sums.nbytes) + exact)
        if self.gathers:
            found = {"encode": values + copies, "reduce": self.ranks * copies + values}
        elif self.fused:
            found = {"encode": values + copies, "requantise": copies + sums, "decode": sums + values}
        else:
            total = 4 * (self.numel - self.exact)
            found = {
                "encode": values + copies, "reduce": copies + total, "encode sums": total + sums,
                "decode": sums + values,
            }  # fmt: skip
        return MappingProxyType(found)

    @property
    def bytes_floor(self) -> int:
        """Bytes of all launches together: what a run cannot do without, once no cache holds anything."""
        return sum(self.launch_bytes.values())
