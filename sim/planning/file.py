"""The file of `thinwire plan` and its what-ifs, checked at the edge; the problem that `sim.planning.plan` solves."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, create_model, model_validator

from thinwire.edge.reading import beside
from thinwire.edge.words import shown
from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.core.scheme import Scheme
from thinwire.reference.families.config import load_model
from thinwire.reference.mixed import AnyScheme, find
from thinwire.sim.api import decodes_exactly, shared_as
from thinwire.sim.choices import AccuracyFrom, Compress
from thinwire.sim.costs.shipped import load_profile
from thinwire.sim.layers import formats
from thinwire.sim.planning.bounds import Targets
from thinwire.sim.planning.plan import Candidate, Engine, Problem, WhatIf
from thinwire.sim.quality.figures import Figure, figure
from thinwire.sim.quality.published import Kept, kept
from thinwire.sim.question import Placement, options_of
from thinwire.sim.schema import AMOUNT_TEXT, WHOLE_TEXT, from_file, left_out, type_of
from thinwire.sim.serving.arrivals import BURSTINESS, MOST_TOKENS, Drawn, Lengths, lengths_of
from thinwire.sim.serving.iteration import IterationModel
from thinwire.sim.serving.question import Deployment
from thinwire.sim.serving.run import Window
from thinwire.sim.serving.serve import Paces
from thinwire.sim.sharing import acting
from thinwire.topologies.choose import choose, numbers
from thinwire.topologies.cluster import Cluster
from thinwire.topologies.files import Document
from thinwire.topologies.load import load_cluster
from thinwire.topologies.schema import Count, Text
from thinwire.topologies.units import Table

Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
LEAST_FACTOR, MOST_FACTOR = 1e-3, 1e3  # of a what-if
BOUND = 0.03  # of the tables of durations: a third of the predictor's calls that serve makes
Listed = Annotated[list[Text], Field(min_length=1)]
Counts = Annotated[list[Count], Field(min_length=1)]
TokenCounts = Annotated[list[Annotated[Count, WHOLE_TEXT]], Field(min_length=1)]
_OPTIONS = options_of(Placement)
_Listed: Any = list.__class_getitem__(type_of(_OPTIONS["gpus"]))


class LengthsTable(Table):
    """`{ kind = "lognormal", mean = 1024, variation = 1.0, most = 8192 }`."""

    kind: Literal["fixed", "lognormal", "geometric"] = "lognormal"
    mean: Annotated[float, Field(strict=True, ge=1, le=MOST_TOKENS), AMOUNT_TEXT]
    variation: Positive | None = None
    most: Annotated[int, Field(strict=True, ge=1, le=MOST_TOKENS), WHOLE_TEXT] | None = None

    @model_validator(mode="after")
    def _fits(self) -> "LengthsTable":
        self.lengths()  # ValueError: what these cannot have
        return self

    def lengths(self) -> Lengths:
        """As `sim.serving.arrivals` has them."""
        return lengths_of(self.kind, self.mean, self.variation, self.most)


class LoadTable(Table):
    """Requests a second, and their tokens."""

    rate_per_s: Positive
    burstiness: Annotated[float, Field(strict=True, ge=BURSTINESS[0], le=BURSTINESS[1])] = 1.0
    prompt: LengthsTable
    output: LengthsTable


class TargetTable(Table):
    """A percentile that the run records, and the most it may take."""

    percentile: Literal[50, 90, 95, 99]
    seconds: Positive


class TargetsTable(Table):
    """What must hold."""

    ttft: TargetTable
    tpot: TargetTable | None = None
    perplexity_ratio: Annotated[float, Field(strict=True, ge=1, allow_inf_nan=False)] | None = None
    accuracy_from: AccuracyFrom = "measured"

    @model_validator(mode="after")
    def _keeps_some(self) -> "TargetsTable":
        self.check()
        return self

    def check(self) -> None:
        """ValueError where the ratio leaves published figures less than nothing of a score to keep."""
        if self.accuracy_from == "published" and self.perplexity_ratio is not None and self.perplexity_ratio > 2:
            raise ValueError(
                "perplexity_ratio must lie in 1..2 where accuracy_from is 'published', for 2 less it is the share of a "
                f"score that is kept: perplexity_ratio={self.perplexity_ratio:.10g}; leave it out for any share"
            )


class PriceTable(Table):
    """The user's price, and where it is from."""

    per_gpu_hour: Positive
    source: Text


