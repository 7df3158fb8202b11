"""What answers show: the base classes of predictions, comparisons, plans, serving runs and sweeps.

Each reads its answer's document, so that a table, a frame and a picture say what `--json` says. `self` is Any inside,
since the answers stand above this module.
"""

from collections.abc import Mapping, Sequence
from math import isfinite, nan
from typing import Any

from thinwire.edge.quantities import power_of, rounded, time_text
from thinwire.sim.showing.display import Axes, Displayed, Row, entitle, flat, one_line, plain
from thinwire.topologies.choose import text_of

PARTS = ("compute", "exposed_communication", "waiting")  # of a TTFT, one after the other
SHOWN = ("scheme", "ttft_ms", "ttft_ms_low", "ttft_ms_high", "speedup", "perplexity_ratio", "lookup_points_lost")
NAME = 32  # characters of a name
FEW = 4  # bars that a picture has room for at least, or one would fill it


def _name(text: object, most: int = NAME) -> str:
    """A name in a line: its beginning, where it is long."""
    said = one_line(str(text))
    return said if len(said) <= most else f"{said[: most - 3]}..."


# --- predictions


def prediction_row(document: Mapping[str, Any]) -> Row:
    """The document of a prediction as a row: what a sweep's columns are named, too."""
    low_ms, high_ms = document["ttft_ms_interval"]
    return {
        **{name: document[name] for name in ("model", "cluster", "scheme", "tp")},
        "gpus": text_of(document["gpus"]),
        **{name: document[name] for name in ("batch", "input_tokens", "weights", "kv", "ttft_ms")},
        "ttft_ms_low": low_ms,
        "ttft_ms_high": high_ms,
        **{f"{name}_ms": value for name, value in document["breakdown_ms"].items()},
        "wire_bytes_per_gpu": document["wire_bytes_per_gpu"],
        "all_reduce_count": document["all_reduce_count"],
        **{f"{phase}_bits_per_value": bits for phase, bits in document["bits_per_value"].items()},
        **{f"{name}_gb_per_gpu": value for name, value in document["memory_gb_per_gpu"].items()},
        "profile_name": document["profile"],
    }


def _asked(p: Any) -> str:
    prompt = p.prompt
    return (
        f"{_name(p.model.name)} on {p.tp} GPU{'s' * (p.tp > 1)} of {_name(p.cluster.name)}, "
        f"{prompt.batch} x {prompt.input_tokens} tokens"
    )


def _ttft(p: Any) -> str:
    return time_text(p.ttft_s, p.interval.low_s, p.interval.high_s)


class OfPrediction(Displayed):
    """Of `sim.report.Prediction`: one row."""

    __slots__ = ()

    def _line(self) -> str:
        me: Any = self
        return f"TTFT {_ttft(me)} under {_name(me.scheme.name)}, {_asked(me)}"

    def _rows(self) -> list[Row]:
        me: Any = self
        return [prediction_row(me.to_dict())]

    def _table(self) -> list[Row]:
        (row,) = self._rows()
        names = list(row)
        return [{name: row[name] for name in names[names.index("ttft_ms") :]}]  # what was asked stands in the line

    def _draw(self, ax: Axes) -> None:
        draw_ttft(ax, self._rows(), self._line())


class OfComparison(Displayed):
    """Of `sim.api.Comparison`: a row a scheme."""

    __slots__ = ()

    def _line(self) -> str:
        me: Any = self
        base, count = me.baseline, len(me.rows)
        ends = (
            [time_text(s) for s in (min(r.ttft_s for r in me.rows), max(r.ttft_s for r in me.rows))] if me.rows else []
        )
        said = f", TTFT {' to '.join(dict.fromkeys(ends))}" if ends else ""
        return (
            f"{count} scheme{'s' * (count != 1)}{said}; {_name(base.scheme.name)} takes {_ttft(base)}; {_asked(base)}"
        )

    def _rows(self) -> list[Row]:
        me: Any = self
        return [
            {
                **prediction_row(row),
                "speedup": row["speedup"],
                "perplexity_ratio": (row["accuracy"] or {}).get("perplexity_ratio"),
                "lookup_points_lost": None if row["lookups"] is None else -100 * row["lookups"]["lost"],
            }
            for row in me.to_dict()["rows"]
        ]

    def _table(self) -> list[Row]:
        return [{name: row[name] for name in SHOWN} for row in self._rows()]

    def _draw(self, ax: Axes) -> None:
        me: Any = self
        draw_ttft(ax, self._rows(), _asked(me.baseline))
        ax.axvline(me.baseline.ttft_s * 1e3, color="0.5", linestyle=":", linewidth=1)


def draw_ttft(ax: Axes, rows: Sequence[Row], title: str) -> None:
    """A bar a scheme: where its TTFT goes, with its 90 % interval."""
    places = range(len(rows))
    left = [0.0] * len(rows)
    for part in PARTS:
        width = [row[f"{part}_ms"] for row in rows]
        if not any(width):
            continue
        ax.barh(places, width, left=left, height=0.6, label=part.replace("_", " "))
        left = [a + b for a, b in zip(left, width, strict=True)]
    ttft = [row["ttft_ms"] for row in rows]
    off = [
        [row["ttft_ms"] - row["ttft_ms_low"] for row in rows],
        [row["ttft_ms_high"] - row["ttft_ms"] for row in rows],
    ]
    ax.errorbar(ttft, places, xerr=off, fmt="none", ecolor="0.5", capsize=3, label="90 % interval")
    ax.set_yticks(list(places), labels=[plain(row["scheme"]) for row in rows])
    middle, half = (len(rows) - 1) / 2, max(len(rows), FEW) / 2
    ax.set_ylim(middle + half, middle - half)  # the first on top
    ax.set_xlim(left=0)
    ax.set_xlabel("TTFT, ms")
    entitle(ax, title)
    ax.legend(fontsize="small")


