"""What a message may repeat of what was given: little, on one line, and in our words rather than a library's."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

QUOTED = 80  # characters of what was given: enough to find it again; what sent it knows the rest
SAID = 600  # characters of a message: what is allowed, too, is a line and no page
_DIGITS = re.compile(r"Exceeds the limit \(4300 digits\) for integer string conversion.*")
_OF_LIBRARIES = re.compile(r"\b(Value|Assertion) error, ")


def shown(value: object) -> str:
    """`repr`, cut to `QUOTED` characters. What is too deep or too long to be written is named by its type."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deep; a number of thousands of digits
        text = f"a {type(value).__name__} too large to show"
    return cut(text)


def cut(text: str, most: int = QUOTED) -> str:
    """Text of at most so many characters, an ellipsis in its middle where it was longer: both ends tell most."""
    if len(text) <= most:
        return text
    head = (most - 3) * 2 // 3
    return f"{text[:head]}...{text[len(text) - (most - 3 - head) :]}"


def place(path: object) -> str:
    """A path for a message: the end of one that is longer than `QUOTED`."""
    text = str(path)
    return text if len(text) <= QUOTED else f"...{text[3 - QUOTED :]}"


def near(given: str, known: Iterable[str], most: int = 3, cutoff: float = 0.6) -> list[str]:
    """The known names that are most like what was given, the likest first; upper and lower case are alike. Whose parts
    between dashes begin or end with it is likest, in the order known: `flash-int4` for int4, `rtx-4090` for 4090.

    cutoff: how alike, from 0 to 1 (`difflib`). What is long is compared by its ends: time grows with the square.
    """
    names: dict[str, str] = {}
    for name in known:
        names.setdefault(name.lower(), name)
    word = cut(given).lower()
    whole = [each for each in names if each.endswith(f"-{word}") or each.startswith(f"{word}-")] if word else []
    whole.sort(key=lambda each: not each.endswith(f"-{word}"))
    like = get_close_matches(word, names, n=most, cutoff=cutoff)
    return [names[each] for each in dict.fromkeys([*whole, *like])][:most]


def meant(given: str, known: Iterable[str], most: int = 3, cutoff: float = 0.6) -> str:
    """`did you mean a or b?`, of the names that are most like it; nothing where none is."""
    found = near(given, known, most, cutoff)
    return f"did you mean {' or '.join(found)}?" if found else ""


def refusal(error: Mapping[str, Any], given: bool = True) -> str:
    """What one of pydantic's errors says, without its prefix; with what was given, where the message lacks it."""
    kind, message = error["type"], _OF_LIBRARIES.sub("", str(error["msg"]))
    if kind == "missing":
        return "missing key"
    if kind == "extra_forbidden":
        return "unknown key"
    if kind in ("value_error", "assertion_error") or not given:
        return message
    if kind in ("greater_than", "finite_number") and error.get("ctx", {"gt": 0}).get("gt") == 0:
        message = "must be a positive finite number"
    return f"{message}; given {shown(error['input'])}"


def said(message: str) -> str:
    """A message as one line: runs without a space are cut as a quotation is, and all of it to `SAID` characters."""
    line = _DIGITS.sub("a number of more than 4300 digits", " ".join(_OF_LIBRARIES.sub("", message).split()))
    line = re.sub(
        rf"\S{{{QUOTED + 20},}}", lambda found: cut(found[0]), line
    )  # a path of ours with line and colon: whole
    return cut("".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line), SAID)
