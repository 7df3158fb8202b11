"""Codecs by name: `register` is the one way in, for those of `core.builtin` as for yours (docs/own-codec.md).

A registration says how a codec's specs read, what its kernels cost, and where its numbers are made. The last needs
torch and so stays a name until somebody encodes: the simulator and the command line plan without importing it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any

from thinwire.edge.limits import DIGITS
from thinwire.edge.words import said, shown
from thinwire.reference.core.formats import HELD
from thinwire.reference.core.scheme import Codec, Section

_NAME = re.compile(r"([a-z][a-z0-9_]*)(#?)")
_DIGITS = re.compile(rf"\d{{{DIGITS.most + 1},}}")
HALVES = ("encode", "decode", "bound")
OURS = ("name", "number")  # keys of `build` that a codec's name fills
_LONG = 4096  # runs of `align` values after which a buffer is long


@dataclass(frozen=True, slots=True)
class Cost:
    """What a codec's kernels cost beside their encoded buffers, whose bytes the codec itself knows.

    encode_bytes_per_value, decode_bytes_per_value: bytes of the bf16 tensor that a pass over it reads or writes: 2.0 is
    once, and what more there is counts in a fused kernel too. launches: kernels that a pass takes. A kernel that memory
    does not bound is measured and stands in the profile (`timed`), which goes before all of this.
    """

    encode_bytes_per_value: float = 2.0
    decode_bytes_per_value: float = 2.0
    launches: int = 1
    source: str = "assumed: one pass over memory"

    def __post_init__(self) -> None:
        if not all(2.0 <= each < 1e3 for each in (self.encode_bytes_per_value, self.decode_bytes_per_value)):
            raise ValueError(
                "a pass moves 2 bytes a value or more, below 1000: "
                f"encode_bytes_per_value={self.encode_bytes_per_value}, "
                f"decode_bytes_per_value={self.decode_bytes_per_value}"
            )
        if not 1 <= self.launches <= 1000:
            raise ValueError(f"launches must lie in 1..1000: launches={self.launches}")
        if not self.source.startswith(("assumed: ", "measured: ")):
            raise ValueError(f"source must say 'assumed: ...' or 'measured: ...': source={shown(self.source)}")


@dataclass(frozen=True, slots=True)
class Numerics:
    """A codec on flat torch tensors, wherever they are; `reference.codecs.numerics` says what each is given.

    encode(values_N, codec) -> uint8 [codec.wire_bytes(N)]; decode(buffer, numel, codec, dtype) -> [numel];
    bound(exact_N, codec) -> the largest |decode(encode(x)) - x| of each value, float64.
    """

    encode: Callable[..., Any]
    decode: Callable[..., Any]
    bound: Callable[..., Any]


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One registration; `register` explains the fields."""

    kind: type[Codec]
    names: tuple[str, ...]
    build: Callable[[Mapping[str, str]], Codec]
    required: tuple[str, ...]
    options: Mapping[str, str]
    grammar: str
    numerics: str | Numerics | None
    cost: Cost
    examples: tuple[str, ...]
    kernels: bool

    @property
    def own(self) -> bool:
        """False for what thinwire ships."""
        return self.kind.__module__.partition(".")[0] != "thinwire"

    @property
    def where(self) -> str:
        """Its class, for messages."""
        return f"{self.kind.__module__}.{self.kind.__qualname__}"

    @property
    def module(self) -> str | None:
        """The module that its numerics are in."""
        if self.numerics is None or isinstance(self.numerics, str):
            return self.numerics and self.numerics.partition(":")[0]
        return str(self.numerics.encode.__module__)

    @property
    def modules(self) -> set[str]:
        """The modules that its class, its `build` and its numerics are in."""
        made: list[Any] = [self.kind, self.build]
        if isinstance(self.numerics, Numerics):
            made += [getattr(self.numerics, half) for half in HALVES]
        found = {getattr(one, "__module__", None) for one in made} | {self.module}
        return {name for name in found if name}


_ENTRIES: dict[type[Codec], Entry] = {}
_RESOLVED: dict[type[Codec], Numerics] = {}
_counted = {"forgotten": 0}


