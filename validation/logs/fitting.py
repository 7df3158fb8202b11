"""From logs to a fabric: the rows of each operation on each set of GPUs fitted, what nobody timed carried over.

found = calibrated(read_logs(paths), load_cluster("machine.toml"))
found.document                                  # what --profile reads
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from thinwire.edge.limits import LOGS
from thinwire.edge.reading import UnreadableError
from thinwire.edge.words import cut
from thinwire.reference.core.schedule import Op
from thinwire.reference.core.scheme import Collective
from thinwire.sim.costs.profile import FabricProfile, fabric_profile_dict
from thinwire.sim.costs.shipped import shipped_fabric
from thinwire.topologies.cluster import Cluster
from thinwire.validation.fits import fabric as fit_fabric
from thinwire.validation.fits import records
from thinwire.validation.fits.fabric import Fit, Floats, Series
from thinwire.validation.fits.series import Way, way
from thinwire.validation.logs import markdown, tables
from thinwire.validation.logs.curves import LIBRARY, MANY, Curve, fit, timed
from thinwire.validation.logs.evidence import Told, UnclearError, tell
from thinwire.validation.logs.placing import place
from thinwire.validation.logs.runs import BUS_FACTOR, OP_NAMES, Run
from thinwire.validation.logs.spreads import own_carriers, own_spreads
from thinwire.validation.logs.text import WHAT, lines_of

KEPT = 20_000  # lines in which a pasted table is looked for
OUTLIER = 1.5  # times as long as what a larger message takes
ABOVE = 1.1  # of the links' rate: in-switch sums over two nodes beat the model's wire by 6 %
CARRIED = 32  # ranks up to which other numbers of them are carried over: each is simulated at forty sizes
FEW = 4  # sizes from which on a fit is one of regimes


def read_logs(paths: Sequence[str | Path]) -> list[Run]:
    """Every run of some files. ValueError, in one line, for a file that holds none."""
    LOGS.check("logs", len(paths))
    runs: list[Run] = []
    for path in paths:
        kept: list[str] = []
        name = cut(Path(path).name)
        found = tables.read(_passing(lines_of(path), kept), name) or markdown.read(kept, name)
        if not found:
            raise UnreadableError(path, WHAT, _no_log(kept))
        runs += found
    return runs


def _passing(lines: Iterable[str], kept: list[str]) -> Iterator[str]:
    """Lines as they come, the first of them kept: a pasted table is short, a log may have millions."""
    for line in lines:
        if len(kept) < KEPT:
            kept.append(line)
        yield line


def _no_log(lines: Sequence[str]) -> str:
    """What a text is that holds no row."""
    text = "\n".join(lines[:400])
    what = f"no row of nccl-tests in it ({OP_NAMES}: size count type ... time algbw busbw)"
    if "GPU0" in text and ("NV" in text or "PIX" in text or "SYS" in text):
        return f"{what}; a matrix of `nvidia-smi topo -m` is read by `thinwire cluster import`"
    if text.lstrip().startswith(("<", "{")):
        hint = "XML; a topology that NCCL dumped is read by `thinwire cluster import`"
        return f"{what}; it looks like {hint if text.lstrip()[0] == '<' else 'JSON'}"
    if "NCCL failure" in text or "CUDA failure" in text:
        return f"{what}: the test failed before its first row"
    return what


# --- runs to series ---


@dataclass(frozen=True, slots=True)
class Unused:
    """A run that is not used, and why."""

    run: str
    why: str


@dataclass(frozen=True)
class Measured:
    """The rows of one operation on one set of GPUs, over all runs, and how they were told."""

    series: Series
    told: Told
    runs: tuple[str, ...]
    dropped: tuple[str, ...]
    said: tuple[str, ...]


@dataclass
class _Gathered:
    told: Told
    runs: list[Run] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    said: dict[str, None] = field(default_factory=dict)
    times: dict[int, list[float]] = field(default_factory=dict)


def measured(runs: Iterable[Run], cluster: Cluster) -> tuple[list[Measured], list[Unused]]:
    """The series of some runs on a machine. ValueError where the machine cannot be the logs', with both figures."""
    unused: list[Unused] = []
    found: dict[tuple[Op, tuple[int, ...]], _Gathered] = {}
    for run in runs:
        try:
            _check(run)
            told = tell(run)
        except UnclearError as error:
            unused.append(Unused(run.title, str(error)))
            continue
        gpus, said = place(run, told, cluster)
        one = found.setdefault((told.op, gpus), _Gathered(told))
        one.runs.append(run)
        one.dropped += run.dropped
        one.said |= dict.fromkeys((*run.said, *told.said, *said))
        for row in run.rows:
            one.times.setdefault(row.nbytes, []).append(row.groups[0].seconds)
        if run.place == "in-place":
            one.said["timed in place: there were no out-of-place columns"] = None
        if run.tool != "nccl-tests":
            one.said["pasted results of torch.distributed: a call costs more there than in nccl-tests"] = None
    kept: dict[tuple[Op, int, int], tuple[tuple[int, ...], _Gathered]] = {}
    for (op, gpus), one in sorted(found.items(), key=lambda pair: -len(pair[1].times)):
        key = op, len(gpus), len(cluster.reorder(gpus).hosts)
        if key in kept:
            why = f"{op} on {len(gpus)} other GPUs has more rows, and a profile keeps one set of GPUs a number of ranks"
            unused += [Unused(run.title, why) for run in one.runs]
        else:
            kept[key] = gpus, one
    groups: dict[tuple[int, ...], Cluster] = {}
    series = []
    for (op, _, _), (gpus, one) in sorted(kept.items(), key=lambda pair: (pair[0][0], pair[0][1])):
        group = groups.setdefault(gpus, cluster.reorder(gpus))
        series.append(_series(op, group, one))
    return series, unused


