"""What is asked: one frozen value that the command line, Python, sweeps and plans all build, print and tell apart.

An option is added here once: a field with what it is called outside. The command line makes an option of it
(commands/options.py), a sweep an axis, a plan a key (sim/schema.py), and functions of the Python face take it as an
argument. Nothing heavy is imported: `thinwire --help` reads this module.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from thinwire.edge.limits import BATCH, GPUS, SKEW, TOKENS, Limit
from thinwire.sim.choices import WEIGHTS, Attending, Exchanging, Kv, Launch, Weights
from thinwire.topologies.choose import numbers, text_of

if TYPE_CHECKING:
    from thinwire.reference.core.architecture import ModelConfig
    from thinwire.reference.mixed import AnyScheme
    from thinwire.sim.costs.profile import Profile
    from thinwire.topologies.cluster import Cluster

# How a value is written outside Python. sim/schema.py says what each may be in a file, commands/options.py on the
# command line; another form is a line in both.
Form = Literal[
    "name",  # of a catalog, or the path of a file
    "degree",  # a count of GPUs; "all" in files
    "gpus",  # which GPUs, as text: 0,1,6,7 or 0-3
    "choice",  # one of `choices`
    "profile",  # the path of a file; "shipped" in files
    "links",  # factors by pattern of links
    "ranks",  # factors by rank
    "count",  # a whole number from 1 on
    "whole",  # a whole number from 0 on
    "length",  # a whole number of tokens from 1 on, also as 2k
    "tokens",  # a mean number of them, from 1 on, also as 1.5k
    "positive",  # a number above 0
    "amount",  # a number from 0 on
    "flag",
    "lengths",  # a distribution, as text
    "trace",  # the path of a file of requests
    "faults",  # texts, one a fault
]

Key = TypeVar("Key")
Factors = Mapping[Key, float] | tuple[tuple[Key, float], ...]


@dataclass(frozen=True, slots=True)
class Option:
    """A field as people meet it. flag: its name on the command line, made of the field's where none is given.
    choices: all it may be. catalog: whose names complete it. always: written down at its default, too. required: it has
    no default. limit: of a number.
    """

    form: Form
    help: str
    flag: str = ""
    choices: tuple[str, ...] = ()
    catalog: str | None = None
    always: bool = False
    required: bool = False
    default: Any = None
    limit: Limit | None = None

    def check(self, name: str, value: Any) -> None:
        """ValueError for a number beyond the limit; what is none is its form's matter."""
        number: Any = value if isinstance(value, Real) else None
        if self.limit is not None and number is not None:
            self.limit.check(name, number)


def option(form: Form, help: str, **more: Any) -> Mapping[str, Any]:
    """The metadata of a field that is asked for outside Python too; arguments as `Option`'s."""
    return {"option": Option(form, help, **more)}


def options_of(question: type[Placement] | Placement) -> dict[str, Option]:
    """What a kind of question is asked by, in the order of its fields."""
    found = {}
    for each in fields(question):
        if (one := each.metadata.get("option")) is not None:
            required = each.default is MISSING
            flag = one.flag or f"--{each.name.replace('_', '-')}"
            found[each.name] = replace(one, flag=flag, required=required, default=None if required else each.default)
    return found


def pairs(factors: Factors[Key]) -> tuple[tuple[Key, float], ...]:
    """Factors as a value that can be hashed, in the order given; the last of a key holds."""
    return tuple(dict(factors).items())


