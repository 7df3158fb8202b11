"""thinwire: time to first token when the wire between GPUs carries fewer bits.

`predict` answers one what-if, a `Question`; `compare` many; `serve` puts a `Deployment` under a load. Importing this
package pulls in neither torch nor the simulator until one of them is used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own takes longer to import than all that is here, and Ctrl-C then is a traceback
if TYPE_CHECKING:
    from typing import Any

    from thinwire.sim.api import Comparison as Comparison
    from thinwire.sim.api import compare as compare
    from thinwire.sim.api import predict as predict
    from thinwire.sim.question import Question as Question
    from thinwire.sim.report import Prediction as Prediction
    from thinwire.sim.serving.question import Deployment as Deployment
    from thinwire.sim.serving.serve import serve as serve

__version__ = "0.1.0"
_HOMES = {
    "Comparison": "thinwire.sim.api",
    "Deployment": "thinwire.sim.serving.question",
    "Prediction": "thinwire.sim.report",
    "Question": "thinwire.sim.question",
    "compare": "thinwire.sim.api",
    "predict": "thinwire.sim.api",
    "serve": "thinwire.sim.serving.serve",
}
__all__ = ["Comparison", "Deployment", "Prediction", "Question", "__version__", "compare", "predict", "serve"]


def __getattr__(name: str) -> Any:
    """Load the simulator when one of its names is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'thinwire' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
