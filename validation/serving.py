"""Serving runs beside published ones: closed loops of users against NVIDIA's NIM.

    python -m thinwire.validation.serving            # print every row and the errors by group
    python -m thinwire.validation.serving --json

Nothing is fitted to these rows. The published runs say the model, the GPUs, the lengths and the number of users; how
long they ran, how the engine was limited and what its host does are not said, so the errors hold all that as well.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from statistics import median

from rich.console import Console
from rich.table import Table

from thinwire.sim.arrivals import ClosedLoop, Fixed
from thinwire.sim.serve import Deployment, Paces, serve
from thinwire.validation.published_tables import Row, rows

TABLE = "nim_serving"
CLUSTERS = {"A100 SXM 80GB": "8xa100-nvlink", "H100 SXM 80GB": "8xh100-nvlink"}
TOKEN_BUDGET = 8192  # TensorRT-LLM's max_num_tokens, unless told otherwise
ROUNDS = 3  # answers of each user


@dataclass(frozen=True, slots=True)
class Compared:
    """A published row and the run beside it, milliseconds."""

    group: str
    users: int
    ttft_ms: float
    itl_ms: float
    predicted_ttft_ms: float
    predicted_itl_ms: float

    @property
    def itl_error(self) -> float:
        """Signed."""
        return self.predicted_itl_ms / self.itl_ms - 1

    @property
    def ttft_error(self) -> float:
        """Signed."""
        return self.predicted_ttft_ms / self.ttft_ms - 1


def group_of(row: Row) -> str:
    """What rows have in common but for the users."""
    lengths = f"{row['input_tokens']}/{row['output_tokens']}"
    return f"{row['model']} {row['weights']} {row['gpu']} TP{row['tp']} {lengths}"


def compared(most_users: int | None = None) -> Iterator[Compared]:
    """Every row, or those with few users."""
    for (model, gpu, tp, weights), mine in groupby(
        rows(TABLE), lambda r: (r["model"], r["gpu"], r["tp"], r["weights"])
    ):
        deployment = Deployment(
            model=model,
            cluster=CLUSTERS[gpu],
            tp=int(tp),
            weights="fp8" if weights == "fp8" else "bf16",
            token_budget=TOKEN_BUDGET,
        )
        paces = Paces(deployment)
        for row in mine:
            users, prompt, output = (int(row[name]) for name in ("concurrency", "input_tokens", "output_tokens"))
            if most_users is not None and users > most_users:
                continue
            seconds = ROUNDS * (float(row["ttft_ms"]) + output * float(row["itl_ms"])) / 1e3
            load = ClosedLoop(users, Fixed(prompt), Fixed(output))
            run = serve(deployment, load, seconds, warm_up_s=0.0, paces=paces).run
            found = run.ttft.mean.value * 1e3, run.tpot.mean.value * 1e3
            yield Compared(group_of(row), users, float(row["ttft_ms"]), float(row["itl_ms"]), *found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the rows and what they come to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args(arguments)
    found = list(compared())
    if options.json:
        print(
            json.dumps([{**asdict(c), "itl_error": c.itl_error, "ttft_error": c.ttft_error} for c in found], indent=1)
        )
        return
    table = Table("published", "users", "TTFT ms", "predicted", "error", "ITL ms", "predicted", "error", box=None)
    for c in found:
        table.add_row(
            c.group, str(c.users), f"{c.ttft_ms:.0f}", f"{c.predicted_ttft_ms:.0f}", f"{c.ttft_error:+.0%}",
            f"{c.itl_ms:.1f}", f"{c.predicted_itl_ms:.1f}", f"{c.itl_error:+.0%}",
        )  # fmt: skip
    console = Console(width=140)
    console.print(table)
    console.print("|error| of the time between tokens: median, worst; of the time to first token of one user")
    for group, mine in groupby(found, lambda c: c.group):
        each = list(mine)
        errors = [abs(c.itl_error) for c in each]
        alone = [f"{c.ttft_error:+.0%}" for c in each if c.users == 1]
        console.print(f"{group}: {median(errors):.0%}, {max(errors):.0%}; {''.join(alone) or '-'}")
    errors = [abs(c.itl_error) for c in found]
    console.print(f"all {len(found)} rows: {median(errors):.0%}, {max(errors):.0%}")


if __name__ == "__main__":
    main()
