"""The question: one value, built alike by Python, the command line and sweeps, and an option that is added once."""

import inspect
import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

import thinwire
from thinwire.commands.options import asks
from thinwire.sim import api
from thinwire.sim.question import IN_ORDER, Inquiry, Question, option, options_of, question_of
from thinwire.sim.serving.question import Deployment, Service
from thinwire.sim.sweeps.kinds import as_row, axes_of, kind_of

from ..command import run

MODEL, CLUSTER = "llama-3-8b", "8xl40s-pcie"

FACTORS = st.floats(1e-3, 1e3, allow_nan=False)
PLACEMENTS: dict[str, Any] = {
    "scheme": st.sampled_from(["bf16", "flash-int4", "two_step:int4-g32-min/int8-g128-sym", "auto:+1%"]),
    "tp": st.none() | st.integers(1, 64),
    "weights": st.sampled_from(["auto", "bf16", "fp8", "fp8-block", "int4"]),
    "profile": st.none() | st.just("my-gpu.json"),
    "scaled_links": st.dictionaries(st.sampled_from(["*", "gpu0->*", "pool:a", "a=b->c"]), FACTORS, max_size=3),
    "slow_ranks": st.dictionaries(st.integers(0, 63), FACTORS, max_size=3),
}
QUESTIONS = st.builds(
    Question, st.just(MODEL), st.just(CLUSTER), batch=st.integers(1, 999), input_tokens=st.integers(1, 99999),
    launch=st.sampled_from(["eager", "graph"]), **PLACEMENTS,
)  # fmt: skip
SERVICES = st.builds(
    Service, model=st.just(MODEL), cluster=st.just(CLUSTER), replicas=st.integers(1, 99), rate=st.none() | FACTORS,
    gate=st.booleans(), fault=st.lists(st.sampled_from(["5:0:down", "1-2:1:slow:0=2"]), max_size=2).map(tuple),
    policy=st.sampled_from(["round-robin", "shared-queue"]), host_ms=FACTORS, seed=st.integers(0, 99), **PLACEMENTS,
)  # fmt: skip


def parsed(kind: type[Inquiry], words: Sequence[str]) -> Inquiry:
    """The question that the command line makes of options."""
    seen: list[Inquiry] = []

    @asks(kind)
    def command(question: Inquiry) -> None:
        seen.append(question)

    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(command)
    app(args=list(words), standalone_mode=False)
    return seen[0]


@given(QUESTIONS | SERVICES)
def test_the_options_it_prints_ask_it_again(question: Inquiry) -> None:
    assert parsed(type(question), question.command_line()) == question


@given(QUESTIONS | SERVICES)
def test_it_is_a_value(question: Inquiry) -> None:
    assert hash(question) == hash(replace(question)) and question == replace(question)
    assert pickle.loads(pickle.dumps(question)) == question
    assert question.values().keys() == options_of(type(question)).keys()
    assert question.given().items() <= question.values().items()


def test_factors_are_pairs_however_they_are_given() -> None:
    first = Question(MODEL, CLUSTER, scaled_links={"*": 0.5}, slow_ranks={1: 2.0})
    assert first == Question(MODEL, CLUSTER, scaled_links=(("*", 0.5),), slow_ranks=((1, 2.0),))
    assert first == Question(MODEL, CLUSTER, scaled_links=[("*", 0.5)], slow_ranks=[(1, 2.0)])  # type: ignore[arg-type]
    assert Deployment(model=MODEL, cluster=CLUSTER, scaled_links={"*": 0.5}).scaled_links == (("*", 0.5),)
    assert first.values()["scaled_links"] == (("*", 0.5),)
    in_order = Question(MODEL, CLUSTER, scaled_links={"b": 0.5, "a": 2.0}).scaled_links
    assert in_order == (("b", 0.5), ("a", 2.0))  # as what-ifs are applied, and told


def test_what_is_written_down_is_plain() -> None:
    question = Question(MODEL, CLUSTER, tp=np.int64(4), slow_ranks={np.int32(1): np.float32(2)})  # type: ignore[arg-type, dict-item]
    assert json.loads(json.dumps(question.given()))["tp"] == 4
    assert question.command_line()[-2:] == ["--slow-rank", "1=2"]
    twice = Question(MODEL, CLUSTER, slow_ranks=((0, 2.0), (0, 3.0)))
    assert twice.slow_ranks == ((0, 3.0),)
    assert hash(Question(MODEL, CLUSTER, scaled_links=[["*", 1.0]]))  # type: ignore[arg-type]


def test_the_command_line_it_prints_is_taken_by_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    question = Question(MODEL, CLUSTER, tp=2, input_tokens=64, scaled_links={"gpu0->*": 1 / 3})
    status, out, _ = run(capsys, "predict", *question.command_line(), "--json")
    assert status == 0 and json.loads(out)["ttft_ms"] == api.answer(question).ttft_s * 1e3


