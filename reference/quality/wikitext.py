"""Plain prose out of a Wikipedia dump: paragraphs that need no markup to be read, nothing else.

No general converter. Markup that stands for words (templates that give a number its unit, formulas, tables) cannot be
spelt out without Wikipedia itself, and leaves a hole; a paragraph with a hole in it is dropped, and so are lists,
headings and captions. What remains reads as it was written. Format: https://www.mediawiki.org/wiki/Help:Formatting
"""

from __future__ import annotations

import bz2
import html
import re
from collections.abc import Iterator
from io import BytesIO
from xml.etree import ElementTree

_WHOLE = re.compile(
    r"<!--.*?-->|<(ref|math|gallery|timeline|code|source|syntaxhighlight|sub|sup)\b[^>/]*>.*?</\1\s*>|<ref\b[^>]*/>",
    re.DOTALL | re.IGNORECASE,
)
_INNERMOST = re.compile(r"\{\{[^{}]*\}\}|\{\|(?:(?!\{\|).)*?\|\}", re.DOTALL)
_AFTER_WORD = re.compile(r"(?<=[\w.,;\"')])\{\{(?:cn|fact|citation needed|efn|refn?|sfn|rp)\b[^{}]*\}\}", re.IGNORECASE)
_FILE = re.compile(r"\[\[(?:File|Image|Category):(?:[^\[\]]|\[\[[^\[\]]*\]\])*\]\]", re.IGNORECASE)
_LINK = re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]")
_OUTSIDE = re.compile(r"\[(?:https?:)?//[^\s\]]*\s([^\]]*)\]")
_TAG = re.compile(r"</?(?:br|small|big|i|b|em|u|span|div|nowiki|blockquote|p|abbr|cite|var)\b[^>]*>", re.IGNORECASE)
_QUOTES = re.compile(r"'{2,}")
# What is left of markup that was not understood, or the hole that a template left.
_HOLE = re.compile(r"[{}\[\]|<>=*#~\x00]|\x20{2}|[(\u2013\u2014-] ?[,;:.)]|\s[,;:.)]|__|https?:")
_PARAGRAPH = re.compile(r"[A-Z\"\u201c(][^\n]{199,}[.!?][\"')\u201d]?")


def prose(dump: bytes) -> str:
    """Paragraphs of 200 characters and more of a bzip2-packed XML dump's articles, a blank line between them.

    Raises ValueError for bytes that are no such dump.
    """
    try:
        return (
            "\n\n".join(paragraph for text in _articles(bz2.decompress(dump)) for paragraph in paragraphs(text)) + "\n"
        )
    except (OSError, ElementTree.ParseError) as error:
        raise ValueError(f"no bzip2-packed MediaWiki dump: {error}") from None


def _articles(xml: bytes) -> Iterator[str]:
    for _, element in ElementTree.iterparse(BytesIO(xml)):
        if element.tag.endswith("}page"):
            namespace = "{*}"
            text = element.findtext(f"{namespace}revision/{namespace}text") or ""
            if element.findtext(f"{namespace}ns") == "0" and element.find(f"{namespace}redirect") is None:
                yield text
            element.clear()


def paragraphs(markup: str) -> list[str]:
    """The paragraphs of an article's markup that need none of it."""
    text = _WHOLE.sub("", markup)
    text = _AFTER_WORD.sub("", text)
    while (emptied := _INNERMOST.sub("\x00", text)) != text:  # nested templates, from the inside
        text = emptied
    text = _FILE.sub("", text)
    text = _OUTSIDE.sub(r"\1", _LINK.sub(r"\1", text))
    text = _QUOTES.sub("", _TAG.sub("", text))
    text = html.unescape(text).replace("\xa0", " ")
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if _PARAGRAPH.fullmatch(line) and not _HOLE.search(line)]
