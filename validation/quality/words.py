"""Figures and lines as docs/accuracy.md has them."""

from collections.abc import Iterable, Sequence
from textwrap import fill

from thinwire.validation.quality.measured import Estimate, Row, estimate

WIDTH = 118


def digits(value: float) -> str:
    """Two that count."""
    return f"{value:.0f}" if value >= 10 else f"{value:#.2g}"


def number(value: float) -> str:
    """A ratio, as exact as it is of use."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def ratio(row: Row) -> str:
    """Perplexity over the uncompressed model's."""
    found = estimate(row, "perplexity_ratio")
    return f"{number(found.value)} ({number(found.low)}..{number(found.high)})"


def ratio_or_none(row: Row | None) -> str:
    """The same, or a dash."""
    return "-" if row is None else ratio(row)


def span(found: Estimate) -> str:
    """A KL with its interval."""
    return f"{digits(found.value)} ({digits(found.low)}..{digits(found.high)})"


def listed(names: Iterable[str]) -> str:
    """Names in code; none: none."""
    return ", ".join(f"`{name}`" for name in names) or "none"


def say(text: str) -> list[str]:
    """A paragraph in its width."""
    return fill(text, WIDTH, break_on_hyphens=False, break_long_words=False).split("\n")


def item(text: str) -> list[str]:
    """An item of a list in its width."""
    first, *others = fill(text, WIDTH - 2, break_on_hyphens=False, break_long_words=False).split("\n")
    return [f"- {first}", *(f"  {line}" for line in others)]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
