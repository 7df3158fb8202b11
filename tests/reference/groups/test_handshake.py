"""Ranks that call different collectives: the same clear error on each in bounded time, no wrong value, no dead process.

Three gloo ranks on this machine run the scenarios of disagree_worker.py, all in one start.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from thinwire.reference.catalog import scheme
from thinwire.reference.core.schedule import build
from thinwire.reference.groups import handshake
from thinwire.reference.groups.handshake import Agreement, Combination, Disagreement, Form, combination

from . import disagree_worker as worker

pytestmark = pytest.mark.xdist_group("handshake")  # the ranks are started once
WORKER = Path(__file__).with_name("disagree_worker.py")
SOON_S = 15.0  # on a machine with other things to do; timeouts are shorter than half of it, or longer than it
Outcomes = list[dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Outcomes]]:
    """Outcomes by rank and scenario."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen([sys.executable, str(WORKER), str(folder), str(rank)], env=environment)
        for rank in range(worker.RANKS)
    ]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0] * worker.RANKS
    finally:
        for process in processes:
            process.kill()
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(worker.RANKS)]


def columns(found: list[dict[str, Outcomes]], scenario: str) -> list[Outcomes]:
    """[call][rank]."""
    return [list(calls) for calls in zip(*(rank[scenario] for rank in found), strict=True)]


def said(outcomes: Outcomes) -> str:
    """The words, which must be the same on all ranks, and a Disagreement's."""
    assert {outcome.get("type") for outcome in outcomes} == {"Disagreement"}, outcomes
    (words,) = {outcome["error"] for outcome in outcomes}
    assert isinstance(words, str)
    return words


NEW = (
    "scheme: 'all_gather:int8-g128-sym' on rank 0, 2, 'all_gather:mx-e4m3-b128' on rank 1",  # the same bytes
    "scheme: 'flash-int4' on rank 0, 2, 'flash-int8' on rank 1",
    "dtype: 'float16' on rank 0, 2, 'bfloat16' on rank 1",
    "shape: '[2, 32]' on rank 0, 2, '[32, 2]' on rank 1",
    "shape: '[8192]' on rank 0, 2, '[4096]' on rank 1",
    "shape: '[5]' on rank 0, 2, '[0]' on rank 1",
    "also: 'calibration ",
    "schedule: ",  # other islands
    "scheme: 'fp32 ring' on rank 0, 2, 'none' on rank 1",
    "scheme: 'flash-int4' on rank 0, 2, 'fp32 ring' on rank 1",  # another gate
    "also: 'the last 128 values exact' on rank 0, 2, 'the last 64 values exact' on rank 1",
    "thinwire: '0.1.0' on rank 0, 2, '0.0.9' on rank 1".replace("0.1.0", handshake.VERSION),
    "also: 'scale 0.25, no mask' on rank 0, 2, 'scale 0.5, no mask' on rank 1",
)


def test_what_differs_is_said_on_every_rank_and_the_group_goes_on(found: list[dict[str, Outcomes]]) -> None:
    *refused, last = columns(found, "new_against_new")
    assert len(refused) == len(NEW)
    for number, (outcomes, expected) in enumerate(zip(refused, NEW, strict=True), 1):
        words = said(outcomes)
        assert words.startswith(f"ranks disagree on collective {number} of this process group: ") and expected in words
        assert all(outcome["seconds"] < SOON_S for outcome in outcomes)
    assert all(outcome["gave"] == pytest.approx([3.0], abs=0.1) for outcome in last)


def test_agreement_costs_one_handshake_a_combination(found: list[dict[str, Outcomes]]) -> None:
    """Whatever wraps the process group; and its bytes are none of the payload's."""
    for rank, outcomes in enumerate(rank["agreed"] for rank in found):
        *_, counts, _, again = outcomes
        handshakes, handshake_bytes, sent = counts["gave"]
        assert handshakes == again["gave"][0] == 2
        assert 0 < handshake_bytes == again["gave"][1] < 1000
        once = build(scheme("flash-int4"), worker.RANKS, 4096, None).sent_bytes()[rank]
        assert (sent, again["gave"][2]) == (3 * once, 4 * once)