def test_values_are_told_by_their_names() -> None:
    found = api.place(Question(MODEL, CLUSTER, tp=2))
    question = Question(found.model, found.cluster, "flash-int4", profile=found.profile)
    assert question.command_line()[:4] == ["--model", MODEL, "--cluster", CLUSTER]


# --- the Python face ---


def test_functions_take_a_question_or_what_it_is_made_of() -> None:
    question = Question(MODEL, CLUSTER, "flash-int4", 2, 1, 128, weights="bf16", slow_ranks={1: 2.0})
    wanted = api.answer(question).to_dict()
    given = {"model": MODEL, "cluster": CLUSTER, "scheme": "flash-int4", "tp": 2, "input_tokens": 128}
    for found in (
        api.predict(question),  # type: ignore[call-arg, arg-type]
        thinwire.predict(**given, slow_ranks={1: 2.0}),  # type: ignore[arg-type]
        thinwire.predict(MODEL, CLUSTER, "flash-int4", 2, 1, 128, "bf16", slow_ranks={1: 2.0}),  # type: ignore[call-arg, misc, arg-type]
    ):
        assert found.to_dict() == wanted
    assert api.predict(replace(question, tp=4), tp=2).to_dict() == wanted  # type: ignore[call-arg, arg-type]
    (row,) = thinwire.compare(["flash-int4"], question).rows
    (named,) = thinwire.compare(["flash-int4"], MODEL, CLUSTER, 2, input_tokens=128, slow_ranks={1: 2.0}).rows
    assert row.to_dict() == named.to_dict() == wanted


def test_the_signature_is_the_questions() -> None:
    assert inspect.signature(thinwire.predict).parameters.keys() == inspect.signature(Question).parameters.keys()
    assert [*inspect.signature(Question).parameters][:6] == [*IN_ORDER[:6]]


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ((), {}, "model"),
        ((MODEL,), {}, "cluster"),
        ((MODEL, CLUSTER), {"model": MODEL}, "model given twice"),
        ((MODEL, CLUSTER), {"color": "red"}, "color"),
        (tuple(range(9)), {}, "at most 8 arguments without a name"),
        ((Question(MODEL, CLUSTER), 4), {}, "a Question alone"),
        ((Deployment(model=MODEL, cluster=CLUSTER),), {}, "given Deployment"),
    ],
)
def test_a_call_that_is_none_is_a_type_error(arguments: tuple[Any, ...], options: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        question_of(arguments, options)


def test_without_a_scheme_there_is_no_place_for_one() -> None:
    found = question_of((MODEL, CLUSTER, 2, 3), {}, without=("scheme",))
    assert (found.tp, found.batch, found.scheme) == (2, 3, "bf16")
    for call in (
        lambda **more: api.compare(["bf16"], MODEL, CLUSTER, **more),
        lambda **m: api.auto(0.01, MODEL, CLUSTER, **m),
    ):
        with pytest.raises(TypeError, match="no argument of this call: scheme"):
            call(scheme="flash-int4")


def test_auto_takes_no_stragglers_and_no_graphs() -> None:
    on = Question("smollm2-135m", CLUSTER, tp=3)
    with pytest.raises(TypeError, match="launch"):
        api.auto(0.01, "smollm2-135m", CLUSTER, launch="graph")
    for more in ({"slow_ranks": {1: 2.0}}, {"launch": "graph"}):
        with pytest.raises(ValueError, match="healthy ranks"):
            api.auto(0.01, replace(on, **more))  # type: ignore[arg-type]


# --- an option is added once ---


@dataclass(frozen=True)
class More(Question):
    """A question with one field more."""

    kv: str = field(default="bf16", kw_only=True, metadata=option("choice", "Of the cache.", choices=("bf16", "fp8")))


def test_a_field_is_an_option_an_axis_and_an_argument() -> None:
    question = More(MODEL, CLUSTER, kv="fp8")
    assert parsed(More, question.command_line()) == question and question.command_line()[-2:] == ["--kv", "fp8"]
    kind = kind_of(
        More,
        what="more",
        inner=("batch",),
        results={},
        names=lambda _: (),
        mark={},
        found=lambda *_: {},
        most=1,
        least=1,
    )
    axes = kind.axes
    assert axes.model_validate({"kv": ["bf16", "fp8"]}).kv == ["bf16", "fp8"]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="'bf16' or 'fp8'"):
        axes.model_validate({"kv": "int2"})
    assert kind.defaults["kv"] == ["bf16"] and kind.plain["kv"]("fp8") == "fp8"
    assert kind.columns["kv"] == "string" and as_row(question)["kv"] == "fp8"


def test_every_kind_of_field_is_known_everywhere() -> None:
    """A new kind wants a line in commands/options.py and one in sim/schema.py."""
    for kind in (Question, Service):
        axes_of(kind, inner=())
        assert len(parsed(kind, ["--model", MODEL, "--cluster", CLUSTER]).values()) == len(options_of(kind))
