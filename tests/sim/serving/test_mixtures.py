"""Iterations of mixtures and hybrids: experts shared out in every way, against the predictor."""

import json
import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from thinwire.edge.limits import KV_TOKENS
from thinwire.reference import families
from thinwire.reference.catalog import scheme
from thinwire.reference.families.config import load_model
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.events.exchange import Exchanger, slowdown
from thinwire.sim.predict import run, timeline_of
from thinwire.sim.serving.iteration import IterationModel
from thinwire.sim.serving.question import Deployment
from thinwire.sim.serving.serve import Paces, serve
from thinwire.sim.serving.table import BOUND
from thinwire.sim.serving.workload import Iteration, Share, build, busiest, kv_bytes_per_token
from thinwire.sim.sharing import Sharing

from ...command import Capture
from ...command import run as command
from ..helpers import machine
from .paces import Scripted

MODELS = Path(families.__file__).parents[1] / "models"
SENT = Sharing(4, 4, exchange="all-to-all")
OWN = Sharing(4, 4, "dp")
CASES = {
    "cut": ("mixtral-8x7b", "8xh100-nvlink", "flash-int4", Sharing(4), None),
    "spread": ("qwen3-30b-a3b", "8xl40s-pcie", "flash-int4+exempt-last-1", Sharing(4, 4, skew=1.0), None),
    "sent": ("qwen3-30b-a3b", "8xl40s-pcie", "flash-int4", SENT, None),
    "own": ("qwen3-30b-a3b", "8xh200-nvlink", "a2a-int4", OWN, None),
    "own, sent": ("deepseek-v3", "8xh200-nvlink", "a2a-int4", Sharing(4, 4, "dp", "all-to-all"), None),
    "latent, straggler": ("deepseek-v3", "8xh200-nvlink", "bf16", Sharing(4, 2), 1),
    "straggler, sent": ("mixtral-8x7b", "8xh100-nvlink", "bf16", SENT, 2),
    "hybrid": ("qwen3-next-80b-a3b", "8xh200-nvlink", "bf16", Sharing(2), None),
    "split": ("mixtral-8x7b", "8xh100-nvlink", "flash-int4+iso", Sharing(4, 4), None),
}


@cache
def paced(case: str) -> IterationModel:
    model, cluster, name, sharing, slow = CASES[case]
    gpus, profile = machine(cluster, sharing.ranks)
    slowed = slowdown(sharing.ranks, {} if slow is None else {slow: 1.5})
    on = [Exchanger(gpus, CostModel(profile, gpus.gpu, launch), slowed) for launch in ("eager", "graph")]  # type: ignore[arg-type]
    return IterationModel(load_model(model), scheme(name), "bf16", on[0], on[1], 2048, 256, sharing=sharing)


@pytest.mark.parametrize("case", CASES)
def test_durations_are_within_the_bound_of_the_predictor(case: str) -> None:
    model, dice = paced(case), random.Random(7)
    worst = 0.0
    for _ in range(6):
        sequences = dice.choice((0, 1, 3, 50, 200))
        context = sequences * dice.randint(1, 6000)
        chunks = [dice.randint(1, 500) for _ in range(dice.choice((0, 1, 1, 3)))]
        if not chunks and not sequences:
            continue
        share = Share(tuple((c, c + dice.choice((0, 0, 700))) for c in chunks), sequences, context)
        finishing = dice.randint(0, len(chunks))
        on = model.exchanger if chunks else model.decode_exchanger
        work = build(model.model, model.scheme, Iteration(share, finishing), CASES[case][3], "bf16")
        wanted = timeline_of(*run(work, on, on.cost, True)).ttft_s
        if chunks:
            found = model.mixed_s(share.chunks, finishing, sequences, context)
        else:
            found = model.line(sequences, context).first_s
        assert model.floor_s(sum(chunks), sequences) <= wanted * (1 + BOUND)
        worst = max(worst, abs(found / wanted - 1))
    assert worst <= BOUND


