"""The tables of a profile's file as values. What a number is and how large it may be, its name says by its unit."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from typing import Any, TypeVar, get_args, get_type_hints

from thinwire.edge.limits import (
    BANDWIDTH,
    COMPUTE,
    EFFICIENCY,
    LOG_FACTOR,
    MEMORY,
    PROCESSORS,
    PURE,
    SECONDS,
    THOUSANDTHS,
    WIDTH,
    Limit,
)
from thinwire.edge.words import cut, shown

T = TypeVar("T")

# By how a name ends, the longest first.
_BY_UNIT: tuple[tuple[str, Limit], ...] = (
    ("_flops_per_s", COMPUTE), ("_bytes_per_s", BANDWIDTH), ("_bytes", MEMORY), ("_s", SECONDS),
    ("sm_count", PROCESSORS), ("efficiency", EFFICIENCY), ("efficiencies", EFFICIENCY), ("shares", EFFICIENCY),
    ("weights", LOG_FACTOR), ("correction", THOUSANDTHS), ("shapes", WIDTH), ("m", WIDTH),
)  # fmt: skip


def limit_of(name: str) -> Limit:
    """The range of a number by the unit in its name."""
    return next((limit for end, limit in _BY_UNIT if name.endswith(end)), PURE)


def value_of(cls: type[T], table: object, what: str, **made: Any) -> T:
    """A dataclass from its table. made: fields that are no numbers or texts, made of theirs already.

    Raises ValueError for what is no table, a missing or an unknown key, and a value that is not what its field is, or
    beyond its unit's range.
    """
    assert is_dataclass(cls)
    given, hints = mapping(table, what), _hints(cls)
    names = {each.name: each for each in fields(cls) if each.init}
    missing = sorted(n for n, each in names.items() if n not in given and each.default is MISSING and n not in made)
    unknown = sorted(set(given) - set(names))
    if missing or unknown:
        raise ValueError(f"{what}: missing {shown(missing)}, unknown {shown(unknown)}")
    found = {n: _value(hints[n], given[n], f"{what}: {n}", limit_of(n)) for n in names if n in given and n not in made}
    return cls(**found, **made)


@lru_cache
def _hints(cls: type) -> Mapping[str, Any]:
    return get_type_hints(cls)


def mapping(value: object, what: str) -> Mapping[str, Any]:
    """A table as one; ValueError for anything else."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a table; given {shown(value)}")
    return value


def listed(value: object, what: str) -> Sequence[Any]:
    """A list as one; ValueError for anything else."""
    if not isinstance(value, list):
        raise ValueError(f"{what} must be a list; given {shown(value)}")
    return value


def number(value: object, what: str, limit: Limit, whole: bool = False) -> Any:
    """A finite number within a range. ValueError for null, text, a table, a truth value, and beyond the range."""
    kind = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise ValueError(f"{what} must be {kind}; given {shown(value)}")
    zero = value == 0 and limit is EFFICIENCY  # of tiles that are not used; who needs one that is not zero says so
    if not (zero or limit.holds(value)):
        raise ValueError(f"{what} must lie {limit.range}; given {cut(repr(value))}")
    return value


def numbers(value: object, what: str, limit: Limit, whole: bool = False) -> tuple[Any, ...]:
    """A list of them."""
    return tuple(number(each, what, limit, whole) for each in listed(value, what))


def _value(hint: Any, value: Any, what: str, limit: Limit) -> Any:
    if value is None and type(None) in get_args(hint):
        return None
    if hint is str:
        if not isinstance(value, str):
            raise ValueError(f"{what} must be a text; given {shown(value)}")
        return value
    inner = get_args(hint)
    if inner and inner[-1] is Ellipsis:
        return numbers(value, what, limit, inner[0] is int)
    return number(value, what, limit, hint is int)
