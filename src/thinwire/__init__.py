"""thinwire: time to first token when the wire between GPUs carries fewer bits.

`predict` answers one what-if; `compare` many. Importing this package pulls in neither torch nor the simulator until one
of them is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thinwire.sim.api import Comparison as Comparison
    from thinwire.sim.api import compare as compare
    from thinwire.sim.api import predict as predict
    from thinwire.sim.report import Prediction as Prediction

__version__ = "0.1.0"
__all__ = ["Comparison", "Prediction", "__version__", "compare", "predict"]


def __getattr__(name: str) -> Any:
    """Load the simulator when one of its names is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'thinwire' has no attribute {name!r}")
    from thinwire.sim import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
