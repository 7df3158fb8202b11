"""What long commands say: a line every so often where nobody watches, a bar where somebody does, short ones nothing."""

import io
import time
from collections.abc import Callable

import pytest

from thinwire.commands.frame import progress
from thinwire.commands.frame.progress import Work, working

from ...command import run

Sentence = Callable[[], str]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_until(out: io.StringIO, number: int) -> list[str]:
    """The lines said, when there are so many."""
    until = time.monotonic() + 20
    while out.getvalue().count("\n") < number and time.monotonic() < until:
        time.sleep(0.005)
    return out.getvalue().splitlines()


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (Work("serve"), "serve: 3 s"),
        (Work("plan", "candidates", total=40), "plan: 0 of 40 candidates (0%), 3 s"),
        (Work("plan", "candidates", 10, 40, "link x0.9"), "plan: 10 of 40 candidates (25%), link x0.9, 3 s"),
        (Work("accuracy", "windows", at="reading"), "accuracy: reading, 3 s"),
        (Work("sweep", "points", 7), "sweep: 7 points, 3 s"),
    ],
)
def test_a_line_says_what_and_how_far(work: Work, said: str) -> None:
    assert work.line(3.2) == said


def test_a_pipe_gets_a_line_every_so_often_though_the_work_says_nothing() -> None:
    out, now = io.StringIO(), iter(range(0, 1000, 10))
    with working("plan", "candidates", total=4, every_s=0.01, stream=out, clock=lambda: next(now)) as work:
        assert lines_until(out, 2)[:2] == [
            "thinwire: plan: 0 of 4 candidates (0%), 10 s",
            "thinwire: plan: 0 of 4 candidates (0%), 20 s",
        ]
        work.update(3, at="load x2")
        said = len(out.getvalue().splitlines())
        assert "3 of 4 candidates (75%), load x2" in lines_until(out, said + 2)[-1]
    ended = out.getvalue()
    time.sleep(0.05)
    assert out.getvalue() == ended, "it goes on when the work is done"


def test_the_promise_is_ten_seconds() -> None:
    assert progress.EVERY_S <= 9


def test_what_is_short_says_nothing() -> None:
    out = io.StringIO()
    with working("serve", stream=out):
        pass
    assert out.getvalue() == ""


def test_an_error_ends_it_and_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt), working("serve", every_s=0.01, stream=out):
        raise KeyboardInterrupt
    ended = out.getvalue()
    time.sleep(0.03)
    assert out.getvalue() == ended


def test_whoever_closed_the_pipe_ends_no_work() -> None:
    out = io.StringIO()
    with working("serve", every_s=0.005, stream=out):
        out.close()
        time.sleep(0.03)


def test_a_terminal_gets_a_bar_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SHOWN_AFTER_S", 0.0)
    out = Terminal()
    with working("sweep", "points", total=8, stream=out) as work:
        work.update(2)
        until = time.monotonic() + 20
        while "2 of 8 points (25%)" not in out.getvalue() and time.monotonic() < until:
            work.update(2)
            time.sleep(0.01)
    assert "2 of 8 points (25%)" in out.getvalue()
    assert out.getvalue().rstrip().endswith(("\x1b[2K", "\x1b[?25h")) or "\x1b[2K" in out.getvalue()
    out = Terminal()
    monkeypatch.setattr(progress, "SHOWN_AFTER_S", 60.0)
    with working("sweep", stream=out):
        pass
    assert "sweep" not in out.getvalue(), "a bar that is gone at once is a flicker"


def test_a_command_says_it_on_standard_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the whole program: `serve --json` piped, with the interval made short."""
    monkeypatch.setattr(progress, "EVERY_S", 0.02)
    monkeypatch.setattr("tests.command.unhurried", lambda err: err)
    words = ("--model", "llama-3-8b", "--cluster", "8xl40s-pcie", "--tp", "2", "--rate", "2", "--duration", "60")
    status, out, err = run(capsys, "serve", *words, "--json")
    assert status == 0 and out.startswith("{")
    assert all(line.startswith("thinwire: serve: ") and line.endswith(" s") for line in err.splitlines())
    assert "of 60 seconds of arrivals simulated" in err