def _check(run: Run) -> None:
    if run.failed or any(row.wrong for row in run.rows):
        raise UnclearError("its check of the results failed (#wrong above 0, or FAILED): what went wrong may be fast")
    if run.cpu_time:
        raise UnclearError("it shows the host's time (cputime), not the collective's")


def _series(op: Op, group: Cluster, one: _Gathered) -> Measured:
    nbytes = np.array(sorted(one.times), dtype=float)
    seconds = np.array([float(np.median(one.times[int(size)])) for size in nbytes])
    if len(one.runs) > 1:
        apart = max(max(times) / min(times) for times in one.times.values())
        differ = f"; they differ by up to {apart:.2g} times: are they of one machine?" if apart > OUTLIER else ""
        one.said[f"{len(one.runs)} runs: the median at each size{differ}"] = None
    while (worst := _outlier(seconds)) is not None:
        told = f"{nbytes[worst]:.0f} bytes: {seconds[worst] * 1e6:,.1f} us, out of line with its neighbours"
        one.dropped.append(told)
        keep = np.arange(len(nbytes)) != worst
        nbytes, seconds = nbytes[keep], seconds[keep]
    if len(nbytes) < FEW:
        one.said[f"{len(nbytes)} size{'s' * (len(nbytes) > 1)}: other sizes are the shipped fabric's, scaled"] = None
    if len(group.gpus) > MANY:
        one.said[f"more than {MANY} ranks: sizes without a row are told from the rows alone"] = None
    chosen = _explained(op, group, nbytes, seconds, one.runs[0].title)
    table = "+".join(dict.fromkeys(run.file for run in one.runs))
    s = timed(group, op, nbytes, seconds, chosen, cut(table))
    said = tuple(one.said)
    return Measured(s, one.told, tuple(run.title for run in one.runs), tuple(one.dropped), said)


