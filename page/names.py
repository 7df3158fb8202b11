"""What files are called on the page: names for people, without the folders that they lie in."""

import json
import re
from pathlib import Path

from thinwire.edge.limits import JSON_BYTES
from thinwire.edge.words import cut


def plain(filename: str) -> str:
    """A name for people and for messages: the last part, without what a path or a terminal would take for more."""
    last = re.split(r"[/\\]", filename)[-1]
    kept = "".join(c if c.isprintable() and c not in "<>:\"|?*`$;&'" else "_" for c in last).strip(" .")
    return cut(kept, 60) or "file"


def model_title(filename: str, body: bytes) -> str:
    """The file's own name; of a `config.json`, which says nothing, the last part of what it says it came from."""
    title = re.sub(r"\.json$", "", plain(filename), flags=re.IGNORECASE)
    if title not in ("config", ""):
        return title
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return "model"  # whoever reads the file says what is wrong
    said = found.get("_name_or_path") if isinstance(found, dict) else None
    return plain(said.rstrip("/\\")) if isinstance(said, str) and said.strip("/\\ .") else "model"


def title_of(path: Path) -> str:
    """The same of a model's file, or of a folder that holds its `config.json`. OSError where it cannot be read."""
    file = path / "config.json" if path.is_dir() else path
    with open(file, "rb") as opened:
        return model_title(file.name, opened.read(JSON_BYTES.most))
