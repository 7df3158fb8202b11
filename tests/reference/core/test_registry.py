"""Registrations: how specs are read by them, and what each is refused for, in one sentence. No torch."""

import math
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import invalidate_caches
from pathlib import Path
from typing import Any

import pytest

from thinwire.reference.catalog import Codec, Cost, Numerics, Section, parse_codec, register, scheme, unregister
from thinwire.reference.core import lookup
from thinwire.reference.core.nvfp4 import NVFP4
from thinwire.reference.core.registry import check_layout, entries, entry_of, numerics_of
from thinwire.reference.core.scheme import MX, GroupedInt, OutlierHybrid, Raw


@dataclass(frozen=True, slots=True)
class Flat(Codec):
    """`bits` bits a value in bytes of one section."""

    bits: int = 4

    @property
    def group(self) -> int:
        return 8

    @property
    def spec(self) -> str:
        return f"flat{self.bits}"

    @property
    def bits_per_value(self) -> float:
        return float(self.bits)

    def _sections(self, numel: int) -> tuple[Section, ...]:
        return (Section("codes", -(-numel // 8) * self.bits),)


def given(**more: Any) -> dict[str, Any]:
    return {
        "build": lambda words: Flat(int(words["number"])),
        "grammar": "flatB",
        "examples": ("flat4", "flat3"),
        **more,
    }


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    yield
    for entry in entries():
        if entry.own:
            unregister(entry.kind)


def test_the_built_in_codecs_are_registered_like_any() -> None:
    mine = [entry for entry in lookup.codecs() if not entry.own]
    assert [entry.kind for entry in mine] == [Raw, GroupedInt, MX, NVFP4, OutlierHybrid]
    assert [entry.names for entry in mine] == [("bf16", "fp16", "fp32"), ("int#",), ("mx",), ("nvfp4",), ("hybrid#",)]
    for entry in mine:
        assert entry.kernels and entry.cost == Cost() and entry.module
        assert {type(parse_codec(spec)) for spec in entry.examples} == {entry.kind}


def test_a_registered_codec_has_its_name_in_specs() -> None:
    with pytest.raises(ValueError, match="unknown codec spec 'flat4'"):
        scheme("two_step:flat4")
    register(Flat, "flat#", **given())
    assert parse_codec("flat6") == Flat(6) and entry_of(Flat(6)).kind is Flat
    found = scheme("two_step:flat3/int8+exempt-1")
    assert (found.name, found.reduce) == ("two_step:flat3/int8-g128-zp+exempt-1", Flat(3))
    assert Flat(3).wire_bytes(9) == 16 and Flat(3).offsets(9) == (0,)
    with pytest.raises(ValueError, match=r"allowed: bf16, .*; flatB$"):
        parse_codec("flat")
    unregister(Flat)
    with pytest.raises(ValueError, match="unknown codec spec 'flat3'"):
        scheme("two_step:flat3/int8+exempt-1")  # though it was understood a moment ago
    with pytest.raises(ValueError, match="Flat is not registered"):
        unregister(Flat)


def test_words_after_the_name_are_required_then_optional() -> None:
    seen: list[dict[str, str]] = []

    def build(words: Any) -> Flat:
        seen.append(dict(words))
        return Flat(int(words.get("bits", 4)))

    options = {"bits": r"b(\d+)", "fast": "fast"}
    more = given(build=build, required=("kind",), options=options, examples=())
    with pytest.raises(ValueError, match="needs an example"):
        register(Flat, "flat", **more)
    entry = {**more, "examples": ("flat-x",)}
    with pytest.raises(ValueError, match=r"example 'flat-x' says of itself that it is 'flat4', which reads as None"):
        register(Flat, "flat", **entry)
    assert entries()[-1].kind is OutlierHybrid  # a registration that is refused leaves nothing
    register(Flat, "flat#", **given(build=build, options=options, examples=("flat4",)))
    assert parse_codec("flat4-fast-b5") == Flat(5)
    assert seen[-1] == {"name": "flat", "number": "4", "fast": "fast", "bits": "5"}
    with pytest.raises(ValueError, match="codec spec 'flat4-b5-b6': bits is given twice: 'b6'"):
        parse_codec("flat4-b5-b6")
    with pytest.raises(ValueError, match="codec spec 'flat4-slow': unknown option 'slow'; allowed codecs: bf16"):
        parse_codec("flat4-slow")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "needs a name"),
        (("Flat",), "lower-case letters"),
        (("flat-4",), "lower-case letters"),
        (("flat:",), "lower-case letters"),
        (("4flat",), "lower-case letters"),
        (("bf16",), r"codec name 'bf16' of .*Flat is taken: bf16 is thinwire\.reference\.core\.scheme\.Raw"),
        (("int#",), "name 'int#' of .* is taken: int# is .*GroupedInt"),
        (("int4",), "name 'int4' of .* is taken: int# is .*GroupedInt"),
        (("int4#",), "name 'int4#' of .* is taken: int# is .*GroupedInt"),
        (("flat#", "bf#"), "name 'bf#' of .* is taken: bf16 is .*Raw"),
    ],
)
def test_names_that_are_none_or_taken(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        register(Flat, *names, **given())
    assert all(not entry.own for entry in entries())


def test_names_that_only_look_alike_are_free() -> None:
    register(Flat, "flat#", "interval#", "int_", "bf", "mx4", **given())
    assert {parse_codec("flat4"), parse_codec("interval4")} == {Flat(4)}


def test_a_class_is_registered_once() -> None:
    register(Flat, "flat#", **given())
    with pytest.raises(ValueError, match=r"test_registry\.Flat is registered already, as flat#"):
        register(Flat, "other#", **given())
    with pytest.raises(ValueError, match=r"GroupedInt is registered already, as int#"):
        register(GroupedInt, "mine#", **given())


def test_classes_that_are_no_values() -> None:
    class Loose(Flat):
        pass

    with pytest.raises(ValueError, match="a subclass of Codec: given"):
        register(int, "flat#", **given())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="build must give a Loose: given"):  # frozen, as what it inherits from
        register(Loose, "loose#", **given(examples=("loose4",)))


