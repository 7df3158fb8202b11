"""Where kernels run in tests: compiled on a GPU where there is one, else on the CPU in Triton's interpreter.

The choice is an environment variable that Triton reads when it is imported, its own library's functions included. This
file is read while tests are collected, before any of them runs, and no test module imports Triton outside this folder,
so it comes first in every pytest process, pytest-xdist's workers among them. Tests that compile for a GPU nobody has
do so in a process of their own, without the variable.

A GPU machine has torch, Triton, numpy, scipy and pytest, nothing else: nothing here imports more.
"""

from __future__ import annotations

import os
import sys

import pytest
import torch

if not torch.cuda.is_available():
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise pytest.UsageError(
            "triton was imported before tests/kernels/conftest.py could choose its interpreter: import it, and whatever"
            " imports it (torchao, thinwire.kernels), inside the test that needs it, or set TRITON_INTERPRET=1"
        )
    os.environ["TRITON_INTERPRET"] = "1"

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where tensors of these tests lie."""
    return torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")
