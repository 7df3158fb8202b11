"""Makes every picture of the pages, and the tables of exact numbers: `make pictures`, or with a folder to write into.

Out of the catalog, schedules and predictions: the same of those give the same bytes, and tests/test_pictures.py draws
all of it anew. docs/accuracy.md and its pictures are made by `make pages` from what was measured.
"""

import runpy
import sys
from pathlib import Path

from families import FAMILIES
from tables import TABLES, filled

DOCS = Path(__file__).resolve().parent.parent


def draw(target: Path) -> None:
    """Write pictures and filled pages under `target`, which has docs/'s shape."""
    folder = target / "schemes"
    folder.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        for word, made in family.pictures:
            (folder / f"{family.page}-{word}.svg").write_text(made().render(), "utf-8")
    for page in TABLES:
        text = (DOCS / "schemes" / f"{page}.md").read_text("utf-8")
        (folder / f"{page}.md").write_text(filled(text, page), "utf-8")
    runpy.run_path(str(DOCS / "picture.py"))["draw"](target / "ttft.svg")


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS)
