"""The README quotes the validation report and nothing else."""

import re
from pathlib import Path


def test_every_figure_of_the_readme_stands_in_the_report(root: Path) -> None:
    """Count, median, 90th percentile and worst of each row stand together in one row of the table of targets."""
    readme = (root / "README.md").read_text()
    summary = readme.split("<!-- validation summary")[1].split("<!-- end of summary")[0]
    rows = re.findall(r"\| ([\d,]+) \| ([\d.]+%) \| ([\d.]+%) \| ([\d.]+%) \|", summary)
    assert len(rows) >= 8
    targets = (root / "validation" / "reports" / "validation.md").read_text().split("## Targets")[1].split("\n## ")[0]
    for row in rows:
        assert f"| {' | '.join(row)} |" in targets, f"the report has no row {row}: run make validate and quote it anew"
