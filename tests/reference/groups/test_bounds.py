"""The bound of a whole all-reduce: what comes out is never further off, and often nearly so."""

import pytest
import torch
from torch import Tensor

from thinwire.reference.allreduce import all_reduce_local, executable
from thinwire.reference.catalog import scheme, schemes
from thinwire.reference.codecs import error
from thinwire.reference.core.schedule import build
from thinwire.reference.core.scheme import Raw, Scheme
from thinwire.reference.groups.bounds import all_reduce_bound

torch.set_num_threads(1)
BOUNDED = [
    name for name, s in schemes().items()
    if s.collective != "none" and not s.reduce.needs_calibration and not s.compresses_experts
]  # fmt: skip
ISLANDS = ((0, 1, 2), (3, 4))


def partials(ranks: int, numel: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(ranks, numel, generator=generator)
    return list(values * torch.exp2(torch.randn(ranks, numel, generator=generator) * 3))


def exact(given: list[Tensor]) -> Tensor:
    return torch.stack([p.double() for p in given]).sum(0)


def run(name: str, given: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(errors, bounds), float64; every rank ends with the same bits, and nothing given is changed."""
    found, ranks, numel = executable(scheme(name), 1 << 30, 0, torch.float32), len(given), given[0].numel()
    kept = [p.clone() for p in given]
    islands = ISLANDS if ranks == 5 else None
    results = all_reduce_local(given, found, islands=islands)
    assert all(torch.equal(results[0].view(torch.int32), other.view(torch.int32)) for other in results)
    limit = all_reduce_bound(given, build(found, ranks, numel, islands))
    assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))
    return (results[0].double() - exact(given)).abs(), limit


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8])
def test_no_result_is_further_off(name: str, ranks: int) -> None:
    for numel in (1, 700, 9000) if ranks in (3, 8) else (700,):
        wrong, limit = run(name, partials(ranks, numel, seed=ranks))
        assert (wrong <= limit).all(), float((wrong / limit).max())
        assert ranks > 1 or not limit.any()


@pytest.mark.parametrize("name", ["b12x-fp8-ring", "b12x-int8-ring", "b12x-mxfp8-ring", "b12x-fp8-ag", "trtllm-fp8"])
def test_it_is_no_larger_than_it_need_be(name: str) -> None:
    """Some value comes within a fifth of it."""
    wrong, limit = run(name, partials(4, 20_000))
    assert float((wrong / limit).max()) > 0.8


def test_every_hop_of_a_ring_is_in_it() -> None:
    """The first encoding alone, and the last alone, are exceeded: what rank 0 owns was encoded four times."""
    given = partials(4, 4096)
    codec = scheme("b12x-int8-ring").reduce
    wrong, limit = run("b12x-int8-ring", given)
    once = torch.stack([error.bound(p, codec) for p in given]).amax(0)
    last = error.bound(exact(given).float(), codec)
    assert (wrong > once).any() and (wrong > last).any() and (wrong <= limit).all()


def test_two_steps_add_up_as_by_hand() -> None:
    given = partials(3, 512)
    codec = scheme("vllm-symm-int8").reduce
    _, limit = run("vllm-symm-int8", given)
    by_hand = torch.stack([error.bound(p, codec) for p in given]).sum(0)
    assert (limit > by_hand).all() and (limit < by_hand + 1.1 * error.bound(exact(given).float(), codec) + 1e-2).all()


def test_what_it_knows_nothing_of_is_refused() -> None:
    given = partials(2, 128)
    with pytest.raises(ValueError, match="without calibration have a bound: given hybrid4-k64"):
        all_reduce_bound(given, build(scheme("hybrid-4.2"), 2, 128))
    with pytest.raises(ValueError, match="a switch that reduces has no bound"):
        all_reduce_bound(given, build(Scheme("nvls", Raw(), Raw(), "nvls"), 2, 128))
