"""A pasted or dumped file as plain text: of any usual encoding, without colours, quotation marks of mail and fences."""

from __future__ import annotations

import re
from pathlib import Path

from thinwire.edge.limits import DUMP_BYTES, DUMP_LINES
from thinwire.edge.reading import UnreadableError, content

WHAT = "the dump"
GRAPHS = "NCCL's graphs (what NCCL chose on a topology): NCCL_TOPO_DUMP_FILE=topo.xml dumps the topology itself"
LONGEST = 8192  # characters of a line that any of these tools prints: 128 devices in a matrix have a tenth of it
# What a terminal makes colours of, and what is left of it where the escape character went or was written out.
_ANSI = re.compile(
    r"(?:\x1b|\\x1b|\\e|\\033|\^\[)\[[0-9;?]{0,16}[@-~]|\x1b\][^\x07\x1b\n]{0,200}(?:\x07|\x1b\\)|\[\d{1,2}(?:;\d{1,2})*m"
)
_QUOTE = re.compile(r"^[ \t]*(?:>[ \t]?)+")
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[\w-]*[ \t]*$")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_MAGIC = (
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"PK\x03\x04", "a zip archive: unpack it first"),
    (b"\x89PNG", "a picture: paste the text instead"),
    (b"\xff\xd8\xff", "a picture: paste the text instead"),
    (b"%PDF", "a PDF: paste the text instead"),
    (b"\x7fELF", "a program"),
)


def plain(path: str | Path) -> str:
    """The text of a file, lines ended by "\\n". UnreadableError where it is too large, no text, or empty."""
    raw = content(path, WHAT, DUMP_BYTES.most)
    for magic, what in _MAGIC:
        if raw.startswith(magic):
            raise UnreadableError(path, WHAT, f"it is {what}")
    text = _decoded(raw, path)
    if not text.strip():
        raise UnreadableError(path, WHAT, "it is empty")
    if len(_CONTROL.findall(text[: 1 << 16])) > 8:
        raise UnreadableError(path, WHAT, "it is no text")
    text = tidy(text)
    if not DUMP_LINES.holds(text.count("\n")):
        raise UnreadableError(path, WHAT, f"it has more than {DUMP_LINES.most} lines")
    return text


def _decoded(raw: bytes, path: str | Path) -> str:
    head = raw[:4096]
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif len(head) > 3 and head[1::2].count(0) > len(head) // 4:  # PowerShell's, without its mark
        encoding = "utf-16-le"
    elif len(head) > 3 and head[0::2].count(0) > len(head) // 4:
        encoding = "utf-16-be"
    else:
        # A name in another encoding is no reason to refuse what else is plain ASCII.
        return raw.decode("utf-8-sig", "replace")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        raise UnreadableError(path, WHAT, "it is cut, or no text") from None


def tidy(text: str) -> str:
    """Text without escapes, fences, marks of quotation and odd spaces."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\xa0", " ").replace("\ufeff", "")
    lines = _ANSI.sub("", text).split("\n")
    filled = [line for line in lines if line.strip()]
    quoted = sum(line.lstrip().startswith(">") for line in filled)
    if quoted * 2 > len(filled) or (quoted and "<system" not in text):
        lines = [_QUOTE.sub("", line) for line in lines]
    return "\n".join(line for line in lines if not _FENCE.match(line))


def readable(text: str) -> list[tuple[int, str]]:
    """Number, from 1, and text of the lines that a tool may have printed: those that are too long are left out."""
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if len(line) <= LONGEST]
