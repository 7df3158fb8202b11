"""Requests drawn have the moments asked for; trace files are read as they are, and refused line by line."""

import math
import tracemalloc
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from thinwire.edge.limits import RATE
from thinwire.sim.serving.arrivals import (
    BURSTINESS,
    MOST_TOKENS,
    MOST_VARIATION,
    PIECE,
    ClosedLoop,
    Drawn,
    Fixed,
    Geometric,
    Lengths,
    LogNormal,
    Trace,
    lengths_of,
)

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROWS = "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n2023-11-16 18:16:00.0000000,879,55\n"


def drawn(load: Drawn, seconds: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pieces = list(load.pieces(seed, seconds))
    at_s, prompt, output = (np.concatenate([piece[i] for piece in pieces]) for i in range(3))
    assert np.all(np.diff(at_s) >= 0) and at_s[-1] < seconds
    assert prompt.min() >= 1 and output.min() >= 1
    return at_s, prompt, output


@pytest.mark.parametrize("burstiness", [0.25, 0.5, 1.0, 2.0, 4.0])
def test_gaps_have_the_rate_and_the_burstiness(burstiness: float) -> None:
    at_s, _, _ = drawn(Drawn(50.0, Fixed(10), Fixed(10), burstiness), 2000)
    gaps = np.diff(at_s)
    assert abs(gaps.mean() * 50 - 1) < 4 * math.sqrt(burstiness / len(gaps))
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(burstiness, rel=0.05)


def test_a_burstiness_of_one_is_poisson() -> None:
    at_s, _, _ = drawn(Drawn(20.0, Fixed(10), Fixed(10)), 5000)
    counts = np.bincount(at_s.astype(int), minlength=5000)
    assert counts.var() / counts.mean() == pytest.approx(1, rel=0.07)


@pytest.mark.parametrize(
    ("lengths", "variation"),
    [(Fixed(300), 0.0), (LogNormal(300, 0.7), 0.7), (LogNormal(300, 1.5, 1 << 20), 1.5), (Geometric(300), 1.0)],
)
def test_lengths_have_their_mean_and_variation(lengths: Lengths, variation: float) -> None:
    found = lengths.draw(np.random.default_rng(0), 200_000)
    assert found.dtype == np.int64
    assert found.mean() == pytest.approx(lengths.mean, rel=0.02)
    assert found.std() / found.mean() == pytest.approx(variation, rel=0.06, abs=1e-12)


def test_a_cut_is_kept() -> None:
    assert LogNormal(300, 1.0, 400).draw(np.random.default_rng(0), 10_000).max() == 400


def test_the_same_seed_draws_the_same_and_arrivals_do_not_depend_on_lengths() -> None:
    one, two = (drawn(Drawn(50.0, LogNormal(100), Fixed(10)), 100, seed=7) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    other = drawn(Drawn(50.0, Geometric(100), Fixed(10)), 100, seed=7)
    assert np.array_equal(one[0], other[0]) and not np.array_equal(one[1], other[1])
    assert not np.array_equal(one[0], drawn(Drawn(50.0, LogNormal(100), Fixed(10)), 100, seed=8)[0])


def test_a_stream_is_drawn_in_pieces() -> None:
    tracemalloc.start()
    number = sum(len(piece.at_s) for piece in Drawn(5000.0, LogNormal(100), Fixed(10)).pieces(0, 200))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert number > 900_000 and peak < 2e6
    assert all(len(piece.at_s) == PIECE for piece in islice(ClosedLoop(3, Fixed(1), Fixed(1)).pieces(0, 1), 3))


# --- traces ---


def written(folder: Path, text: str) -> str:
    path = folder / "trace.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_trace_is_played_as_recorded(tmp_path: Path) -> None:
    trace = Trace(written(tmp_path, HEADER + ROWS))
    (piece,) = trace.pieces(0, math.inf)
    assert piece.at_s.tolist() == pytest.approx([0.0, 4.314579, 13.31941], abs=1e-6)
    assert piece.prompt_tokens.tolist() == [374, 396, 879]
    assert piece.output_tokens.tolist() == [44, 109, 55]
    assert (trace.requests, trace.seconds) == (3, pytest.approx(13.31941))
    assert trace.mean_output == pytest.approx(208 / 3)
    assert sum(len(piece.at_s) for piece in trace.pieces(0, 5.0)) == 2


def test_a_trace_played_faster(tmp_path: Path) -> None:
    slow, fast = (Trace(written(tmp_path, HEADER + ROWS), speed) for speed in (1.0, 10.0))
    assert fast.seconds == pytest.approx(slow.seconds / 10)
    with pytest.raises(ValueError, match="speed=0"):
        Trace(slow.path, 0)


@pytest.mark.parametrize(
    "stamp", ["2024-05-10 00:00:00.009930+00:00", "2024-05-10 00:00:00+00:00", "2024-05-10T00:00:00", "17.25"]
)
def test_time_stamps_of_all_published_traces_are_read(tmp_path: Path, stamp: str) -> None:
    assert Trace(written(tmp_path, f"{HEADER}{stamp},10,20\n")).requests == 1


@pytest.mark.parametrize(
    "change", [("\n", "\r\n"), ("TIME", "\ufeffTIME"), ("\n", "\n\n"), (",", " ,"), ("374", '"374"')]
)
def test_traces_are_written_in_several_ways(tmp_path: Path, change: tuple[str, str]) -> None:
    plain = Trace(written(tmp_path, HEADER + ROWS))
    (tmp_path / "other.csv").write_bytes((HEADER + ROWS).replace(*change).encode())
    other = Trace(str(tmp_path / "other.csv"))
    assert (other.requests, other.seconds, other.mean_output) == (3, plain.seconds, plain.mean_output)


def test_a_long_trace_comes_in_pieces(tmp_path: Path) -> None:
    rows = "".join(f"{i / 100},{i % 500 + 1},5\n" for i in range(3 * PIECE + 5))
    sizes = [len(piece.at_s) for piece in Trace(written(tmp_path, HEADER + rows)).pieces(0, math.inf)]
    assert sizes == [PIECE, PIECE, PIECE, 5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ":1: a trace has the columns"),
        ("time,in,out\n1,2,3\n", ":1: a trace has the columns"),
        (HEADER, "holds no requests"),
        (HEADER + "1.0,10\n", ":2: 3 values a row"),
        (HEADER + "1.0,10,5\n2.0,ten,5\n", ":3: ContextTokens is a whole number"),
        (HEADER + "1.0,0,5\n", ":2: ContextTokens is a whole number"),
        (HEADER + "1.0,10,5.5\n", ":2: GeneratedTokens is a whole number"),
        (HEADER + "1.0,10,-4\n", ":2: GeneratedTokens"),
        (HEADER + "1.0,10,99999999999\n", ":2: GeneratedTokens"),
        (HEADER + "yesterday,10,5\n", ":2: TIMESTAMP is a date"),
        (HEADER + "nan,10,5\n", ":2: TIMESTAMP is a date"),
        (HEADER + "2.0,10,5\n1.0,10,5\n", ":3: rows must be in order"),
    ],
)
def test_a_wrong_trace_names_the_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Trace(written(tmp_path, text))


