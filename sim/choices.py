"""Words that many modules share, and all that each may be."""

from typing import Literal

Weights = Literal["bf16", "fp8"]
"""Precision of weights and GEMMs."""

Launch = Literal["eager", "graph"]
"""Kernels launched one by one, as engines prefill, or as a CUDA graph."""
