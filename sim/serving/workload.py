"""One iteration of a serving engine: chunks of prompts and a token for each decoding sequence, in one forward pass.

The same kernels and exchanges as in `sim.workload`, with as many rows as the iteration has tokens; attention alone asks
whose tokens they are. Prompts' chunks share one attention call (a variable-length kernel), decoding sequences another.

Where a scheme splits the sequence (ISO), an iteration with prompt tokens is split in the same ratio: chunks fill the
first part in order, decoding sequences go with the rest. An iteration of decoding alone stays whole: it reads all
weights for a few rows, and two halves would read them twice.
"""

from dataclasses import dataclass, replace

from thinwire.reference.core.architecture import Layer, ModelConfig
from thinwire.reference.core.mixers import Mixer
from thinwire.reference.core.precision import KV_BITS
from thinwire.reference.core.scheme import Scheme
from thinwire.reference.mixed import AnyScheme
from thinwire.sim.choices import Kv, Weights
from thinwire.sim.layers import After, Stage, stages
from thinwire.sim.serving.attending import Chunk, chunk_kernels, decode_kernels
from thinwire.sim.shapes import Kernel, Rows
from thinwire.sim.sharing import Sharing, sharing_of
from thinwire.sim.workload import Op, Workload, closing, embedding, layers_of


@dataclass(frozen=True, slots=True)
class Share:
    """What one part of an iteration holds: whole or cut chunks, and sequences that decode."""

    chunks: tuple[Chunk, ...] = ()
    sequences: int = 0
    context_tokens: int = 0  # of the decoding sequences in all, their new tokens counted
    finishing: int = 0  # chunks, the first of all, with which their prompts end

    def __post_init__(self) -> None:
        for tokens, context in self.chunks:
            if not 1 <= tokens <= context:
                raise ValueError(f"a chunk holds 1 token or more of its context: tokens={tokens}, context={context}")
        if self.sequences < 0 or self.context_tokens < self.sequences:
            raise ValueError(
                f"decoding sequences have a token or more each: sequences={self.sequences}, "
                f"context_tokens={self.context_tokens}"
            )
        if not 0 <= self.finishing <= len(self.chunks):
            raise ValueError(f"finishing counts chunks: {self.finishing} of {len(self.chunks)}")

    @property
    def prompt_tokens(self) -> int:
        """Tokens of prompts."""
        return sum(tokens for tokens, _ in self.chunks)

    @property
    def tokens(self) -> int:
        """Rows of every matrix product."""
        return self.prompt_tokens + self.sequences

    def rows(self, scheme: Scheme) -> Rows:
        """Its tokens, and those that a scheme exempts: the last are of chunks that end a prompt, or decode."""
        first, last = 0, min(scheme.exempt_last_tokens, 1) * self.sequences
        for place, (tokens, context) in enumerate(self.chunks):
            opening = min(max(scheme.exempt_tokens - (context - tokens), 0), tokens)
            first += opening
            last += min(scheme.exempt_last_tokens, tokens - opening) if place < self.finishing else 0
        return Rows(self.tokens, first, last)


@dataclass(frozen=True, slots=True)
class Iteration:
    """What an engine runs at once; the first `finishing` of its chunks hold their prompt's last token."""

    whole: Share
    finishing: int = 0

    def __post_init__(self) -> None:
        if not self.whole.tokens:
            raise ValueError("an iteration needs a token: no chunks and no sequences given")
        object.__setattr__(self, "whole", replace(self.whole, finishing=self.finishing))

    @property
    def sampled(self) -> int:
        """Sequences that get a token from it."""
        return self.whole.sequences + self.finishing