def test_a_trace_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read trace"):
        Trace(str(tmp_path / "none.csv"))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError, match="not UTF-8 text"):
        Trace(str(tmp_path / "binary.csv"))


@pytest.mark.parametrize("start", ["2024-05-10 00:00:00", "2024-05-10T00:00:00.", "2024-05-10 00:00:00.0+00:00"])
def test_stamps_with_and_without_a_fraction_stand_in_one_trace(tmp_path: Path, start: str) -> None:
    """A writer that leaves a fraction of nothing out means the whole second."""
    later = start.replace("00:00:00", "00:00:01.5", 1).replace("1.5.0", "1.5").rstrip(".")
    trace = Trace(written(tmp_path, f"{HEADER}{start},10,20\n{later},10,20\n"))
    assert trace.seconds == pytest.approx(1.5)


def test_what_is_just_allowed_is_allowed() -> None:
    """The ends of every range; a step beyond is refused."""
    for inside in (
        lambda: Fixed(1),
        lambda: Fixed(MOST_TOKENS),
        lambda: LogNormal(1),
        lambda: LogNormal(MOST_TOKENS, MOST_VARIATION, MOST_TOKENS),
        lambda: LogNormal(1, 1e-9, 1),
        lambda: Geometric(1),
        lambda: Geometric(MOST_TOKENS),
        lambda: Drawn(RATE.most, Fixed(1), Fixed(1), BURSTINESS[0]),
        lambda: Drawn(1e-9, Fixed(1), Fixed(1), BURSTINESS[1]),
        lambda: ClosedLoop(1, Fixed(1), Fixed(1)),
    ):
        assert inside()
    for outside in (
        lambda: Fixed(MOST_TOKENS + 1),
        lambda: LogNormal(MOST_TOKENS * 1.01),
        lambda: LogNormal(9, MOST_VARIATION * 1.01),
        lambda: LogNormal(9, 1.0, MOST_TOKENS + 1),
        lambda: Geometric(MOST_TOKENS * 1.01),
        lambda: Drawn(RATE.most * 1.01, Fixed(1), Fixed(1)),
        lambda: Drawn(1.0, Fixed(1), Fixed(1), BURSTINESS[0] / 1.01),
        lambda: Drawn(1.0, Fixed(1), Fixed(1), BURSTINESS[1] * 1.01),
    ):
        with pytest.raises(ValueError):
            outside()


