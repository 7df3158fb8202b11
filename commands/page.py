"""`thinwire ui` and `thinwire report`: the page, served on loopback and computed anew, or written to a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thinwire.commands.frame.progress import working
from thinwire.commands.options import Json, asks, envelope, note, print_answer
from thinwire.commands.reproduce import command_line, options
from thinwire.edge.words import place, shown
from thinwire.page import defaults
from thinwire.sim.question import Question

if TYPE_CHECKING:
    from thinwire.page.desk import Desk
    from thinwire.page.state import State

Link = Annotated[float, typer.Option(help="Factor on the rate of every link.")]
MaxPerplexity = Annotated[float, typer.Option(help="Most that a scheme may raise perplexity to: a ratio.")]
MaxLookupsLost = Annotated[
    float, typer.Option(help="Most look-ups in compressed prompts that a scheme may lose: points of 100.")
]
Rate = Annotated[float | None, typer.Option(help="Requests a second, for the load and the plan.")]
OutputTokens = Annotated[float, typer.Option(help="Mean tokens of an answer, for the load and the plan.")]
SloTtftMs = Annotated[float, typer.Option(help="Milliseconds to the first token that are good.")]
Prices = Annotated[
    list[str] | None, typer.Option("--price", help="MACHINE=NUMBER, of a GPU an hour, for the plan; repeatable.")
]
LEFT = ("scaled_links", "slow_ranks")  # a page has one slider for all links, and no stragglers
FIRST_TP = 4  # of the README's question, which the page opens with


@asks(Question, without=LEFT, optional={"model": "", "cluster": "", "scheme": ""})
def ui(
    question: Question,
    link: Link = defaults.LINK,
    max_perplexity: MaxPerplexity = defaults.MAX_PERPLEXITY,
    max_lookups_lost: MaxLookupsLost = defaults.MAX_LOOKUPS_LOST,
    rate: Rate = None,
    output_tokens: OutputTokens = defaults.OUTPUT_TOKENS,
    slo_ttft_ms: SloTtftMs = defaults.SLO_TTFT_MS,
    price: Prices = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: one that is free.")] = defaults.PORT,
    host: Annotated[
        str, typer.Option(help="Address to listen on; another than loopback needs --expose.")
    ] = "127.0.0.1",
    expose: Annotated[
        bool, typer.Option("--expose", help="Let other machines ask: whoever reaches the port may, without a password.")
    ] = False,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, open nothing.")] = False,
) -> None:
    """The page, served on this machine; Ctrl-C ends it. Options are its first state. Without any it opens with the
    README's question: llama-3-70b on 4 of 8xl40s-pcie, batch 8.
    """
    _needs("starlette", "uvicorn", "vl_convert")
    if host not in defaults.LOOPBACK and not expose:
        raise ValueError(f"--host {shown(host)} lets other machines ask: --expose says that this is meant")
    from thinwire.page.desk import Desk
    from thinwire.page.server import run

    desk = Desk()
    try:
        limit = (max_perplexity, max_lookups_lost)
        state = _state(desk, question, link, limit, rate, output_tokens, slo_ttft_ms, price)

        def ready(address: str) -> None:
            print(address, flush=True)
            if host not in defaults.LOOPBACK:
                note("thinwire: whoever reaches this port may ask; there is no password and no encryption")
            if not no_browser:
                import webbrowser

                webbrowser.open(address)

        run(desk, host, port, state.link_text(), ready)
    except KeyboardInterrupt:
        pass  # how it is ended
    except OSError as error:
        raise ValueError(f"cannot listen on {host}:{port}: {error.strerror}; --port 0 takes a free one") from None
    finally:
        desk.close()


@asks(Question, without=LEFT)
def report(
    question: Question,
    out: Annotated[str, typer.Option(help="HTML file to write.")],
    link: Link = defaults.LINK,
    max_perplexity: MaxPerplexity = defaults.MAX_PERPLEXITY,
    max_lookups_lost: MaxLookupsLost = defaults.MAX_LOOKUPS_LOST,
    rate: Rate = None,
    output_tokens: OutputTokens = defaults.OUTPUT_TOKENS,
    slo_ttft_ms: SloTtftMs = defaults.SLO_TTFT_MS,
    price: Prices = None,
    points: Annotated[
        int, typer.Option(min=1, max=2000, help="Of the grid that its sliders snap to: more take longer.")
    ] = defaults.POINTS,
    library: Annotated[
        bool, typer.Option(help="With the charting library (0.9 MB); without it the page shows tables.")
    ] = True,
    loads: Annotated[
        bool, typer.Option(help="With percentiles under a load and a plan of costs, which take seconds.")
    ] = True,
    as_json: Json = False,
) -> None:
    """The page as one file that opens without a network; sliders snap to a grid that is computed beforehand."""
    if library:
        _needs("vl_convert")
    from thinwire.page import report as pages
    from thinwire.page.desk import Desk

    pages.check_out(out)
    desk = Desk()
    try:
        limit = (max_perplexity, max_lookups_lost)
        state = _state(desk, question, link, limit, rate, output_tokens, slo_ttft_ms, price)
        axes = pages.axes_of(state, points)
        with working("report", "points") as work:
            html, grid = pages.page(desk, state, axes, work.update, with_library=library, planned=loads)
        try:
            size = pages.write(out, html)
        except OSError as error:
            raise ValueError(f"cannot write the report to {place(out)}: {error.strerror}") from None
    finally:
        desk.close()
    own: dict[str, Any] = {"out": out, "points": points, "link": link, "max_perplexity": max_perplexity, "rate": rate}
    own |= {"max_lookups_lost": max_lookups_lost, "output_tokens": output_tokens, "slo_ttft_ms": slo_ttft_ms}
    own = {name: value for name, value in own.items() if value != getattr(defaults, name.upper(), None)}
    more = [word for each in price or () for word in ("--price", each)]
    more += [flag for flag, on in (("--no-library", library), ("--no-loads", loads)) if not on]
    document = {
        **envelope(command_line("report", question, *options(own), *more)),
        "out": out, "bytes": size, "predictions": grid["predictions"], "points": len(grid["answers"]),
        "refused": len(grid["refused"]), "axes": grid["axes"], "library": library,
    }  # fmt: skip
    print_answer(document, as_json, lambda: print(_said(document)))


def _said(document: dict[str, Any]) -> str:
    refused = f", {document['refused']} points that cannot be" if document["refused"] else ""
    return f"{document['out']}: {document['bytes'] / 1e3:,.0f} kB, {document['predictions']} predictions{refused}"


def _needs(*packages: str) -> None:
    from importlib.util import find_spec

    if missing := [name for name in packages if find_spec(name) is None]:
        raise ValueError(f"the page needs {', '.join(missing)}: pip install 'thinwire[ui]'")


def _state(
    desk: Desk,
    question: Question,
    link: float,
    limit: tuple[float, float],
    rate: float | None,
    output_tokens: float,
    slo_ttft_ms: float,
    price: Sequence[str] | None,
) -> State:
    """What was given, with files read now. Where no question was, the page's first one."""
    from thinwire.commands.options import factors
    from thinwire.page.state import State, checked, read
    from thinwire.reference.mixed import auto_budget, find

    first = read("").question
    if not any(value for value in question.given().values()):
        question = replace(first, tp=FIRST_TP)
    values = dict(question.given())
    for name in ("model", "cluster", "scheme"):  # what else is left out is a question's own default
        values[name] = values[name] or getattr(first, name)
    for name in ("model", "cluster", "profile"):
        if values.get(name):
            values[name] = desk.adopt(name, values[name])
    prices = {desk.adopt("cluster", name): value for name, value in factors("--price", price).items()}
    if auto_budget(values["scheme"]) is None:
        find(values["scheme"])  # ValueError now, rather than on the page
    own = {"link": link, "rate": rate, "output_tokens": output_tokens}
    asked: Any = own | {"slo_ttft_ms": slo_ttft_ms, "prices": tuple(prices.items())}
    asked |= {"max_perplexity": limit[0], "max_lookups_lost": limit[1]}
    return checked(State(Question(**values), **asked))
