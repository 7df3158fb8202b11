"""What is asked: one frozen value that the command line, Python, sweeps and plans all build, print and tell apart.

An option is added here once: a field with what it is called outside. The command line makes an option of it
(commands/options.py), a sweep an axis, a plan a key (sim/schema.py), and functions of the Python face take it as an
argument. Nothing heavy is imported: `thinwire --help` reads this module.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from thinwire.sim.choices import Launch, Weights

if TYPE_CHECKING:
    from thinwire.reference.core.config import ModelConfig
    from thinwire.reference.mixed import AnyScheme
    from thinwire.sim.costs.profile import Profile
    from thinwire.topologies.cluster import Cluster

# How a value is written outside Python, and what it may be: sim/schema.py and commands/options.py have a line for each.
Kind = Literal[
    "name", "degree", "choice", "profile", "links", "ranks", "count", "whole", "tokens", "positive", "amount", "flag",
    "lengths", "trace", "faults",
]  # fmt: skip

Key = TypeVar("Key")
Factors = Mapping[Key, float] | tuple[tuple[Key, float], ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A field as people meet it. option: its name on the command line where that is not the field's. choices: all it
    may be. catalog: whose names complete it. required: it has no default.
    """

    kind: Kind
    help: str
    option: str | None = None
    choices: tuple[str, ...] = ()
    catalog: str | None = None
    required: bool = False
    default: Any = None


def asked(kind: Kind, help: str, **more: Any) -> Mapping[str, Any]:
    """The metadata of a field that is asked for outside Python too; arguments as `Asked`."""
    return {"asked": Asked(kind, help, **more)}


def asked_of(question: type[Placement] | Placement) -> dict[str, Asked]:
    """What a kind of question is asked by, in the order of its fields."""
    found = {}
    for each in fields(question):
        if (one := each.metadata.get("asked")) is not None:
            required = each.default is MISSING
            found[each.name] = replace(one, required=required, default=None if required else each.default)
    return found


def pairs(factors: Factors[Key]) -> tuple[tuple[Key, float], ...]:
    """Factors as a value that can be hashed, in the order given."""
    return tuple(factors.items()) if isinstance(factors, Mapping) else tuple(factors)