class SearchTable(Table):
    """What may be chosen, and how it is looked for. clusters: all with a price where left out. tp: degrees, of the
    first GPUs or, with nodes, of as many of each of so many nodes; gpus: listed ones, besides.
    """

    clusters: Listed | None = None
    tp: Counts | None = None
    nodes: Counts | None = None
    gpus: Annotated[_Listed, Field(min_length=1)] | None = None
    schemes: Listed
    token_budgets: TokenCounts = Field(default=[2048])
    max_sequences: Counts = Field(default=[256])
    max_replicas: Annotated[int, Field(strict=True, ge=1, le=4096)] = 64
    allow_unmeasured: bool = Field(default=False, strict=True)
    gated: bool = Field(default=False, strict=True)
    frontier: bool = Field(default=True, strict=True)
    seconds: Positive = 300.0
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**31)] = 0
    change: Annotated[float, Field(strict=True, ge=0.001, le=0.999)] = 0.1

    @model_validator(mode="after")
    def _takes_some(self) -> "SearchTable":
        if self.tp is None and (self.gpus is None or self.nodes is not None):
            raise ValueError("tp is missing: degrees to try, such as [2, 4]" + (" with nodes" if self.nodes else ""))
        return self

    def placements(self, machine: Cluster) -> list[tuple[int, tuple[int, ...], int]]:
        """(tp, GPUs, nodes) of each way to place a replica on a machine, as a `Candidate` has them."""
        wanted = [(tp, nodes) for tp in self.tp or () for nodes in self.nodes or (0,)]
        found = [(tp, _spread(machine, tp, nodes), nodes) for tp, nodes in wanted]
        found += [(len(gpus), gpus, 0) for gpus in map(numbers, self.gpus or ())]
        first = [(tp, () if gpus == tuple(range(tp)) else gpus, nodes) for tp, gpus, nodes in found]
        return list(dict.fromkeys(first))


def _spread(machine: Cluster, tp: int, nodes: int) -> tuple[int, ...]:
    """The GPUs that so many nodes give; () for the first ones, and where the machine has no such nodes."""
    try:
        return choose(machine, tp, None, nodes).indices if nodes else ()
    except ValueError:
        return ()


# What a question says of a model on a machine, and a plan neither searches, nor asks what if, nor has none of its own.
_ELSEWHERE = frozenset({"model", "cluster", "scheme", "tp", "gpus", "nodes", "profile", "scaled_links", "slow_ranks"})
SHARED = ("attention", "ep", "expert_exchange", "expert_skew")  # how a mixture is shared out
_PLACED = {name: one for name, one in _OPTIONS.items() if name not in _ELSEWHERE}


class PlanFile(Table):
    """The whole file, but for the keys that are fields of every question."""

    model: Text
    currency: Text = "USD"
    load: LoadTable
    targets: TargetsTable
    prices: Annotated[dict[str, PriceTable], Field(min_length=1)]
    search: SearchTable

    def placed(self) -> dict[str, Any]:
        """Those keys, as a question takes them."""
        return {name: from_file(one, getattr(self, name)) for name, one in _PLACED.items()}


_KEYS: dict[str, Any] = {name: (type_of(one), left_out(one)) for name, one in _PLACED.items()}
_PlanFile = create_model("PlanFile", __base__=PlanFile, **_KEYS)


@dataclass(frozen=True)
class Inputs:
    """A file read, and what the names in it stand for: plain values, which travel where there is no file."""

    file: PlanFile
    model: ModelConfig
    clusters: Mapping[str, Cluster]
    schemes: Mapping[str, AnyScheme]

    def asked(self) -> "Asked":
        """Ready to be answered."""
        return Asked(self, problem_of(self))

    def measured(self, c: Candidate) -> Figure | None:
        """What its scheme costs in accuracy on the GPUs it takes of its machine; None: nobody knows."""
        return figure(self._acting(c), c.tp, self._islands(c), self.compress(c))

    def compress(self, c: Candidate) -> Compress:
        """Positions that the deployment compresses: the prompt's alone where decode's messages go uncompressed."""
        scheme, gated = self.schemes[c.scheme], self.file.search.gated
        taken = self._taken(c)
        width = self.model.hidden_size
        exact = decodes_exactly(taken, scheme, load_profile(taken), c.max_sequences, width, gated)
        return "prompt" if exact else "all"

    def kept(self, c: Candidate) -> Kept | None:
        """What published figures say of it; None: nobody published any."""
        return kept(self._acting(c), c.tp, self._islands(c), self.model.name)

    @property
    def words(self) -> str:
        """Formats, and how a mixture is shared out where that was said."""
        placed = self.file.placed()
        said = [formats(self.model, placed["weights"], placed["kv"])]
        said += [f"{name} {placed[name]}" for name in SHARED if placed[name] != left_out(_PLACED[name])]
        return ", ".join(said)

    def _acting(self, c: Candidate) -> AnyScheme:
        """Its scheme, less codecs of exchanges that there are none of; where it cannot be shared out so, and is
        refused, all of it.
        """
        question = Placement(self.model, self.clusters[c.cluster], **self.file.placed())
        try:
            return acting(self.schemes[c.scheme], self.model, shared_as(question, c.tp))
        except ValueError:
            return self.schemes[c.scheme]

    def _islands(self, c: Candidate) -> int:
        return len(self._taken(c).islands)

    def _taken(self, c: Candidate) -> Cluster:
        """A replica's GPUs; where the machine has them not, and the candidate is refused, what it has."""
        try:
            return self.gpus(c)
        except ValueError:
            machine = self.clusters[c.cluster]
            return machine.take(min(c.tp, len(machine.gpus)))

    def gpus(self, c: Candidate) -> Cluster:
        """A replica's GPUs. ValueError where the machine has them not."""
        return choose(self.clusters[c.cluster], c.tp, c.gpus or None, c.nodes or None)


