"""The rules of test_layout.py see what they should: broken examples, and sound ones beside them."""

from pathlib import Path

import pytest

from .test_layout import (
    HOUSE,
    MAX_LINES,
    MAX_MODULES,
    arrow_faults,
    cycle_faults,
    length_faults,
    link_faults,
    package_faults,
    place_faults,
)
from .test_layout import (
    declared as declared,
)


@pytest.mark.parametrize(
    ("path", "source", "seen"),
    [
        # between the parts
        ("sim/events/engine.py", "from thinwire.reference.quantize import encode", "sim -> reference"),
        ("sim/events/engine.py", "from thinwire.reference import model", "sim -> reference"),
        ("sim/events/engine.py", "from thinwire.reference.codecs import error", "sim -> reference"),
        ("sim/api.py", "def f():\n    from thinwire.validation import calibrate", "sim -> validation"),
        ("sim/api.py", "import importlib\nimportlib.import_module('thinwire.validation.x')", "sim -> validation"),
        ("sim/api.py", "import importlib\nimportlib.import_module('thinwire.commands.cli')", "sim -> commands"),
        ("sim/cli.py", "from thinwire.commands.cli import main", "sim -> commands"),
        ("sim/costs/profile.py", "resources.files('thinwire.validation')", "sim -> validation"),
        ("sim/predict.py", "import thinwire.kernels.pack", "sim -> kernels"),
        ("sim/planning/plan.py", "import thinwire", "sim -> face"),
        ("reference/core/scheme.py", "from thinwire.topologies.cluster import Cluster", "core -> topologies"),
        ("reference/core/scheme.py", "from thinwire.reference.codecs.packing import pack", "core -> reference"),
        ("reference/catalog.py", "from thinwire.reference.quantize import encode", "core -> reference"),
        ("reference/catalog.py", "if TYPE_CHECKING:\n    from thinwire.sim.predict import x", "core -> sim"),
        ("reference/quantize.py", "from thinwire.kernels import pack", "reference -> kernels"),
        ("reference/quantize.py", "import_module('thinwire.kernels.pack')", "reference -> kernels"),
        ("reference/quality/accuracy.py", "from thinwire.sim import predict", "reference -> sim"),
        ("topologies/cluster.py", "from thinwire.reference.families.config import ModelConfig", "topologies -> core"),
        ("topologies/load.py", "from thinwire.sim.costs.profile import load", "topologies -> sim"),
        ("kernels/pack.py", "from thinwire.reference.quantize import encode", "kernels -> reference"),
        ("kernels/bench.py", "from thinwire.sim.costs import profile", "kernels -> sim"),
        ("validation/fits/gemm.py", "from thinwire.commands.tables.console import console", "validation -> commands"),
        ("commands/predict.py", "from thinwire.kernels import bench", "commands -> kernels"),
        ("src/thinwire/__init__.py", "from thinwire.validation.targets import compare", "face -> validation"),
        ("src/thinwire/__init__.py", "from thinwire.commands.cli import main", "face -> commands"),
        ("src/thinwire/__main__.py", "from thinwire.sim import api", "main -> sim"),
        # ways around
        ("sim/__init__.py", "from thinwire.sim.report import Prediction", "imports nothing"),
        ("sim/costs/__init__.py", "from thinwire.sim.costs.profile import Profile", "imports nothing"),
        ("sim/choices.py", "def f():\n    from thinwire import sim", "name the module"),
        ("sim/choices.py", "import thinwire.sim", "name the module"),
        ("sim/costs/profile.py", "from thinwire.sim import costs", "name the module"),
        ("sim/choices.py", "from thinwire.sim import *", "name the module"),
        ("sim/choices.py", "import_module(f'thinwire.{part}.calibrate')", "whole name"),
        ("sim/choices.py", "import_module(f'thinwire.validation.{part}')", "whole name"),
        ("sim/choices.py", "import_module('.api', 'thinwire.' + 'sim')", "whole name"),
        # one name for every module
        ("sim/events/engine.py", "import reference.core.scheme", "write thinwire.reference.core.scheme"),
        ("sim/events/engine.py", "from . import network", "one way everywhere"),
        ("sim/events/engine.py", "from ..costs.cost import CostModel", "one way everywhere"),
        ("tests/test_one_scheme.py", "from sim import engine", "write thinwire.sim"),
        ("examples/predict.py", "import topologies", "write thinwire.topologies"),
        # up the rooms of a folder
        ("sim/events/engine.py", "from thinwire.sim.predict import predict", "sim/predict.py stands above sim/events/"),
        ("sim/costs/cost.py", "from thinwire.sim.events.engine import Engine", "sim/events/ stands above sim/costs/"),
        ("sim/costs/cost.py", "from thinwire.sim.events import engine", "sim/events/ stands above sim/costs/"),
        ("sim/predict.py", "def f():\n    from thinwire.sim import api", "sim/api.py stands above sim/predict.py"),
        ("sim/workload.py", "if TYPE_CHECKING:\n    from thinwire.sim.api import x", "sim/api.py stands above"),
        ("sim/serving/run.py", "import_module('thinwire.sim.planning.plan')", "sim/planning/ stands above"),
        ("reference/codecs/packing.py", "import thinwire.reference.quantize", "reference/quantize.py stands above"),
        ("reference/core/formats.py", "from thinwire.reference import catalog", "reference/catalog.py stands above"),
        ("validation/fits/gemm.py", "from thinwire.validation import calibrate", "calibrate.py stands above"),
        ("validation/campaign/gpu.py", "from thinwire.validation.fits import gemm", "validation/fits/ stands above"),
    ],
)
def test_a_broken_arrow_is_seen(path: str, source: str, seen: str) -> None:
    (fault,) = arrow_faults(path, source)
    assert fault.startswith(f"{path}:{len(source.splitlines())} ")
    assert seen in fault


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("sim/events/engine.py", "from thinwire.reference.core.scheme import x\nfrom thinwire.topologies import y"),
        ("sim/events/engine.py", "from thinwire.sim.events import z\nfrom thinwire.sim.costs.cost import CostModel"),
        ("sim/cli.py", "from thinwire import __version__\nimport_module('thinwire.commands.cli')"),
        ("sim/costs/cost.py", '"thinwire.validation.calibrate"\nhint = "written by thinwire.validation.calibrate"'),
        ("reference/codecs/backend.py", "import_module('thinwire.kernels.pack')"),
        (
            "reference/quantize.py",
            "from thinwire.reference.codecs import packing\nimport thinwire.reference.core.formats",
        ),
        ("kernels/pack.py", "from thinwire.reference.core.formats import planes\nfrom thinwire.kernels import unpack"),
        ("validation/targets/compare.py", "import thinwire\nfrom thinwire.sim import x"),
        ("validation/targets/compare.py", "from thinwire.validation.fits import gemm\nimport thinwire.kernels.encode"),
        ("commands/cli.py", "from thinwire.validation.targets import compare\nfrom thinwire.sim import api"),
        ("src/thinwire/__main__.py", "from thinwire.commands.cli import main"),
        ("tests/sim/events/test_engine.py", "from thinwire.validation.targets import x\nfrom ..helpers import y"),
    ],
)
def test_a_sound_import_is_let_through(path: str, source: str) -> None:
    assert arrow_faults(path, source) == []


