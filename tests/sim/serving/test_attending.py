"""What mixers run in an iteration, and their seconds taken apart: the kernels of one are priced as the other says."""

from dataclasses import replace

import pytest

from thinwire.reference.core.mixers import Attention, Latent
from thinwire.reference.families.config import load_model
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.costs.decode_attention import DecodeCall
from thinwire.sim.serving.attending import Calls, attending, chunk_kernels, decode_kernels
from thinwire.sim.shapes import Attend, AttendChunks, DecodeAttend, LatentDecode

from ..helpers import machine

SPARSE, DENSE, CHUNKED = (load_model(name) for name in ("deepseek-v3.2", "deepseek-v3", "llama-4-scout"))
TP = 8


def latent(model_name: str) -> Latent:
    mixer = load_model(model_name).layers[0].mixer
    assert isinstance(mixer, Latent)
    return mixer


def chunked() -> Attention:
    """A layer of Llama 4 whose tokens see their own chunk of 8,192 alone: no window says so."""
    found = next(m for layer in CHUNKED.layers if isinstance(m := layer.mixer, Attention) and m.chunk is not None)
    assert (found.chunk, found.window) == (8192, None)
    return found


def test_decoding_reads_the_tokens_that_an_index_chose_and_no_more() -> None:
    mixer = latent("deepseek-v3.2")
    for context, seen in ((4 * 2048 - 1, 4 * 2048 - 1), (4 * 2048, 4 * 2048), (400_000, 4 * 2048)):
        scores, read = decode_kernels(mixer, TP, 4, context)
        assert isinstance(scores, DecodeAttend) and isinstance(read, LatentDecode)
        assert (scores.context_tokens, read.context_tokens) == (context, seen)
    (whole,) = decode_kernels(latent("deepseek-v3"), TP, 4, 400_000)
    assert isinstance(whole, LatentDecode) and whole.context_tokens == 400_000


def test_an_index_scores_the_chunks_whose_context_it_must_choose_from() -> None:
    """Up to 2,048 tokens of context all are read, and nothing is chosen."""
    mixer = latent("deepseek-v3.2")
    chunks = ((100, 2048), (100, 2049), (2048, 2048), (7, 90_000))
    scored = [k for k in chunk_kernels(SPARSE, mixer, TP, chunks, "bf16") if k.name == "index scores"]
    assert [(k.query_tokens, k.key_tokens) for k in scored if isinstance(k, Attend)] == [(100, 2049), (7, 90_000)]
    assert mixer.indexer is not None
    shared = replace(mixer, indexer=replace(mixer.indexer, shared=True))
    assert not any(k.name == "index scores" for k in chunk_kernels(SPARSE, shared, TP, chunks, "bf16"))


def test_a_layer_of_chunks_reads_no_more_than_one() -> None:
    mixer = chunked()
    (prompts,) = chunk_kernels(CHUNKED, mixer, TP, ((100, 20_000),), "bf16")
    (step,) = decode_kernels(mixer, TP, 3, 90_000)
    assert isinstance(prompts, AttendChunks) and isinstance(step, DecodeAttend)
    assert prompts.window == step.window == 8192
    gpus, profile = machine("8xh200-nvlink", TP)
    calls = attending(CHUNKED, mixer, TP, "bf16", CostModel(profile, gpus.gpu, "graph"), 0.0).decode(3)
    assert calls.seconds(3 * 8191) < calls.seconds(3 * 8192) == calls.seconds(90_000)


@pytest.mark.parametrize("cache", ["bf16", "fp8"])
@pytest.mark.parametrize("case", ["latent", "chosen", "chunks"])
def test_decoding_takes_what_its_kernels_do(case: str, cache: str) -> None:
    """Priced here as a call whose contexts come later, and there as kernels: in a cache of either precision."""
    model = {"latent": DENSE, "chosen": SPARSE, "chunks": CHUNKED}[case]
    mixer = chunked() if case == "chunks" else model.layers[0].mixer
    assert mixer is not None
    gpus, profile = machine("8xh200-nvlink", TP)
    cost = CostModel(profile, gpus.gpu, "graph", cache)  # type: ignore[arg-type]
    for sequences, context in ((1, 500), (16, 16 * 1500), (16, 16 * 9000), (200, 200 * 5000)):
        kernels = decode_kernels(mixer, TP, sequences, context)
        wanted_s = sum(cost.kernel_s(kernel) - cost.gap_s.value for kernel in kernels)
        found = attending(model, mixer, TP, "bf16", cost, 0.0)
        assert found.decode(sequences).seconds(context) == pytest.approx(wanted_s, rel=1e-9)
        assert found.decode_kernels == len(kernels)


def test_a_latent_cache_of_fewer_bytes_is_read_sooner() -> None:
    gpus, profile = machine("8xh200-nvlink", TP)
    wide_s, narrow_s = (
        attending(DENSE, latent("deepseek-v3"), TP, "bf16", CostModel(profile, gpus.gpu, "graph", cache), 0.0)  # type: ignore[arg-type]
        .decode(64)
        .seconds(64 * 8000)
        for cache in ("bf16", "fp8")
    )
    assert narrow_s < 0.9 * wide_s


def test_calls_one_after_the_other_are_straight_until_the_first_of_them_bends() -> None:
    soon, late = (DecodeCall(2, 1.0, 0.0, 1.0, split_at, 1e-3) for split_at in (100.0, 900.0))
    for order in ((soon, late), (late, soon)):
        calls = Calls(tuple((call, None) for call in order), 5.0)
        piece = calls.piece(50)
        assert piece.until == 100 and piece.seconds == calls.seconds(50)
        assert calls.seconds(99) == pytest.approx(piece.seconds + 49 * piece.per_token_s, rel=1e-12)
        assert calls.seconds(200) < piece.seconds + 150 * piece.per_token_s
    assert Calls(((late, 30), (late, None))).piece(50).until == 60  # a window of two sequences ends first
    assert Calls(fixed_s=2.0).piece(50) == (2.0, 0.0, float("inf"))