def _outlier(seconds: Floats) -> int | None:
    """The row that most others contradict: more bytes are never that much faster. None where none does."""
    later = np.triu(seconds[:, None] > OUTLIER * seconds[None, :], 1)
    against = later.sum(axis=0) + later.sum(axis=1)
    return int(np.argmax(against)) if len(against) and against.max() else None


def _explained(op: Op, group: Cluster, nbytes: Floats, seconds: Floats, title: str) -> Way:
    """The way to carry the op that the rows allow; ValueError with both figures where no way is fast enough."""
    usual = way(group, LIBRARY, op)
    others: tuple[Collective, ...] = ("ring", "two_step", "nvls") if group.reducing_switch else ("ring", "two_step")
    ways = [usual, *(replace(usual, collective=c) for c in others if c != usual.collective)]
    ways += [replace(each, chunks=1) for each in ways if each.chunks > 1]
    needed = []
    for each in ways:
        try:
            w = fit_fabric.wire_of(timed(group, op, nbytes, seconds, each))
        except ValueError:  # an algorithm that does not do this operation
            needed.append(np.inf)
            continue
        share = (w.latency_s + w.seconds_per_byte * nbytes) / seconds
        if share.max() <= ABOVE:
            return each
        needed.append(float(share.max()))
    best = int(np.argmin(needed))
    w = fit_fabric.wire_of(timed(group, op, nbytes, seconds, ways[best]))
    least = w.latency_s + w.seconds_per_byte * nbytes
    at = int(np.argmax(least / seconds))
    factor = BUS_FACTOR[op] * (len(group.gpus) - 1) / len(group.gpus) * nbytes[at] / 1e9
    seen, most = factor / seconds[at], factor / least[at]
    figures = f"busbw {seen:.1f} GB/s, the links of {group.name} carry at most {most:.1f} GB/s"
    why = "is --cluster the machine it ran on?"
    sent = [sum(link.bandwidth_bytes_per_s for link in group.links if link.source == gpu) / 1e9 for gpu in group.gpus]
    if len(group.hosts) == 1 and seen <= ABOVE * min(sent):
        why = (
            f"in rings by rank. All links of a GPU carry {min(sent):.1f}: NCCL found rings along them that the "
            "simulator does not look for, so this log cannot be used"
        )
    raise ValueError(
        f"{title}: no algorithm explains {op} of {nbytes[at]:.0f} bytes on {len(group.gpus)} GPUs in "
        f"{seconds[at] * 1e6:,.1f} us: {figures}{'; ' if why.startswith('is') else ' '}{why}"
    )


# --- the fabric ---


@dataclass(frozen=True)
class Left:
    """|predicted / measured - 1| of the rows, in sample and each left out: median, 90th percentile, worst."""

    in_sample: tuple[float, float, float]
    left_out: tuple[float, float, float] | None


