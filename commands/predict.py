"""`thinwire predict`: TTFT of one prompt."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from thinwire.commands.options import Json, Verbose, asks, envelope, note, note_positions, print_answer
from thinwire.commands.reproduce import command_line, resting
from thinwire.edge.words import shown
from thinwire.sim.question import Question, options_of

if TYPE_CHECKING:
    from thinwire.sim.report import Prediction


@asks(Question, without=("scheme",))
def predict(
    question: Question,
    scheme: Annotated[str, typer.Option("--scheme", "--schemes", help=options_of(Question)["scheme"].help)],
    trace: Annotated[str | None, typer.Option(help="Write a Chrome trace (open it in ui.perfetto.dev).")] = None,
    explain: Annotated[bool, typer.Option(help="Print where the time goes and what the interval is made of.")] = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """TTFT of one prompt."""
    from thinwire.sim import api
    from thinwire.sim.grounds import grounds

    names = [name.strip() for name in scheme.split(",") if name.strip()]
    if len(names) > 1:
        raise ValueError(f"predict takes one scheme; thinwire compare --schemes takes several: {shown(scheme)}")
    question = replace(question, scheme=names[0] if names else scheme)
    found = api.answer(question)
    note_positions(found.model, question.input_tokens)
    if trace is not None:
        _write(found, trace)
    document = {
        **envelope(command_line("predict", question)), **found.to_dict(), **resting(grounds(found), verbose),
        "question": question.given(),
    }  # fmt: skip

    def show() -> None:
        from thinwire.commands.tables.prediction import prediction

        prediction(found, explain, verbose)

    print_answer(document, as_json, show)


def _write(found: "Prediction", trace: str) -> None:
    from thinwire.sim.events.trace import write_trace

    if trace in ("", "-", "/dev/stdout"):
        raise ValueError(f"--trace takes the path of a file, standard output is the prediction's: {shown(trace)}")
    try:
        write_trace(found.timeline, trace)
    except OSError as error:
        raise ValueError(f"cannot write the trace to {trace}: {error.strerror}") from None
    note(f"trace written to {trace}")