@pytest.mark.parametrize(
    "second",
    [
        "from thinwire.sim.events.engine import Engine",
        "from thinwire.sim.events import engine",
        "def f():\n    import thinwire.sim.events.engine",
        "if TYPE_CHECKING:\n    from thinwire.sim.events.engine import Engine",
        "import_module('thinwire.sim.events.engine')",
    ],
)
def test_a_circle_is_seen(second: str) -> None:
    sound = {
        "sim/events/__init__.py": "",
        "sim/events/engine.py": "from thinwire.sim.events.network import Network",
        "sim/events/network.py": "from thinwire.sim.events.timeline import Timeline",
        "sim/events/timeline.py": "import math",
    }
    assert cycle_faults(sound) == []
    (fault,) = cycle_faults({**sound, "sim/events/timeline.py": second})
    assert all(f"{name}.py:" in fault for name in ("engine", "network", "timeline")) and "in a circle" in fault
    (own,) = cycle_faults({**sound, "sim/events/network.py": second})
    assert "timeline" not in own


@pytest.mark.parametrize(
    ("path", "source", "seen"),
    [
        ("sim/predict.py", "import torch.nn as nn", "works without torch"),
        ("sim/predict.py", "def f():\n    import torch", "works without torch"),
        ("sim/predict.py", "importlib.import_module('torch')", "works without torch"),
        ("commands/predict.py", "import torch", "works without torch"),
        ("src/thinwire/__init__.py", "import triton", "works without torch"),
        ("reference/families/config.py", "from torch import Tensor", "core has only"),
        ("reference/mixed.py", "from torch import Tensor", "core has only"),
        ("reference/core/schedule.py", "import networkx", "core has only"),
        ("topologies/cluster.py", "import scipy.sparse", "topologies has only"),
        ("kernels/pack.py", "import scipy", "kernels has only"),
        ("sim/sweeps/sweep.py", "import pandas", "name it in pyproject.toml"),
        ("sim/sweeps/sweep.py", "def f():\n    import hypothesis", "name it in pyproject.toml"),
        ("sim/sweeps/sweep.py", "import anextra", "import it in the function"),
    ],
)
def test_a_package_out_of_place_is_seen(path: str, source: str, seen: str) -> None:
    (fault,) = package_faults(path, source, ({"numpy", "networkx", "scipy"}, {"torch", "triton", "anextra"}))
    assert seen in fault


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("sim/events/engine.py", "import json\nimport simpy, numpy as np\nfrom rich.table import Table"),
        ("reference/decoder/model.py", "import torch\nfrom torch import nn"),
        ("kernels/pack.py", "import torch, triton.language as tl, math"),
        ("topologies/load.py", "import tomllib, networkx, pydantic, pathlib"),
        ("tests/test_x.py", "import hypothesis, ml_dtypes"),
    ],
)
def test_a_package_in_place_is_let_through(path: str, source: str, declared: tuple[set[str], set[str]]) -> None:
    assert package_faults(path, source, declared) == []