@dataclass(frozen=True)
class Part:
    """One fabric of the machine: of all its nodes, or of one alone."""

    lender: FabricProfile
    found: tuple[Measured, ...]
    cluster: Cluster

    @cached_property
    def curves(self) -> tuple[Curve, ...]:
        """The measured series beside their lender."""
        return tuple(Curve(one.series, self.lender) for one in self.found)

    @cached_property
    def fits(self) -> tuple[Fit, ...]:
        """One for each measured series."""
        return tuple(fit([curve.filled() for curve in self.curves]))

    @cached_property
    def rows_out(self) -> tuple[tuple[Series, int, float], ...]:
        """Every row predicted by a fit without it: the series, its index, seconds."""
        out = []
        for number, curve in enumerate(self.curves):
            for index in range(len(curve.series.nbytes)) if len(curve.series.nbytes) > 1 else ():
                rest = [other.filled(index if at == number else None) for at, other in enumerate(self.curves)]
                if len(rest[number].nbytes) > 1:
                    seconds = fit(rest)[number].seconds(curve.series.nbytes[[index]])
                    out.append((curve.series, index, float(seconds[0])))
        return tuple(out)

    def left(self, one: Measured) -> Left:
        """How far off a measured series is."""
        s, at = one.series, self.found.index(one)
        out = [abs(seconds / s.seconds[i] - 1) for other, i, seconds in self.rows_out if other is s]
        inside = np.abs(self.fits[at].seconds(s.nbytes) / s.seconds - 1)
        return Left(_figures(inside), _figures(np.array(out)) if out else None)

    @cached_property
    def carried(self) -> tuple[tuple[Fit, Curve], ...]:
        """What nobody timed here and the lender has: its fit, and the curve whose ratio it takes."""
        have = {(c.series.op, c.series.ranks) for c in self.curves}
        wanted = {
            (op, p.ranks) for p in self.lender.protocols for op in BUS_FACTOR if (p.library, p.op) == (LIBRARY, op)
        }
        counts = self._counts()
        wanted |= {(op, ranks) for op, _ in have | wanted for ranks in counts}
        groups = {ranks: self.cluster.take(ranks) for ranks in counts}
        fits = []
        for op, ranks in sorted(wanted - have):
            if ranks not in groups:
                continue
            nearest = min(self.curves, key=lambda c: (c.series.op != op, abs(np.log(c.series.ranks / ranks))))
            if not len(nearest.lender_s):
                continue
            empty = np.array([])
            try:
                other = nearest.carried_to(Curve(timed(groups[ranks], op, empty, empty), self.lender))
                if len(other.nbytes):
                    w = fit_fabric.wire_of(other)  # no ratio makes a wire faster than it is
                    whole_s = w.latency_s + w.seconds_per_byte * other.nbytes
                    fits.append((fit([replace(other, seconds=np.maximum(other.seconds, whole_s))])[0], nearest))
            except ValueError:  # nothing that could stand in
                continue
        return tuple(fits)

    def _counts(self) -> set[int]:
        """Numbers of ranks that are asked for: powers of two, and all; of several nodes those that fill them."""
        whole, nodes = len(self.cluster.gpus), self.cluster.hosts
        if len(nodes) > 1:
            return {n for number in (2, 4, len(nodes)) if (n := len(nodes[0]) * number) <= min(whole, CARRIED)}
        return {n for n in (2, 4, 8, 16, whole) if 2 <= n <= min(whole, CARRIED)}

    def profile(self, name: str, many: bool) -> FabricProfile:
        """The lender's fabric with what was measured and carried over in place of its own."""
        protocols = {p.key: p for p in self.lender.protocols}
        timed_here = [(f, _measured_source(one)) for f, one in zip(self.fits, self.found, strict=True)]
        source = f"assumed: as {LIBRARY} on {self.lender.name}, times what the log takes over it"
        moved = [(f, f"{source} in {c.series.op} on {c.series.ranks} ranks") for f, c in self.carried]
        for f, said in (*moved, *timed_here):
            s = f.series
            protocols = {k: p for k, p in protocols.items() if (k[0], k[1], k[3]) != (LIBRARY, s.op, s.ranks)}
            protocols |= {p.key: p for p in f.protocols(said)}
        baseline = {op: tuple(choices) for op, choices in self.lender.baseline.items()}
        for f, _ in timed_here:
            own = f.series.baseline
            baseline[f.series.op] = (own, *(b for b in baseline.get(f.series.op, ()) if b != own))
        fits = tuple(
            records.record(
                f"{s.op} by {s.library} on {s.ranks} ranks", s.table, s.row_numbers, f.seconds(s.nbytes) / s.seconds - 1
            )
            for s, f in ((one.series, f) for one, f in zip(self.found, self.fits, strict=True))
        )
        return replace(
            self.lender,
            name=f"{name}{MARK}",
            protocols=tuple(protocols[key] for key in sorted(protocols)),
            baseline=dict(sorted(baseline.items())),
            assumptions=(*self.lender.assumptions, *self.borrowed()),
            fits=fits,
            within=self.lender.within if many else None,
            spreads=own_spreads(self.lender, [c.series for c in self.curves], self.rows_out),
            own=own_carriers(self.lender),
        )

    def borrowed(self) -> list[str]:
        """What is not of the logs, in sentences."""
        said = []
        if self.carried:
            by_op: dict[str, list[str]] = {}
            for f, _ in self.carried:
                by_op.setdefault(f.series.op, []).append(str(f.series.ranks))
            named = "; ".join(f"{op} on {', '.join(ranks)}" for op, ranks in sorted(by_op.items()))
            said.append(f"no log of {named} ranks: {self.lender.name}'s times, scaled as the logs' rows ask")
        others = sorted({p.library for p in self.lender.protocols} - {LIBRARY})
        if others:
            named = ", ".join(others)
            said.append(f"logs tell of NCCL alone: what {named} carry is {self.lender.name}'s; bf16 takes the faster")
        return said