def test_a_slow_rank_is_waited_for(found: list[dict[str, Outcomes]]) -> None:
    """For longer than the thread's period, in old and new combinations: nobody is wrongly accused."""
    for rank in found:
        assert all(outcome["gave"] == pytest.approx([3.0], abs=0.1) for outcome in rank["slow"])


def test_an_old_combination_against_a_new_one(found: list[dict[str, Outcomes]]) -> None:
    agreed, different, after = columns(found, "old_against_new")
    assert all("gave" in outcome for outcome in agreed)
    assert "scheme: 'flash-int4' on rank 0, 2, 'flash-int8' on rank 1" in said(different)
    assert different[1]["seconds"] < worker.ANSWERED_S  # who asks is answered
    assert all(outcome["seconds"] < SOON_S for outcome in different)
    assert all("this process group broke" in outcome["error"] for outcome in after)


def test_old_combinations_in_different_orders(found: list[dict[str, Outcomes]]) -> None:
    *_, different = columns(found, "old_against_old")
    assert "shape: '[8192]' on rank 0, 2, '[4096]' on rank 1" in said(different)
    assert all(outcome["seconds"] < SOON_S for outcome in different)


def test_a_rank_that_never_calls(found: list[dict[str, Outcomes]]) -> None:
    """Who waits says for whom; who comes too late is told at once."""
    ((first, second, late),) = columns(found, "never_called")
    assert first["error"] == second["error"]
    assert first["error"].startswith(
        "rank 2 did not come: for collective 1 of this process group ('flash-int4', [4096])"
    )
    assert late["error"].startswith("rank 0-1 had given up: ")
    assert all(worker.WAIT_S - 0.5 < outcome["seconds"] < SOON_S for outcome in (first, second, late))


def test_who_waits_learns_it_when_the_other_goes(found: list[dict[str, Outcomes]]) -> None:
    _, different = columns(found, "gone")
    assert "scheme: 'flash-int4' on rank 0, 2, 'flash-int8' on rank 1" in said(different)
    assert all(outcome["seconds"] < SOON_S for outcome in different)  # of the group's 60


# ---- one process: ranks as threads on a HashStore


def made(spec: str, numel: int = 64, **form: Any) -> Combination:
    return combination(build(scheme(spec), 2, numel, None), Form((numel,), **form), "cpu")


@pytest.fixture
def pair() -> tuple[Agreement, Agreement]:
    store = dist.HashStore()
    return Agreement(store, 0, 2, 5.0), Agreement(store, 1, 2, 5.0)


def together(*calls: Callable[[], object]) -> list[object]:
    """What calls give or raise, each in a thread of its own."""
    results: list[object] = [None] * len(calls)

    def run(index: int) -> None:
        try:
            results[index] = calls[index]()
        except (RuntimeError, ValueError) as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


def test_tags_are_the_same_for_equal_combinations_alone() -> None:
    names = ("flash-int4", "flash-int8", "bf16-ring", "two_step:int8-g128-zp@chunk=512x3")
    kinds = [made(name, numel, dtype=dtype) for name in names for numel in (64, 4096) for dtype in ("a", "b")]
    assert len({kind.tag for kind in kinds}) == len(kinds) == len({kind.schedule for kind in kinds}) * 2
    assert all(0 <= kind.tag < handshake.TAGS for kind in kinds)
    build.cache_clear()  # the same schedule, another object
    assert made("flash-int4", dtype="a", name="other") == made("flash-int4", dtype="a")


def test_long_words_stay_apart_and_short() -> None:
    a, b = (Combination("s", "ring", Form((*[1] * 200, last)), "cpu").words() for last in (1, 2))
    assert a["shape"] != b["shape"] and all(len(value) <= 80 for words in (a, b) for value in words.values())


def test_a_peer_of_another_kind_is_not_understood_and_said(pair: tuple[Agreement, Agreement]) -> None:
    store = dist.HashStore()
    store.set("thinwire/said/1/1", "hello, this is no JSON" * 20)
    with pytest.raises(Disagreement, match=r"of another kind, which says") as raised:
        Agreement(store, 0, 2, 5.0).enter(made("bf16-ring"))
    assert len(str(raised.value)) < 1500 and not raised.value.usable