def test_a_misplaced_file_is_seen() -> None:
    sound = [f"{folder}/__init__.py" for folder in HOUSE if folder != "kernels"]
    sound += [
        "sim/events/__init__.py", "sim/events/engine.py", "sim/predict.py", "sim/profiles/gpu-l40s.json",
        "validation/raw/a.json", "validation/emulation/__init__.py", "validation/emulation/switch.c",
        "kernels/README.md", "kernels/encode.py", "topologies/gpus/l4.toml", "tests/sim/deep/test_x.py",
    ]  # fmt: skip
    assert place_faults(sound) == []
    for broken, seen in [
        ("sim/engine.py", "outside every room"),
        ("sim/extra/core.py", "outside every room"),
        ("reference/model.py", "outside every room"),
        ("commands/web/page.py", "outside every room"),
        ("sim/events/deep/core.py", "a room has no rooms"),
        ("sim/tables/a.json", "no room of sim/ and no folder of data"),
        ("topologies/gpus/old/l4.toml", "gpus/ is flat"),
        ("sim/profiles/read.py", "holds data"),
        ("src/thinwire/extra.py", "in no folder of the house"),
        ("lab/x.py", "in no folder of the house"),
        ("kernels/__init__.py", "shadows Hugging Face"),
    ]:
        (fault,) = place_faults([*sound, broken])
        assert seen in fault and broken in fault
    for package in ("sim/__init__.py", "sim/events/__init__.py"):
        (fault,) = place_faults(path for path in sound if path != package)
        assert fault.startswith(f"{package} is missing")
    crowd = [f"sim/events/m{i}.py" for i in range(MAX_MODULES)]
    (fault,) = place_faults([*sound, *crowd])
    assert fault.startswith(f"sim/events/ has {MAX_MODULES + 1} modules")


def test_a_long_module_is_seen() -> None:
    assert length_faults("sim/events/engine.py", "x = 1\n" * MAX_LINES) == []
    assert length_faults("sim/events/engine.py", "x = 1\n" * (MAX_LINES + 1)) != []


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    for folder in HOUSE:
        (tmp_path / folder).symlink_to(f"../../{folder}")
    assert link_faults(tmp_path) == []
    (tmp_path / "sim").unlink()
    (tmp_path / "sim").write_text("../../sim")  # what git checks out where links are off
    (tmp_path / "kernels").unlink()
    (tmp_path / "kernels").symlink_to(tmp_path / "elsewhere")
    assert sorted("is no link" in fault for fault in link_faults(tmp_path)) == [False, True]