@dataclass(frozen=True)
class Asked:
    """A file read: its problem, and what only the report needs."""

    inputs: Inputs
    problem: Problem

    @property
    def file(self) -> PlanFile:
        """As it stands."""
        return self.inputs.file

    @property
    def clusters(self) -> Mapping[str, Cluster]:
        """The machines it names."""
        return self.inputs.clusters

    def what_if(self, text: str) -> WhatIf:
        """A what-if, machines and links known. ValueError says what is allowed."""
        load, links, prices = 1.0, dict[str, float](), dict[str, float]()
        for part in text.split(","):
            match = _WHAT_IF.fullmatch(part.strip())
            if match is None:
                raise ValueError(f"{_WHAT_IFS}: {shown(text)}")
            factor = float(match["factor"])
            what, name = match["what"], match["name"]
            if what == "load" and name is None:
                load *= factor
            elif what == "link":
                links[name or "*"] = links.get(name or "*", 1.0) * factor
            elif what == "price" and name is not None:
                prices[name] = prices.get(name, 1.0) * factor
            else:
                raise ValueError(f"'load' takes no name and 'price' needs one: {shown(text)}")
        return self.factors(load, links, prices)

    def factors(self, load: float, links: Mapping[str, float], prices: Mapping[str, float]) -> WhatIf:
        """A what-if of factors on the load, on links by pattern and on prices by machine or GPU.

        Raises ValueError for names that the file has not, and for factors that together leave 0.001..1000.
        """
        for pattern in links:
            self._linked(pattern)
        by_cluster: dict[str, float] = {}
        for name, factor in prices.items():
            for cluster in self._priced(name):
                by_cluster[cluster] = by_cluster.get(cluster, 1.0) * factor
        given = {"load": load, **links, **by_cluster}
        for name, factor in given.items():
            if not LEAST_FACTOR <= factor <= MOST_FACTOR:
                raise ValueError(f"{_WHAT_IFS}, with all that is said of one thing taken together: {name} x{factor:g}")
        return WhatIf(load, tuple(sorted(links.items())), tuple(sorted(by_cluster.items())))

    def changes(self) -> list[WhatIf]:
        """Load, all links and the price of each GPU a little down and up."""
        by = self.file.search.change
        factors = [float(f"{factor:.12g}") for factor in (1 - by, 1 + by)]
        priced = [self._priced(gpu) for gpu in sorted({cluster.gpu.name for cluster in self.clusters.values()})]
        return [
            *(WhatIf(load=factor) for factor in factors),
            *(WhatIf(links=(("*", factor),)) for factor in factors),
            *(WhatIf(prices=tuple((c, factor) for c in sorted(found))) for found in priced for factor in factors),
        ]

    def _linked(self, pattern: str) -> None:
        for cluster in self.clusters.values():
            try:
                cluster.with_link_scaled(pattern, 1.0)
            except ValueError:
                continue
            return
        raise ValueError(f"no machine of the search has a link or pool that matches {shown(pattern)} (source->target)")

    def _priced(self, name: str) -> list[str]:
        found = [key for key, cluster in self.clusters.items() if name in (key, cluster.gpu.name)]
        if not found:
            allowed = sorted({*self.clusters, *(cluster.gpu.name for cluster in self.clusters.values())})
            raise ValueError(f"price of what? {shown(name)} is none of {', '.join(allowed)}")
        return found


_WHAT_IF = re.compile(r"(?P<what>load|link|price)(\s+(?P<name>\S.*?))?\s+x(?P<factor>[0-9]+(\.[0-9]+)?([eE]-?[0-9]+)?)")
_WHAT_IFS = (
    "a what-if is 'load xF', 'link xF', 'link PATTERN xF' or 'price CLUSTER-OR-GPU xF', with F in 0.001..1000, or "
    "several with commas between"
)


def read(path: Path) -> Asked:
    """The problem of a file. ValueError names file, line, key and what is allowed."""
    return read_inputs(path).asked()