def test_a_new_combination_against_an_old_one_that_is_done_with_already(pair: tuple[Agreement, Agreement]) -> None:
    """As on NCCL, where a rank only queues what it sends and goes on: asked, it answers for what it has run."""
    one, two = pair
    together(lambda: one.enter(made("bf16-ring")), lambda: two.enter(made("bf16-ring")))
    one.leave(), two.leave()
    for _ in range(5):
        one.enter(made("bf16-ring"))
        one.leave()
    (error, _) = together(lambda: two.enter(made("flash-int4")), lambda: (time.sleep(0.3), one.look()))
    assert isinstance(error, Disagreement) and not error.usable
    assert "'ring' on rank 0, 'two_step' on rank 1" in str(error)
    with pytest.raises(Disagreement, match="'ring' on rank 0, 'two_step' on rank 1"):
        one.enter(made("bf16-ring"))  # the next call


def test_what_was_forgotten_is_asked_about_and_answered_by_who_remembers(pair: tuple[Agreement, Agreement]) -> None:
    one, two = pair
    together(lambda: one.enter(made("bf16-ring")), lambda: two.enter(made("bf16-ring")))
    one.leave(), two.leave()
    two._agreed.clear()
    one.enter(made("bf16-ring"))
    (tag, _) = together(lambda: two.enter(made("bf16-ring")), lambda: (time.sleep(0.3), one.look()))
    assert tag == made("bf16-ring").tag and one.verdict is None is two.verdict


def test_the_store_does_not_grow(pair: tuple[Agreement, Agreement]) -> None:
    one, two = pair
    for numel in range(1, 60):
        kind = made("bf16-ring", numel)
        assert together(lambda kind=kind: one.enter(kind), lambda kind=kind: two.enter(kind)) == [kind.tag] * 2  # type: ignore[misc]
        one.leave(), two.leave()
        one.look(), two.look()
    assert one._store is not None and one._store.num_keys() <= 2 * (2 * 2 + 9) + 1
    assert one.verdict is None is two.verdict and one.handshakes == 59


def test_what_was_said_is_not_said_again(pair: tuple[Agreement, Agreement]) -> None:
    """Nor are questions of long ago answered anew when what was said about them is no longer kept."""
    one, two = pair
    together(lambda: one.enter(made("bf16-ring")), lambda: two.enter(made("bf16-ring")))
    asked_bytes = one.sent_bytes
    one.look(), one.look()
    assert one.sent_bytes == asked_bytes  # while it runs: its peers have that from the handshake
    one.leave()
    for _ in range(80):
        one.enter(made("bf16-ring"))
        one.look(), one.look()
        once_bytes = one.sent_bytes
        one.look()
        one.leave()
        one.look()
        assert one.sent_bytes == once_bytes
    assert once_bytes > asked_bytes and one.verdict is None


@pytest.fixture
def world() -> Iterator[dist.ProcessGroup]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD  # type: ignore[misc]
    dist.destroy_process_group()


def test_one_rank_asks_nobody(world: dist.ProcessGroup) -> None:
    agreement = handshake.agreement_of(world, torch.device("cpu"))
    assert agreement.enter(made("bf16-ring")) == made("bf16-ring").tag
    assert handshake.counted(world) == (0, 0)


def test_a_store_that_is_gone_is_an_error_that_says_so() -> None:
    class Gone:
        def set(self, key: str, value: str) -> None:
            raise RuntimeError("Broken pipe")

    with pytest.raises(RuntimeError, match=r"could not ask its peers .*'bf16-ring'.*store failed: Broken pipe"):
        Agreement(Gone(), 0, 2, 5.0).enter(made("bf16-ring", name="bf16-ring"))  # type: ignore[arg-type]


def test_a_lost_peer_is_named_long_before_the_timeout() -> None:
    def probe(rank: int) -> None:
        raise RuntimeError(f"Connection closed by peer {rank}")

    begin_s = time.monotonic()
    with pytest.raises(RuntimeError, match=r"rank 0 lost rank 1 before collective 1 .*Connection closed by peer 1"):
        Agreement(dist.HashStore(), 0, 2, 60.0, probe).enter(made("bf16-ring"))
    assert time.monotonic() - begin_s < 5
