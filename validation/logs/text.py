"""A log as lines of text, whatever a terminal, a shell or an editor made of it: bounded in time and memory.

UTF-8 and UTF-16, CR and CRLF, ANSI colours. A file that is no text is refused by what it is.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from thinwire.edge.limits import LOG_BYTES
from thinwire.edge.reading import UnreadableError, content

WHAT = "the log"
LINE = 4096  # bytes of a line that are looked at: a row has 120, and what NCCL prints beside it some hundred
HEAD = 1 << 16  # bytes that tell text from what is none
ODD = 0.05  # share of its bytes that no text has
KNOWN = {  # how files begin that people give for logs
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"\x28\xb5\x2f\xfd": "a zstd archive: unpack it first",
    b"\xfd7zXZ": "an xz archive: unpack it first",
    b"\x89PNG": "a picture: paste the text instead",
    b"\xff\xd8\xff": "a picture: paste the text instead",
    b"%PDF": "a PDF: paste the text instead",
    b"\x7fELF": "a program, not what it printed",
    b"<?xml": "XML; a topology that NCCL dumped is read by `thinwire cluster import`",
    b"<system": "XML; a topology that NCCL dumped is read by `thinwire cluster import`",
}
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_LINES = re.compile(rb"[^\r\n]{4,}")  # shorter ones hold nothing, and there may be millions
_CONTROL = bytes(range(9)) + bytes(range(14, 27)) + bytes(range(28, 32)) + b"\x7f"


def lines_of(path: str | Path) -> Iterator[str]:
    """The lines of a log that hold anything; of a long one its beginning.

    Raises UnreadableError (a ValueError) for a file that is empty, too large, no text, or not there.
    """
    yield from split(text_of(content(path, WHAT, LOG_BYTES.most), path))


def text_of(found: bytes, path: str | Path) -> bytes:
    """What a file holds as UTF-8, or a refusal that says what it is."""
    if not found.strip():
        raise UnreadableError(path, WHAT, "it is empty")
    for begin, said in KNOWN.items():
        if found.startswith(begin):
            raise UnreadableError(path, WHAT, f"it is {said}")
    for mark, code in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if found.startswith(mark):
            return found[2:].decode(code, "replace").encode("utf-8", "replace")
    head = found[:HEAD]
    for code, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
        if len(zeros) > 8 and zeros.count(0) > 0.8 * len(zeros):
            return found.decode(code, "replace").encode("utf-8", "replace")
    control = len(head) - len(head.translate(None, _CONTROL))
    replaced = head.decode("utf-8", "replace").count("\ufffd")
    if control + replaced > ODD * len(head):
        raise UnreadableError(path, WHAT, "it is binary, not text that nccl-tests printed")
    return found


def split(found: bytes) -> Iterator[str]:
    """Lines of UTF-8 bytes, without escapes of terminals."""
    for line in _LINES.finditer(found):
        text = found[line.start() : min(line.end(), line.start() + LINE)].decode("utf-8", "replace")
        if "\x1b" in text:
            text = _ESCAPES.sub("", text)
        text = text.replace("\ufeff", "").replace("\x00", "").replace("\u00a0", " ")
        if text.strip():
            yield text
