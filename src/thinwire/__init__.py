"""thinwire: time to first token when the wire between GPUs carries fewer bits.

`predict` answers one what-if, a `Question`; `compare` many; `serve` puts a `Deployment` under a load; `plan` looks for
the cheapest; `sweep` computes a grid, and `read_results` reads one. Answers have `to_pandas()` and `plot()`. Importing
this package pulls in neither torch nor the simulator until one of them is used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own takes longer to import than all that is here, and Ctrl-C then is a traceback
if TYPE_CHECKING:
    from typing import Any

    from thinwire.sim.api import Comparison as Comparison
    from thinwire.sim.api import compare as compare
    from thinwire.sim.api import predict as predict
    from thinwire.sim.planning.answer import plan as plan
    from thinwire.sim.planning.plan import Plan as Plan
    from thinwire.sim.question import Question as Question
    from thinwire.sim.report import Prediction as Prediction
    from thinwire.sim.serving.question import Deployment as Deployment
    from thinwire.sim.serving.serve import ServingResult as ServingResult
    from thinwire.sim.serving.serve import serve as serve
    from thinwire.sim.sweeps.results import Results as Results
    from thinwire.sim.sweeps.results import read_results as read_results
    from thinwire.sim.sweeps.sweep import sweep as sweep
    from thinwire.sim.traces.write import write_trace as write_trace
    from thinwire.sim.verdict import Limit as Limit
    from thinwire.sim.verdict import best as best
    from thinwire.sim.verdict import verdict as verdict

__version__ = "0.1.0"
_HOMES = {
    "Comparison": "thinwire.sim.api",
    "Deployment": "thinwire.sim.serving.question",
    "Limit": "thinwire.sim.verdict",
    "Plan": "thinwire.sim.planning.plan",
    "Prediction": "thinwire.sim.report",
    "Question": "thinwire.sim.question",
    "Results": "thinwire.sim.sweeps.results",
    "ServingResult": "thinwire.sim.serving.serve",
    "best": "thinwire.sim.verdict",
    "compare": "thinwire.sim.api",
    "plan": "thinwire.sim.planning.answer",
    "predict": "thinwire.sim.api",
    "read_results": "thinwire.sim.sweeps.results",
    "serve": "thinwire.sim.serving.serve",
    "sweep": "thinwire.sim.sweeps.sweep",
    "verdict": "thinwire.sim.verdict",
    "write_trace": "thinwire.sim.traces.write",
}
__all__ = [
    "Comparison",
    "Deployment",
    "Limit",
    "Plan",
    "Prediction",
    "Question",
    "Results",
    "ServingResult",
    "__version__",
    "best",
    "compare",
    "plan",
    "predict",
    "read_results",
    "serve",
    "sweep",
    "verdict",
    "write_trace",
]


def __getattr__(name: str) -> Any:
    """Load the simulator when one of its names is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'thinwire' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
