"""Look-ups in a prompt: what is asked, that the answer is there, and what counts as right."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thinwire.reference.quality.accuracy import Run
from thinwire.reference.quality.retrieval import DIGITS, PAIRS, Kind, build, lost, right, share

TEXT = list("the quick brown fox jumps over the lazy dog. " * 60)
ALPHABET = sorted({*map(chr, range(32, 127)), "\n"})


def encode(text: str) -> list[int]:
    return [ALPHABET.index(letter) for letter in text]


def decode(ids: torch.Tensor) -> str:
    return "".join(ALPHABET[place] for place in ids.tolist())


IDS = encode("".join(TEXT))


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("tokens", [420, 800])
def test_the_answer_is_in_the_prompt(kind: Kind, tokens: int) -> None:
    made = build(kind, encode, IDS, tokens, 40, seed=3)
    assert made.ids_NT.shape == (40, tokens + DIGITS) and made.prompt == tokens
    places = []
    for ids_T in made.ids_NT:
        prompt, answer = decode(ids_T[:tokens]), decode(ids_T[tokens:])
        assert answer.isdigit() and prompt.count(answer) >= (2 if kind == "pass-key" else 1)
        if kind == "pass-key":
            assert f"The pass key is {answer}." in prompt and prompt.endswith("The pass key is ")
        else:
            word = prompt.rpartition("The number of ")[2].removesuffix(" is ")
            assert f"\nThe number of {word} is {answer}.\n" in prompt
            assert prompt.count("\nThe number of ") == PAIRS  # the question is not one of them
        places.append(prompt.index(answer) / tokens)
    assert min(places) < 0.2 and max(places) > 0.6  # depths from all over
    assert len({decode(ids_T[tokens:]) for ids_T in made.ids_NT}) > 30


def test_trials_follow_from_the_seed() -> None:
    """More trials begin with the fewer ones; another seed gives others."""
    few, more, other = (build("key-value", encode, IDS, 420, n, s).ids_NT for n, s in ((5, 0), (9, 0), (5, 1)))
    assert torch.equal(few, more[:5]) and not torch.equal(few, other)


@pytest.mark.parametrize("tokens, kind", [(100, "pass-key"), (10_000, "pass-key"), (180, "key-value")])
def test_prompts_without_room_are_refused(tokens: int, kind: Kind) -> None:
    with pytest.raises(ValueError, match=f"{tokens} tokens has room for"):
        build(kind, encode, IDS, tokens, 1, 0)


def test_other_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="pass-key, key-value: 'needle'"):
        build("needle", encode, IDS, 400, 1, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="prompt=None"):
        right(Run(None), torch.zeros(1, 5))  # type: ignore[arg-type]


class Oracle(Run):
    """A run that predicts given tokens, whatever it is asked."""

    def log_probs(self, ids_BT: torch.Tensor) -> torch.Tensor:
        answer_BN = ids_BT[:, self.prompt :].clone()
        answer_BN[1, 2] += 1  # one token of the second answer is wrong
        return torch.nn.functional.one_hot(answer_BN, 128).float()


def test_right_is_every_token_right() -> None:
    ids_NT = build("pass-key", encode, IDS, 420, 3, 0).ids_NT
    assert right(Oracle(None, prompt=420), ids_NT).tolist() == [True, False, True]  # type: ignore[arg-type]


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_shares_lie_within_their_intervals(answers: list[bool]) -> None:
    found = share(answers)
    assert found.low is not None and found.high is not None
    assert 0 <= found.low <= found.value <= found.high <= 1 and found.value == sum(answers) / len(answers)
    mirrored = share([not answer for answer in answers])
    assert mirrored.low == pytest.approx(1 - found.high, abs=1e-12)


def test_wilsons_interval() -> None:
    """By hand, 15 of 20: centre (0.75 + z2/40) / (1 + z2/20), z2 = 3.8415."""
    found = share([True] * 15 + [False] * 5)
    assert (found.low, found.high) == (pytest.approx(0.53130, abs=1e-5), pytest.approx(0.88814, abs=1e-5))
    for wrong in ([], None):
        with pytest.raises(ValueError, match="trial"):
            share(wrong or [])


def test_400_trials_are_within_five_points() -> None:
    for right_ones in range(0, 401, 10):
        found = share([True] * right_ones + [False] * (400 - right_ones))
        assert found.low is not None and found.high is not None and (found.high - found.low) / 2 <= 0.05


def test_what_is_lost_is_paired() -> None:
    """Agresti and Min's interval by hand: two of ten lost, one won; with half a trial more in each cell -1 of 12."""
    answers = [True] * 6 + [False] * 4
    found = lost(answers, [True] * 4 + [False] * 5 + [True])
    half = 1.959964 * math.sqrt((1.5 + 2.5 - 1 / 12) / 144)
    assert found.value == pytest.approx(-0.1)
    assert found[1:] == (pytest.approx(-1 / 12 - half, rel=1e-6), pytest.approx(-1 / 12 + half, rel=1e-6))


def test_few_trials_are_no_certainty() -> None:
    """Nothing lost in so many, or all: the interval stays open, and closes as trials come in."""
    for after, edge in ((True, 0.0), (False, -1.0)):
        widths = []
        for count in (1, 20, 400, 4000):
            found = lost([True] * count, [after] * count)
            assert found.value == edge and found.low is not None and found.high is not None
            assert -1 <= found.low <= edge <= found.high <= 1
            widths.append(found.high - found.low)
        assert widths == sorted(widths, reverse=True) and widths[0] > 0.5 and 0 < widths[-1] < 0.002
    with pytest.raises(ValueError, match="same trials: 1 and 2"):
        lost([True], [True, False])
