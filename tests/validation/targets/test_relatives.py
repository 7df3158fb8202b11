"""Rows of GPUs that no fit has seen: which they are, and that the shipped profiles are what is held against them.

What leaving one GPU out computes is tested in tests/validation/relatives/.
"""

from dataclasses import replace

import numpy as np
import pytest

from thinwire.sim import api
from thinwire.topologies.load import load_cluster, load_gpu
from thinwire.validation.fits.gpus import SYSTEMS
from thinwire.validation.fits.published_tables import select
from thinwire.validation.targets import relatives


def test_the_a40_is_held_out() -> None:
    """Four projections of each row from 64 tokens up, within 10 % in the median; nothing of the A40 is fitted."""
    points = list(relatives._a40())
    rows = [row for _, row in select("dense_ops_by_tp", gpu="a40") if int(row["num_tokens"]) >= relatives.LEAST_TOKENS]
    assert len(points) == 4 * len(rows) == 384 and "a40" not in SYSTEMS.values()
    assert np.median([abs(point.error) for point in points]) < 0.10
    assert all("pooled" in point.detail and point.interval is not None for point in points)
    assert np.mean([point.inside for point in points]) > 0.9


def test_square_products_are_of_gpus_whose_file_does_not_quote_them() -> None:
    points = list(relatives._square())
    assert {point.group for point in points}.isdisjoint(SYSTEMS.values())
    assert all(load_gpu(point.group).matmul_flops_per_s is None for point in points)
    same = [abs(p.error) for p in points if p.group in ("a100-sxm-40gb", "a800-sxm", "a100-pcie", "rtx-a6000")]
    assert len(same) == 4 and max(same) < 0.06


def test_served_prefills_are_what_predict_says() -> None:
    """Of the engine's rows one a model; the A100 40GB within 6 %, and all inside their intervals."""
    points = list(relatives._served())
    assert len(points) == 12 and all(point.inside for point in points)
    assert all(abs(point.error) < 0.06 for point in points if point.group == "a100-sxm-40gb")
    gh200 = next(point for point in points if point.group == "gh200" and "llama-3-8b" in point.label)
    cluster = replace(load_cluster("8xh200-nvlink"), gpu=load_gpu("gh200")).take(1)
    again = api.predict("llama-3-8b", cluster, "bf16", batch=16, input_tokens=1024)
    assert gh200.predicted == pytest.approx(again.ttft_s)


def test_element_wise_kernels_are_the_other_gpus() -> None:
    points = list(relatives._elementwise())
    assert {point.group for point in points} == {"a100-sxm", "h100-sxm"}
    assert all(point.detail == f"as {'h100' if point.group == 'a100-sxm' else 'a100'}-sxm" for point in points)
