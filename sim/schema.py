"""What files may say of a question: each kind of field as a type that pydantic checks, in one table.

Sweeps make axes of them, plans keys; another kind of field is one line here and one in commands/options.py.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictStr

from thinwire.edge.amounts import amount, whole
from thinwire.edge.words import shown
from thinwire.sim.question import Form, Option
from thinwire.sim.serving.arrivals import lengths_from
from thinwire.sim.serving.serve import parse_fault
from thinwire.topologies.choose import numbers

SHIPPED = "shipped"  # the profile where none of one's own is named
ALL = "all"  # the TP degree that takes every GPU


def _degree(value: object) -> object:
    if value != ALL and (type(value) is not int or not 1 <= value < 2**31):
        raise ValueError(f'must be a positive whole number or "{ALL}"; given {shown(value)}')
    return value


def _listed(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError(f'must be text, such as "0,1,6,7", for a list is several values; given {shown(value)}')
    numbers(value)
    return value


def _known_lengths(text: str) -> str:
    lengths_from(text, 1.0)  # of any kind there are lengths of one token
    return text


def _texts(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _faults(texts: list[str]) -> list[str]:
    for text in texts:
        parse_fault(text)
    return texts


def _text_as(read: Callable[[object], float]) -> BeforeValidator:
    """Text as the amount that it says; whatever is no text as it is."""
    return BeforeValidator(lambda value: read(value) if isinstance(value, str) else value)


WHOLE_TEXT, AMOUNT_TEXT = _text_as(whole), _text_as(amount)
"""For whole numbers of tokens, and for means of them, in files: `"2k"` beside 2048."""
Factor = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Whole = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
_Rank = Annotated[StrictStr, Field(pattern=r"^[0-9]+$")]

_TYPES: Mapping[Form, Any] = {
    "name": StrictStr,
    "degree": Annotated[Any, AfterValidator(_degree)],
    "gpus": Annotated[Any, AfterValidator(_listed)],
    "profile": StrictStr,
    "links": dict[str, Factor],
    "ranks": dict[_Rank, Factor],
    "count": Annotated[int, Field(strict=True, ge=1, lt=2**31)],
    "whole": Whole,
    "length": Annotated[int, Field(strict=True, ge=1, lt=2**31), WHOLE_TEXT],
    "tokens": Annotated[float, Field(strict=True, ge=1, allow_inf_nan=False), AMOUNT_TEXT],
    "positive": Factor,
    "amount": Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)],
    "flag": Annotated[bool, Field(strict=True)],
    "lengths": Annotated[StrictStr, AfterValidator(_known_lengths)],
    "trace": StrictStr,
    "faults": Annotated[list[StrictStr], BeforeValidator(_texts), AfterValidator(_faults)],
}


def type_of(option: Option) -> Any:
    """What a file may give for a field: one value of it."""
    if option.form == "choice":
        return Literal[option.choices]
    kind = _TYPES[option.form]
    return kind if option.limit is None else Annotated[kind, AfterValidator(_within(option))]


def _within(option: Option) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        option.check(option.flag.removeprefix("--").replace("-", "_"), value)
        return value

    return check


def sorted_pairs(table: Mapping[Any, float]) -> tuple[tuple[Any, float], ...]:
    """A table as a value that can be hashed, in an order that is not the file's."""
    return tuple(sorted(table.items()))


# How a file's value is written where the question has it otherwise: from the file, and from the question.
_FROM_FILE: Mapping[Form, Callable[[Any], Any]] = {
    "degree": lambda tp: None if tp == ALL else tp,
    "gpus": lambda text: None if text is None else numbers(text),
    "profile": lambda profile: None if profile == SHIPPED else profile,
    "links": sorted_pairs,
    "ranks": lambda table: sorted_pairs({int(rank): factor for rank, factor in table.items()}),
    "faults": tuple,
}
_LEFT_OUT: Mapping[Form, Any] = {"degree": ALL, "profile": SHIPPED, "links": {}, "ranks": {}, "faults": []}


def from_file(option: Option, value: Any) -> Any:
    """A file's value as the question has it."""
    return _FROM_FILE[option.form](value) if option.form in _FROM_FILE else value


def left_out(option: Option) -> Any:
    """What a file says that says nothing of a field with a default."""
    return _LEFT_OUT.get(option.form, option.default)