@pytest.mark.parametrize("case", CASES)
def test_a_line_of_decoding_holds_as_long_as_it_says(case: str) -> None:
    model = paced(case)
    line = model.line(40, 40_000)
    later = min(line.holds, 500)
    again = model.line(40, 40_000 + 40 * (later - 1))
    assert abs(again.first_s / (line.first_s + 40 * (later - 1) * line.per_token_s) - 1) <= 2 * BOUND


def test_ranks_with_sequences_of_their_own_wait_for_the_one_with_most() -> None:
    part = Share(((700, 900), (100, 100), (90, 90), (80, 80), (60, 60)), 10, 1000, 5)
    mine = busiest(part, OWN)
    assert mine.chunks == ((700, 900),) and (mine.sequences, mine.context_tokens) == (3, 300)
    assert busiest(part, Sharing(4)) is part
    lone = Share((), 1, 100_000)  # whole on one rank
    assert busiest(lone, Sharing(8, 8, "dp")) == lone
    assert busiest(Share((), 7, 10), OWN).context_tokens == 3
    assert busiest(Share(((5, 5),)), OWN).context_tokens == 0


def test_a_lone_sequence_is_read_whole_by_one_rank() -> None:
    """What a token more of its context adds is what a token more of each rank's sequence adds."""
    model = paced("own")
    lone, each = model.line(1, 100_000), model.line(4, 400_000)
    assert lone.per_token_s == pytest.approx(4 * each.per_token_s, rel=1e-12)
    longer = model.line(1, 180_000)
    assert longer.first_s == pytest.approx(lone.first_s + 80_000 * lone.per_token_s, rel=1e-9)


def test_a_replica_of_own_sequences_keeps_a_share_of_them_whole() -> None:
    model = load_model("qwen3-30b-a3b")
    assert kv_bytes_per_token(model, Sharing(4)) == kv_bytes_per_token(model, OWN) == 2 * model.cache_values(4)
    latent = load_model("deepseek-v3")  # a latent is whole on every rank: own sequences keep a fourth
    assert kv_bytes_per_token(latent, Sharing(4)) == 4 * kv_bytes_per_token(latent, OWN) == 70272


def test_a_deployment_carries_its_experts() -> None:
    known = Paces(Deployment("qwen3-30b-a3b", "8xh200-nvlink", "a2a-int4", 4, attention="dp", expert_skew=0.5))
    pace = known.pace()
    assert pace.sharing == Sharing(4, 4, "dp", "all-gather", 0.5)
    assert any("skewed (0.5, seed 0)" in sentence for sentence in pace.sentences())
    cut = Paces(Deployment("qwen3-30b-a3b", "8xh200-nvlink", "bf16", 4))
    assert 0 < known.limits.kv_tokens < cut.limits.kv_tokens  # attention is held four times


def test_ranks_with_sequences_of_their_own_have_a_budget_each() -> None:
    limits = Paces(Deployment("qwen3-30b-a3b", "8xh200-nvlink", "bf16", 4, attention="dp", token_budget=512)).limits
    assert (limits.token_budget, limits.max_sequences, limits.chunk_tokens) == (2048, 1024, 512)
    cut = Paces(Deployment("qwen3-30b-a3b", "8xh200-nvlink", "bf16", 4, token_budget=512)).limits
    assert (cut.token_budget, cut.chunk_tokens) == (512, None)


@pytest.fixture
def recurrent(tmp_path: Path) -> str:
    """A model of recurrences alone: the first three layers of Qwen3-Next."""
    config = json.loads((MODELS / "qwen3-next-80b-a3b.json").read_text("utf-8")) | {"num_hidden_layers": 3}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config), "utf-8")
    return str(path)