@dataclass(frozen=True)
class Placement:
    """A model on the GPUs of a machine, and what travels between them: what every question is about.

    Args:
        model: catalog name, path of a Hugging Face config.json, or a ModelConfig.
        cluster: catalog name, path of a TOML file, or a Cluster.
        scheme: catalog name, combination such as "flash-int4+spd-50", spec string, path of a TOML file with a scheme
            for each sync point, "auto:+1%" (chosen for this model, machine and prompt), or a Scheme or MixedScheme.
        tp: the first tp GPUs of the cluster; None takes all, or as many as `gpus` names.
        gpus: which GPUs, by their numbers on the machine, in the order of the ranks: a sequence, or text as "0-3,6".
        nodes: tp / nodes GPUs of each of the first so many nodes, which NICs join (`topologies.cluster.Cluster.hosts`);
            all of their GPUs without tp. Beside `gpus`, tp and nodes say only what holds anyway.
        weights: precision of weights and GEMMs; "auto": of each part as the checkpoint has it.
        kv: precision of the KV cache; "auto": as the checkpoint says, else bf16.
        profile: path of a JSON profile, or a Profile; None takes the shipped ones.
        scaled_links: "source->target" pattern -> factor on its bandwidth, as a what-if; kept as pairs.
        slow_ranks: rank -> factor on its kernels' time, as a what-if; kept as pairs.
        ep: ranks that hold experts of their own, whole; None: every rank has a part of every expert, or, where
            attention is "dp" or experts are reached by "all-to-all", all ranks.
        attention: "tp", cut by heads, or "dp": every rank holds it whole, for sequences of its own.
        expert_exchange: "all-gather", every rank has all tokens, or "all-to-all", tokens go where their experts are.
        expert_skew: how unevenly experts are chosen (`sim.sharing`): 0, all alike.
    """

    model: str | ModelConfig = field(
        metadata=option("name", "Catalog name or path of a Hugging Face config.json.", catalog="models")
    )
    cluster: str | Cluster = field(
        metadata=option("name", "Catalog name or path of a TOML file.", catalog="clusters"),
    )
    scheme: str | AnyScheme = field(
        default="bf16",
        metadata=option(
            "name",
            "Catalog name, combination (flash-int4+spd-50), spec, auto:+1% or a TOML file of `thinwire auto`.",
            catalog="schemes",
            always=True,
        ),
    )
    tp: int | None = field(
        default=None, metadata=option("degree", "TP degree: the first N GPUs. All of them when left out.")
    )
    gpus: tuple[int, ...] | Sequence[int] | str | None = field(
        default=None,
        kw_only=True,
        metadata=option("gpus", "Which GPUs, in the order of the ranks, in place of the first N: 0,1,6,7 or 0-3."),
    )
    nodes: int | None = field(
        default=None,
        kw_only=True,
        metadata=option("count", "Take as many GPUs of each of the first N nodes of a cluster.", limit=GPUS),
    )
    weights: Weights = field(
        default="auto",
        kw_only=True,
        metadata=option("choice", "Precision of weights and GEMMs; auto: as the checkpoint has them.", choices=WEIGHTS),
    )
    kv: Kv = field(
        default="auto",
        kw_only=True,
        metadata=option(
            "choice", "Precision of the KV cache; auto: as the checkpoint says, else bf16.", choices=get_args(Kv)
        ),
    )
    profile: str | Profile | None = field(
        default=None,
        kw_only=True,
        metadata=option("profile", "JSON file with a gpu and/or a fabric profile of your own."),
    )
    scaled_links: Factors[str] = field(
        default=(),
        kw_only=True,
        metadata=option(
            "links",
            "What-if: PATTERN=FACTOR on the rate of links source->target that match; repeatable. Pools that links "
            "share keep theirs unless pool:NAME or * matches them.",
            flag="--scale-link",
        ),
    )
    slow_ranks: Factors[int] = field(
        default=(),
        kw_only=True,
        metadata=option(
            "ranks",
            "What-if: RANK=FACTOR on the time of a straggler's kernels; may be repeated.",
            flag="--slow-rank",
        ),
    )
    ep: int | None = field(
        default=None,
        kw_only=True,
        metadata=option(
            "count",
            "Spread a mixture's experts over N ranks, whole. Left out: over all where attention is dp or the exchange "
            "all-to-all, else every rank has its columns of each.",
            limit=GPUS,
        ),
    )
    attention: Attending = field(
        default="tp",
        kw_only=True,
        metadata=option(
            "choice", "Cut attention by heads, or give every rank sequences of its own.", choices=get_args(Attending)
        ),
    )
    expert_exchange: Exchanging = field(
        default="all-gather",
        kw_only=True,
        metadata=option(
            "choice", "Every rank has all tokens, or tokens go where their experts are.", choices=get_args(Exchanging)
        ),
    )
    expert_skew: float = field(
        default=0.0,
        kw_only=True,
        metadata=option(
            "amount", "How unevenly experts are chosen: the i-th in proportion to i ** -SKEW. 0: all alike.", limit=SKEW
        ),
    )

    def __post_init__(self) -> None:
        for name in ("scaled_links", "slow_ranks"):
            object.__setattr__(self, name, pairs(getattr(self, name) or ()))
        if self.gpus is not None:
            object.__setattr__(self, "gpus", numbers(self.gpus))