def test_a_trace_may_ask_for_as_many_tokens_as_there_may_be_and_for_none(tmp_path: Path) -> None:
    trace = Trace(written(tmp_path, f"{HEADER}0,1,0\n1,{MOST_TOKENS},{MOST_TOKENS}\n"))
    (piece,) = trace.pieces(0, math.inf)
    assert piece.prompt_tokens.tolist() == [1, MOST_TOKENS] and piece.output_tokens.tolist() == [1, MOST_TOKENS]
    assert [len(piece.at_s) for piece in trace.pieces(0, 1.0)] == [1], "before the end, not at it"


def test_wrong_loads_are_refused() -> None:
    for wrong in (
        lambda: Fixed(0),
        lambda: Fixed(1 << 25),
        lambda: LogNormal(math.inf),
        lambda: LogNormal(100, 1e200),
        lambda: Drawn(1.0, Fixed(1), Fixed(1), 1e-320),
        lambda: Drawn(math.nan, Fixed(1), Fixed(1)),
        lambda: LogNormal(0.5),
        lambda: LogNormal(100, 0.0),
        lambda: LogNormal(100, 1.0, 0),
        lambda: Geometric(0.5),
        lambda: Drawn(0.0, Fixed(1), Fixed(1)),
        lambda: Drawn(1.0, Fixed(1), Fixed(1), math.inf),
        lambda: ClosedLoop(0, Fixed(1), Fixed(1)),
    ):
        with pytest.raises(ValueError):
            wrong()


def test_lengths_by_name() -> None:
    assert lengths_of("fixed", 10.0) == Fixed(10)
    assert lengths_of("geometric", 10.5) == Geometric(10.5)
    assert lengths_of("lognormal", 10) == LogNormal(10) == LogNormal(10, 1.0, 32768), "as ever: files leave it out"
    assert lengths_of("lognormal", 10, 2.0, 50) == LogNormal(10, 2.0, 50)
    for wrong, said in (
        (("normal", 10), "lognormal or geometric: 'normal'"),
        (("fixed", 10.5), "whole numbers"),
        (("fixed", math.inf), "whole numbers"),
        (("fixed", math.nan), "whole numbers"),
        (("geometric", 10, 2.0), "are of lognormal"),
        (("fixed", 10, None, 5), "are of lognormal"),
    ):
        with pytest.raises(ValueError, match=said):
            lengths_of(*wrong)  # type: ignore[arg-type]
