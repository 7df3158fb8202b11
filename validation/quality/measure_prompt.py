"""Measure how far the claim carries that compressed prompts cost little: `make prompt`.

Four studies of SmolLM2-135M, prompts under a scheme and answers exact, a part each of
`sim/profiles/prompt-smollm2-135m.json`:

    reach      loss by the prompt's length, by how far behind it a token stands, and by TP degree
    retrieval  pass-key and key-value look-ups, 512 to 8,000 tokens (`reference.quality.retrieval`)
    greedy     when a greedy answer first differs from the exact prompt's
    variants   roundings that no scheme has (`validation.quality.variants`)

What is done lies in a folder, so a stopped run goes on where it was; the file is written anew after each case, its
other cases kept. The shipped one is of a GPU: make prompt ARGS="--device cuda --together 16".
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from thinwire.edge.words import shown
from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.quality.accuracy import Accuracy, Estimate, Run, baseline_run, evaluate_all
from thinwire.reference.quality.continuation import first_difference, greedy
from thinwire.reference.quality.distance import EDGES, by_distance, stretches
from thinwire.reference.quality.results import Lines, Results, digest
from thinwire.reference.quality.retrieval import KINDS, Kind, build, lost, right, share
from thinwire.validation.quality.subject import (
    CALIBRATION_WINDOWS,
    MACHINE,
    PROMPT_TOKENS,
    WINDOW_TOKENS,
    Material,
    Subject,
    command_line,
    results_file,
    run_program,
    write_table,
)
from thinwire.validation.quality.variants import variants

TABLE = Path(__file__).resolve().parents[2] / "sim" / "profiles" / "prompt-smollm2-135m.json"
STUDIES = ("reach", "retrieval", "greedy", "variants")
TP = 4
WINDOW, PROMPT = WINDOW_TOKENS, PROMPT_TOKENS
REACH_SCHEMES = ("flash-int8", "flash-int4", "flash-int4+exempt-last-1", "mxfp4", "flash-int3", "flash2-int2-sr")
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
REACH_TP = (2, 4, 8)
ANSWER = 128
LONG_ANSWER, LONG_BEHIND = 512, (512, 1024)  # for the farthest stretch
TASK_SCHEMES = (
    "bf16", "quickreduce-fp8", "two_step:mx-e4m3-b32", "flash-int8", "flash2-int6", "flash2-int5", "quickreduce-int4",
    "two_step:int4-g32-zp", "flash-int4", "flash-int4+exempt-last-1", "flash-int4+exempt-last-16", "mxfp4",
    "flash2-int4-sr", "hybrid-4.2", "flash-int3", "two_step:int3-g128-zp-sr", "flash2-int2-sr",
)  # fmt: skip
RETRIEVAL = ((512, 400), (2000, 400), (8000, 400))  # tokens of a prompt, trials: within 5 points of any share
GREEDY_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Done:
    """What one trial or answer came to: right or not, or the token at which it first differed."""

    digest: str
    result: int

    def __post_init__(self) -> None:
        if not isinstance(self.digest, str) or type(self.result) is not int or self.result < 0:
            raise ValueError(f"digest must be a string, result a whole number: {self}")


Tell = Callable[[str], None]
Row = dict[str, Any]


def cases(given: argparse.Namespace) -> Iterator[tuple[str, Callable[[Material, argparse.Namespace], list[Row]]]]:
    """(name, what measures it) of everything asked for, short ones first."""
    for study in given.study:
        if study == "reach":
            for tp in given.tp or REACH_TP:
                for length in given.lengths or LENGTHS:
                    yield f"reach {length} TP {tp}", _reach(length, tp)
        elif study == "retrieval":
            for kind in KINDS:
                for tokens, trials in RETRIEVAL:
                    if given.lengths is None or tokens in given.lengths:
                        yield (
                            f"retrieval {kind} {tokens}",
                            _retrieval(kind, tokens, trials if given.trials is None else given.trials),
                        )
        elif study == "greedy":
            yield "greedy", _greedy
        else:
            yield "variants", _variants


def _subject(material: Material, tp: int, tokens: int, windows: int, prompt: int, given: argparse.Namespace) -> Subject:
    wanted = [find_scheme(name) for name in given.schemes or TASK_SCHEMES]
    text = material.windows(tokens, windows, *wanted)
    return material.subject(tp, text, prompt, _together(given, tokens))


def _together(given: argparse.Namespace, tokens: int) -> int:
    """Windows of so many tokens in a batch."""
    together: int = given.together
    return max(1, min(together, together * WINDOW_TOKENS // tokens))


def _reach(length: int, tp: int) -> Callable[[Material, argparse.Namespace], list[Row]]:
    def measured(material: Material, given: argparse.Namespace) -> list[Row]:
        answer = LONG_ANSWER if length in LONG_BEHIND else ANSWER
        schemes = [find_scheme(name) for name in given.schemes or REACH_SCHEMES]
        windows = min(given.windows, len(material.ids) // (length + answer) - CALIBRATION_WINDOWS)
        subject = _subject(material, tp, length + answer, windows, length, given)
        runs = {scheme.name: subject.run(scheme) for scheme in schemes}
        kept = {
            (scheme.name, edge): _kept(given.folder, {**subject.key(scheme), "edge": edge, "answer": answer})
            for scheme in schemes
            for edge in stretches(answer)
        }
        baseline, ids_WT = baseline_run(subject.decoder, length), subject.windows.evaluation_WT
        found = by_distance(baseline, runs, ids_WT, EDGES, results=kept, together=subject.together)
        return [
            {"scheme": name, "tp": tp, "prompt_tokens": length, "edge": edge, **_figures(accuracy)}
            for name, by_edge in found.items()
            for edge, accuracy in by_edge.items()
        ]

    return measured


def _kept(folder: Path, key: Mapping[str, Any]) -> Results:
    return Results(results_file(folder, key), key)


def _figures(accuracy: Accuracy) -> Row:
    found = accuracy.to_dict()
    names = ("perplexity_ratio", "kl", "top1_agreement")
    return {"windows": found["windows"], "tokens": found["tokens"]} | {
        key: _short(found[key]) for name in names for key in (name, f"{name}_interval")
    }


def _short(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_short(each) for each in value]
    return None if value is None else float(f"{value:.6g}")


def _retrieval(kind: Kind, tokens: int, trials: int) -> Callable[[Material, argparse.Namespace], list[Row]]:
    def measured(material: Material, given: argparse.Namespace) -> list[Row]:
        made = build(kind, material.encode, material.ids, tokens, trials, given.seed)
        subject = _subject(material, TP, WINDOW, 1, PROMPT, given)
        together = _together(given, tokens)
        schemes = [find_scheme(name) for name in given.schemes or TASK_SCHEMES]
        runs = {"exact": baseline_run(subject.decoder, made.prompt)}
        runs |= {s.name: Run(subject.decoder, subject.run(s).sync, s.sequence_split, made.prompt) for s in schemes}
        found: dict[str, list[bool]] = {}
        for name, run in runs.items():
            kept = _lines(given.folder, subject, name, f"retrieval {kind} {tokens}", subject.together)

            def judged(ids_NT: torch.Tensor, run: Run = run) -> list[int]:
                return right(run, ids_NT).int().tolist()

            answers = _each(kept, made.ids_NT.to(material.device), together, judged)
            found[name] = [bool(answer) for answer in answers]
        return [
            {
                "scheme": name, "tp": TP, "task": kind, "prompt_tokens": tokens, "trials": trials, "seed": given.seed,
                "exact": _short(share(found["exact"]).value), "right": _estimate(share(answers)),
                "lost": _estimate(lost(found["exact"], answers)),
            }
            for name, answers in found.items()
        ]  # fmt: skip

    return measured


def _estimate(found: Estimate) -> Row:
    return {"value": _short(found.value), "interval": _short([found.low, found.high])}


def _lines(folder: Path, subject: Subject, name: str, what: str, together: int) -> Lines[Done]:
    known = subject.key(find_scheme("bf16" if name == "exact" else name))
    key = {**known, "scheme": name, "study": what, "together": together}
    return Lines(results_file(folder, key), "thinwire study 1", key, Done)


def _each(
    kept: Lines[Done], ids_NT: torch.Tensor, together: int, run: Callable[[torch.Tensor], Sequence[int]]
) -> list[int]:
    """The result of each row, those done before taken from the file."""
    names = [digest(ids_T) for ids_T in ids_NT]
    done = {line.digest: line.result for line in kept.found}
    for start in range(0, len(names), together):
        batch = slice(start, start + together)
        if all(name in done for name in names[batch]):
            continue
        for name, result in zip(names[batch], run(ids_NT[batch]), strict=True):
            if name not in done:
                done[name] = int(result)
                kept.add(Done(name, int(result)))
    return [done[name] for name in names]


def _greedy(material: Material, given: argparse.Namespace) -> list[Row]:
    subject = _subject(material, TP, WINDOW, given.windows, PROMPT, given)
    ids_WT = subject.windows.evaluation_WT[:, :PROMPT].contiguous()
    exact, rows = baseline_run(subject.decoder, PROMPT), list[Row]()
    made: dict[str, torch.Tensor] = {}

    def reference(ids_BT: torch.Tensor) -> torch.Tensor:
        key = digest(ids_BT)
        if key not in made:
            made[key] = greedy(exact, ids_BT, GREEDY_TOKENS)
        return made[key]

    for scheme in [find_scheme(name) for name in given.schemes or TASK_SCHEMES]:
        run = subject.run(scheme)
        kept = _lines(given.folder, subject, scheme.name, f"greedy {GREEDY_TOKENS}", subject.together)

        def differ(ids_BT: torch.Tensor, run: Run = run) -> list[int]:
            return first_difference(reference(ids_BT), greedy(run, ids_BT, GREEDY_TOKENS))

        first = _each(kept, ids_WT, subject.together, differ)
        same = {str(count): _estimate(share([place > count for place in first])) for count in (1, 8, 32, GREEDY_TOKENS)}
        rows.append(
            {
                "scheme": scheme.name, "tp": TP, "prompt_tokens": PROMPT, "answer_tokens": GREEDY_TOKENS,
                "prompts": len(first), "median_first_difference": statistics.median(first), "same": same,
            }
        )  # fmt: skip
    return rows


def _variants(material: Material, given: argparse.Namespace) -> list[Row]:
    subject = _subject(material, TP, WINDOW, given.windows, PROMPT, given)
    runs = {name: Run(subject.decoder, sync, None, PROMPT) for name, sync in variants().items()}
    if unknown := set(given.variants or ()) - runs.keys():
        raise ValueError(f"unknown variant {shown(min(unknown))}; allowed: {', '.join(runs)}")
    chosen = {name: run for name, run in runs.items() if given.variants is None or name in given.variants}
    known = subject.key(find_scheme("bf16"))
    kept = {name: _kept(given.folder, {**known, "scheme": name, "study": "variants"}) for name in chosen}
    baseline = baseline_run(subject.decoder, PROMPT)
    found = evaluate_all(baseline, chosen, subject.windows.evaluation_WT, kept, None, subject.together)
    return [
        {"scheme": name, "tp": TP, "prompt_tokens": PROMPT, **_figures(accuracy)} for name, accuracy in found.items()
    ]


def write(path: Path, shared: Mapping[str, Any], case: str, rows: Sequence[Row], where: Mapping[str, str]) -> None:
    """The file with these rows in it, each with its machine; those of another model or text go, and of the same case
    and scheme.
    """
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept = old.pop("rows", []) if old and {**old, "rows": 0} == {**shared, "rows": 0} else []
    fresh = [{"case": case, **row, **where} for row in rows]
    names = {(row["case"], row["scheme"]) for row in fresh}
    found = [row for row in kept if (row["case"], row["scheme"]) not in names] + fresh
    write_table(path, shared, "rows", sorted(found, key=lambda row: str(row["case"])))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", nargs="+", choices=STUDIES, default=STUDIES)
    parser.add_argument("--schemes", nargs="+", default=None, help="each study's own when left out")
    parser.add_argument("--variants", nargs="+", default=None, help="of the study of that name; all when left out")
    parser.add_argument("--tp", type=int, nargs="+", default=None, help=f"of reach: {REACH_TP} when left out")
    parser.add_argument("--lengths", type=int, nargs="+", default=None, help="tokens of prompts; all when left out")
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--trials", type=int, default=None, help="of retrieval; enough for five points when left out")
    parser.add_argument("--together", type=int, default=1, help="windows of 512 tokens in a batch; fewer longer ones")
    parser.add_argument("--seed", type=int, default=0)
    given = command_line(parser, arguments, "prompt", "what is done", TABLE, "the file")
    material, begin = Material(device=given.device, backend=given.backend), time.monotonic()
    known = material.source("make prompt")
    where = {key: known.pop(key) for key in MACHINE}
    shared = {"kind": "thinwire prompt 1", "model": material.model, "source": known}
    asked = list(cases(given))
    if not asked:
        raise ValueError(f"nothing has prompts of {given.lengths} tokens; retrieval has {[n for n, _ in RETRIEVAL]}")
    if given.trials is not None and given.trials < 1:
        raise ValueError(f"trials must be 1 or more: trials={given.trials}")
    for name, measure in asked:
        write(given.write, shared, name, measure(material, given), where)
        print(f"{name}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_program(main)
