"""Prose out of Wikipedia's markup."""

from __future__ import annotations

import bz2
from xml.sax.saxutils import escape

import pytest

from thinwire.reference.quality.wikitext import paragraphs, prose

LONG = "The aardvark is a medium-sized, burrowing, nocturnal mammal that is native to much of the continent. " * 2
LONG = LONG.strip()


def page(text: str, namespace: int = 0, redirect: bool = False) -> str:
    target = '<redirect title="Elsewhere" />' if redirect else ""
    revision = f"<revision><text>{escape(text)}</text></revision>"
    return f"<page><title>T</title><ns>{namespace}</ns>{target}{revision}</page>"


def dump(*pages: str) -> bytes:
    name = "http://www.mediawiki.org/xml/export-0.10/"
    return bz2.compress(f'<mediawiki xmlns="{name}">{"".join(pages)}</mediawiki>'.encode())


def test_articles_only() -> None:
    found = prose(dump(page(LONG), page(LONG + " Talk.", 1), page(LONG, redirect=True), page(f"{LONG} Two.\n\nShort.")))
    assert found == f"{LONG}\n\n{LONG} Two.\n"


@pytest.mark.parametrize(
    "markup, text",
    [
        ("'''Bold''' and ''plain'' words.", "Bold and plain words."),
        ("A [[link]], [[other|another one]] and [http://x.org a page].", "A link, another one and a page."),
        ('Noted.<ref name="a">See {{cite|x}}.</ref> Again.<ref name="a"/> End.', "Noted. Again. End."),
        ("Left<!-- no {{ --> out &amp; &quot;quoted&quot;.", 'Left out & "quoted".'),
        ("[[File:a.png|thumb|with a [[link]]]]Here.", "Here."),
        ("Said{{citation needed|date=May 2016}} once.", "Said once."),
        ("<small>Small</small> words.", "Small words."),
    ],
)
def test_markup_goes(markup: str, text: str) -> None:
    assert paragraphs(f"{LONG} {markup}") == [f"{LONG} {text}"]


@pytest.mark.parametrize(
    "line",
    [
        "It weighs {{convert|60|kg}} or more.",  # a word would be missing
        "Born ({{lang|el|x{{y}}}}; 5 May) there.",
        "As <math>x^2</math> shows.",
        "It holds [[broken markup.",
        "See http://example.org for more.",
        "Without an end",
    ],
)
def test_paragraphs_with_holes_go(line: str) -> None:
    assert paragraphs(f"{LONG}\n\n{LONG} {line}\n* {LONG}\n== {LONG} ==\n{{| {LONG}\n|}}\n{LONG[1:]}") == [LONG]


def test_short_paragraphs_go() -> None:
    assert paragraphs(LONG[:150] + ".\n\n" + LONG) == [LONG]


@pytest.mark.parametrize("content", [b"", b"no dump", bz2.compress(b"no XML"), bz2.compress(b"<a><b></a>")])
def test_what_is_no_dump_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="no bzip2-packed MediaWiki dump"):
        prose(content)
