"""HTML: all text a reader of the page would see, in sections that begin at its h1 and h2.

Measured before choosing: trafilatura 2.3, which looks for the main text, kept 1.2 % of the words of RFC 9110
and 93 % of RFC 7231, and did not say so. Some words of a footer too many harm less, so only navigation,
scripts and hidden elements are left out here, and a warning counts the words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lxml import etree
from lxml.html import HTMLParser, document_fromstring

from parsers.encoding import decode
from parsers.errors import Damaged, Empty
from parsers.limits import Limits
from parsers.reading import RawPage, Reading
from parsers.sections import Block, sections

PARSER = "html/1"

_CHARSET = re.compile(rb"<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)\s*=\s*[\"']?\s*([\w.:-]+)", re.I)
_DECLARED_WITHIN = 4096
_WITHOUT_TEXT = "//head|//script|//style|//template|//noscript|//comment()|//processing-instruction()"
_NAVIGATION = "//nav|//*[@role='navigation']"
_HIDDEN = "//*[@hidden]|//*[@style]"
_HIDING = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)
_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "dialog",
    "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5",
    "h6", "header", "hgroup", "hr", "html", "legend", "li", "main", "nav", "ol", "option", "p", "pre",
    "search", "section", "summary", "table", "td", "th", "tr", "ul",
})  # fmt: skip
#: A table row with one of these in it is laid out block by block.
_LARGE = ("table", "ul", "ol", "dl", "pre", "h1", "h2", "h3", "h4", "h5", "h6")
_ROW_ENDS = {"tr": "\n", "td": "\t", "th": "\t"}
_SPACE = re.compile(r"[ \t\r\n\f]+")
_SPACE_RUN = re.compile(" {2,}")
_AROUND_BREAK = re.compile(r" ?([\t\n]) ?")


def read(path: Path, *, password: str | None, limits: Limits) -> Reading:
    """Read a page. Raises Empty, Damaged (elements nested too deeply to be read whole)."""
    data = path.read_bytes()
    declared = _CHARSET.search(data[:_DECLARED_WITHIN])
    text, warning = decode(data, declared[1].decode("ascii") if declared else None)
    root = _parse(text)
    title = root.findtext(".//title")
    warnings = [warning] if warning else []
    _drop(root.xpath(_WITHOUT_TEXT))
    for name, elements in (
        ("navigation", root.xpath(_NAVIGATION)),
        (
            "hidden text",
            [e for e in root.xpath(_HIDDEN) if "hidden" in e.attrib or _HIDING.search(e.get("style", ""))],
        ),
    ):
        if words := _drop(elements):
            warnings.append(f"{words:,} words of {name} were left out.")
    pages = sections(_blocks(root))
    return Reading(
        parser=PARSER,
        raw_pages=map(RawPage, pages),
        total=len(pages),
        paged=False,
        title=title,
        warnings=warnings,
    )


def _parse(text: str) -> Any:
    # As bytes, for lxml refuses text that declares an encoding; huge_tree raises the bound of 256 levels.
    parser = HTMLParser(encoding="utf-8", huge_tree=True)
    try:
        root = document_fromstring(text.encode("utf-8", errors="replace"), parser=parser)
    except etree.ParserError as exc:
        raise Empty from exc
    except etree.XMLSyntaxError as exc:  # HTML has no syntax errors; libxml2 reports its lack of memory so
        raise MemoryError from exc
    if any(entry.type == etree.ErrorTypes.ERR_RESOURCE_LIMIT for entry in parser.error_log):
        raise Damaged(
            "The page nests its elements too deeply to be read whole. Save it as plain text and send that."
        )
    return root


def _drop(elements: list[Any]) -> int:
    """Take elements out of the tree, but not the text behind them. Returns the number of words in them."""
    words = 0
    for element in elements:
        if isinstance(element.tag, str):
            words += len("".join(element.itertext()).split())
        if element.getparent() is not None:
            element.drop_tree()
    return words


def _blocks(root: Any) -> Iterator[Block]:
    """Paragraphs, list items, tables and headings in reading order."""
    pieces: list[str] = []
    bullet = ""  # waits for the first text of its list item
    lists: list[int | None] = []  # last number given in each open list, None where it has bullets
    preformatted = 0
    line: Any = None  # the open table row, if it stands on one line
    for event, element in etree.iterwalk(root, events=("start", "end")):
        tag, starts = element.tag, event == "start"
        if tag == "tr" and starts and line is None and _fits_a_line(element):
            line = element
        elif line is not None:
            pieces.append(_ROW_ENDS.get(tag, "") if not starts else " " if tag in _BLOCKS else "")
            line = None if element is line and not starts else line
        elif tag in _BLOCKS:
            text = "".join(pieces) if preformatted else _tidy("".join(pieces))
            if text.strip():
                yield Block(bullet + text, heading=tag in {"h1", "h2"} and not starts)
                bullet = ""
            pieces.clear()
            if tag in {"ul", "ol"}:
                lists = [*lists, 0 if tag == "ol" else None] if starts else lists[:-1]
            elif tag == "li":
                bullet = _bullet(lists) if starts else ""
        if tag == "br" and starts:
            pieces.append("\n")
        elif tag == "pre":
            preformatted += 1 if starts else -1
        text = element.text if starts else element.tail
        if text:
            pieces.append(text if preformatted else _SPACE.sub(" ", text))


def _fits_a_line(row: Any) -> bool:
    """Whether no cell of a table row holds more than one paragraph."""
    if next(row.iter(*_LARGE), None) is not None:
        return False
    return all(
        sum(1 for block in cell.iter("p", "div") if (block.text or "").strip()) <= 1
        for cell in row.iterchildren("td", "th")
    )


def _bullet(lists: list[int | None]) -> str:
    """What a browser draws before the next item of the innermost list."""
    last = lists[-1] if lists else None
    if last is None:
        return "• "
    lists[-1] = last + 1
    return f"{last + 1}. "


def _tidy(text: str) -> str:
    return _AROUND_BREAK.sub(r"\1", _SPACE_RUN.sub(" ", text)).strip(" \n")
