"""A desk for all tests of a worker, and states that are quick to answer."""

from functools import cache

from thinwire.page.desk import Desk
from thinwire.page.state import State, read

SMALL = {
    "model": "llama-3-8b", "cluster": "8xl40s-pcie", "tp": "4", "scheme": "flash-int4", "batch": "2",
    "input_tokens": "512",
}  # fmt: skip


@cache
def desk() -> Desk:
    return Desk()


def small(**more: object) -> State:
    return read(list((SMALL | {name: str(value) for name, value in more.items()}).items()))
