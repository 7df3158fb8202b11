"""What the page asks, as the query of its address: read strictly, and written so that a copied link asks the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlencode

from thinwire.edge.amounts import whole
from thinwire.edge.limits import RATE, SLO, TOKENS, Limit
from thinwire.edge.words import shown
from thinwire.page import defaults
from thinwire.reference.catalog import schemes
from thinwire.sim.question import Option, Question, options_of

QUERY = 4096  # characters
VALUE = 200  # of one value
KEYS = 40
ALSO = 8
DROP = "drop:"  # before the number of what was dropped on the page
LINK = Limit("a factor on every link's rate", 0.01, 100.0, "", "a hundredth and a hundred times the machine's")
PERPLEXITY = Limit("a ratio of perplexities", 1.0, 10.0, "", "ten times the perplexity is no language any more")
LOOKUPS = Limit("points of look-ups lost", 0.0, 100.0, "", "of 100 asked")
PRICE = Limit("a price of a GPU an hour", 0.0, 1e6, "", "in any currency", above=True)
# A page's own: everything else is an option of a question. Paths, and factors by pattern, are not asked by a link.
OWN: Mapping[str, tuple[Limit, float | None]] = {
    "link": (LINK, defaults.LINK),
    "max_perplexity": (PERPLEXITY, defaults.MAX_PERPLEXITY),
    "max_lookups_lost": (LOOKUPS, defaults.MAX_LOOKUPS_LOST),
    "rate": (RATE, None),
    "output_tokens": (TOKENS, defaults.OUTPUT_TOKENS),
    "slo_ttft_ms": (SLO, defaults.SLO_TTFT_MS),
}
LEFT = frozenset({"scaled_links", "slow_ranks"})
DEFAULTS: Mapping[str, Any] = {"model": "llama-3-70b", "cluster": "8xl40s-pcie", "scheme": "flash2-int6", "batch": 8}


@dataclass(frozen=True)
class State:
    """All that a link says.

    Args:
        question: with names alone; `drop:N` names what was dropped on the page. Its links are not scaled.
        link: factor on the rate of every link and pool.
        max_perplexity: ratio that a scheme may cost. max_lookups_lost: points of look-ups that it may.
        rate, output_tokens, slo_ttft_ms: of a load, and what it should keep; rate None: one a second.
        also: schemes that are compared besides.
        prices: of a GPU an hour, by machine, in the place of the examples.
    """

    question: Question
    link: float = defaults.LINK
    max_perplexity: float = defaults.MAX_PERPLEXITY
    max_lookups_lost: float = defaults.MAX_LOOKUPS_LOST
    rate: float | None = None
    output_tokens: float = defaults.OUTPUT_TOKENS
    slo_ttft_ms: float = defaults.SLO_TTFT_MS
    also: tuple[str, ...] = ()
    prices: tuple[tuple[str, float], ...] = field(default=())

    def query(self) -> dict[str, str]:
        """The keys that ask this; what is at its default is left out, but for what people read first."""
        options = asked()
        found = {name: str(value) for name, value in self.question.given().items() if name in options}
        for name in ("batch", "input_tokens"):
            found[name] = str(getattr(self.question, name))
        if self.question.gpus is not None:
            found["gpus"] = ",".join(map(str, self.question.gpus))
        for name, (_, default) in OWN.items():
            value = getattr(self, name)
            if value != default:
                found[name] = number(value)
        if self.also:
            found["also"] = ",".join(self.also)
        if self.prices:
            found["price"] = ",".join(f"{name}:{number(price)}" for name, price in self.prices)
        return found

    def link_text(self) -> str:
        """As a query."""
        return urlencode(self.query())

    def asking(self) -> Question:
        """The question with its links scaled."""
        return replace(self.question, scaled_links={"*": self.link} if self.link != 1 else ())


def number(value: float) -> str:
    """The shortest text that reads as the same number."""
    text = f"{value:g}"
    return text if float(text) == value else repr(float(value))


@cache
def asked() -> Mapping[str, Option]:
    """The options of a question that a link may say."""
    return {name: one for name, one in options_of(Question).items() if name not in LEFT}


def read(query: str | Sequence[tuple[str, str]]) -> State:
    """The state of a query; what is left out is at its default.

    Raises:
        ValueError: an unknown key, one given twice, a value that is too long or beyond its limit, a path.
    """
    if isinstance(query, str):
        if len(query) > QUERY:
            raise ValueError(f"a query has at most {QUERY} characters: {len(query)} given")
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=KEYS)
        except ValueError:
            raise ValueError(f"a query is key=value&key=value, of at most {KEYS} keys: {shown(query)}") from None
    else:
        pairs = list(query)
    given: dict[str, str] = {}
    allowed = (*asked(), *OWN, "also", "price")
    for key, value in pairs:
        if key not in allowed:
            raise ValueError(f"unknown key {shown(key)} (allowed: {', '.join(allowed)})")
        if key in given:
            raise ValueError(f"{key} is given twice")
        if len(value) > VALUE:
            raise ValueError(f"{key} has at most {VALUE} characters: {shown(value)}")
        given[key] = value
    values = {name: _value(name, one, given[name]) for name, one in asked().items() if given.get(name)}
    own: dict[str, Any] = {name: _number(name, given[name], OWN[name][0]) for name in OWN if given.get(name)}
    if given.get("also"):
        own["also"] = _schemes(given["also"])
    if given.get("price"):
        own["prices"] = _prices(given["price"])
    return State(Question(**{**DEFAULTS, **values}), **own)


def checked(state: State) -> State:
    """The same. ValueError where its query would not be read: a number beyond its limit, a name that is a path."""
    return read(list(state.query().items()))


def _value(name: str, option: Option, text: str) -> Any:
    match option.form:
        case "count" | "degree" | "whole":
            if not (text.isascii() and text.isdecimal() and len(text) <= 20):
                raise ValueError(f"{name} must be a whole number: {shown(text)}")
            value = int(text)
            if value < (0 if option.form == "whole" else 1):
                raise ValueError(f"{name} must be positive: {shown(text)}")
            return value
        case "length":
            try:
                value = whole(text)
            except ValueError as error:
                raise ValueError(f"{name} {error}") from None
            if value < 1:
                raise ValueError(f"{name} must be positive: {shown(text)}")
            return value
        case "amount":
            return _number(name, text, option.limit)
        case "choice":
            if text not in option.choices:
                raise ValueError(f"{name} must be one of {', '.join(option.choices)}: {shown(text)}")
            return text
        case "profile":
            if not text.startswith(DROP):
                raise ValueError(f"profile is {DROP} and a number, of what was dropped on the page: {shown(text)}")
            return text
        case "name":
            if (any(c in text for c in "/\\\0") and not (name == "model" and _is_id(text))) or text.endswith(
                (".toml", ".json")
            ):
                raise ValueError(f"{name} is a name, no path; drop a file on the page instead: {shown(text)}")
            return text
        case "gpus":
            return text  # the question reads it
        case _:
            raise ValueError(f"{name} is not asked by a link")


def _is_id(text: str) -> bool:
    """A Hugging Face id: OWNER/NAME, of the aliases."""
    from thinwire.reference.families.config import model_aliases

    return text.lower() in model_aliases()


def _number(name: str, text: str, limit: Limit | None) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number: {shown(text)}") from None
    if limit is not None:
        limit.check(name, value)
    return value


def _schemes(text: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(text.split(",")))
    if len(found) > ALSO:
        raise ValueError(f"also names at most {ALSO} schemes: {len(found)} given")
    if unknown := [name for name in found if name not in schemes()]:
        raise ValueError(f"also names schemes of the catalog: {shown(unknown[0])}")
    return found


def _prices(text: str) -> tuple[tuple[str, float], ...]:
    found: dict[str, float] = {}
    for part in text.split(","):
        name, colon, price = part.rpartition(":")
        if not colon or not name or name in found:
            raise ValueError(f"price is MACHINE:NUMBER, with commas between, each machine once: {shown(part)}")
        found[name] = _number(f"price of {shown(name)}", price, PRICE)
    return tuple(found.items())
