"""The lines that ask the same again: each is run."""

import shlex

import pytest

from thinwire.commands.reproduce import command_line, options, python_line
from thinwire.sim import api
from thinwire.sim.question import Inquiry, Question
from thinwire.sim.serving.question import Service

QUESTIONS = (
    Question("llama-3-8b", "8xl40s-pcie", "flash-int4", 4),
    Question(
        "llama-3-8b", "8xl40s-pcie", "bf16", gpus="0,1,6,7", batch=2, input_tokens=64, launch="graph",
        scaled_links={"gpu0->*": 1 / 3, "pool:*": 2.0}, slow_ranks={1: 1.5},
    ),
    Question("qwen3-30b-a3b", "8xl40s-pcie", "a2a-int4", attention="dp", expert_skew=0.5, kv="fp8", input_tokens=64),
)  # fmt: skip


def ran(line: str, name: str) -> object:
    """What the last statement of a line gives."""
    *before, last = line.split("; ")
    space: dict[str, object] = {}
    exec("\n".join([*before, f"{name} = {last}"]), space)
    return space[name]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.scheme)
def test_the_line_of_python_predicts_the_same(question: Question) -> None:
    line = python_line(question)
    assert line.startswith("import thinwire; thinwire.predict(model='") and "\n" not in line
    assert ran(line, "found").ttft_s == api.answer(question).ttft_s  # type: ignore[attr-defined]


def test_a_comparison_takes_its_schemes_first() -> None:
    line = python_line(QUESTIONS[0], "compare", ["bf16", "flash-int8"], baseline="nccl")
    assert "scheme=" not in line
    found = ran(line, "found")
    assert isinstance(found, api.Comparison) and found.baseline.scheme.name == "nccl"
    assert {row.scheme.name for row in found.rows} == {"bf16", "flash-int8"}


def test_a_service_is_served_again() -> None:
    service = Service("llama-3-8b", "8xl40s-pcie", "flash-int4", 4, rate=1.0, duration=5.0, input_tokens=64.0)
    first = ran(python_line(service), "found")
    again = ran(python_line(service), "found")
    assert first.to_dict() == again.to_dict()  # type: ignore[attr-defined]
    assert command_line("serve", service).startswith("thinwire serve --model llama-3-8b --cluster 8xl40s-pcie")


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.scheme)
def test_a_shell_takes_the_line_apart_as_it_was(question: Inquiry) -> None:
    words = shlex.split(command_line("predict", question, "--json"))
    assert words == ["thinwire", "predict", *question.command_line(), "--json"]
    assert "--scheme" not in shlex.split(command_line("compare", question, without=("scheme",)))


def test_what_a_shell_would_read_is_quoted() -> None:
    hostile = Question("$(rm -rf /)", "a b;c`d`'e", "bf16")
    line = command_line("predict", hostile)
    assert shlex.split(line)[3] == "$(rm -rf /)" and shlex.split(line)[5] == "a b;c`d`'e"
    assert command_line("cluster show", ["mine.toml"]) == "thinwire cluster show mine.toml"
    assert options({"a_b": 1, "c": None, "d": True, "e": False, "f": "x"}) == ["--a-b", "1", "--d", "--f", "x"]
