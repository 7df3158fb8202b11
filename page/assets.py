"""The page's own files, and the charting library out of the package that is installed; none of it is committed here.

Vega-Lite, Vega and vega-embed come as one script of 0.9 MB out of vl-convert; making it takes a second of a core, once.
Its expressions run in an interpreter that is part of it (vega-embed's `ast`), so no page needs `unsafe-eval`.
"""

import base64
import hashlib
import json
import re
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

STATIC = Path(__file__).parent / "static"
DATA = '<script type="application/json" id="thinwire-data">{}</script>'
STYLE = '<link rel="stylesheet" href="static/page.css">'
LIBRARY = '<script type="module" src="vega.js"></script>'
SCRIPT = '<script type="module" src="static/page.js"></script>'
TYPES = {".css": "text/css", ".js": "text/javascript"}
_IMPORT = re.compile(r'^import\s*\{[^}]*\}\s*from\s*"\./([a-z]+\.js)";\n', re.MULTILINE)
# Vega's tooltips and chart sizes are styles that scripts set; a style runs nothing and, without URLs, fetches nothing.
_ALIKE = (
    "default-src 'none'; style-src {style} 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
)
SERVED = (
    f"{_ALIKE.format(style=chr(39) + 'self' + chr(39))}; script-src 'self'; connect-src 'self'; frame-ancestors 'none'"
)
_lock = Lock()


class MissingError(ValueError):
    """An extra that is not installed."""


@cache
def own(name: str) -> str:
    """A file of ours."""
    return (STATIC / name).read_text("utf-8")


@cache
def names() -> dict[str, str]:
    """The files that the page asks for by name, and their media types."""
    return {path.name: TYPES[path.suffix] for path in sorted(STATIC.iterdir()) if path.suffix in TYPES}


@cache
def script() -> str:
    """Our modules as one: each behind those that it imports, by their own names, which therefore differ."""
    done = dict[str, str]()

    def add(name: str) -> None:
        if name not in done:
            done[name] = ""  # a circle would be one of ours, and the browser's matter
            text = own(name)
            for found in _IMPORT.finditer(text):
                add(found[1])
            del done[name]
            done[name] = re.sub(r"^export ", "", _IMPORT.sub("", text), flags=re.MULTILINE)

    add("page.js")
    return "\n".join(done.values())


@cache
def charts() -> dict[str, Any]:
    """The Vega-Lite specs, by name."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((STATIC / "charts").glob("*.json"))}


def library() -> str:
    """Vega, Vega-Lite and vega-embed as one script. MissingError where vl-convert is not installed."""
    with _lock:  # who asks second waits, rather than makes it again
        return _library()


@cache
def _library() -> str:
    try:
        import vl_convert
    except ImportError:
        raise MissingError("the page's charts need an extra: pip install 'thinwire[ui]'") from None
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed; window.vega = vega;"))


def as_data(document: Any) -> str:
    """JSON for an inline block: nothing in it ends the block or begins another."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _filled(document: Any) -> str:
    page = own("page.html")
    for mark in (DATA, STYLE, LIBRARY, SCRIPT):
        assert page.count(mark) == 1, mark
    return page.replace(DATA, DATA.replace("{}", as_data(document)))


def served(document: Any) -> str:
    """The page as the server gives it."""
    return _filled(document)


def whole(document: Any, with_library: bool = True) -> str:
    """The page in one file: all that it names is in it, and it may run nothing else.

    with_library: False leaves the charts out, and the page shows its tables alone.
    """
    scripts = [script().replace("</script", "<\\/script")]
    if with_library:
        scripts.insert(0, library().replace("</script", "<\\/script").replace("<!--", "<\\!--"))
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    policy = f"{_ALIKE.format(style='').replace('  ', ' ')}; script-src {hashes}"
    page = own("page.html").replace(STYLE, f"<style>{own('page.css')}</style>")
    page = page.replace(SCRIPT, f'<script type="module">{scripts[-1]}</script>')
    page = page.replace(LIBRARY, f'<script type="module">{scripts[0]}</script>' if with_library else "")
    page = page.replace(DATA, DATA.replace("{}", as_data(document)))
    head = page.index("<head>") + len("<head>")
    return f'{page[:head]}<meta http-equiv="Content-Security-Policy" content="{policy}">{page[head:]}'