def register(
    kind: type[Codec],
    *names: str,
    build: Callable[[Mapping[str, str]], Codec],
    required: Iterable[str] = (),
    options: Mapping[str, str] = MappingProxyType({}),
    grammar: str,
    numerics: str | Numerics | None = None,
    cost: Cost | None = None,
    examples: Iterable[str],
    kernels: bool = False,
) -> None:
    """Make a codec known: to specs, `encode`, `decode` and `bound`, the simulator and the property tests.

    Args:
        kind: its class, a frozen dataclass.
        names: first words of its specs: `log4`; `int#` for a word that ends in a whole number.
        build: the codec of a spec's words by key: `name`, `number` where the name ends in `#`, and what of `required`
            and `options` was given: no key twice. ValueError for values that mean nothing.
        required: keys of the words that must follow the name, in order.
        options: key -> regular expression of a word that may follow in any order, once; its group is the value.
        grammar: how specs read, for messages: `log4[-gGROUP]`.
        numerics: `Numerics`, or "module" or "module:attribute" that has `encode`, `decode` and `bound`, imported when
            first asked for. None: the codec can be predicted, and nothing else.
        cost: what its kernels cost; one pass over memory where left out.
        examples: specs to try, one at least. They are checked here, and tried by `thinwire.reference.check`.
        kernels: thinwire's Triton kernels give the same bytes. Others' run their `numerics` under every backend.

    Raises:
        ValueError: one sentence on what does not fit: a class or name that is taken, an example that does not read back
            as itself, sections that do not add up to `bits_per_value`, or what else its class raises meanwhile.

    What is refused is not registered, whatever was raised.
    """
    cost = Cost() if cost is None else cost
    entry = Entry(kind, names, build, tuple(required), dict(options), grammar, numerics, cost, tuple(examples), kernels)
    _check_class(entry)
    _check_keys(entry)
    _check_names(entry)
    _ENTRIES[kind] = entry
    try:
        for spec in entry.examples:
            check_layout(_canonical(entry, spec))
    except BaseException as error:
        unregister(kind)
        if not isinstance(error, Exception):
            raise
        what = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"codec {names[0]} of {entry.where}: {said(what)}") from error


def unregister(kind: type[Codec]) -> None:
    """Forget a codec: for tests, and for a notebook's cell that is run again. ValueError for one that is not known."""
    if _ENTRIES.pop(kind, None) is None:
        raise ValueError(f"{kind.__name__} is not registered")
    _RESOLVED.pop(kind, None)
    _counted["forgotten"] += 1


def generation() -> int:
    """A number that changes when specs that were understood may mean something else."""
    return _counted["forgotten"]


def entries() -> tuple[Entry, ...]:
    """All registrations, in their order."""
    return tuple(_ENTRIES.values())


def entry_of(codec: Codec) -> Entry:
    """A codec's registration. ValueError where its class has none."""
    found = _ENTRIES.get(type(codec))
    if found is None:
        raise ValueError(
            f"codec {codec.spec} is of a class that is not registered: {type(codec).__module__}."
            f"{type(codec).__qualname__}; thinwire.reference.catalog.register makes it known"
        )
    return found


def numerics_of(codec: Codec) -> Numerics:
    """What a codec does on tensors, imported when first asked for.

    Raises ValueError where there is none, and ImportError with the reason where it cannot be imported or lacks a half.
    """
    found = _RESOLVED.get(type(codec))
    if found is None:
        found = _RESOLVED[type(codec)] = _resolve(entry_of(codec))
    return found


def _resolve(entry: Entry) -> Numerics:
    given = entry.numerics
    if given is None:
        raise ValueError(f"codec {entry.names[0]} is registered without numerics: it can be predicted, not run")
    if isinstance(given, Numerics):
        return given
    module, _, attribute = given.partition(":")
    try:
        found = import_module(module)
        for name in filter(None, attribute.split(".")):
            found = getattr(found, name)
        return Numerics(*(getattr(found, half) for half in HALVES))
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"codec {entry.names[0]}: its numerics {given!r} must import and have {', '.join(HALVES)}: {error}"
        ) from error


# ---- specs


def grammar() -> str:
    """How the specs of every codec read."""
    return "; ".join(entry.grammar for entry in _ENTRIES.values())


def read(spec: str) -> Codec | None:
    """The codec of a spec; None where no name and no set of words is like it. ValueError for words that do not fit."""
    head, *words = spec.split("-")
    for entry in _ENTRIES.values():
        for name in entry.names:
            stem, number = name.removesuffix("#"), head[len(name.removesuffix("#")) :]
            if not head.startswith(stem) or bool(number) != name.endswith("#") or (number and not _whole(number)):
                continue
            check_digits(spec)
            if len(words) < len(entry.required) or (len(words) > len(entry.required) and not entry.options):
                return None
            found = {"name": stem, **({"number": number} if number else {})}
            found |= zip(entry.required, words, strict=False)
            found |= _optional(words[len(entry.required) :], entry.options)
            return _built(entry, found)
    return None


def check_digits(text: str) -> None:
    """ValueError for a number of more digits than Python, or anybody, wants to read."""
    if many := _DIGITS.search(text):
        raise ValueError(f"a number has {DIGITS.most} digits at most: given {shown(many[0])}")


def _built(entry: Entry, words: Mapping[str, str]) -> Codec:
    try:
        codec = entry.build(words)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"build failed with {type(error).__name__}: {error}") from error
    if type(codec) is not entry.kind:
        raise ValueError(f"build must give a {entry.kind.__name__}: given {shown(codec)}")
    return codec


def _whole(number: str) -> bool:
    return number.isascii() and number.isdigit()


