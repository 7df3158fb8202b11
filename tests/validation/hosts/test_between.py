"""The estimate of what hosts differ by: on made-up hosts it is what they were made with, and holds the next one."""

from dataclasses import replace
from functools import cache
from math import exp

import numpy as np
import pytest

from thinwire.sim.costs.profile import fabric_profile
from thinwire.sim.costs.shipped import PROFILES
from thinwire.sim.costs.spread import ANOTHER_HOST, Spread, another_host, sum_interval
from thinwire.validation.hosts import between, ceilings, measured
from thinwire.validation.hosts.between import Off, estimate, regimes

OWN = Spread("nccl", None, -0.0822, 0.0, 0.0822, 100, "measured: made up")  # a standard deviation of 0.05
KIND = "NVSwitch"


def off(host: str, log: float, nbytes: float = 2**25, kind: str = KIND) -> Off:
    return Off(host, kind, "made", "nccl", "row", nbytes, exp(log), 1.0, OWN)


def made(rng: np.random.Generator, hosts: int, sigma: float, rows: int = 12) -> list[Off]:
    """Hosts that differ by `sigma` from the one measured, their rows by 0.05 around that."""
    return [
        off(f"host {h}", mean + rng.normal(0, 0.05))
        for h, mean in enumerate(rng.normal(0, sigma, hosts))
        for _ in range(rows)
    ]


@pytest.mark.parametrize(("hosts", "sigma"), [(4, 0.3), (8, 0.3), (8, 0.1), (20, 0.5)])
def test_the_next_host_lies_inside_nine_times_in_ten(hosts: int, sigma: float) -> None:
    """2,000 draws: the share inside is 90 % to within 2 points (its own standard error is 0.7) in the normal logs of
    the estimate; seconds are skewed, which costs up to 2 more.
    """
    rng, held = np.random.default_rng(16), []
    for _ in range(2000):
        *seen, new = made(rng, hosts, sigma, 4), made(rng, 1, sigma, 1)[0]
        (part,) = estimate(KIND, seen[0])
        low, high = sum_interval(1.0, [(1.0, OWN), (1.0, part)])
        held.append(low <= new.seconds <= high)
    assert 0.86 <= np.mean(held) <= 0.94


def test_many_hosts_give_the_sigma_they_were_made_with() -> None:
    reach, count = between.between(made(np.random.default_rng(3), 400, 0.3))
    assert count == 400 and reach == pytest.approx(1.645 * 0.3, rel=0.1)


def test_hosts_weigh_alike_whatever_rows_they_have() -> None:
    few = [off("a", 0.4), *(off("b", 0.0) for _ in range(1))]
    many = [off("a", 0.4), *(off("b", 0.0) for _ in range(99))]
    assert between.between(few) == pytest.approx(between.between(many))


def test_hosts_that_are_alike_leave_the_least() -> None:
    assert between.between([off(name, 0.0) for name in "abcdefgh"]) == (between.LEAST, 8)


def test_no_host_is_no_estimate() -> None:
    with pytest.raises(ValueError, match="between hosts: no row"):
        between.between([])


def test_sizes_that_few_hosts_have_timed_join_the_next() -> None:
    rows = [off(host, 0.1, nbytes) for host in "abc" for nbytes in (2**12, 2**18)] + [off("a", 0.9, 2**15)]
    found = regimes(rows)
    assert [up_to for up_to, _ in found] == [2**13, None]
    assert [len(some) for _, some in found] == [3, 4]
    assert regimes(rows[:2]) == [(None, rows[:2])]
    large = regimes([*rows, off("b", 0.2, 2**30)])
    assert [(up_to, len(some)) for up_to, some in large] == [(2**13, 3), (None, 5)]


def test_a_kind_of_few_hosts_takes_all_kinds() -> None:
    others = [off(host, 0.3, kind="PCIe") for host in "abc"]
    (part,) = estimate(KIND, [off("x", 0.0), *others])
    assert part.is_assumed and part.rows == 4
    (part,) = estimate("PCIe", [off("x", 5.0), *others])
    assert not part.is_assumed and part.rows == 3 and part.high < 1


def test_prefills_are_no_exchanges() -> None:
    rows = [off(host, 0.1) for host in "abc"]
    assert estimate(KIND, [*rows, off("p", 3.0, kind=ceilings.KIND)]) == estimate(KIND, rows)
    assert between.prefill_spread([*rows, off("p", 0.3, kind=ceilings.KIND)]).rows == 1


# --- the shipped profiles ---


@cache
def shipped() -> dict[str, tuple[Spread, ...]]:
    paths = PROFILES.glob("fabric-*.json")
    return {path.stem.removeprefix("fabric-"): between_of(path.stem) for path in paths}


def between_of(stem: str) -> tuple[Spread, ...]:
    import json

    found = fabric_profile(json.loads((PROFILES / f"{stem}.json").read_text("utf-8")))
    return tuple(s for s in found.spreads if s.part == ANOTHER_HOST)


def test_every_shipped_fabric_says_what_hosts_of_its_kind_differ_by() -> None:
    for name, spreads in shipped().items():
        assert spreads and spreads[-1].up_to is None, name
        assert another_host(spreads, 2.0**40) == spreads[-1]
        assert all(s.rows >= between.FEWEST_HOSTS and s.low == -s.high for s in spreads)
    for fabrics in measured.KINDS.values():
        assert len({shipped()[name] for name in fabrics}) == 1


def test_large_messages_differ_least_on_nvswitch_and_most_on_pcie() -> None:
    """What the documents say: a host with a switch is much like another, one with PCIe is not."""
    width = {name: shipped()[name][-1].high for name in ("h100-nvlink", "l40s-pcie")}
    assert width["h100-nvlink"] < 0.2 < 0.3 < width["l40s-pcie"]


def test_figures_of_a_table_are_left_out_with_it() -> None:
    import json

    fabric = fabric_profile(json.loads((PROFILES / "fabric-mi300x-xgmi.json").read_text("utf-8")))
    rest = between.without(fabric, ("quickreduce_mi300x_tp2",))
    assert {p.ranks for p in fabric.protocols} == {2, 4, 8} and {p.ranks for p in rest.protocols} == {4, 8}
    assert replace(rest, protocols=fabric.protocols) == fabric