@dataclass
class Thawed(Codec):
    """Not frozen: two of them could be equal today and differ tomorrow."""

    bits: int = 4
    group = 8
    spec = "thawed"
    bits_per_value = 4.0

    def _sections(self, numel: int) -> tuple[Section, ...]:
        return (Section("codes", numel),)


def test_a_codec_is_frozen() -> None:
    with pytest.raises(ValueError, match=r"Thawed must be a frozen dataclass"):
        register(Thawed, "thawed", **given())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"options": {"bits": "b(\\d+"}}, "option bits of .* is no regular expression"),
        ({"options": {"bits": "(b)(1)"}}, "option bits of .* may have one group"),
        ({"examples": ("float4",)}, "codec flat# of .*: its names and options do not read its example 'float4'"),
        ({"examples": ("int4",)}, "do not read its example 'int4'"),
        ({"build": lambda words: words["bits"]}, "build failed with KeyError: 'bits'"),
        ({"build": lambda words: GroupedInt(4)}, "build must give a Flat: given"),
        ({"cost": {"launches": 1}}, r"cost of .*Flat must be a Cost: given \{'launches': 1\}"),
        ({"cost": {}}, r"cost of .*Flat must be a Cost: given \{\}"),
        ({"numerics": 7}, "numerics of .*Flat must be a module's name, Numerics of three functions or None: given 7"),
        ({"numerics": Numerics(print, print, 7)}, "Numerics of three functions or None"),  # type: ignore[arg-type]
        ({"options": {"name": "n"}}, "keys of .*Flat must be strings of their own, .*: given 'name'"),
        ({"options": {"number": "n"}}, "keys of .*Flat must be strings of their own, .*: given 'number'"),
        ({"required": ("kind",), "options": {"kind": "k"}}, "must be strings of their own, .*: given 'kind'"),
        ({"required": ("kind", "kind")}, "must be strings of their own, .*: given 'kind'"),
        ({"options": {"bits": 4}}, "option bits of .* is no regular expression"),
    ],
)
def test_registrations_that_do_not_fit(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        register(Flat, "flat#", **given(**more))
    assert "\n" not in str(caught.value) and all(not entry.own for entry in entries())


class Stopped(BaseException):
    """As a key pressed in between."""


@dataclass(frozen=True, slots=True)
class Raises(Flat):
    """Sizes that cannot be asked for, while there is something to raise."""

    def _sections(self, numel: int) -> tuple[Section, ...]:
        if RAISED:
            raise RAISED[0]
        return (Section("codes", -(-numel // 8) * self.bits),)


RAISED: list[BaseException] = []


def test_whatever_a_class_raises_leaves_nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its name is free again. Errors are said in one sentence, what stops a program passes."""
    more = given(build=lambda words: Raises(int(words["number"])))
    for error, expected, message in (
        (ZeroDivisionError("by\nzero"), ValueError, r"codec flat# of .*\.Raises: ZeroDivisionError: by zero$"),
        (ValueError("so\nnot"), ValueError, r"codec flat# of .*\.Raises: so not$"),
        (Stopped("now"), Stopped, "now"),
    ):
        monkeypatch.setitem(globals(), "RAISED", [error])
        with pytest.raises(expected, match=message):
            register(Raises, "flat#", **more)
        assert all(not entry.own for entry in entries())
    monkeypatch.setitem(globals(), "RAISED", [])
    register(Raises, "flat#", **more)


def test_numbers_have_so_many_digits() -> None:
    for spec in ("int", "int4-g", "hybrid4-k", "mx-e2m1-b"):
        with pytest.raises(ValueError, match=r"a number has 40 digits at most: given '9+\.\.\.9+'"):
            parse_codec(spec + "9" * 5000)
    for name in ("flash-int4+exempt-", "two_step:int4@chunk=", "two_step:int"):
        with pytest.raises(ValueError, match="a number has 40 digits at most"):
            scheme(name + "9" * 5000)
    with pytest.raises(ValueError, match=r"bits must lie in 2\.\.8"):
        parse_codec("int" + "9" * 40)


@dataclass(frozen=True, slots=True)
class Odd(Flat):
    """Sizes that do not add up, one way a `wrong`."""

    wrong: str = ""

    @property
    def group(self) -> int:
        return 0 if self.wrong == "group" else 8

    @property
    def align(self) -> int:
        return 12 if self.wrong == "align" else self.group

    @property
    def bits_per_value(self) -> float:
        return 4.5 if self.wrong == "bits" else 4.0

    def _sections(self, numel: int) -> tuple[Section, ...]:
        size = -(-numel // 8) * 4
        return {
            "none": (),
            "twice": (Section("codes", size // 2), Section("codes", size // 2)),
            "negative": (Section("codes", size + 1), Section("more", -1)),
            "half": (Section("codes", size / 2),),  # type: ignore[arg-type]
            "type": (Section("codes", size, "int32"),),
            "size": (size,),
        }.get(self.wrong, (Section("codes", size),))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("group", "align must be a multiple of group, both positive: group=0, align=0"),
        ("align", "align must be a multiple of group, both positive: group=8, align=12"),
        ("bits", "bits_per_value=4.5, but 32768 values take 4 bits each"),
        ("none", r"sections need names of their own, one at least: \[\] for 1"),
        ("twice", "sections need names of their own"),
        ("negative", "none negative"),
        ("half", "whole bytes"),
        ("type", "sections are Sections that hold uint8, uint16, bf16, fp16, fp32: .*int32"),
        ("size", r"sections are Sections that hold .*: \(4,\) for 1 values"),
    ],
)
def test_sizes_that_do_not_add_up(wrong: str, message: str) -> None:
    check_layout(Odd(4))
    with pytest.raises(ValueError, match=message):
        check_layout(Odd(4, wrong))


def test_costs_say_where_they_are_from() -> None:
    assert Cost(4.0, 2.0, 2, "measured: here").launches == 2
    for bad, message in (
        ({"encode_bytes_per_value": 1.0}, "2 bytes a value or more"),
        ({"decode_bytes_per_value": math.nan}, "2 bytes a value or more"),
        ({"launches": 0}, "launches must lie in 1..1000"),
        ({"source": "I think"}, "source must say"),
    ):
        with pytest.raises(ValueError, match=message):
            Cost(**bad)  # type: ignore[arg-type]


def test_numerics_are_found_when_asked_for() -> None:
    with pytest.raises(ValueError, match=r"codec flat4 is of a class that is not registered: .*test_registry\.Flat"):
        numerics_of(Flat())
    register(Flat, "flat#", **given())
    with pytest.raises(ValueError, match="codec flat# is registered without numerics: it can be predicted, not run"):
        numerics_of(Flat())
    for where, message in (
        ("nowhere.at_all", r"numerics 'nowhere\.at_all' must import and have encode, decode, bound: No module named"),
        ("math", "numerics 'math' must import and have .*: module 'math' has no attribute 'encode'"),
        ("math:inf.gone", "'math:inf.gone' must import"),
    ):
        unregister(Flat)
        register(Flat, "flat#", **given(numerics=where))
        assert parse_codec("flat4") == Flat()
        with pytest.raises(ImportError, match=message):
            numerics_of(Flat())
    unregister(Flat)
    mine = Numerics(print, print, print)
    register(Flat, "flat#", **given(numerics=mine))
    assert numerics_of(Flat()) is mine and entry_of(Flat()).module == "builtins"


def module(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.py").write_text(text)
    return name


MINE = """
from dataclasses import dataclass
from thinwire.reference.catalog import Codec, Section, register

@dataclass(frozen=True, slots=True)
class Mine(Codec):
    group = 8
    spec = "mine"
    bits_per_value = 8.0
    def _sections(self, numel):
        return (Section("codes", -(-numel // 8) * 8),)

register(Mine, "mine", build=lambda words: Mine(), grammar="mine", examples=("mine",))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, for modules that bring codecs."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]
    lookup.forget_loaded()


def test_modules_in_the_environment_are_loaded_when_a_spec_is_unknown(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = module(folder, "mine_of_environment", MINE)
    monkeypatch.setenv("THINWIRE_CODECS", f" {name} ,")
    assert parse_codec("int4") == GroupedInt(4) and name not in sys.modules
    assert parse_codec("mine").spec == "mine" and name in sys.modules
    assert lookup.own_sources() == {name: MINE.encode()}
    assert not lookup.load()  # once


def test_modules_of_installed_packages_are_loaded_too(folder: Path) -> None:
    name = module(folder, "mine_of_package", MINE)
    info = folder / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[thinwire_codecs]\nmine = {name}\n")
    assert [entry.names for entry in lookup.codecs() if entry.own] == [("mine",)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "ModuleNotFoundError: No module named 'broken_codecs'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def", "SyntaxError: "),
        (MINE.replace('"mine"', '"int4"'), r"ValueError: codec name 'int4' of broken_codecs\.Mine is taken"),
    ],
)
def test_a_broken_module_harms_only_who_asks_for_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, message: str
) -> None:
    if text is not None:
        module(folder, "broken_codecs", text)
    monkeypatch.setenv("THINWIRE_CODECS", "broken_codecs")
    assert scheme("flash-int4").reduce == parse_codec("int4")
    for _ in range(2):
        with pytest.raises(ValueError) as caught:
            scheme("two_step:mine")
        said = str(caught.value)
        assert said.startswith(
            "codec spec 'mine': codecs of module 'broken_codecs' (THINWIRE_CODECS) cannot be loaded: "
        )
        assert "\n" not in said
        assert re.search(message, said), said


@pytest.mark.parametrize(
    ("last", "message"), [("1 / 0", "ZeroDivisionError: "), ("import sys; sys.exit('enough')", "SystemExit: enough$")]
)
def test_what_fails_halfway_leaves_nothing_and_says_why_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, last: str, message: str
) -> None:
    module(folder, "mine_beside", MINE.replace('"mine"', '"beside"'))
    module(folder, "half_codecs", f"{MINE}\nimport mine_beside\n{last}\n")
    monkeypatch.setenv("THINWIRE_CODECS", "half_codecs")
    for _ in range(3):
        with pytest.raises(ValueError, match=f"of module 'half_codecs' .THINWIRE_CODECS. cannot be loaded: {message}"):
            parse_codec("mine")
        assert all(not entry.own for entry in entries())
    assert "mine_beside" not in sys.modules  # or nobody could have it any more
    module(folder, "half_codecs", MINE)
    (folder / "__pycache__").exists() and shutil.rmtree(folder / "__pycache__")
    lookup.forget_loaded()
    assert parse_codec("mine").spec == "mine"


def test_a_module_that_was_not_there_may_appear(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THINWIRE_CODECS", "late_codecs")
    with pytest.raises(ValueError, match="No module named 'late_codecs'"):
        parse_codec("mine")
    module(folder, "late_codecs", MINE)
    invalidate_caches()
    assert parse_codec("mine").spec == "mine"


def test_a_key_pressed_meanwhile_passes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(folder, "slow_codecs", f"{MINE}\nraise KeyboardInterrupt\n")
    monkeypatch.setenv("THINWIRE_CODECS", "slow_codecs")
    with pytest.raises(KeyboardInterrupt):
        parse_codec("mine")
    assert all(not entry.own for entry in entries())


def test_registering_does_not_disturb_what_is_understood() -> None:
    before = scheme("two_step:int5-g64-zp")
    register(Flat, "flat#", **given())
    assert scheme("two_step:int5-g64-zp") is before
