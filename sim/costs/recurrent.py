"""Layers with a state instead of a cache, on one GPU: gated delta net, Mamba 2, lightning attention.

One call stands for a short causal convolution over the layer's inputs (where it has one) and the scan:

    conv            = launch + sequences * channels * channel_s + bytes in and out / (share * bandwidth)
    prompts' scan   = launch + passes * bytes / bandwidth + softmax(chain, work): a sequence's chunks follow each other,
                      heads run beside each other
        chain       = start_s + length * step_s                        of one head of one sequence
        work        = chains / SMs * (work_start_s + length * work_step_s)
    decoding's scan = launch + states, read and written, / (share * bandwidth)

step and start are those of a state of 128 x 128 and grow with its size. The delta net is fitted to rows of its kernels;
of Mamba 2 only the convolution was published, of lightning attention nothing: their scans take the delta net's numbers
by the size of their states, and say so. Prompts' bytes that fit the L2 are read from there, for the kernel before has
just written them; states are not (docs/decisions/032-mixture-kernels.md). A prompt's seconds never decrease with its
length, nor with sequences of the same length, nor do a step's with sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar, get_args

from thinwire.edge.tables import mapping, value_of
from thinwire.edge.words import shown
from thinwire.sim.shapes import STATE_BYTES

Kind = Literal["delta", "mamba2", "lightning"]

ELEMENT_BYTES = 2  # bf16 activations
STATE = 128 * 128  # of a head of the delta net that was measured


@dataclass(frozen=True, slots=True)
class Convolution:
    """A causal convolution of prompts and of one token: launches, what each channel of a prompt takes to start, shares
    of the bandwidth, and how much is read how much faster from the L2.
    """

    prefill_launch_s: float
    channel_s: float
    prefill_efficiency: float
    cache_bytes: float
    cache_speedup: float
    decode_launch_s: float
    decode_efficiency: float
    source: str

    def __post_init__(self) -> None:
        if not (min(self.prefill_efficiency, self.decode_efficiency, self.cache_bytes) > 0 and self.cache_speedup >= 1):
            raise ValueError(f"efficiencies and cache_bytes are positive, cache_speedup is 1 or more: {shown(self)}")


@dataclass(frozen=True, slots=True)
class Scan:
    """The scan of prompts and of one token; see the module's docstring. `sharpness` of the soft maximum; for the
    benchmark alone `state_cache_bytes` and `state_cache_speedup`: states that fit the L2 were read from there.
    """

    prefill_launch_s: float
    start_s: float
    step_s: float
    work_start_s: float
    work_step_s: float
    sharpness: float
    passes: float
    cache_bytes: float
    cache_speedup: float
    decode_launch_s: float
    decode_efficiency: float
    state_cache_bytes: float
    state_cache_speedup: float
    source: str

    def __post_init__(self) -> None:
        for name in ("decode_efficiency", "cache_bytes", "state_cache_bytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not (1 <= self.sharpness <= 100 and min(self.cache_speedup, self.state_cache_speedup) >= 1):
            raise ValueError(f"sharpness lies in 1..100, a cache's speedup is 1 or more: {shown(self)}")


# Where no relative's kernels are known: the middle of what was fitted to nine GPUs, rounded.
TYPICAL = "assumed: typical of nine measured GPUs"
TYPICAL_CONV = Convolution(3e-6, 1e-10, 0.4, 50e6, 1.5, 2e-6, 0.5, TYPICAL)
TYPICAL_SCAN = Scan(12e-6, 2e-6, 5e-8, 2e-6, 5e-8, 4.0, 1.0, 50e6, 1.5, 5e-6, 0.8, 50e6, 2.0, TYPICAL)


Part = TypeVar("Part", Convolution, Scan)


@dataclass(frozen=True, slots=True)
class RecurrentModel:
    """Seconds of one call of a layer with a state on one kind of GPU. Build with validation/mixtures/recurrent.py."""

    gpu: str
    memory_bandwidth_bytes_per_s: float
    sm_count: int
    convolutions: Mapping[str, Convolution]  # by kind; the delta net's at least
    scans: Mapping[str, Scan]

    def __post_init__(self) -> None:
        if not (self.memory_bandwidth_bytes_per_s > 0 and self.sm_count > 0):
            raise ValueError(f"a bandwidth and multiprocessors must be positive: {self.gpu}")
        for name, known in (("convolutions", self.convolutions), ("scans", self.scans)):
            if "delta" not in known or not set(known) <= set(get_args(Kind)):
                raise ValueError(f"{name} are by kind, delta among {', '.join(get_args(Kind))}: {shown(sorted(known))}")

    def convolution(self, kind: str) -> Convolution:
        """Of a kind: its own, or the delta net's, saying so."""
        found = self.convolutions.get(kind)
        return found if found is not None else _assumed(self.convolutions["delta"], kind)

    def scan(self, kind: str) -> Scan:
        """Of a kind: its own, or the delta net's by the size of the state, saying so."""
        found = self.scans.get(kind)
        return found if found is not None else _assumed(self.scans["delta"], kind)

    def time_s(
        self,
        kind: str,
        tokens: int,
        sequences: int,
        heads: int,
        key_dim: int,
        value_dim: int,
        groups: int,
        conv: int,
    ) -> float:
        """Seconds of one call: prompts of `sequences`, `tokens` in all, or a token each where there are no more.

        heads: value heads on this rank, each with a state of key_dim x value_dim (Mamba 2: the state's size x the
        head's); groups: heads that keys and queries have (Mamba 2: groups of B and C); conv: taps of the convolution,
        0 for none. Nothing takes no time. ValueError for sizes that do not fit, or a kind that is none.
        """
        if kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}: {shown(kind)}")
        if not 0 <= sequences <= tokens or (tokens and not sequences):
            raise ValueError(f"need a token of each sequence at least: tokens={tokens}, sequences={sequences}")
        if min(heads, key_dim, value_dim, groups) < 1 or conv < 0:
            raise ValueError(
                f"need heads, sizes and groups of 1 or more, conv of 0 or more: heads={heads}, key_dim={key_dim}, "
                f"value_dim={value_dim}, groups={groups}, conv={conv}"
            )
        if not tokens:
            return 0.0
        found = self.conv_s(kind, tokens, sequences, heads, key_dim, value_dim, groups) if conv else 0.0
        return found + self.scan_s(kind, tokens, sequences, heads, key_dim, value_dim, groups)

    def conv_s(
        self, kind: str, tokens: int, sequences: int, heads: int, key_dim: int, value_dim: int, groups: int
    ) -> float:
        """The convolution alone: of queries, keys and values, in and out."""
        its, channels = self.convolution(kind), _channels(heads, key_dim, value_dim, groups)
        moved = ELEMENT_BYTES * 2 * tokens * channels
        moved_s = moved / self.memory_bandwidth_bytes_per_s
        if tokens > sequences:
            warm = _warm(moved, its.cache_bytes, its.cache_speedup)
            return its.prefill_launch_s + sequences * channels * its.channel_s + moved_s * warm / its.prefill_efficiency
        return its.decode_launch_s + moved_s / its.decode_efficiency

    def scan_s(
        self,
        kind: str,
        tokens: int,
        sequences: int,
        heads: int,
        key_dim: int,
        value_dim: int,
        groups: int,
        replayed: bool = False,
    ) -> float:
        """The scan alone. replayed: as the benchmark measures it, states that fit the L2 read from there."""
        its = self.scan(kind)
        chains = sequences * heads
        if tokens > sequences:
            size, length = key_dim * value_dim / STATE, tokens / sequences
            chain_s = size * (its.start_s + length * its.step_s)
            work_s = size * chains / self.sm_count * (its.work_start_s + length * its.work_step_s)
            high, low = max(chain_s, work_s), min(chain_s, work_s)
            both_s = high * (1 + (low / high) ** its.sharpness) ** (1 / its.sharpness) if high else 0.0
            moved = ELEMENT_BYTES * 2 * tokens * _channels(heads, key_dim, value_dim, groups)
            warm = _warm(moved, its.cache_bytes, its.cache_speedup)
            return float(its.prefill_launch_s + both_s + its.passes * moved * warm / self.memory_bandwidth_bytes_per_s)
        moved = 2 * STATE_BYTES * chains * key_dim * value_dim
        moving_s = moved / (its.decode_efficiency * self.memory_bandwidth_bytes_per_s)
        if replayed:
            moving_s *= _warm(moved / 2, its.state_cache_bytes, its.state_cache_speedup)
        return its.decode_launch_s + moving_s

    def moved_to(self, gpu: str, memory_bandwidth_bytes_per_s: float, sm_count: int) -> RecurrentModel:
        """The same kernels' shares and steps on another GPU's facts."""

        def word(source: str) -> str:
            return f"assumed: efficiencies as on {self.gpu} ({source})"

        return RecurrentModel(
            gpu,
            memory_bandwidth_bytes_per_s,
            sm_count,
            {kind: replace(each, source=word(each.source)) for kind, each in self.convolutions.items()},
            {kind: replace(each, source=word(each.source)) for kind, each in self.scans.items()},
        )

    @classmethod
    def roofline(cls, gpu: str, memory_bandwidth_bytes_per_s: float, sm_count: int) -> RecurrentModel:
        """Of a GPU nobody measured and that is like none."""
        return cls(gpu, memory_bandwidth_bytes_per_s, sm_count, {"delta": TYPICAL_CONV}, {"delta": TYPICAL_SCAN})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` gives an equal model back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RecurrentModel:
        """ValueError for a missing or unknown key, or for values the model refuses."""
        what = "recurrent model"
        table = mapping(data, what)
        convolutions = mapping(table.get("convolutions"), f"{what}: convolutions")
        scans = mapping(table.get("scans"), f"{what}: scans")
        return value_of(
            cls,
            table,
            what,
            convolutions={k: value_of(Convolution, v, f"{what}: {shown(k)}") for k, v in convolutions.items()},
            scans={k: value_of(Scan, v, f"{what}: {shown(k)}") for k, v in scans.items()},
        )


def _channels(heads: int, key_dim: int, value_dim: int, groups: int) -> int:
    """Values of a token: queries, keys and values."""
    return 2 * groups * key_dim + heads * value_dim


def _warm(moved: float, cache_bytes: float, speedup: float) -> float:
    """What share of its time moving so much takes for the L2; moved times it never falls."""
    return float(1 - (1 - 1 / speedup) / (1 + (moved / cache_bytes) ** 4))


def _assumed(lender: Part, kind: str) -> Part:
    word = lender.source.removeprefix("assumed: ")
    return replace(lender, source=f"assumed: {kind} as the delta net, by the size of its state ({word})")