def _optional(words: Iterable[str], patterns: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        for key, pattern in patterns.items():
            if match := re.fullmatch(pattern, word):
                if key in found:
                    raise ValueError(f"{key} is given twice: {shown(word)}")
                found[key] = match[1] if match.groups() else word
                break
        else:
            raise ValueError(f"unknown option {shown(word)}; allowed codecs: {grammar()}")
    return found


# ---- what a registration must keep


def _check_class(entry: Entry) -> None:
    kind = entry.kind
    if not (isinstance(kind, type) and issubclass(kind, Codec)):
        raise ValueError(f"register takes a class of codecs, a subclass of Codec: given {shown(kind)}")
    parameters: Any = getattr(kind, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        raise ValueError(f"codec {entry.where} must be a frozen dataclass: equal parameters, equal codec")
    if kind in _ENTRIES:
        raise ValueError(f"codec {entry.where} is registered already, as {', '.join(_ENTRIES[kind].names)}")
    if not entry.examples:
        raise ValueError(f"codec {entry.where} needs an example of its specs: examples=()")
    if not isinstance(entry.cost, Cost):
        raise ValueError(f"cost of {entry.where} must be a Cost: given {shown(entry.cost)}")
    numerics = entry.numerics
    halves = isinstance(numerics, Numerics) and all(callable(getattr(numerics, half)) for half in HALVES)
    if not (numerics is None or halves or (isinstance(numerics, str) and numerics)):
        raise ValueError(
            f"numerics of {entry.where} must be a module's name, Numerics of three functions or None: "
            f"given {shown(numerics)}"
        )


def _check_keys(entry: Entry) -> None:
    keys = [*OURS, *entry.required, *entry.options]
    for place, key in enumerate(keys):
        if not isinstance(key, str) or key in keys[:place]:
            raise ValueError(
                f"keys of {entry.where} must be strings of their own, {' and '.join(OURS)} are the codec's name: "
                f"given {shown(key)}"
            )
    for key, pattern in entry.options.items():
        try:
            groups = re.compile(pattern).groups
        except (re.error, TypeError) as error:
            raise ValueError(f"option {key} of {entry.where} is no regular expression: {error}") from None
        if groups > 1:
            raise ValueError(f"option {key} of {entry.where} may have one group: {shown(pattern)}")


def _check_names(entry: Entry) -> None:
    if not entry.names:
        raise ValueError(f"codec {entry.where} needs a name")
    for name in entry.names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                "a codec's name is lower-case letters, digits and _, a letter first, and # for a number at the end: "
                f"given {shown(name)}"
            )
        for other in _ENTRIES.values():
            taken = next((old for old in other.names if _clash(name, old)), None)
            if taken is not None:
                raise ValueError(f"codec name {shown(name)} of {entry.where} is taken: {taken} is {other.where}")


def _clash(one: str, other: str) -> bool:
    """Is there a word that both names match?"""
    (stem, many), (other_stem, other_many) = ((n.removesuffix("#"), n.endswith("#")) for n in (one, other))
    if many and other_many:
        longer, shorter = sorted((stem, other_stem), key=len, reverse=True)
        return longer.startswith(shorter) and (longer == shorter or _whole(longer[len(shorter) :]))
    if many or other_many:
        numbered, plain = (stem, other_stem) if many else (other_stem, stem)
        return plain.startswith(numbered) and _whole(plain[len(numbered) :])
    return stem == other_stem


def _canonical(entry: Entry, spec: str) -> Codec:
    """The codec of an example, whose `spec` must read back as itself."""
    codec = read(spec)
    if codec is None or type(codec) is not entry.kind:
        raise ValueError(f"its names and options do not read its example {shown(spec)}")
    again = read(codec.spec)
    if again != codec:
        raise ValueError(f"example {shown(spec)} says of itself that it is {shown(codec.spec)}, which reads as {again}")
    return codec


def check_layout(codec: Codec) -> None:
    """Hold a codec's sizes against each other. Raises ValueError with what does not add up."""
    if codec.group < 1 or codec.align < 1 or codec.align % codec.group:
        raise ValueError(
            f"{codec.spec}: align must be a multiple of group, both positive: group={codec.group}, align={codec.align}"
        )
    for numel in (1, codec.align, codec.align + 1, codec.align * _LONG):
        sections = codec.sections(numel)
        if not all(isinstance(section, Section) and section.holds in HELD for section in sections):
            raise ValueError(
                f"{codec.spec}: sections are Sections that hold {', '.join(HELD)}: {shown(sections)} for {numel} values"
            )
        names = [section.name for section in sections]
        if not sections or len(set(names)) != len(names):
            raise ValueError(
                f"{codec.spec}: sections need names of their own, one at least: {names} for {numel} values"
            )
        if any(not isinstance(section.nbytes, int) or section.nbytes < 0 for section in sections):
            raise ValueError(f"{codec.spec}: sections have whole bytes, none negative: {sections} for {numel} values")
    bits = 8 * sum(section.nbytes for section in sections)
    if abs(bits - codec.bits_per_value * numel) > 8 * len(sections) + 1e-6 * bits:
        raise ValueError(
            f"{codec.spec}: bits_per_value={codec.bits_per_value:g}, but {numel} values take {bits / numel:g} bits each"
        )
