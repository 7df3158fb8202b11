"""What a document carries beside the answer: the lines that ask the same again, and what the answer rests on."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thinwire.sim.question import Inquiry

if TYPE_CHECKING:
    from thinwire.sim.grounds import Ground

PROGRAM = "thinwire"
# What a kind of question is answered by in Python: the line that imports it, and its call; of those with a call of
# their own the arguments stand in it.
_FACE = "import thinwire"
_SERVING = (
    "from thinwire.sim.serving.question import Service; from thinwire.sim.serving.serve import answer",
    "answer(Service({}))",
)


def command_line(name: str, asked: Inquiry | Sequence[str], *more: str, without: Collection[str] = ()) -> str:
    """The line of a shell that asks a question, or gives a command some words, and `more` behind them.

    without: fields of the question that the command has no option for.
    """
    words = asked.command_line(without) if isinstance(asked, Inquiry) else asked
    return shlex.join([PROGRAM, *name.split(), *words, *more])


def options(given: Mapping[str, Any]) -> list[str]:
    """Words of options by their names in Python; what is None or False is left out, what is True a flag."""
    words: list[str] = []
    for name, value in given.items():
        if value is not None and value is not False:
            flag = f"--{name.replace('_', '-')}"
            words += [flag] if value is True else [flag, str(value)]
    return words


def python_line(question: Inquiry, call: str = "predict", *first: Any, **more: Any) -> str:
    """A line of Python that asks a question: `import thinwire; thinwire.predict(model=..., ...)`.

    call: another function of the face that takes the question's arguments. first, more: its own, before and behind
    them; schemes of a comparison are `first`, and the question's own scheme is then left out.
    """
    without = ("scheme",) if call == "compare" else ()
    arguments = [repr(each) for each in first]
    arguments += [f"{name}={_written(value)}" for name, value in question.given(without).items()]
    arguments += [f"{name}={value!r}" for name, value in more.items()]
    said = ", ".join(arguments)
    if type(question).__name__ == "Service":
        imports, form = _SERVING
        return f"{imports}; {form.format(said)}"
    return f"{_FACE}; thinwire.{call}({said})"


def _written(value: Any) -> str:
    """A value of a question; factors, which it keeps as pairs, as the mapping that people write."""
    if isinstance(value, tuple) and value and all(isinstance(each, tuple) for each in value):
        return repr(dict(value))
    return repr(list(value) if isinstance(value, tuple) else value)


def resting(found: Sequence[Ground], verbose: bool) -> dict[str, Any]:
    """`assumptions` of a document, ten at most, those that matter first, and how many were left out by class of their
    source; all of them if verbose.
    """
    from thinwire.sim.grounds import counted, listed

    kept = listed(found, len(found)) if verbose else listed(found)
    return {
        "assumptions": [ground.text for ground in kept],
        "assumptions_left_out": counted(ground for ground in found if ground not in kept),
    }