def read_inputs(path: Path) -> Inputs:
    """The same before it is a problem. Paths in the file are relative to it."""
    document = Document(path, "the plan")
    file: PlanFile = document.check(_PlanFile, document.data)
    wanted = tuple(dict.fromkeys(file.search.clusters or file.prices))
    for place, name in enumerate(wanted):
        if name not in file.prices:
            raise document.refuse(
                ("search", "clusters", place), f"no price of {shown(name)} (prices: {', '.join(file.prices)})"
            )
    clusters: dict[str, Cluster] = {}
    for name in wanted:
        try:
            clusters[name] = load_cluster(_beside(path, name))
        except ValueError as error:
            raise document.refuse(("prices", name), str(error)) from None
    schemes: dict[str, AnyScheme] = {}
    for place, scheme in enumerate(file.search.schemes):
        try:
            schemes[scheme] = find(_beside(path, scheme))
        except ValueError as error:
            raise document.refuse(("search", "schemes", place), str(error)) from None
    try:
        model = load_model(_beside(path, file.model))
    except ValueError as error:
        raise document.refuse(("model",), str(error)) from None
    return Inputs(file, model, clusters, schemes)


def _beside(file: Path, name: str) -> str:
    return beside(file.parent, name, "the plan's file")


def _raw(scheme: AnyScheme) -> bool:
    """Every sync point there, and uncompressed, experts' traffic too."""
    if not isinstance(scheme, Scheme) or scheme.compresses_experts:
        return False
    return scheme.is_raw and not scheme.drop_attention_percent


def problem_of(inputs: Inputs) -> Problem:
    """All combinations. On one GPU nothing is sent: there only the first scheme is taken."""
    file, clusters = inputs.file, inputs.clusters
    search, load = file.search, file.load
    limits = list(product(dict.fromkeys(search.token_budgets), dict.fromkeys(search.max_sequences)))
    candidates = [
        Candidate(cluster, tp, scheme, budget, sequences, gpus, nodes)
        for cluster, machine in clusters.items()
        for tp, gpus, nodes in search.placements(machine)
        for scheme in (dict.fromkeys(search.schemes) if tp > 1 else search.schemes[:1])
        for budget, sequences in limits
    ]

    engines: dict[tuple[Any, ...], IterationModel] = {}

    def engine(c: Candidate, links: tuple[tuple[str, float], ...]) -> Engine:
        cluster = inputs.gpus(c)  # ValueError: more GPUs than there are, or others
        for pattern, factor in links:
            try:
                cluster = cluster.with_link_scaled(pattern, factor)
            except ValueError:
                continue  # a link that this machine, or the part of it that is taken, has not
        paces = Paces(
            Deployment(
                model=inputs.model,
                cluster=cluster,
                scheme=inputs.schemes[c.scheme],
                **file.placed(),
                token_budget=c.token_budget,
                max_sequences=c.max_sequences,
                gated=search.gated,
            ),
            BOUND,
        )
        limits, scheme = paces.limits, inputs.schemes[c.scheme]
        alike = (c.cluster, c.tp, c.gpus, links)
        same = engines.setdefault(alike, paces.pace())  # what one exchange takes is asked once
        pace = replace(same, scheme=scheme, tokens=limits.token_budget, sequences=limits.max_sequences)
        pace.line(1, 1)  # ValueError: a collective that this machine cannot do
        return Engine(pace, limits)

    @cache
    def accuracy(c: Candidate) -> float | None:
        if c.tp == 1 or _raw(inputs.schemes[c.scheme]):
            return 1.0  # nothing is sent, or nothing compressed: what a ring's roundings measure is noise
        known = inputs.measured(c)
        return None if known is None else math.inf if known.perplexity_ratio is None else known.perplexity_ratio

    return Problem(
        candidates=tuple(candidates),
        load=Drawn(load.rate_per_s, load.prompt.lengths(), load.output.lengths(), load.burstiness),
        targets=targets_of(file.targets),
        prices={name: file.prices[name].per_gpu_hour for name in clusters},
        engines=engine,
        accuracy=accuracy,
        max_replicas=search.max_replicas,
        window=Window(search.seconds, search.seconds / 10),
        seed=search.seed,
        allow_unmeasured=search.allow_unmeasured,
        frontier=search.frontier,
        accuracy_from=file.targets.accuracy_from,
        kept=inputs.kept,
    )


def targets_of(table: TargetsTable) -> Targets:
    """As the search has them; what is left out is no target. ValueError for targets that do not go together."""
    table.check()
    ttft, tpot = table.ttft, table.tpot
    return Targets(
        ttft_quantile=ttft.percentile / 100,
        ttft_s=ttft.seconds,
        **({} if tpot is None else {"tpot_quantile": tpot.percentile / 100, "tpot_s": tpot.seconds}),
        **({} if table.perplexity_ratio is None else {"perplexity_ratio": table.perplexity_ratio}),
    )
