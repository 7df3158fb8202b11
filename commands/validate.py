"""`thinwire validate`: predictions held against published measurements."""

from enum import StrEnum
from typing import Annotated

import typer

from thinwire.commands.frame.progress import working
from thinwire.commands.options import Json, print_answer


class Section(StrEnum):
    """Sections of the comparison; a test holds them to compare.SECTIONS, which takes a second to import."""

    gemm = "gemm"
    attention = "attention"
    decode_attention = "decode_attention"
    prefill = "prefill"
    trtllm = "trtllm"
    tpot = "tpot"
    all_reduce = "all_reduce"
    baselines = "baselines"
    links = "links"
    sglang = "sglang"
    quickreduce = "quickreduce"
    packets = "packets"
    codec = "codec"
    misc = "misc"
    relatives = "relatives"
    logs = "logs"
    hosts = "hosts"
    mixtures = "mixtures"


def validate(
    full: Annotated[bool, typer.Option("--full", help="Leave out every row and every shape: minutes.")] = False,
    only: Annotated[list[Section] | None, typer.Option(help="This section only; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Hold predictions against published measurements."""
    from thinwire.validation.targets import compare

    chosen = {section.value for section in only or ()}
    wanted = [(key, build) for key, build in compare.SECTIONS.items() if not chosen or key in chosen]
    sections = []
    with working("validate", "sections", total=len(wanted)) as work:
        for number, (key, build) in enumerate(wanted):
            work.update(number, at=key)
            sections.append(build(full))

    def show() -> None:
        from thinwire.commands.tables.console import console

        compare.show(sections, console)

    print_answer(compare.document(sections, full), as_json, show)