def test_a_model_without_a_kv_cache_has_room_for_any_context(recurrent: str, capsys: Capture) -> None:
    engine = Deployment(recurrent, "8xh200-nvlink", "bf16", 2)
    assert Paces(engine).limits.kv_tokens == KV_TOKENS.most
    found = serve(engine, Scripted(((0.0, 100_000, 3), (0.0, 10, 2))), 1, warm_up_s=0).run  # type: ignore[arg-type]
    assert (found.finished, found.refused) == (2, 0) and found.kv_most < 1e-6
    with pytest.raises(ValueError, match="leaves no room"):
        Paces(replace(engine, memory_share=1e-6)).limits  # noqa: B018
    asked = ("--model", recurrent, "--cluster", "8xh200-nvlink", "--tp", "2", "--rate", "1", "--duration", "5")
    status, said, _ = command(capsys, "serve", *asked)
    assert status == 0 and "no KV cache" in said.replace("\n", " ")


def test_states_take_memory_whatever_the_cache_is_in() -> None:
    """Room for every sequence's is set aside, in fp32: 2,000 of Qwen3-Next take 79 GB on two GPUs."""
    few = Deployment("qwen3-next-80b-a3b", "8xh200-nvlink", "bf16", 2, max_sequences=10)
    many = replace(few, max_sequences=300)
    for kv in ("bf16", "fp8"):
        one, other = (Paces(replace(each, kv=kv)) for each in (few, many))  # type: ignore[arg-type]
        held = 4 * one.model.state_values(2)
        assert (one.states_bytes, other.states_bytes) == (10 * held, 300 * held)
        lost = (one.limits.kv_tokens - other.limits.kv_tokens) * one.kv_bytes_per_token
        assert abs(lost - 290 * held) <= one.kv_bytes_per_token
    with pytest.raises(ValueError, match=r"states of 2000 sequences 79\.0 GB of"):
        Paces(replace(few, max_sequences=2000)).limits  # noqa: B018
    said = serve(few, Scripted(((0.0, 10, 2),)), 1, warm_up_s=0).assumptions  # type: ignore[arg-type]
    assert sum("0.395 GB a GPU are set aside for the states of 10 sequences" in sentence for sentence in said) == 1
    plain = replace(few, model="qwen3-30b-a3b")
    assert Paces(plain).states_bytes == 0
    said = serve(plain, Scripted(((0.0, 10, 2),)), 1, warm_up_s=0).assumptions  # type: ignore[arg-type]
    assert not any("states" in sentence for sentence in said)


def test_states_of_own_sequences_are_whole_on_a_rank_and_travel_to_the_pool_that_decodes() -> None:
    cut = Paces(Deployment("qwen3-next-80b-a3b", "8xh200-nvlink", "bf16", 2, max_sequences=10))
    own = Paces(replace(cut.deployment, attention="dp"))
    assert own.states_bytes == 2 * cut.states_bytes
    for known in (cut, own):  # half of its values each, or all of every other request's
        assert known.kept_bytes(0) == 4 * known.model.state_values(1) / 2
        assert known.kept_bytes(100) == known.kept_bytes(0) + 100 * known.kv_bytes_per_token


def test_a_request_must_fit_the_cache_of_one_rank_where_ranks_have_their_own() -> None:
    engine = Deployment("qwen3-235b-a22b", "8xh200-nvlink", "bf16", 8, attention="dp")
    paces = Paces(engine)
    limits = paces.limits
    assert limits.request_tokens == limits.kv_tokens // 8 and 300_000 < limits.request_tokens < 900_000
    most = limits.request_tokens // limits.kv_block * limits.kv_block
    rows = ((0.0, 900_000, 1), (0.0, most - 1, 1), (0.0, most, 1))
    found = serve(engine, Scripted(rows), 1, warm_up_s=0, paces=paces).run  # type: ignore[arg-type]
    assert (found.refused, found.finished) == (2, 1)
    cut = Paces(Deployment("qwen3-30b-a3b", "8xh200-nvlink", "bf16", 4)).limits
    assert cut.request_tokens == cut.kv_tokens