# --- serving


class OfServing(Displayed):
    """Of `sim.serving.serve.ServingResult`: one row, named as a sweep's columns are."""

    __slots__ = ()

    def _line(self) -> str:
        me: Any = self
        run = me.run
        said = [f"{name} p95 {_estimate(found.percentiles[0.95], 's')}" for name, found in _times(run)[:2]]
        state = ", saturated" if run.saturated else ", still filling" if run.filling else ""
        return (
            f"{', '.join(said)}{state}; {_name(me.scheme, 24)}, {me.deployment.replicas} x TP {me.tp} of "
            f"{_name(me.cluster, 24)}, {_name(me.model, 24)}, {run.ttft.count} requests"
        )

    def _rows(self) -> list[Row]:
        me: Any = self
        document = me.to_dict()
        asked = ("model", "cluster", "scheme", "tp", "replicas", "decode_replicas", "gpus", "weights", "kv", "policy")
        run = me.run.to_dict()
        return [{**{name: document[name] for name in asked}, **flat(run), "profile_name": document["profile"]}]

    def _table(self) -> list[Row]:
        me: Any = self
        return [
            {
                "milliseconds": name,
                "mean": _estimate(found.mean, "ms"),
                **{f"p{q * 100:g}": _estimate(each, "ms") for q, each in found.percentiles.items()},
            }
            for name, found in _times(me.run)
        ]

    def _draw(self, ax: Axes) -> None:
        me: Any = self
        for name, found in _times(me.run):
            points = {"mean": found.mean, **{f"p{q * 100:g}": each for q, each in found.percentiles.items()}}
            values = [each.value * 1e3 for each in points.values()]
            off = [nan if each.half_width is None else each.half_width * 1e3 for each in points.values()]
            ax.errorbar(list(points), values, yerr=off, fmt="o", capsize=3, label=name)
        ax.set_yscale("log")
        for each in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
            each(lambda value, _: f"{value:g}")
        ax.set_ylabel("ms, with the 95 % interval of the simulation")
        entitle(ax, self._line())
        ax.legend(fontsize="small")


def _times(run: Any) -> list[tuple[str, Any]]:
    return [("TTFT", run.ttft), ("TPOT", run.tpot), ("whole answer", run.latency)]


def _estimate(found: Any, unit: str) -> str:
    """An estimate in seconds or milliseconds, with half its interval's width."""
    if not isfinite(found.value):
        return "-"
    half_s = found.half_width
    if unit == "s":
        return time_text(found.value)
    power = power_of(found.value * 1e3, None if half_s is None else half_s * 1e3)
    off = "" if half_s is None else f" ±{rounded(max(half_s * 1e3, 10.0**power), power)}"
    return f"{rounded(found.value * 1e3, power)}{off}"


# --- plans


class OfPlan(Displayed):
    """Of `sim.planning.plan.Plan`: a row a candidate."""

    __slots__ = ()

    def _line(self) -> str:
        me: Any = self
        fits = sum(outcome.why == "fits" for outcome in me.outcomes)
        said = f"{fits} of {len(me.outcomes)} candidates keep the targets, {_name(me.what_if, 40)}"
        best = me.cheapest
        if best is None:
            return said
        c = best.candidate
        return (
            f"{best.cost:.4g} an hour: {best.replicas} x TP {c.tp} of {_name(c.cluster)}, {_name(c.scheme)}, TTFT "
            f"{time_text(best.ttft.value)}; {said}"
        )

    def _rows(self) -> list[Row]:
        me: Any = self
        best, frontier = me.cheapest, set(map(id, me.frontier))
        rows = []
        for outcome in me.outcomes:
            found = outcome.to_dict()
            found["replica_gpus"] = text_of(found["replica_gpus"])
            for name in ("ttft_ms", "tpot_ms"):
                found[name] = found[name] or {"value": None, "half_width": None}
            rows.append({**flat(found), "cheapest": outcome is best, "on_frontier": id(outcome) in frontier})
        return rows

    def _table(self) -> list[Row]:
        names = (
            "cluster",
            "tp",
            "scheme",
            "replicas",
            "cost_per_hour",
            "ttft_ms",
            "tpot_ms",
            "perplexity_ratio",
            "why",
        )
        rows = sorted(self._rows(), key=lambda row: (row["cost_per_hour"] is None, row["cost_per_hour"] or 0.0))
        return [{name: row[name] for name in names} for row in rows]

    def _draw(self, ax: Axes) -> None:
        found = [row for row in self._rows() if row["cost_per_hour"] is not None]
        for scheme in dict.fromkeys(row["scheme"] for row in found):
            mine = [row for row in found if row["scheme"] == scheme]
            ax.scatter([r["cost_per_hour"] for r in mine], [r["ttft_ms"] for r in mine], label=plain(scheme))
        best = [(r["cost_per_hour"], r["ttft_ms"]) for r in found if r["on_frontier"]]
        costs, times = [cost for cost, _ in best], [ttft for _, ttft in best]
        ax.scatter(costs, times, facecolors="none", edgecolors="0.5", s=120, label="on the frontier")
        ax.set_xlabel("cost per hour")
        ax.set_ylabel("TTFT at the target's percentile, ms")
        entitle(ax, self._line())
        if found:
            ax.legend(fontsize="small")
