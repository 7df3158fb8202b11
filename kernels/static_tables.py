"""What the static hybrid's kernels look up: by part, the numbers of `codecs.hybrid.runs`; by feature, three lists.

Built on the host from a calibration, once for each (calibration, codec, cut of the tensor, start, ranks, device), and
cached; calibrations are told apart by identity. Shapes: P parts, F features, R copies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
import triton.language as tl
from torch import Tensor

from thinwire.kernels.form import COLUMNS, START, Parts, hybrid_form, parts
from thinwire.reference.core.scheme import Codec, OutlierHybrid

# Columns of the table after `form.COLUMNS`: features of a row; feature of the part's first value; rows that keep the
# feature `CUT`, counted from the first value's; features kept in every row; codes and kept values in the first row
# before the part; where the cut stands among the features that are codes, and among those kept.
FEATURES, PHASE, LIMIT, WHOLE, CUT = (tl.constexpr(10 + column) for column in range(5))
BASE_CODES, BASE_KEPT, CUT_OTHER, CUT_KEPT = (tl.constexpr(15 + column) for column in range(4))
STATIC_COLUMNS = tl.constexpr(19)
assert COLUMNS.value == FEATURES.value
# Lists of F int32 for each part: features that are codes, in rising order (the cut among them), features kept (the cut
# among them), and by eight features 2^8 x (features kept in every row before them) + (a bit for each of them that is).
LISTS = tl.constexpr(3)
MOST_FEATURES = 1 << 17  # 2^14 rows of them are counted in 32 bits
NEVER = tl.constexpr(1 << 30)  # the place of a cut that is not left out


class Ranges(Protocol):
    """What kernels need of a `reference.codecs.calibration.Calibration`."""

    @property
    def ranks(self) -> int:
        """Ranks it was made for."""
        ...

    @property
    def features(self) -> int:
        """Features of a row."""
        ...

    @property
    def ranking_F(self) -> Tensor:
        """Features, best first, int32 on the CPU."""
        ...

    def scales(self, bits: int, rank: int | None) -> Tensor:
        """fp32 [F]: code steps on `rank`; None = of the sum."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class StaticParts(Parts):
    """`Parts` of a static hybrid: the table has `STATIC_COLUMNS` columns.

    lists: int32 [P, LISTS, F]; scales: fp32 [R, F], a row for each copy or one for all; divisors: the same, but
    infinite where a scale is 0; largest: magnitude that a code can stand for; most_codes, most_kept, most_rows: of a
    part; least_width: codes of the shortest row; align: 8 if parts and rows start at multiples of 8 values, else 1.
    """

    lists: Tensor
    scales: Tensor
    divisors: Tensor
    largest: float
    features: int
    most_codes: int
    most_kept: int
    most_rows: int
    least_width: int
    align: int


@dataclass(frozen=True, slots=True)
class _Part:
    row: tuple[int, ...]
    lists: np.ndarray[tuple[int, int], np.dtype[np.int32]]


@lru_cache(maxsize=256)
def static_parts(
    codec: Codec,
    numels: tuple[int, ...],
    calibration: Ranges,
    ranks: tuple[int | None, ...],
    start: int,
    device: torch.device,
) -> StaticParts:
    """`numels` values after one another from position `start` of the whole tensor on, each run encoded on its own.

    ranks: whose copy each row (or copy to add) is, None = of sums; one rank for all, or one each. Raises ValueError for
    another codec, a negative start, no ranks or one the calibration does not have, and what `parts` refuses.
    """
    if not isinstance(codec, OutlierHybrid) or codec.scale != "static":
        raise ValueError(f"a static outlier hybrid is needed: given {codec.spec}")
    if start < 0 or not ranks:
        raise ValueError(f"start must not be negative and ranks not empty: start={start}, ranks={ranks}")
    compiled = hybrid_form(codec)
    plain = parts(codec, numels, torch.device("cpu"))
    features = calibration.features
    if features > MOST_FEATURES:
        raise ValueError(f"triton kernels take rows of up to {MOST_FEATURES} features: features={features}")
    ranking = calibration.ranking_F.numpy()
    found = []
    position = start
    for numel in numels:
        found.append(_part(ranking, numel, codec.kept(numel), position % features))
        position += numel
    table = np.concatenate([plain.table.numpy(), np.array([part.row for part in found], np.int64)], axis=1)
    scales_RF = torch.stack([calibration.scales(codec.bits, rank) for rank in ranks])
    largest = float(scales_RF.max()) * compiled.offset
    steps = [features, start, *(int(row[START.value]) for row in table)]
    widths = [features - part.row[_WHOLE] - (1 if part.row[_LIMIT] else 0) for part in found]
    return StaticParts(
        codec, numels, plain.nbytes, plain.most_groups, torch.from_numpy(table).to(device),
        lists=torch.from_numpy(np.stack([part.lists for part in found])).to(device),
        scales=scales_RF.to(device),
        divisors=scales_RF.masked_fill(scales_RF == 0, math.inf).to(device),
        largest=largest,
        features=features,
        most_codes=max(numel - codec.kept(numel) for numel in numels),
        most_kept=max(codec.kept(numel) for numel in numels),
        most_rows=max(-(-(part.row[_PHASE] + numel) // features) for part, numel in zip(found, numels, strict=True)),
        least_width=min(widths),
        align=8 if math.gcd(*steps) % 8 == 0 else 1,
    )  # fmt: skip


_PHASE, _LIMIT, _WHOLE = 1, 2, 3  # in `_Part.row`


def _part(ranking: np.ndarray, numel: int, kept: int, phase: int) -> _Part:
    """The numbers and lists of `numel` values from feature `phase` on, of which the `kept` best-ranked are kept."""
    features = len(ranking)
    feature = np.arange(features)
    occurs = np.maximum((numel + phase - feature + features - 1) // features, 0) - (feature < phase)
    total = np.cumsum(occurs[ranking])
    whole = int(np.searchsorted(total, kept, side="right"))
    left = kept - (int(total[whole - 1]) if whole else 0)
    always = np.zeros(features, bool)
    always[ranking[:whole]] = True
    cut = int(ranking[whole]) if left else features  # of no feature where every occurrence is kept or none
    limit = left + (1 if cut < phase else 0) if left else 0
    other = feature[~always]
    chosen = np.sort(np.append(feature[always], cut)) if left else feature[always]
    before = np.cumsum(always) - always  # kept in every row, before a feature
    base_kept = int(before[phase]) + (1 if left and phase > cut else 0)
    lists = np.zeros((LISTS.value, features), np.int32)
    lists[0, : len(other)] = other
    lists[1, : len(chosen)] = chosen
    eighths = np.packbits(always, bitorder="little")
    lists[2, : len(eighths)] = before[::8] << 8 | eighths
    never = NEVER.value
    row = (
        features, phase, limit, whole, cut, phase - base_kept, base_kept,
        int(np.searchsorted(other, cut)) if left else never, int(np.searchsorted(chosen, cut)) if left else never,
    )  # fmt: skip
    return _Part(row, lists)
