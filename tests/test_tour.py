"""The example notebook runs from top to bottom and shows what it says it shows."""

import os
import re
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

import thinwire
from thinwire.edge.words import cut

REASON = "the tour is run by nbclient and ipykernel, with matplotlib, pandas and pyarrow: the extra test"


@pytest.fixture(scope="module")
def notebook(root: Path) -> Any:
    nbformat = pytest.importorskip("nbformat", reason=REASON)
    found = nbformat.read(root / "examples" / "tour.ipynb", as_version=4)
    nbformat.validate(found)
    return found


def test_it_is_kept_without_outputs(notebook: Any) -> None:
    """Outputs of a run are nobody's source: clear them before they are committed."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 10 and not any(cell.outputs or cell.execution_count for cell in cells)
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}
    text = "\n".join(cell.source for cell in notebook.cells)
    assert max(map(len, text.splitlines())) <= 120


def test_its_page_installs_what_it_needs(root: Path) -> None:
    """Extras that bring matplotlib, pandas and pyarrow."""
    command = re.search(r"-e '\.\[([\w,]+)\]'", (root / "docs" / "notebooks.md").read_text("utf-8"))
    extras = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert command is not None
    brought = " ".join(line for name in command[1].split(",") for line in extras[name])
    assert all(package in brought for package in ("matplotlib", "pandas", "pyarrow"))


@pytest.fixture(scope="module")
def run(notebook: Any, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook, run by the interpreter that runs the tests, against this tree."""
    nbclient = pytest.importorskip("nbclient", reason=REASON)
    install = pytest.importorskip("ipykernel.kernelspec", reason=REASON).install
    for package in ("matplotlib", "pandas", "pyarrow"):
        pytest.importorskip(package, reason=REASON)
    folder = tmp_path_factory.mktemp("tour")
    install(prefix=str(folder), kernel_name="tour")
    own = {
        "JUPYTER_PATH": folder / "share" / "jupyter",
        "JUPYTER_RUNTIME_DIR": folder / "runtime",
        "JUPYTER_PLATFORM_DIRS": 1,
        "IPYTHONDIR": folder / "ipython",
        "TMPDIR": folder,
        "PYTHONPATH": root / "src",
        "PYTHONWARNINGS": "",
    }
    with pytest.MonkeyPatch.context() as patched:
        for name, value in own.items():
            patched.setenv(name, str(value))
        started, used = time.monotonic(), os.times()
        client = nbclient.NotebookClient(
            notebook, timeout=300, kernel_name="tour", resources={"metadata": {"path": str(folder)}}
        )
        client.execute()
        seconds = (os.times().children_user - used.children_user, time.monotonic() - started)
    return notebook, folder, seconds


def shown(notebook: Any, kind: str) -> list[str]:
    """Outputs of a kind, in order."""
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    if kind == "stream":
        return [o.text for o in outputs if o.output_type == "stream" and o.name == "stdout"]
    return [o.data[kind] for o in outputs if o.output_type == "execute_result" or "data" in o if kind in o.data]


def test_it_runs_and_shows_tables_and_pictures(run: Any) -> None:
    notebook, folder, _ = run
    tables, lines = shown(notebook, "text/html"), shown(notebook, "text/plain")
    for name in ("Prediction", "Comparison", "Report", "ServingResult", "Plan"):
        assert any(line.startswith(f"<{name}: ") and len(line) < 200 for line in lines), name
    assert len(tables) == 6, "five answers and a frame"
    assert all("<table" in table for table in tables)
    assert len(shown(notebook, "image/png")) == 5
    errors = [
        o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs if o.get("name") == "stderr"
    ]
    assert not errors, [cut(o.text) for o in errors]
    (trace,) = folder.glob("thinwire-tour-*/trace.json")
    assert trace.stat().st_size > 1e6


def test_it_says_what_the_package_says(run: Any) -> None:
    said = "".join(shown(run[0], "stream"))
    schemes = ["none", "flash-int4", "flash-int6", "flash-int8", "mxfp8", "bf16"]
    compared = thinwire.compare(schemes, "llama-3-70b", "8xl40s-pcie", tp=4, batch=8, input_tokens=1024)
    assert thinwire.verdict(compared) in said
    assert thinwire.verdict(compared, thinwire.Limit(perplexity=1.10, lookups=30)) in said
    costs = [float(cost) for cost in re.findall(r": ([\d.]+) an hour$", said, re.MULTILINE)]
    assert len(costs) == 2 and 0 < costs[0] < costs[1], "twice the load costs more"


def test_it_takes_little_time(run: Any) -> None:
    """Seconds of a processor, and not of the clock, which others use as well."""
    assert 0 < run[2][0] < 40
