"""A prediction's trace in a file: the prediction's run once more, with all that it sends, and what it is of."""

from pathlib import Path
from typing import Any

from thinwire import __version__
from thinwire.sim.events import trace
from thinwire.sim.layers import formats
from thinwire.sim.predict import record
from thinwire.sim.report import Prediction


def write_trace(prediction: Prediction, path: str | Path) -> None:
    """Write what a prediction's run did, for https://ui.perfetto.dev: JSON, or protobuf where the name ends in
    .pftrace or .perfetto-trace.

    Raises OSError where the file cannot be written, and ValueError for protobuf without the package `perfetto`.
    """
    trace.write_trace(record(prediction), path, about(prediction))


def about(p: Prediction) -> dict[str, Any]:
    """What a prediction is of, for people who find its trace."""
    return {
        "model": p.model.name,
        "formats": formats(p.model, p.prompt.weights, p.prompt.kv),
        "cluster": p.cluster.name,
        "tp": p.tp,
        "scheme": p.scheme.name,
        "batch": p.prompt.batch,
        "input_tokens": p.prompt.input_tokens,
        "ttft_ms": p.ttft_s * 1e3,
        "ttft_ms_low": p.interval.low_s * 1e3,
        "ttft_ms_high": p.interval.high_s * 1e3,
        "thinwire": __version__,
        "is": "a simulated run, predicted and not measured",
    }
