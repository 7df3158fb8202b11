"""Can a model still find something in its prompt? A task that perplexity does not see.

A prompt is prose with something to remember in it, at a depth drawn at random, and a question at its end; the answer
is right if every token of it is the likeliest. `pass-key` hides one number; `key-value` hides `PAIRS` of a word and a
number each, spread over the prompt, and asks for one word's number. Everything follows from a seed.

Legend: N trials, T tokens of a prompt, A of an answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

import torch
from torch import Tensor

from thinwire.reference.quality.accuracy import Estimate, Run

Kind = Literal["pass-key", "key-value"]
Encode = Callable[[str], Sequence[int]]
KINDS: tuple[Kind, ...] = get_args(Kind)
PAIRS = 4
DIGITS = 5
WORDS = (
    "amber", "anchor", "basket", "bridge", "candle", "cotton", "dragon", "engine", "feather", "garden", "hammer",
    "island", "jacket", "kettle", "ladder", "marble", "needle", "orange", "pepper", "rabbit", "silver", "timber",
    "violet", "window",
)  # fmt: skip
_Z = 1.959963984540054  # of a two-sided 95 % interval


@dataclass(frozen=True, slots=True)
class Trials:
    """Prompts with their answers behind them, [N, T + A], and how many tokens are prompt."""

    ids_NT: Tensor
    prompt: int


def build(kind: Kind, encode: Encode, text_ids: Sequence[int], tokens: int, trials: int, seed: int) -> Trials:
    """`trials` prompts of exactly `tokens` tokens each, of stretches of a text drawn with `seed`.

    encode: text to token ids, without special tokens. Raises ValueError where the prompt has no room for what is to be
    remembered, the text is shorter than a prompt, or answers differ in length.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}: {kind!r}")
    found = [
        _trial(kind, encode, text_ids, tokens, Random(f"{seed} {kind} {tokens} {number}")) for number in range(trials)
    ]
    answers = {len(answer) for _, answer in found}
    if len(answers) != 1:
        raise ValueError(f"answers must be equally long, theirs are {sorted(answers)} tokens")
    return Trials(torch.tensor([[*prompt, *answer] for prompt, answer in found]), tokens)


def _trial(
    kind: Kind, encode: Encode, text_ids: Sequence[int], tokens: int, random: Random
) -> tuple[list[int], list[int]]:
    numbers = [str(random.randrange(10 ** (DIGITS - 1), 10**DIGITS)) for _ in range(PAIRS)]
    if kind == "pass-key":
        hidden = [f"\nThe pass key is {numbers[0]}. Remember it: {numbers[0]} is the pass key.\n"]
        question, answer = "\nWhat is the pass key? The pass key is ", numbers[0]
    else:
        words = random.sample(WORDS, PAIRS)
        hidden = [f"\nThe number of {word} is {number}.\n" for word, number in zip(words, numbers, strict=True)]
        asked = random.randrange(PAIRS)
        question, answer = f"\nWhat is the number of {words[asked]}? The number of {words[asked]} is ", numbers[asked]
    needles, last = [list(encode(part)) for part in hidden], list(encode(question))
    room = tokens - len(last) - sum(map(len, needles))
    if room < len(needles) + 1 or len(text_ids) < room:
        raise ValueError(f"a {kind} prompt of {tokens} tokens has room for {room} of the text's {len(text_ids)}")
    begin = random.randrange(len(text_ids) - room + 1)
    places = sorted(random.randrange(room + 1) for _ in needles)
    prompt, taken = list[int](), 0
    for place, needle in zip(places, needles, strict=True):
        prompt += [*text_ids[begin + taken : begin + place], *needle]
        taken = place
    return [*prompt, *text_ids[begin + taken : begin + room], *last], list(encode(answer))


@torch.no_grad()
def right(run: Run, trials_NT: Tensor) -> Tensor:
    """Which trials a model answers in full, bool [N]; run.prompt must be theirs."""
    if run.prompt is None:
        raise ValueError("answers stand behind a prompt: run.prompt=None")
    target_NA = trials_NT[:, run.prompt :]
    return (run.log_probs(trials_NT).argmax(-1) == target_NA).all(-1)


def share(right: Sequence[bool]) -> Estimate:
    """Share of right answers with Wilson's 95 % interval. ValueError for none."""
    count = len(right)
    if not count:
        raise ValueError("a share needs a trial or more")
    p, z2 = sum(right) / count, _Z**2
    middle = (p + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z * math.sqrt(p * (1 - p) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return Estimate(p, min(p, max(0.0, middle - half)), max(p, min(1.0, middle + half)))  # not past p by rounding


def lost(baseline: Sequence[bool], scheme: Sequence[bool]) -> Estimate:
    """Share of right answers under a scheme minus that under the baseline, of the same trials, with a 95 % interval.

    The interval is Agresti and Min's for paired proportions (Statistics in Medicine 24, 2005): half a trial is added to
    each of the four ways in which a pair can come out, so that no difference in few trials is no certainty. Raises
    ValueError for lists that are not of the same trials.
    """
    if len(baseline) != len(scheme) or not baseline:
        raise ValueError(f"both must be of the same trials: {len(baseline)} and {len(scheme)}")
    count = len(baseline)
    pairs = list(zip(baseline, scheme, strict=True))
    won, gone = pairs.count((False, True)) + 0.5, pairs.count((True, False)) + 0.5
    value, middle = (sum(scheme) - sum(baseline)) / count, (won - gone) / (count + 2)
    half = _Z * math.sqrt((won + gone - (won - gone) ** 2 / (count + 2)) / (count + 2) ** 2)
    return Estimate(value, min(value, max(-1.0, middle - half)), max(value, min(1.0, middle + half)))
