"""Words that many modules share, and all that each may be."""

from typing import Literal, get_args

from thinwire.reference.core.precision import Kv as Kv  # where a checkpoint's own are read
from thinwire.reference.core.precision import Precision as Precision
from thinwire.reference.core.precision import Weights as Weights

WEIGHTS: tuple[Weights, ...] = (*get_args(Precision), "auto")
"""All that they may be."""

Launch = Literal["eager", "graph"]
"""Kernels launched one by one, as engines prefill, or as a CUDA graph."""

Attending = Literal["tp", "dp"]
"""Attention cut by heads over all ranks, or held whole by every rank for sequences of its own."""

Exchanging = Literal["all-gather", "all-to-all"]
"""How tokens reach experts: every rank has all of them, or they go where their experts are."""

Compress = Literal["prompt", "all"]
"""Positions that a deployment compresses: those of prompts, whose messages are large, or every one, decode's too."""

AccuracyFrom = Literal["measured", "published", "none"]
"""What a plan's accuracy is decided by: our measured table, figures that others published, or nothing."""

Shown = Literal["few", "all", "none"]
"""How many published figures a table for people has below it."""