@dataclass(frozen=True)
class Placement:
    """A model on the GPUs of a machine, and what travels between them: what every question is about.

    Args:
        model: catalog name, path of a Hugging Face config.json, or a ModelConfig.
        cluster: catalog name, path of a TOML file, or a Cluster.
        scheme: catalog name, combination such as "flash-int4+spd-50", spec string, path of a TOML file with a scheme
            for each sync point, "auto:+1%" (chosen for this model, machine and prompt), or a Scheme or MixedScheme.
        tp: the first tp GPUs of the cluster; None takes all.
        weights: precision of weights and GEMMs.
        profile: path of a JSON profile, or a Profile; None takes the shipped ones.
        scaled_links: "source->target" pattern -> factor on its bandwidth, as a what-if; kept as pairs.
        slow_ranks: rank -> factor on its kernels' time, as a what-if; kept as pairs.
    """

    model: str | ModelConfig = field(
        metadata=asked("name", "Catalog name or path of a Hugging Face config.json.", catalog="models")
    )
    cluster: str | Cluster = field(
        metadata=asked("name", "Catalog name or path of a TOML file.", catalog="clusters"),
    )
    scheme: str | AnyScheme = field(
        default="bf16",
        metadata=asked(
            "name",
            "Catalog name, combination (flash-int4+spd-50), spec, auto:+1% or a TOML file of `thinwire auto`.",
            catalog="schemes",
        ),
    )
    tp: int | None = field(
        default=None, metadata=asked("degree", "TP degree: the first N GPUs. All of them when left out.")
    )
    weights: Weights = field(
        default="bf16",
        kw_only=True,
        metadata=asked("choice", "Precision of weights and GEMMs.", choices=get_args(Weights)),
    )
    profile: str | Profile | None = field(
        default=None,
        kw_only=True,
        metadata=asked("profile", "JSON file with a gpu and/or a fabric profile of your own."),
    )
    scaled_links: Factors[str] = field(
        default=(),
        kw_only=True,
        metadata=asked(
            "links",
            "What-if: PATTERN=FACTOR on the rate of links source->target (or pool:NAME) that match; repeatable.",
            option="--scale-link",
        ),
    )
    slow_ranks: Factors[int] = field(
        default=(),
        kw_only=True,
        metadata=asked(
            "ranks",
            "What-if: RANK=FACTOR on the time of a straggler's kernels; may be repeated.",
            option="--slow-rank",
        ),
    )

    def __post_init__(self) -> None:
        for name in ("scaled_links", "slow_ranks"):
            object.__setattr__(self, name, pairs(getattr(self, name) or ()))

    def asked(self) -> dict[str, Any]:
        """The fields that are asked for outside Python, by name; values of one's own by the names they carry."""
        return {name: _plain(getattr(self, name)) for name in asked_of(self)}

    def given(self) -> dict[str, Any]:
        """Of `asked`, what differs from the defaults."""
        found = self.asked()
        return {name: found[name] for name, one in asked_of(self).items() if one.required or found[name] != one.default}

    def options(self) -> list[str]:
        """The options of the command line that ask this; those left at their defaults are left out."""
        written: list[str] = []
        kinds = asked_of(self)
        for name, value in self.given().items():
            option = kinds[name].option or f"--{name.replace('_', '-')}"
            if kinds[name].kind in ("links", "ranks"):
                for key, factor in value:
                    written += [option, f"{key}={factor:g}"]
            elif kinds[name].kind == "faults":
                for text in value:
                    written += [option, text]
            else:
                written += [option] if value is True else [option, str(value)]
        return written


def placement_of(question: Placement) -> dict[str, Any]:
    """The fields that every question has, as another kind of question takes them."""
    return {each.name: getattr(question, each.name) for each in fields(Placement)}


@dataclass(frozen=True)
class Question(Placement):
    """Time to first token of one prompt: what `predict`, `compare` and `auto` are asked.

    Args:
        batch: sequences prefilled together, of `input_tokens` tokens each.
        launch: "eager", kernels launched one by one as engines prefill, or "graph".
        folded: False simulates every layer and every collective event by event.

    The others are `Placement`'s.
    """

    batch: int = field(default=1, metadata=asked("count", "Sequences prefilled together."))
    input_tokens: int = field(default=1024, metadata=asked("count", "Tokens of each sequence."))
    launch: Launch = field(
        default="eager",
        kw_only=True,
        metadata=asked("choice", "Kernels launched one by one, or as a CUDA graph.", choices=get_args(Launch)),
    )
    folded: bool = field(default=True, kw_only=True)


def _plain(value: Any) -> Any:
    """A value as a file would hold it."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return value if value is None or isinstance(value, str | int | float | bool) else getattr(value, "name", value)


IN_ORDER = ("model", "cluster", "scheme", "tp", "batch", "input_tokens", "weights", "profile")


def question_of(arguments: Sequence[Any], options: Mapping[str, Any], without: Collection[str] = ()) -> Question:
    """A question of a call's arguments: a `Question` as it is, or what it is made of, in the order of `IN_ORDER` or by
    name. without: names that the call has no place for. TypeError as for any call.
    """
    if len(arguments) == 1 and isinstance(arguments[0], Question) and not options:
        return arguments[0]
    names = [name for name in IN_ORDER if name not in without]
    if len(arguments) > len(names):
        raise TypeError(f"at most {len(names)} arguments without a name, {', '.join(names)}: {len(arguments)} given")
    in_order = dict(zip(names, arguments, strict=False))
    if twice := [name for name in in_order if name in options]:
        raise TypeError(f"{', '.join(twice)} given twice")
    return Question(**in_order, **options)