MARK = "+logs"  # at the end of a fabric's name that logs were fitted into


def _measured_source(one: Measured) -> str:
    s = one.series
    return f"measured: {s.table}, {len(s.nbytes)} rows of {s.op} on {s.ranks} ranks"


def _figures(errors: Floats) -> tuple[float, float, float]:
    return float(np.median(errors)), float(np.quantile(errors, 0.9)), float(errors.max())


@dataclass(frozen=True)
class Calibration:
    """What became of some logs. part: "fabric", of all the machine; "within", of one of its nodes."""

    cluster: Cluster
    parts: Mapping[str, Part]
    unused: tuple[Unused, ...]

    @cached_property
    def document(self) -> dict[str, Any]:
        """The profile, as `--profile` reads it."""
        many = len(self.cluster.hosts) > 1
        found = {
            key: fabric_profile_dict(part.profile(part.lender.name, many and key == "fabric"))
            for key, part in self.parts.items()
        }
        return dict(json.loads(json.dumps(found)))

    def to_dict(self) -> dict[str, Any]:
        """The document of `calibrate --logs --json`."""
        series = []
        for key, part in self.parts.items():
            for one in part.found:
                left, s = part.left(one), one.series
                series.append({
                    "part": key, "op": s.op, "ranks": s.ranks, "ranks_by": one.told.by, "gpus": list(s.group.gpus),
                    "algorithm": s.collective, "rows": len(s.nbytes), "bytes": [int(n) for n in s.nbytes],
                    "runs": list(one.runs), "dropped": list(one.dropped), "said": list(one.said),
                    "in_sample": _named(left.in_sample), "left_out": left.left_out and _named(left.left_out),
                })  # fmt: skip
        return {
            "cluster": self.cluster.name,
            "fabric": {key: part.lender.name for key, part in self.parts.items()},
            "series": series,
            "unused": [{"run": one.run, "why": one.why} for one in self.unused],
            "borrowed": [said for part in self.parts.values() for said in part.borrowed()],
        }


def _named(figures: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("median", "percentile_90", "worst"), (round(value, 4) for value in figures), strict=True))


def calibrated(runs: Iterable[Run], cluster: Cluster) -> Calibration:
    """A fabric of some logs on the machine they ran on. ValueError where no run can be used."""
    found, unused = measured(runs, cluster)
    if not found:
        why = "; ".join(f"{one.run}: {one.why}" for one in unused[:3])
        raise ValueError(f"no run of the logs can be used: {why}")
    nodes = cluster.hosts
    across = [one for one in found if len(one.series.group.hosts) > 1]
    inside = [one for one in found if one not in across]
    parts: dict[str, Part] = {}
    if across or (inside and len(nodes) == 1):
        some = across if len(nodes) > 1 else inside
        parts["fabric"] = Part(shipped_fabric(some[0].series.group), tuple(some), cluster)
    if inside and len(nodes) > 1:
        parts["within"] = Part(shipped_fabric(inside[0].series.group), tuple(inside), cluster.reorder(nodes[0]))
    return Calibration(cluster, parts, tuple(unused))