def shares(whole: Share, split: float | None) -> tuple[Share, ...]:
    """The iteration whole, or cut in two as the module says."""
    if split is None or whole.tokens < 2 or not whole.chunks:
        return (whole,)
    room = min(max(round(whole.tokens * split), 1), whole.tokens - 1, whole.prompt_tokens)
    if room == whole.prompt_tokens and not whole.sequences:
        room -= 1
    first: list[Chunk] = []
    second: list[Chunk] = []
    for tokens, context in whole.chunks:
        taken = min(tokens, room)
        room -= taken
        if taken:
            first.append((taken, context - tokens + taken))
        if tokens > taken:
            second.append((tokens - taken, context))
    uncut = len(whole.chunks) - len(second)  # chunks that lie in the first part with their end
    ended = min(whole.finishing, uncut)
    rest = Share(tuple(second), whole.sequences, whole.context_tokens, whole.finishing - ended)
    return Share(tuple(first), finishing=ended), rest


def build(
    model: ModelConfig, scheme: AnyScheme, iteration: Iteration, sharing: Sharing | int, weights: Weights
) -> Workload:
    """The workload of one rank, for `sim.predict.run`. ValueError as `sim.workload.build`."""
    sharing = sharing_of(sharing)
    sharing.check(model)
    tp = sharing.dense_ranks
    parts = shares(iteration.whole, scheme.sequence_split if sharing.ranks > 1 else None)
    mine = [busiest(part, sharing) for part in parts]

    def stages_of(part: int, layer: Layer, after: After) -> list[Stage]:
        share, own = parts[part], mine[part]

        def attends(mixer: Mixer) -> tuple[Kernel, ...]:
            prefill = chunk_kernels(model, mixer, tp, own.chunks, weights)
            return (*prefill, *decode_kernels(mixer, tp, own.sequences, own.context_tokens))

        alone = None if own is share else own.tokens
        return list(stages(model, layer, sharing, after, share.tokens, share.rows, attends, weights, alone))

    layers = layers_of(model, scheme, sharing.ranks, len(parts), stages_of)
    opening = tuple(Op("embedding", i, (embedding(model, part.tokens),)) for i, part in enumerate(mine))
    sampled = iteration.sampled if tp == sharing.ranks else min(iteration.sampled, busiest_sampled(iteration, sharing))
    last = closing(model, tp, sum(part.tokens for part in mine), sampled, len(parts) - 1)
    return Workload(opening, layers, last)


def busiest(part: Share, sharing: Sharing) -> Share:
    """What the rank with most tokens has of a part, where ranks have sequences of their own: chunks go to the rank that
    has least so far, longest first; sequences that decode are as even as can be, and so are their contexts.
    """
    if sharing.attention == "tp" or sharing.ranks == 1:
        return part
    held: list[list[Chunk]] = [[] for _ in range(sharing.ranks)]
    for chunk in sorted(part.chunks, reverse=True):
        min(held, key=lambda chunks: sum(tokens for tokens, _ in chunks)).append(chunk)
    most = max(held, key=lambda chunks: sum(tokens for tokens, _ in chunks))
    sequences = sharing.own(part.sequences)
    return Share(tuple(most), sequences, own_context(part.context_tokens, sequences, part.sequences))


def own_context(context_tokens: int, own: int, sequences: int) -> int:
    """Of the contexts of so many sequences, those of the `own` that a rank has: a sequence lies whole on one rank."""
    return -(-context_tokens * own // sequences) if sequences else 0


def busiest_sampled(iteration: Iteration, sharing: Sharing) -> int:
    """Sequences that get a token on the rank that has most of them."""
    return sharing.own(iteration.whole.sequences) + sharing.own(iteration.finishing)


def kv_bytes_per_token(model: ModelConfig, sharing: Sharing | int, kv: Kv = "bf16") -> float:
    """What one GPU keeps of a token of the replica's: keys and values of all layers, in `kv`, windows left out of
    account. Where ranks have sequences of their own, each keeps its share of them whole.
    """
    sharing = sharing_of(sharing)
    return KV_BITS[kv] / 8 * model.cache_values(sharing.dense_ranks) * sharing.dense_ranks / sharing.ranks
