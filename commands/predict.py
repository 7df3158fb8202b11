"""`thinwire predict`: TTFT of one prompt."""

from typing import TYPE_CHECKING, Annotated

import typer

from thinwire.commands.options import Json, asks, note, note_positions, print_answer, tables
from thinwire.edge.words import shown
from thinwire.sim.question import Question

if TYPE_CHECKING:
    from thinwire.sim.report import Prediction


@asks(Question, required=("scheme",))
def predict(
    question: Question,
    trace: Annotated[
        str | None,
        typer.Option(help="Write a trace for ui.perfetto.dev: JSON, protobuf where the name ends in .pftrace."),
    ] = None,
    explain: Annotated[bool, typer.Option(help="Print where the milliseconds go and every assumption.")] = False,
    as_json: Json = False,
) -> None:
    """TTFT of one prompt."""
    from thinwire.sim import api

    found = api.answer(question)
    note_positions(found.model, question.input_tokens)
    if trace is not None:
        _write(found, trace)
    print_answer(found.to_dict() | {"question": question.given()}, as_json, lambda: tables().prediction(found, explain))


def _write(found: "Prediction", trace: str) -> None:
    from thinwire.sim.tracing import write_trace

    if trace in ("", "-", "/dev/stdout"):
        raise ValueError(f"--trace takes the path of a file, standard output is the prediction's: {shown(trace)}")
    try:
        write_trace(found, trace)
    except OSError as error:
        raise ValueError(f"cannot write the trace to {trace}: {error.strerror}") from None
    note(f"trace written to {trace}")
