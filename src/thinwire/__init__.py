"""thinwire: time to first token when the wire between GPUs carries fewer bits.

`predict` answers one what-if; `compare` many; `serve` puts a `Deployment` under a load. Importing this package pulls in
neither torch nor the simulator until one of them is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thinwire.sim.api import Comparison as Comparison
    from thinwire.sim.api import compare as compare
    from thinwire.sim.api import predict as predict
    from thinwire.sim.report import Prediction as Prediction
    from thinwire.sim.serving.serve import Deployment as Deployment
    from thinwire.sim.serving.serve import serve as serve

__version__ = "0.1.0"
__all__ = ["Comparison", "Deployment", "Prediction", "__version__", "compare", "predict", "serve"]


def __getattr__(name: str) -> Any:
    """Load the simulator when one of its names is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'thinwire' has no attribute {name!r}")
    if name in ("Deployment", "serve"):
        from thinwire.sim.serving import serve as serving

        return getattr(serving, name)
    from thinwire.sim import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