def placement_of(question: Placement) -> dict[str, Any]:
    """The fields that every question has, as another kind of question takes them."""
    return {each.name: getattr(question, each.name) for each in fields(Placement)}


@dataclass(frozen=True)
class Inquiry(Placement):
    """A question that can be written down: every field that matters to it is an option. ValueError beyond a limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, option in options_of(self).items():
            option.check(name, getattr(self, name))

    def values(self) -> dict[str, Any]:
        """The fields that are asked for outside Python, by name; values of one's own by the names they carry."""
        return {name: _plain(getattr(self, name)) for name in options_of(self)}

    def given(self, without: Collection[str] = ()) -> dict[str, Any]:
        """Of `values`, what differs from the defaults. without: what was not asked."""
        values, options = self.values(), options_of(self)
        return {name: v for name, v in values.items() if _told(options[name], v) and name not in without}

    def command_line(self, without: Collection[str] = ()) -> list[str]:
        """The options of the command line that ask this; those left at their defaults are left out, and `without`."""
        written: list[str] = []
        options = options_of(self)
        for name, value in self.given(without).items():
            option = options[name].flag
            if options[name].form in ("links", "ranks"):
                for key, factor in value:
                    written += [option, f"{key}={_digits(factor)}"]
            elif options[name].form == "faults":
                for text in value:
                    written += [option, text]
            elif options[name].form == "gpus":
                written += [option, text_of(value)]
            else:
                written += [option] if value is True else [option, str(value)]
        return written


@dataclass(frozen=True)
class Question(Inquiry):
    """Time to first token of one prompt: what `predict`, `compare` and `auto` are asked.

    Args:
        batch: sequences prefilled together, of `input_tokens` tokens each.
        launch: "eager", kernels launched one by one as engines prefill, or "graph".
        folded: False simulates every layer and every collective event by event.

    The others are `Placement`'s.
    """

    batch: int = field(default=1, metadata=option("count", "Sequences prefilled together.", limit=BATCH))
    input_tokens: int = field(default=1024, metadata=option("length", "Tokens of each sequence.", limit=TOKENS))
    launch: Launch = field(
        default="eager",
        kw_only=True,
        metadata=option("choice", "Kernels launched one by one, or as a CUDA graph.", choices=get_args(Launch)),
    )
    folded: bool = field(default=True, kw_only=True)


def _told(option: Option, value: Any) -> bool:
    return option.always or option.required or value != option.default


def _digits(factor: float) -> str:
    """The shortest text that reads as the same number."""
    return f"{factor:g}" if float(f"{factor:g}") == factor else repr(float(factor))


def _plain(value: Any) -> Any:
    """A value as a file would hold it: numpy's numbers as Python's, and values of one's own by the names they carry."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Integral | Real):
        return int(value) if isinstance(value, Integral) else float(value)
    return getattr(value, "name", value)


IN_ORDER = ("model", "cluster", "scheme", "tp", "batch", "input_tokens", "weights", "profile")


def question_of(arguments: Sequence[Any], options: Mapping[str, Any], without: Collection[str] = ()) -> Question:
    """A question of a call's arguments: a `Question`, with what is given by name in place of its own; or what it is
    made of, in the order of `IN_ORDER` or by name. without: names that the call has no place for. TypeError as for any
    call.
    """
    if misplaced := [name for name in without if name in options]:
        raise TypeError(f"no argument of this call: {', '.join(misplaced)}")
    if arguments and isinstance(arguments[0], Placement):
        if len(arguments) > 1 or not isinstance(arguments[0], Question):
            raise TypeError(f"a Question alone, and what is to differ by name: given {type(arguments[0]).__name__} ...")
        return replace(arguments[0], **options)
    names = [name for name in IN_ORDER if name not in without]
    if len(arguments) > len(names):
        raise TypeError(f"at most {len(names)} arguments without a name, {', '.join(names)}: {len(arguments)} given")
    in_order = dict(zip(names, arguments, strict=False))
    if twice := [name for name in in_order if name in options]:
        raise TypeError(f"{', '.join(twice)} given twice")
    return Question(**in_order, **options)
