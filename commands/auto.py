"""`thinwire auto`: a scheme for each sync point."""

from pathlib import Path
from typing import Annotated

import typer

from thinwire.commands.options import Json, Verbose, asks, envelope, note, note_positions, print_answer
from thinwire.commands.reproduce import command_line, options, resting
from thinwire.edge.words import shown
from thinwire.sim.choices import Compress
from thinwire.sim.question import Question


@asks(Question, without=("scheme", "slow_ranks", "launch"))
def auto(
    budget: Annotated[str, typer.Argument(help="How far perplexity may rise: +1%, say.")],
    question: Question,
    sensitivities: Annotated[
        str | None, typer.Option(help="JSON file of `thinwire sensitivity`; the shipped one of the model otherwise.")
    ] = None,
    compress: Annotated[
        Compress | None, typer.Option(help="Positions compressed: prompt, or all; the file's, if one is given.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Write the scheme to this TOML file, for --scheme.")] = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """A scheme for each sync point: the least TTFT under a budget of perplexity."""
    from thinwire.reference.mixed import auto_budget, write
    from thinwire.sim import api
    from thinwire.sim.grounds import grounds, together

    share = auto_budget(f"auto:{budget.removeprefix('auto:')}")
    if share is None:
        raise ValueError(f"the budget is a percentage, such as +1%: {shown(budget)}")
    if out is not None and not out.endswith(".toml"):
        raise ValueError(f"--out names a file that ends in .toml, by which --scheme knows it: {shown(out)}")
    chosen = api.auto(share, question, sensitivities=sensitivities, compress=compress)
    rows = api.compare([chosen.scheme, chosen.uniform], question, compress=chosen.compress)
    note_positions(rows.baseline.model, question.input_tokens)
    if out is not None:
        try:
            write(chosen.scheme, Path(out))
        except OSError as error:
            raise ValueError(f"cannot write the scheme to {out}: {error.strerror}") from None
        note(f"scheme written to {out}")
    own = options({"sensitivities": sensitivities, "compress": compress, "out": out})
    document = rows.to_dict()
    for plain, row in zip([document["baseline"], *document["rows"]], [rows.baseline, *rows.rows], strict=True):
        plain |= resting(grounds(row), verbose)
    mixed = [row for row in rows.rows if row.scheme is chosen.scheme]
    document = {
        **envelope(command_line("auto", [budget, *question.command_line(("scheme",)), *own])), **chosen.to_dict(),
        **document, **resting(together([rows.baseline, *rows.rows], mixed), verbose),
        "question": question.given(without=("scheme",)),
    }  # fmt: skip

    def show() -> None:
        from thinwire.commands.tables.comparison import chosen as table

        table(chosen, rows, verbose)

    print_answer(document, as_json, show)
