"""A slider goes first, and nobody works for who has gone away."""

import threading
import time
from collections.abc import Callable

import pytest

from thinwire.page import answers, curves
from thinwire.page.desk import AbandonedError, Desk, Turns

from .desks import small


def started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_who_is_behind_waits_for_who_is_ahead() -> None:
    turns, order = Turns(), list[str]()

    def behind() -> None:
        with turns.behind(threading.Event()):
            turns.turn()
            order.append("behind")

    with turns.ahead():
        thread = started(behind)
        time.sleep(0.1)
        order.append("ahead")
        turns.turn()  # who is ahead waits for nobody
    thread.join(10)
    assert order == ["ahead", "behind"]


def test_who_has_gone_away_is_not_worked_for() -> None:
    here, gone, ended = Desk(), threading.Event(), list[type[BaseException]]()

    def work() -> None:
        with here.turns.behind(gone):
            try:
                curves.curves(here, small())
            except AbandonedError as error:
                ended.append(type(error))

    with here.turns.ahead():  # so that the other is in the middle of it
        thread = started(work)
        time.sleep(0.1)
        gone.set()
    thread.join(10)
    assert ended == [AbandonedError]
    assert answers.answer(here, small())["rows"], "an answer given up is no answer to be remembered"
    here.turns.turn()  # of a thread that is neither
    here.close()


def test_one_waits_so_long_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thinwire.page.desk.MOST_S", 0.05)
    turns = Turns()
    with turns.ahead(), turns.behind(threading.Event()):
        began = time.monotonic()
        turns.turn()
        assert time.monotonic() - began >= 0.05
