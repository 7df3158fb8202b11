"""Seconds of an engine's iterations, fast: what `sim.predict` makes of `serving.workload`'s workload, in microseconds.

Without attention the work of an iteration depends on its number of tokens alone (and the logits on the sequences
sampled). Those times are kept in tables over whole numbers, filled when asked. A table knows its function at some
points and interpolates between two neighbours only where the later is at most `bound` above the earlier; else it asks
the predictor for the point between them. Times never decrease in the number of tokens (but for `IterationModel.dip`),
so an interpolated value lies within `bound` of the true one everywhere, without looking there. Sums of such times, and
the ends of ops that wait for each other (sums and maxima), are then within `bound` too. Attention is priced exactly.

The order of events is the engine's: one compute and one communication stream, ops in issue order. Ranks that are slowed
alike are one class; where the slowest is also the last to leave every exchange, it alone makes the time.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import NamedTuple, Protocol

import numpy as np

from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.core.mixers import Attention, Mixer
from thinwire.reference.core.scheme import Scheme
from thinwire.reference.mixed import AnyScheme, entries
from thinwire.sim.choices import Weights
from thinwire.sim.costs.carriers import edges
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.events.collective import CollectiveTime
from thinwire.sim.events.exchange import UNCOMPRESSED, Exchanger
from thinwire.sim.events.fold import find_runs
from thinwire.sim.events.network import Ints
from thinwire.sim.layers import Stage, stages
from thinwire.sim.report import cache_sentences, machine_sentences, products_in, sharing_sentences
from thinwire.sim.serving.attending import Attending, Calls, Chunk, attending
from thinwire.sim.serving.plane import MonotonePlane
from thinwire.sim.serving.streams import Row, Streams
from thinwire.sim.serving.table import BOUND, MonotoneTable
from thinwire.sim.serving.workload import Share, busiest, own_context, shares
from thinwire.sim.shapes import Elementwise, Exchange, Gemm, Kernel, Rows
from thinwire.sim.sharing import Sharing
from thinwire.sim.workload import Kind, Op, kinds_of, vocabulary

CHUNKS_KEPT = 1 << 16  # chunks whose attention is remembered
STEADY = 1e-12  # relative: sums of the same numbers in another order
FOREVER = 1 << 40

DIP = 0.05
"""Share of its seconds by which an exchange of more rows may be faster where parts are cut unevenly (0.040 was the most
found, docs/decisions/015)."""


class Line(NamedTuple):
    """Seconds of a decode iteration: `first_s` now, `per_token_s` more for every token more of context, for `holds`
    iterations of the same sequences.
    """

    first_s: float
    per_token_s: float
    holds: int


class Pace(Protocol):
    """What a serving simulation asks of an engine; tests give it closed forms."""

    def mixed_s(self, chunks: Sequence[Chunk], finishing: int, sequences: int, context_tokens: int) -> float:
        """Seconds of an iteration with chunks of prompts, the first `finishing` of them the last of their prompt,
        beside `sequences` that decode, whose contexts have `context_tokens` in all with their new tokens.
        """
        ...

    def line(self, sequences: int, context_tokens: int) -> Line:
        """Seconds of iterations of decoding alone."""
        ...


@dataclass(eq=False)
class IterationModel:
    """The pace of one replica, on the machine and with the straggler that its exchangers know.

    exchanger: with kernels launched as in iterations with prompt tokens; decode_exchanger: as in decoding alone.
    tokens: of the largest iteration. sequences: that are sampled at most. host_s: what the engine's host adds to every
    iteration. gated: all-reduces that are faster uncompressed go so.
    """

    model: ModelConfig
    scheme: AnyScheme
    weights: Weights
    exchanger: Exchanger
    decode_exchanger: Exchanger
    tokens: int
    sequences: int
    host_s: float = 0.0
    bound: float = BOUND
    gated: bool = False
    sharing: Sharing | None = None

    def __post_init__(self) -> None:
        tp = self.exchanger.ranks
        self._sharing = Sharing(tp) if self.sharing is None else self.sharing
        self._sharing.check(self.model)
        self._dense = self._sharing.dense_ranks
        self._alone = self._dense < tp  # ranks have sequences of their own
        slowdown_R = self.exchanger.slowdown_R
        self._slowdown = float(slowdown_R.max())
        self._classes = [np.flatnonzero(slowdown_R == factor) for factor in np.unique(slowdown_R)]  # the slowest last
        self._speeds = [float(slowdown_R[ranks[0]]) / self._slowdown for ranks in self._classes]
        self._split = self.scheme.sequence_split if tp > 1 else None
        self._runs = self._layers(tp)
        kinds = [kind for pattern, repeats in self._runs for kind in pattern * repeats]
        self._kinds = Counter(kinds)
        self._mixers = Counter(kind.layer.mixer for kind in kinds if kind.layer.mixer is not None)
        self._schemes = Counter(scheme for kind in kinds for scheme in self._reduced(kind))
        self._decoded = Counter[Scheme | None]()  # a token alone in its sequence is the last, so it may be exempt
        for scheme, times in self._schemes.items():
            self._decoded[None if scheme.exempt_last_tokens else scheme] += times
        self._exempts_first = any(scheme.exempt_tokens for scheme in self._schemes)
        self._exempts_last = any(scheme.exempt_last_tokens for scheme in self._schemes)
        self._eager, self._graph = (
            self._launched(on, sent)
            for on, sent in ((self.exchanger, self._schemes), (self.decode_exchanger, self._decoded))
        )
        self._attending = {mixer: self._attending_of(mixer) for mixer in self._mixers}
        self._decode_kernels = sum(
            times * self._attending[mixer].decode_kernels for mixer, times in self._mixers.items()
        )
        self._eager_calls_s = sum(times * self._attending[mixer].call_s for mixer, times in self._mixers.items())
        self._decoding = lru_cache(self.sequences)(self._decode_calls)
        self._attended_s = lru_cache(CHUNKS_KEPT)(self._chunk_s)
        self._attended_everywhere_s = lru_cache(CHUNKS_KEPT)(self._chunk_everywhere_s)

    @property
    def dip(self) -> float:
        """Share by which an iteration of more tokens may be faster: 0 where every row is cut alike for every rank and
        no carrier takes a quicker kernel.
        """
        return self._uneven + (1 - self._uneven) * self._step_down

    @cached_property
    def _uneven(self) -> float:
        width, ranks, sizes = self.model.hidden_size, self.exchanger.ranks, map(len, self.exchanger.cluster.islands)
        aligned = all(width % s.align == 0 and width >= s.align * ranks for s in self._schemes)
        return 0.0 if ranks == 1 or (aligned and len(set(sizes)) == 1) else DIP

    @cached_property
    def _edges(self) -> tuple[int, ...]:
        """Numbers of tokens from which on a carrier may take another kernel."""
        row_bytes = int(self.model.hidden_size * UNCOMPRESSED.reduce.bits_per_value / 8)
        carriers = {scheme.carrier for scheme in self._schemes if scheme.carrier is not None}
        found = {-(-edge // row_bytes) for carrier in carriers for edge in edges(carrier, self.exchanger.ranks)}
        return tuple(sorted(edge for edge in found if 1 < edge <= self.tokens))

    @cached_property
    def _step_down(self) -> float:
        """Share by which an exchange of one carrier's may be faster than a smaller one."""
        most = 0.0
        for scheme in (scheme for scheme in self._schemes if scheme.carrier is not None):
            highest = 0.0
            for edge in self._edges:
                before, after = (self._left_s(self.exchanger, scheme, slice(None), n) for n in (edge - 1, edge))
                highest = max(highest, before)
                most = max(most, 1 - after / highest)
        return most

    # --- what serving asks

    def mixed_s(self, chunks: Sequence[Chunk], finishing: int, sequences: int, context_tokens: int) -> float:
        """Seconds of an iteration with chunks of prompts."""
        tokens = sequences + sum([chunk[0] for chunk in chunks])
        if tokens > self.tokens:
            raise ValueError(f"an iteration has at most {self.tokens} tokens, and a whole prompt is in one: {tokens}")
        sampled = self._own(sequences) + self._own(finishing)
        exempts = self._exempts_first or self._exempts_last
        if self._split is not None or exempts or self._alone or not self._slowest_leaves_last(self._eager, tokens):
            parts = shares(Share(tuple(chunks), sequences, context_tokens, finishing), self._split)
            return self._streams_s(self._eager, parts, sampled) + self.host_s
        found = self._eager.whole(tokens) + self._eager_calls_s
        found += sum([self._attended_everywhere_s(*chunk) for chunk in chunks])
        if sequences:
            found += self._decode_s(self._eager.gap_s, sequences, context_tokens)
        return found + (self._eager.head(sampled) if sampled else 0.0) + self.host_s

    def line(self, sequences: int, context_tokens: int) -> Line:
        """Decoding alone: linear in the context as long as attention is in all layers."""
        if not self._slowest_leaves_last(self._graph, sequences):
            parts = (Share((), sequences, context_tokens),)
            return Line(self._streams_s(self._graph, parts, self._own(sequences)) + self.host_s, 0.0, 1)
        attended_s, per_token_s, until = 0.0, 0.0, math.inf
        own = self._own(sequences)
        mine, times = own_context(context_tokens, own, sequences), sequences / own
        for mixer, call in self._decoding(own).items():
            layers = self._mixers[mixer]
            piece = call.piece(mine)
            attended_s += layers * piece.seconds
            per_token_s += layers * piece.per_token_s / times
            until = min(until, piece.until * times)
        holds = FOREVER if until == math.inf else int((until - context_tokens) // sequences) + 1
        first_s = self._graph.whole(sequences) + self._graph.head(own) + self.host_s
        first_s += attended_s * self._slowdown + self._decode_kernels * self._graph.gap_s
        return Line(first_s, per_token_s * self._slowdown, holds)

    def _own(self, count: int) -> int:
        """Of so many tokens or sequences, those on the rank that has most: all, but where ranks have their own."""
        return self._sharing.own(count) if self._alone else count

    def floor_s(self, prompt_tokens: int, sequences: int) -> float:
        """What no iteration of so many tokens, or of more, stays below with `least_token_s` for each token of context:
        attention's reading of prompts and contexts is left out, all else never decreases (`MonotoneTable`, and
        `DecodeCall.least_s` with the sequences), so it is read at numbers rounded down to four bits: few
        calls of the predictor. Of iterations with prompt tokens whose time depends on where their chunks lie (a split
        sequence, first tokens exempt) only the host's part is promised; where last tokens are exempt, that all are
        coded or all are not, whichever takes less, for each row exempt more is never faster. With a straggler it is
        the slowest ranks' own way through: nobody is done before them.
        """
        tokens, decoding = rounded_down(prompt_tokens + sequences), rounded_down(self._own(sequences))
        uneven = self._exempts_last and self.dip > 0
        if prompt_tokens and (self._split is not None or self._exempts_first or uneven):
            return self.host_s
        if not prompt_tokens:
            known_s = self._graph.least(tokens) + self._graph.head(decoding)
            known_s += self._least_decode_s(self._graph.gap_s, decoding)
        else:
            known_s = self._eager.least(tokens) + self._eager_calls_s
            if sequences:
                known_s += self._eager.head(decoding) + self._least_decode_s(self._eager.gap_s, decoding)
        below = (
            self.bound if prompt_tokens and self._exempts_last else self.dip
        )  # planes lie on either side of the truth
        return known_s * (1 - below) + self.host_s

    def least_token_s(self) -> float:
        """What every token of context that decoding reads adds to an iteration at least, whatever its batch: layers
        with a window stop reading more.
        """
        costs, tp = self.exchanger.cost, self._dense
        found = 0.0
        for mixer, layers in self._mixers.items():
            if isinstance(mixer, Attention) and mixer.reach is None:
                decoding = costs.profile.gpu.decode_attention_for(mixer.head_dim, None, costs.cache)
                found += layers * decoding.least_token_s(mixer.kv_heads_per_gpu(tp), mixer.head_dim)
        return found * self._slowdown * tp / self.exchanger.ranks

    def sentences(self) -> list[str]:
        """What the durations rest on, the exchanges asked for so far among them."""
        costs, host_ms = self.exchanger.cost, self.host_s * 1e3
        decoding = costs.profile.gpu.decode_attention
        return [
            "durations of iterations are interpolated between token counts, within "
            f"{self.bound + self._uneven:.1%} of the predictor's",
            f"iterations with prompt tokens are launched {costs.launch} ({costs.gap_s.value * 1e6:.1f} us between "
            f"kernels), those of decoding alone {self.decode_exchanger.cost.launch}",
            f"the engine's host adds {host_ms:g} ms to an iteration; scheduling, sampling and the tokeniser are "
            "otherwise hidden behind the GPU",
            *(["all-reduces go uncompressed at sizes at which the scheme would take longer"] if self.gated else []),
            "attention of all prompt chunks of an iteration is one call, and takes the sum of what they take alone",
            f"decode attention takes what a batch of equal contexts does, as long in all ({decoding.source})",
            *sharing_sentences(self.model, self._sharing, entries(self.scheme), len(self.exchanger.cluster.hosts) > 1)[
                1:
            ],
            *self.model.notes,
            *cache_sentences(self.model, self.weights, costs),
            *machine_sentences(products_in(self.model, self.weights), costs, self.exchanger),
        ]

    @property
    def asked(self) -> int:
        """Calls of the predictor so far, for all tables."""
        tables = sum(table.asked for on in (self._eager, self._graph) for table in on.tables)
        return tables + sum(
            plane.asked
            for on in (self._eager, self._graph)
            for planes in (*on.beside.values(), *on.sent_from.values())
            for plane in planes
        )

    # --- two streams, one layer after the other

    def _streams_s(self, on: "_Launched", parts: Sequence[Share], sampled: int) -> float:
        """Until all sequences that get a token have it."""
        hidden, costs = self.model.hidden_size, on.exchanger.cost
        mine = [busiest(part, self._sharing) for part in parts]
        attended = {mixer: [self._attended_of_s(on, part, mixer) for part in mine] for mixer in self._mixers}
        rows = {kind: self._rows_of(on, kind, parts, mine, attended) for kind in self._kinds}
        at = Streams(self._speeds, len(parts))
        for part, share in enumerate(mine):
            at.compute(part, self._kernel_s(costs, Elementwise("embedding", "embedding", share.tokens, hidden)))
        for pattern, repeats in self._runs:
            for left in range(repeats - 1, -1, -1):
                before = at.state()
                for kind in pattern:
                    at.layer(rows[kind])
                steps = [now - was for now, was in zip(at.state(), before, strict=True)]
                if max(steps) - min(steps) <= STEADY * max(at.free_s):  # all repeats to come are like this one
                    at.wait(left * steps[0])
                    break
        last = len(parts) - 1
        at.compute(last, self._kernel_s(costs, self._final_norm(sum(part.tokens for part in mine))))
        if not sampled:
            return at.end_s
        if len(self._speeds) == 1:
            return at.end_s + on.head(sampled)
        head_s, gather_s = self._head_parts(on.exchanger, sampled)
        at.compute(last, head_s)
        return at.end_s + gather_s

    def _sent_s(
        self, on: "_Launched", exchange: Exchange, where: tuple[Kind, int, int], tokens: int, own: int
    ) -> list[float]:
        """Seconds of an exchange on each class of ranks. where: its place, of a layer's stage. tokens: of all ranks;
        own: of the one that has most.
        """
        if exchange.op != "all_reduce":
            if self._alone and exchange.op == "all_to_all":
                if where not in on.sent_from:
                    from_s = [partial(self._other_s, on.exchanger, where, ranks) for ranks in self._classes]
                    on.sent_from[where] = [MonotonePlane(of_class, self.bound) for of_class in from_s]
                return [of_class(own, tokens - own + 1) for of_class in on.sent_from[where]]
            if where not in on.others:
                asked = [partial(self._other_s, on.exchanger, where, ranks) for ranks in self._classes]
                on.others[where] = [self._table(of_class) for of_class in asked]
            return [of_class(tokens) for of_class in on.others[where]]
        scheme, hidden = exchange.scheme, self.model.hidden_size
        tokens, exact = exchange.numel // hidden, exchange.exact // hidden
        if scheme is None or not exact:
            return [of_class(tokens) for of_class in on.sent[scheme]]
        if scheme not in on.beside:
            asked = [partial(self._left_s, on.exchanger, scheme, ranks) for ranks in self._classes]
            on.beside[scheme] = [MonotonePlane(left_s, self.bound) for left_s in asked]
        return [of_class(tokens - exact, exact) for of_class in on.beside[scheme]]

    def _other_s(
        self, on: Exchanger, where: tuple[Kind, int, int], ranks: Ints | slice, tokens: int, others: int | None = None
    ) -> float:
        """Of an exchange that is no all-reduce, by tokens of all ranks; or of the one that has most, and those of the
        others and one more, since a plane begins at 1.
        """
        kind, number, place = where
        total, own = (tokens, None) if others is None else (tokens + others - 1, tokens)
        stage = self._stages(kind, total, own=own)[number]
        return float(self._exchanged(on, stage.exchanges[place][1]).finish_s_R[ranks].max())

    def _slowest_leaves_last(self, on: "_Launched", tokens: int) -> bool:
        """Then every exchange and what comes before it take as long as on the slowest ranks."""
        if len(self._classes) == 1:
            return True
        if any(
            each.op != "all_reduce" for k in self._kinds for s in self._stages(k, tokens) for _, each in s.exchanges
        ):
            return False
        left = [[of_class(tokens) for of_class in on.sent[scheme]] for scheme in on.schemes]
        return all(max(seconds) == seconds[-1] for seconds in left)

    def _attended_of_s(self, on: "_Launched", part: Share, mixer: Mixer) -> float:
        """What one part runs between a mixer's projections, in one layer."""
        found = 0.0
        if part.chunks:
            found += self._attending[mixer].call_s + sum(self._attended_s(*chunk, mixer) for chunk in part.chunks)
        if part.sequences:
            attended_s = self._decoding(part.sequences)[mixer].seconds(part.context_tokens)
            found += self._attending[mixer].decode_kernels * on.gap_s + attended_s * self._slowdown
        return found

    def _rows_of(
        self,
        on: "_Launched",
        kind: Kind,
        parts: Sequence[Share],
        mine: Sequence[Share],
        attended: Mapping[Mixer, Sequence[float]],
    ) -> list[Row]:
        """The stages of a layer: seconds of each part's kernels, and of what each sends behind them. mine: what of each
        part is on the rank that has most.
        """
        found = []
        asked = [self._stages(kind, part.tokens, part.rows, own.tokens) for part, own in zip(parts, mine, strict=True)]
        for number, row in enumerate(zip(*asked, strict=True)):
            on_own = self._alone and row[0].basis == "own"
            computed = [on.computed[kind][number](part.tokens) for part in (mine if on_own else parts)]
            if number == 0 and kind.layer.mixer is not None:
                computed = [each + more for each, more in zip(computed, attended[kind.layer.mixer], strict=True)]
            sent = [
                [self._sent_s(on, e, (kind, number, place), part.tokens, own.tokens) for place, (_, e) in enumerate(of)]
                for of, part, own in zip((stage.exchanges for stage in row), parts, mine, strict=True)
            ]
            found.append((computed, sent))
        return found

    def _reduced(self, kind: Kind) -> list[Scheme]:
        """The schemes of a layer's all-reduces."""
        sent = (exchange for stage in self._stages(kind, 1) for _, exchange in stage.exchanges)
        return [each.scheme for each in sent if each.op == "all_reduce" and each.scheme is not None]

    def _others_s(self, on: Exchanger, kind: Kind, tokens: int, ranks: Ints | slice) -> float:
        """Seconds until the last of `ranks` leaves each exchange of a layer that is no all-reduce, one after the
        other.
        """
        found = 0.0
        for stage in self._stages(kind, tokens):
            for _, exchange in stage.exchanges:
                if exchange.op != "all_reduce":
                    found += float(self._exchanged(on, exchange).finish_s_R[ranks].max())
        return found

    def _stages(
        self, kind: Kind, tokens: int, rows: Callable[[Scheme], Rows] | None = None, own: int | None = None
    ) -> list[Stage]:
        """A layer's stages but for attention. rows: None = all tokens go alike. own: of the rank that has most."""
        sizes = rows or (lambda _: Rows(tokens))
        own = own if self._alone else None
        after, weights = kind.after, self.weights
        return list(stages(self.model, kind.layer, self._sharing, after, tokens, sizes, lambda _: (), weights, own))

    def _layers(self, tp: int) -> list[tuple[list[Kind], int]]:
        """Patterns of layers and how often each repeats, first to last."""
        stand_ins: dict[Kind, tuple[Op, ...]] = {}
        kinds = kinds_of(self.model, self.scheme, tp)
        layers = [stand_ins.setdefault(kind, (Op(str(len(stand_ins)), 0),)) for kind in kinds]
        found, at = [], 0
        for run in find_runs(layers):
            found.append((kinds[at : at + run.pattern], run.repeats))
            at += run.pattern * run.repeats
        return found

    # --- times of the predictor

    def _table(self, function: Callable[[int], float]) -> MonotoneTable:
        return MonotoneTable(function, self.tokens, self.bound, self._edges)

    def _launched(self, on: Exchanger, schemes: "Counter[Scheme] | Counter[Scheme | None]") -> "_Launched":
        sent = Counter[Scheme | None](schemes)
        whole = self._table(partial(self._whole_s, on, sent))
        mixed = any(scheme is not None and scheme.exempt_last_tokens for scheme in sent)
        of_slowest = self._table(partial(self._whole_s, on, sent, ranks=self._classes[-1], gated=mixed or self.gated))
        return _Launched(
            exchanger=on,
            schemes=sent,
            gap_s=on.cost.gap_s.value * self._slowdown,
            whole=whole,
            least=whole if len(self._classes) == 1 and not mixed else of_slowest,
            computed={kind: self._computed(on.cost, kind) for kind in self._kinds},
            head=MonotoneTable(lambda sampled: sum(self._head_parts(on, sampled)), self.sequences, self.bound),
            sent={
                scheme: [self._table(partial(self._left_s, on, scheme, ranks)) for ranks in self._classes]
                for scheme in (None, *sent)
            },
            beside={},
            others={},
            sent_from={},
        )

    def _kernel_s(self, costs: CostModel, *kernels: Kernel) -> float:
        return sum([costs.kernel_s(kernel) for kernel in kernels]) * self._slowdown

    def _computed(self, costs: CostModel, kind: Kind) -> list[MonotoneTable]:
        """The kernels of each stage of a layer but for attention, by tokens."""

        def stage_s(number: int, tokens: int) -> float:
            return self._kernel_s(costs, *self._stages(kind, tokens, own=tokens)[number].kernels)

        return [self._table(partial(stage_s, number)) for number in range(len(self._stages(kind, 1)))]

    def _final_norm(self, tokens: int) -> Kernel:
        return Elementwise("final norm", "add_rms_norm", tokens, self.model.hidden_size)

    def _left_s(
        self,
        on: Exchanger,
        scheme: Scheme | None,
        ranks: Ints | slice,
        tokens: int,
        exact: int = 0,
        gated: bool | None = None,
    ) -> float:
        """Seconds until the last of `ranks` leaves an all-reduce that all enter at once."""
        return float(self._all_reduce(on, scheme, tokens, exact, gated).finish_s_R[ranks].max())

    def _all_reduce(
        self, on: Exchanger, scheme: Scheme | None, tokens: int, exact: int = 0, gated: bool | None = None
    ) -> CollectiveTime:
        """Of so many tokens and of `exact` ones behind them. gated: left out, as all of the model's are."""
        numel, tail = (tokens + exact) * self.model.hidden_size, exact * self.model.hidden_size
        found = self._exchanged(on, Exchange("all_reduce", numel, scheme, tail))
        if not (self.gated if gated is None else gated):
            return found
        return min(found, self._exchanged(on, Exchange("all_reduce", numel, None)), key=lambda time: time.seconds)

    def _exchanged(self, on: Exchanger, exchange: Exchange) -> CollectiveTime:
        scheme = exchange.scheme
        if scheme is None or scheme.is_raw:
            on = self.exchanger  # without codec kernels the launch makes no difference: time it once
        return on.alone(on.timed(exchange))

    def _whole_s(
        self,
        on: Exchanger,
        schemes: "Counter[Scheme | None]",
        tokens: int,
        ranks: Ints | slice = slice(None),
        gated: bool | None = None,
    ) -> float:
        """A forward pass without attention and logits, its ops one after the other, all tokens under `schemes`. ranks:
        those that must have left an exchange before it goes on.
        """
        costs = on.cost
        own = self._own(tokens)
        embedding = Elementwise("embedding", "embedding", own, self.model.hidden_size)
        layers_s = sum(
            times * self._kernel_s(costs, *(kernel for stage in self._stages(kind, tokens) for kernel in stage.kernels))
            for kind, times in self._kinds.items()
        )
        sent_s = sum(times * self._left_s(on, scheme, ranks, tokens, gated=gated) for scheme, times in schemes.items())
        ends_s = self._kernel_s(costs, embedding, self._final_norm(own))
        sent_s += sum(times * self._others_s(on, kind, tokens, ranks) for kind, times in self._kinds.items())
        return ends_s + layers_s + sent_s

    def _head_parts(self, on: Exchanger, sampled: int) -> tuple[float, float]:
        """Seconds of the logits of so many sequences, and of gathering them."""
        head = Gemm("lm head", sampled, vocabulary(self.model, self._dense), self.model.hidden_size, "bf16")
        gather_s = 0.0
        if self._dense > 1:
            gather_s = self._exchanged(on, Exchange("all_gather", sampled * self.model.vocab_size, None)).seconds
        return self._kernel_s(on.cost, head), gather_s

    def _attending_of(self, mixer: Mixer) -> Attending:
        on, slow = self.exchanger, self._slowdown
        found = attending(self.model, mixer, self._dense, self.weights, on.cost, on.cost.gap_s.value)
        return replace(found, call_s=found.call_s * slow)

    def _chunk_s(self, tokens: int, context: int, mixer: Mixer) -> float:
        """What a chunk adds to a mixer's call in one layer."""
        return self._attending[mixer].chunk_s(tokens, context) * self._slowdown

    def _chunk_everywhere_s(self, tokens: int, context: int) -> float:
        return sum(layers * self._chunk_s(tokens, context, mixer) for mixer, layers in self._mixers.items())

    def _decode_calls(self, sequences: int) -> dict[Mixer, Calls]:
        """Decoding of one layer of each mixer, but for the contexts."""
        return {mixer: self._attending[mixer].decode(sequences) for mixer in self._mixers}

    def _decode_s(self, gap_s: float, sequences: int, context_tokens: int) -> float:
        """Decoding between the projections of all layers."""
        found = self._decode_kernels * gap_s
        for mixer, call in self._decoding(sequences).items():
            found += self._mixers[mixer] * call.seconds(context_tokens) * self._slowdown
        return found

    def _least_decode_s(self, gap_s: float, sequences: int) -> float:
        """The same, without what `least_token_s` counts."""
        calls = self._decoding(sequences).items()
        least_s = sum(self._mixers[mixer] * call.least_s * self._slowdown for mixer, call in calls)
        return self._decode_kernels * gap_s + least_s


@dataclass(eq=False, slots=True)
class _Launched:
    """Tables of what depends on numbers of tokens alone, with kernels launched one way. Seconds on the slowest ranks;
    `sent`: of each class of ranks, until its last leaves an all-reduce; `beside`: by tokens coded and tokens exact.
    `schemes`: under which tokens go that no part of a sequence sets apart, and how often in a pass.
    """

    exchanger: Exchanger
    schemes: "Counter[Scheme | None]"
    gap_s: float
    whole: MonotoneTable
    least: MonotoneTable
    computed: dict[Kind, list[MonotoneTable]]
    head: MonotoneTable
    sent: dict[Scheme | None, list[MonotoneTable]]
    beside: dict[Scheme, list[MonotonePlane]]
    others: dict[tuple[Kind, int, int], list[MonotoneTable]]
    sent_from: dict[tuple[Kind, int, int], list[MonotonePlane]]

    @property
    def tables(self) -> list[MonotoneTable]:
        """All of them."""
        alone = (self.whole, self.least, self.head)
        rows = (*self.computed.values(), *self.sent.values(), *self.others.values())
        return list(dict.fromkeys([*alone, *(table for row in rows for table in row)]))


def rounded_down(number: int) -> int:
    """To four significant bits."""
    low = max(0, number.bit_length() - 4)
    return number >> low << low
