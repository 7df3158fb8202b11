"""Buy L40S or RTX PRO 6000 for Llama-3-70B under a load, with a target for the time to the first token?

python examples/gallery/buy_l40s_or_rtx_pro_6000.py        the page: docs/examples/buy-l40s-or-rtx-pro-6000.md
Load, targets and prices are those of buy_l40s_or_rtx_pro_6000.toml beside it.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from thinwire.sim.planning.file import Asked, read
from thinwire.sim.planning.plan import AS_GIVEN, Outcome, Planner, WhatIf

FILE = Path(__file__).with_suffix(".toml")
OLD, NEW = "8xl40s-pcie", "8xrtx-pro-6000-pcie"
HALF = WhatIf(load=0.5)


@dataclass(frozen=True)
class Answer:
    """The cheapest deployment on each machine: as asked, uncompressed, and at half of the load."""

    asked: Asked
    best: dict[str, Outcome]
    plain: dict[str, Outcome]
    half: dict[str, Outcome]

    @property
    def winner(self) -> str:
        """At the prices of the file."""
        return min(self.best, key=lambda machine: self.best[machine].rank)


def gpus(outcome: Outcome) -> int:
    """Of all replicas."""
    assert outcome.replicas is not None
    return outcome.replicas * outcome.candidate.tp


def cheapest(asked: Asked, machine: str, schemes: list[str], what_if: WhatIf = AS_GIVEN) -> Outcome:
    """Of one machine, with these schemes. ValueError: nothing keeps the targets."""
    wanted = [c for c in asked.problem.candidates if c.cluster == machine and c.scheme in schemes]
    plan = Planner(replace(asked.problem, candidates=tuple(wanted))).solve(what_if)
    if plan.cheapest is None:
        raise ValueError(f"nothing keeps the targets on {machine}: {plan.count()}")
    return plan.cheapest


def answer() -> Answer:
    """Both machines by themselves, so that how many GPUs each takes is known whatever they cost."""
    asked = read(FILE)
    schemes = asked.file.search.schemes
    return Answer(
        asked,
        best={machine: cheapest(asked, machine, schemes) for machine in (OLD, NEW)},
        plain={machine: cheapest(asked, machine, ["bf16"]) for machine in (OLD, NEW)},
        half={machine: cheapest(asked, machine, schemes, HALF) for machine in (OLD, NEW)},
    )


def said(a: Answer) -> list[str]:
    """The answer in sentences, the first first."""
    old, new = a.best[OLD], a.best[NEW]
    title = {OLD: "L40S", NEW: "RTX PRO 6000"}
    load, ttft = a.asked.file.load, a.asked.file.targets.ttft
    price = {machine: a.asked.file.prices[machine].per_gpu_hour for machine in title}
    assert old.ttft is not None and new.ttft is not None and old.cost is not None and new.cost is not None
    even, plain, half = (gpus(each[OLD]) / gpus(each[NEW]) for each in (a.best, a.plain, a.half))
    return [
        f"It takes {gpus(old)} L40S or {gpus(new)} RTX PRO 6000: buy RTX PRO 6000 where one costs less than {even:.2f} "
        f"L40S; at the prices below, buy {title[a.winner]}.",
        f"The load: {load.rate_per_s:g} requests a second, prompts of {load.prompt.mean:,g} tokens in the mean, "
        f"answers of {load.output.mean:g}; the target: {ttft.seconds:g} s to the first token at the "
        f"{ttft.percentile}th percentile.",
        f"The prices, made up for you to replace: {price[OLD]:.2f} and {price[NEW]:.2f} USD for a GPU an hour; that is "
        f"{old.cost:.2f} USD an hour for L40S and {new.cost:.2f} for RTX PRO 6000.",
        *(
            f"{title[machine]}: {each.replicas} replicas of {each.candidate.tp} with {each.candidate.scheme}, "
            f"{each.ttft.value:.2f} s."
            for machine, each in a.best.items()
            if each.ttft is not None
        ),
        f"Uncompressed it takes {gpus(a.plain[OLD])} L40S or {gpus(a.plain[NEW])} RTX PRO 6000, and prices are even at "
        f"{plain:.2f}.",
        f"At half of the load it takes {gpus(a.half[OLD])} L40S or {gpus(a.half[NEW])} RTX PRO 6000, and prices are "
        f"even at {half:.2f}.",
    ]


def main() -> None:
    """Print them."""
    print("\n".join(said(answer())))


if __name__ == "__main__":
    main()
